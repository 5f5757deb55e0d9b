package integration

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestArchitecture checks docs/architecture.md: each code span outside of code blocks is a
// path, a test, a command of kmsgate, or a Go identifier with its package's name, and it
// exists. Every package is on the page.
func TestArchitecture(t *testing.T) {
	page := fencedCode.ReplaceAllString(readPage(t, "../docs/architecture.md"), "")
	tests, identifiers := testNames(t), declared(t)
	isTest := regexp.MustCompile(`^(?:Test|Fuzz)[A-Za-z0-9]+$`)
	named := make(map[string]bool)
	for _, span := range codeSpan.FindAllString(page, -1) {
		name := strings.Trim(span, "`")
		named[name] = true
		_, err := os.Stat(filepath.Join("..", name))
		switch {
		case err == nil, strings.HasPrefix(name, "kmsgate "), tests[name], identifiers[name]:
		case isTest.MatchString(name):
			t.Errorf("docs/architecture.md names the test %s, which does not exist", name)
		default:
			t.Errorf("docs/architecture.md names %s, which is neither a path nor a Go identifier", name)
		}
	}
	if len(named) < 100 {
		t.Errorf("docs/architecture.md names %d things, want at least 100", len(named))
	}
	for name := range mayImport {
		if !named[name] {
			t.Errorf("docs/architecture.md does not name the package %s", name)
		}
	}
}

// declared returns what the product's packages declare: package.Name, and package.Type.Name
// for methods and fields.
func declared(t *testing.T) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == "../integration" || path == "../bin" || path == "../.git"):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			for _, name := range namesOf(d) {
				all[file.Name.Name+"."+name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// namesOf returns the names that a declaration introduces; those of methods and fields with
// their type.
func namesOf(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			return []string{d.Name.Name}
		}
		return []string{receiver(d.Recv.List[0].Type) + "." + d.Name.Name}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				for _, id := range spec.Names {
					names = append(names, id.Name)
				}
			case *ast.TypeSpec:
				names = append(names, spec.Name.Name)
				for _, member := range membersOf(spec.Type) {
					names = append(names, spec.Name.Name+"."+member)
				}
			}
		}
	}
	return names
}

// membersOf returns the fields of a struct or the methods of an interface.
func membersOf(typ ast.Expr) (names []string) {
	var fields *ast.FieldList
	switch typ := typ.(type) {
	case *ast.StructType:
		fields = typ.Fields
	case *ast.InterfaceType:
		fields = typ.Methods
	default:
		return nil
	}
	for _, f := range fields.List {
		for _, id := range f.Names {
			names = append(names, id.Name)
		}
	}
	return names
}

// receiver returns the name of a receiver's type.
func receiver(typ ast.Expr) string {
	switch typ := typ.(type) {
	case *ast.StarExpr:
		return receiver(typ.X)
	case *ast.IndexExpr:
		return receiver(typ.X)
	case *ast.Ident:
		return typ.Name
	}
	return ""
}
