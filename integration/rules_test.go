package integration

import (
	"go/types"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// maxMethods limits the methods of a type. A type with more methods has too many responsibilities.
const maxMethods = 30

// TestMethods counts the methods of every type of the main module, including the promoted methods
// of embedded fields.
func TestMethods(t *testing.T) {
	config := &packages.Config{Mode: packages.LoadTypes | packages.NeedImports | packages.NeedDeps, Dir: ".."}
	loaded, err := packages.Load(config, "./...")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, p := range loaded {
		if len(p.Errors) > 0 {
			t.Fatal(p.Errors)
		}
		for _, name := range p.Types.Scope().Names() {
			declared, ok := p.Types.Scope().Lookup(name).(*types.TypeName)
			if !ok || declared.IsAlias() || types.IsInterface(declared.Type()) {
				continue
			}
			seen++
			if n := types.NewMethodSet(types.NewPointer(declared.Type())).Len(); n > maxMethods {
				t.Errorf("%s.%s has %d methods, want at most %d: split the type", p.PkgPath, name, n, maxMethods)
			}
		}
	}
	if seen < 300 {
		t.Errorf("checked %d types, want at least 300", seen)
	}
}

// maxMainLines limits the lines of a file of package main, which has room for flags, one call and a
// table to print. Longer code belongs in a package that tests can import.
const maxMainLines = 250

func TestMainIsShort(t *testing.T) {
	files, err := filepath.Glob("../cmd/kmsgate/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "\n"); n > maxMainLines {
			t.Errorf("%s has %d lines, want at most %d", name, n, maxMainLines)
		}
	}
}
