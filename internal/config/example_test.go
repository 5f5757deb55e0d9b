package config

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func TestExampleLoads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsgate.yaml")
	if err := os.WriteFile(path, []byte(Example), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Store.File != "/var/lib/kmsgate/kmsgate.db" || c.Instance.Account != "1000000000000001" {
		t.Errorf("got store.file %q and account %q", c.Store.File, c.Instance.Account)
	}
}

// TestExampleIsComplete tests that the example has every field of Config, with its default and
// a comment.
func TestExampleIsComplete(t *testing.T) {
	root, err := document([]byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	compareExample(t, root, "", reflect.ValueOf(Default()))
}

func compareExample(t *testing.T, section *yaml.Node, name string, defaults reflect.Value) {
	t.Helper()
	var keys []string
	for i := 0; i < len(section.Content); i += 2 {
		key, value := section.Content[i], section.Content[i+1]
		keys = append(keys, key.Value)
		field := fieldPath(name, key.Value)
		if key.HeadComment+key.LineComment+value.LineComment == "" {
			t.Errorf("%s has no comment", field)
		}
		f, known := fieldNamed(defaults.Type(), key)
		if !known {
			t.Errorf("%s: unknown field", field)
			continue
		}
		v := defaults.FieldByIndex(f.Index)
		switch {
		case field == "listeners":
			compareExample(t, value.Content[0], "listeners[0]", reflect.ValueOf(DefaultListener()))
			continue
		case v.Kind() == reflect.Struct:
			compareExample(t, value, field, v)
			continue
		}
		got := reflect.New(v.Type()).Elem()
		l := newLedger()
		l.decode(value, field, f.Tag, got)
		if err := l.err(); err != nil {
			t.Error(err)
		}
		noDefault := v.IsZero() && f.Tag.Get("required") != "" || field == "token.module" || field == "directory"
		if noDefault && got.IsZero() || !noDefault && !cmp.Equal(got.Interface(), v.Interface()) {
			t.Errorf("%s: got %v, want the default %v", field, got, v)
		}
	}
	if diff := cmp.Diff(fieldNames(defaults.Type()), keys); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

// TestTags tests that Parse knows the tags of all fields.
func TestTags(t *testing.T) {
	c := Default()
	c.Listeners = []Listener{DefaultListener()}
	walk(reflect.ValueOf(c), "", func(field string, tag reflect.StructTag, v reflect.Value) {
		if form := tag.Get("is"); form != "" && forms[form].ok == nil {
			t.Errorf("%s: unknown form %q", field, form)
		}
		if tag.Get("yaml") == "" {
			t.Errorf("%s has no name", field)
		}
		// The tags can be parsed if the default meets their conditions.
		node := &yaml.Node{}
		if err := node.Encode(v.Interface()); err != nil {
			t.Error(err)
		}
		l := newLedger()
		if field != "listeners" {
			l.decode(node, field, tag, reflect.New(v.Type()).Elem())
		}
		if err := l.err(); err != nil {
			t.Error(err)
		}
	})
}
