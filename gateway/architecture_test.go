package gateway_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// seesKeys are the files that may read and write the records of keys and their versions:
// how an operation gets at a key. An operation can only call what is in them, and that asks
// the caller's policies.
var seesKeys = []string{"resolve.go", "change.go"}

// seesStore are the files that see the store: the corridor, and what is no operation.
var seesStore = []string{
	"call.go",              // takes the one moment that a call sees
	"change.go",            // writes
	"gateway.go", "run.go", // opens and maintains
	"backup.go",            // copies the whole file
	"clientcertificate.go", // before there is a request
	"metrics.go",
}

// TestOnlyWayToAKey: no operation can reach the record of a key except through the call,
// which authorises it.
func TestOnlyWayToAKey(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool) // the rule sees what it is about
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				method, ok := n.Fun.(*ast.SelectorExpr)
				if of, isName := selected(method); isName && of == "maps" {
					return true
				}
				if ok && slices.Contains([]string{"Keys", "Versions", "Version", "VersionsOf"}, method.Sel.Name) {
					found[method.Sel.Name] = true
					if !slices.Contains(seesKeys, name) {
						t.Errorf("%s: only %v may call %s", fset.Position(n.Pos()), seesKeys, method.Sel.Name)
					}
				}
			case *ast.SelectorExpr:
				if n.Sel.Name == "Store" {
					found["Store"] = true
					if !slices.Contains(seesStore, name) {
						t.Errorf("%s: only %v may see the store", fset.Position(n.Pos()), seesStore)
					}
				}
			}
			return true
		})
	}
	for _, name := range []string{"Keys", "Version", "VersionsOf", "Store"} {
		if !found[name] {
			t.Errorf("nothing calls %s any more: this test looks for what there is not", name)
		}
	}
}

// selected returns the name that a selector selects from, if it is one.
func selected(s *ast.SelectorExpr) (name string, ok bool) {
	if s == nil {
		return "", false
	}
	of, ok := s.X.(*ast.Ident)
	if !ok {
		return "", false
	}
	return of.Name, true
}
