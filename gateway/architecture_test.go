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

// mayUse lists the files of the package that may use each of these names. The files of operations
// can use none of them unless they are listed. So an operation reaches a key only through the call,
// which checks the caller's policies.
var mayUse = map[string][]string{
	// The records of keys and their versions. The functions that these files offer to operations
	// take a permitted key, or return one after checking the policies.
	"Keys":       {"resolve.go", "change.go"},
	"Versions":   {"resolve.go", "change.go"},
	"Version":    {"resolve.go", "change.go", "rpc.go", "native.go"}, // the doors, for the Version of a claim
	"VersionsOf": {"resolve.go", "change.go"},
	"permitted":  {"resolve.go", "change.go"}, // created only here

	"Store": {
		"call.go",              // takes the snapshot that a call sees
		"change.go",            // writes
		"release.go",           // asks for a key's state again
		"gateway.go", "run.go", // opens and maintains
		"backup.go",            // copies the whole file
		"clientcertificate.go", // works before there is a request
		"metrics.go", "health.go", "time.go",
	},
	"Snapshot": {"backup.go"},
	"Update":   {"change.go", "time.go"},                // time.go records the time
	"Backend":  {"gateway.go", "sign.go", "inspect.go"}, // signs for a version that c.version returned
	"Owners":   {"inspect.go"},                          // for local administrators
}

// TestOnlyWayToAKey checks that operations reach the records of keys only through the call, which
// authorises them, and that they reach neither the store nor the backend.
func TestOnlyWayToAKey(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool) // the names of mayUse that occur
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
			allowed, listed := mayUse[used]
			if !listed {
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
				if operand, ok := n.X.(*ast.Ident); !ok || operand.Name != "maps" && operand.Name != "resp" {
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
			t.Errorf("nothing uses %s: got no occurrence, want one, or its row in mayUse removed", used)
		}
	}
}
