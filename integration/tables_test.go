package integration

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

// TestOperationsDocumented compares the operations that docs/compatibility.md names with those that
// the RPC API and the native API offer.
func TestOperationsDocumented(t *testing.T) {
	_, section, found := strings.Cut(readPage(t, "../docs/compatibility.md"), "## What you can call\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !found || !ended {
		t.Fatal("docs/compatibility.md has no section What you can call")
	}
	documented := make(map[string]bool)
	for _, name := range regexp.MustCompile(`\b(?:Sign|Verify|(?:[A-Z][a-z]+){2,})\b`).FindAllString(section, -1) {
		documented[name] = true
	}
	for _, other := range []string{"KeyId", "KeySpec", "UnsupportedOperation"} { // they are no operations
		delete(documented, other)
	}
	offered := make(map[string]bool)
	for _, o := range kms.Operations {
		if o.Door == kms.RPC {
			offered[o.Name] = true
		}
		if o.Native != nil {
			offered[o.Native.Name] = true
		}
	}
	for name := range offered {
		if !documented[name] {
			t.Errorf("docs/compatibility.md lacks the operation %s", name)
		}
	}
	for name := range documented {
		if !offered[name] {
			t.Errorf("docs/compatibility.md has the operation %s, which no API offers", name)
		}
	}
}

// TestKeySpecsDocumented compares the KeySpecs in docs/compatibility.md with their algorithms and
// with the backend in which a Route makes their keys. KeySpecs that agree in both share a row.
func TestKeySpecsDocumented(t *testing.T) {
	var rows []string
	specs := make(map[string][]string) // by the rest of their row
	for _, spec := range hsm.KeySpecs() {
		var inToken, inSoftware hsmtest.Fake
		route := hsm.Route{Token: &inToken, Sealed: &inSoftware}
		if _, err := route.Generate(t.Context(), spec, make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		var algorithms []string
		for _, a := range hsm.Algorithms(spec) {
			algorithms = append(algorithms, string(a))
		}
		row := strings.Join(algorithms, ", ") + " | in the token |\n"
		if inSoftware.Len() > 0 {
			row = strings.Join(algorithms, ", ") + " | in software, sealed by a key in the token |\n"
		}
		if specs[row] == nil {
			rows = append(rows, row)
		}
		specs[row] = append(specs[row], string(spec))
	}
	table := "| KeySpec | Algorithm | where the private key is |\n|---|---|---|\n"
	for _, row := range rows {
		table += "| " + strings.Join(specs[row], ", ") + " | " + row
	}
	checkTable(t, "compatibility.md", "keyspecs", table)
}

// TestResourcesDocumented compares the resources in docs/access.md with those that the table of
// operations has for the RPC API.
func TestResourcesDocumented(t *testing.T) {
	const account = "acs:kms:<region>:<account>:"
	phrases := map[string]string{ // for the resources of more operations than fit into a row
		"key/<KeyId>":                   "on one key",
		"network/<Name>":                "on one network rule",
		"policy/<Name>":                 "on one permission policy",
		"applicationaccesspoint/<Name>": "on one access point, or on its client keys",
	}
	placeholders := map[string]string{"key": "<KeyId>", "keystore": "<InstanceId>"}
	var resources, aliases []string
	names := make(map[string][]string) // by the resource
	for _, o := range kms.Operations {
		if o.Door != kms.RPC {
			continue
		}
		resource := o.Resource
		if kind, ok := o.ResourceKind(); ok {
			resource = kind + "/" + cmp.Or(placeholders[kind], "<Name>")
			isAlias := func(p kms.Parameter) bool { return p.Name == "AliasName" }
			if slices.ContainsFunc(o.Parameters(), isAlias) {
				aliases = append(aliases, o.Name)
			}
		}
		if names[resource] == nil {
			resources = append(resources, resource)
		}
		names[resource] = append(names[resource], o.Name)
	}
	table := "| operations | resource |\n|---|---|\n"
	for _, resource := range resources {
		operations := phrases[resource]
		if operations == "" {
			operations = strings.Join(names[resource], ", ")
		}
		if resource == "" {
			table += fmt.Sprintf("| %s | none: any user may |\n", operations)
			continue
		}
		table += fmt.Sprintf("| %s | `%s%s` |\n", operations, account, resource)
	}
	table += fmt.Sprintf("| %s | `%salias/<name>` *and* the key |\n", strings.Join(aliases, ", "), account)
	checkTable(t, "access.md", "resources", table)
}

// checkOptions compares the common options in docs/cli.md with the flags of the commands: at least
// two commands have each of them, and a flag of at least twenty commands is one of them or names the
// gateway.
func checkOptions(t *testing.T, all map[string]*command) {
	t.Helper()
	uses := make(map[string]int)
	for _, c := range all {
		for flag := range c.flags {
			if len(c.children) == 0 && strings.HasPrefix(flag, "--") {
				uses[flag]++
			}
		}
	}
	page := readPage(t, "../docs/cli.md")
	options := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| (?:`(-[a-z])`, )?`(--[a-z-]+)(?: [A-Z]+)?` \\|").FindAllStringSubmatch(page, -1) {
		short, long := row[1], row[2]
		options[long] = true
		if uses[long] < 2 {
			t.Errorf("docs/cli.md has the common option %s, which %d commands have", long, uses[long])
		}
		for path, c := range all {
			if len(c.children) == 0 && short != "" && c.flags[long] && !c.flags[short] {
				t.Errorf("docs/cli.md has %s for %s, but %s has not", short, long, path)
			}
		}
	}
	for _, flag := range slices.Sorted(maps.Keys(uses)) {
		if uses[flag] >= 20 && !options[flag] {
			t.Errorf("docs/cli.md lacks the option %s, which %d commands have", flag, uses[flag])
		}
	}
}
