package config

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the table of fields in docs/configuration.md")

// TestFieldsDocumented compares the table in docs/configuration.md with the example, which
// TestExampleIsComplete compares with the code.
func TestFieldsDocumented(t *testing.T) {
	const path = "../../docs/configuration.md"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	root, err := document([]byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	want := "| field | default | meaning |\n|---|---|---|\n" + fieldRows(root, "", reflect.ValueOf(Default()))
	block := regexp.MustCompile(`(?s)(<!-- fields: [^>]*-->\n)(.*?)(<!-- end -->)`)
	found := block.FindSubmatchIndex(page)
	switch {
	case found == nil:
		t.Fatal("docs/configuration.md has no place for the table")
	case string(page[found[4]:found[5]]) == want:
	case *update:
		if err := os.WriteFile(path, []byte(string(page[:found[4]])+want+string(page[found[5]:])), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the table in docs/configuration.md is\n%swant\n%s(run this test with -update to write it)",
			page[found[4]:found[5]], want)
	}
}

// fieldRows returns a row for each field of a section of the example.
func fieldRows(section *yaml.Node, name string, defaults reflect.Value) string {
	var rows strings.Builder
	for i := 0; i < len(section.Content); i += 2 {
		key, value := section.Content[i], section.Content[i+1]
		field := fieldPath(name, key.Value)
		comment := strings.TrimPrefix(cmp.Or(key.LineComment, value.LineComment, key.HeadComment), "# ")
		meaning := strings.NewReplacer("|", `\|`, "<", `\<`).Replace(comment)
		f, _ := fieldNamed(defaults.Type(), key)
		v := defaults.FieldByIndex(f.Index)
		switch {
		case field == "listeners":
			fmt.Fprintf(&rows, "| **`%s`** | | %s |\n", field, meaning)
			rows.WriteString(fieldRows(value.Content[0], "listeners[]", reflect.ValueOf(DefaultListener())))
		case v.Kind() == reflect.Struct:
			fmt.Fprintf(&rows, "| **`%s`** | | %s |\n", field, meaning)
			rows.WriteString(fieldRows(value, field, v))
		default:
			fmt.Fprintf(&rows, "| `%s` | %s | %s |\n", field, defaultOf(value, v), meaning)
		}
	}
	return rows.String()
}

// defaultOf returns a field's default as the example writes it, or nothing if it has none.
func defaultOf(value *yaml.Node, v reflect.Value) string {
	switch {
	case v.IsZero() && (value.Kind != yaml.ScalarNode || value.Value == "" || v.Kind() == reflect.String):
		return ""
	case value.Kind != yaml.ScalarNode || value.Value == "":
		return ""
	}
	return "`" + value.Value + "`"
}

// TestListenersDocumented checks that docs/serve.md explains every value that a listener's fields
// can have, in a row of its table, and that a row says of the default that it is one.
func TestListenersDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/serve.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string) // the text of a row by the field and its value
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+: [a-z]+)` \\| (.+) \\|$").FindAllStringSubmatch(string(page), -1) {
		documented[row[1]] = row[2]
	}
	defaults := reflect.ValueOf(DefaultListener())
	for _, field := range reflect.VisibleFields(defaults.Type()) {
		for _, value := range strings.Fields(field.Tag.Get("oneof")) {
			setting := field.Tag.Get("yaml") + ": " + value
			text, found := documented[setting]
			if !found {
				t.Errorf("docs/serve.md lacks %s", setting)
			}
			isDefault := value == defaults.FieldByIndex(field.Index).String()
			if strings.HasPrefix(text, "the default") != isDefault {
				t.Errorf("docs/serve.md says %q of %s: its being the default must be %v", text, setting, isDefault)
			}
			delete(documented, setting)
		}
	}
	for setting := range documented {
		t.Errorf("docs/serve.md has %s, which no listener can have", setting)
	}
	quota := fmt.Sprintf("by default %d asymmetric operations a second", Default().Quotas.Shared.Asymmetric)
	if !strings.Contains(string(page), quota) {
		t.Errorf("docs/serve.md does not say %q", quota)
	}
}
