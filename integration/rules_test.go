package integration

import (
	"go/types"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// maxMethods is how many methods a type may have: more, and it knows too much.
const maxMethods = 30

// TestMethods counts the methods of every type of ours, with those that embedding gives it.
func TestMethods(t *testing.T) {
	loaded, err := packages.Load(&packages.Config{Mode: packages.LoadTypes | packages.NeedImports | packages.NeedDeps, Dir: ".."}, "./...")
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
				t.Errorf("%s.%s has %d methods, more than %d: part it", p.PkgPath, name, n, maxMethods)
			}
		}
	}
	if seen < 300 {
		t.Errorf("only %d types were seen", seen)
	}
}

// maxMainLines is how long a file of package main may be: flags, one call, and a table to
// print. What is longer is an engine, which belongs in a package that tests can reach.
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
			t.Errorf("%s has %d lines, more than %d", name, n, maxMainLines)
		}
	}
}
