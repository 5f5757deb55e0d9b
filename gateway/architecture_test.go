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

// mayUse says which files of the package may name something. What is not listed for an
// operation's file is out of its reach: it gets at a key through the call, which asks the
// caller's policies, and at nothing around it.
var mayUse = map[string][]string{
	// The records of keys and their versions. What these files give to operations takes a
	// permitted key, or permits one.
	"Keys":       {"resolve.go", "change.go"},
	"Versions":   {"resolve.go", "change.go"},
	"Version":    {"resolve.go", "change.go", "rpc.go", "native.go"}, // the doors: of a claim
	"VersionsOf": {"resolve.go", "change.go"},
	"permitted":  {"resolve.go", "change.go"}, // made here only

	"Store": {
		"call.go",              // takes the one moment that a call sees
		"change.go",            // writes
		"gateway.go", "run.go", // opens and maintains
		"backup.go",            // copies the whole file
		"clientcertificate.go", // before there is a request
		"metrics.go",
	},
	"Snapshot": {"backup.go"},
	"Update":   {"change.go"},
	"Backend":  {"gateway.go", "metrics.go", "sign.go", "inspect.go"}, // signs for a version that c.version returned
	"Owners":   {"inspect.go"},                                        // for local administrators
}

// TestOnlyWayToAKey: no operation can reach the record of a key except through the call,
// which authorises it; nor the store, nor the backend.
func TestOnlyWayToAKey(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool) // the rules see what they are about
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		check := func(n ast.Node, used string) {
			allowed, ruled := mayUse[used]
			if !ruled {
				return
			}
			found[used] = true
			if !slices.Contains(allowed, name) {
				t.Errorf("%s: only %v may use %s", fset.Position(n.Pos()), allowed, used)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr: // a method expression, as (*store.Records).Keys, is one too
				if from, ok := n.X.(*ast.Ident); !ok || from.Name != "maps" && from.Name != "resp" {
					check(n, n.Sel.Name)
				}
			case *ast.CompositeLit:
				if made, ok := n.Type.(*ast.Ident); ok && made.Name == "permitted" {
					check(n, made.Name)
				}
			}
			return true
		})
	}
	for used := range mayUse {
		if !found[used] && used != "Versions" {
			t.Errorf("nothing uses %s any more: this test looks for what there is not", used)
		}
	}
}
