package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile is ten times what a configuration needs, so that whatever else it was
// pointed at is refused before it is parsed.
const maxFile = 64 << 10

// Load reads the configuration file. Its error is a [Mistakes] if the file could
// be read.
func Load(path string) (*Config, error) { return load(path, func(*yaml.Node) {}) }

// load reads the configuration file, and has change change the document before it is read.
func load(path string, change func(root *yaml.Node)) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the configuration: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c, err := parse(content, filepath.Dir(path), change)
	if err != nil {
		return nil, fmt.Errorf("the configuration %s cannot be used:\n%w", path, err)
	}
	return c, nil
}

// Parse reads a configuration that is in a directory. It looks at nothing but
// the content; [Config.Check] looks at the machine.
func Parse(content []byte, dir string) (*Config, error) {
	return parse(content, dir, func(*yaml.Node) {})
}

func parse(content []byte, dir string, change func(root *yaml.Node)) (*Config, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	root, err := document(content)
	if err != nil {
		return nil, err
	}
	c := Default()
	l := newLedger()
	v := reflect.ValueOf(&c).Elem()
	if root != nil {
		change(root)
		l.decode(root, "", "", v)
	}
	l.require(v)
	l.dropDefaults(&c)
	c.resolve(dir)
	l.contradictions(&c)
	if err := l.err(); err != nil {
		return nil, err
	}
	return &c, nil
}

// document gives the root of the only document in content, nil if it is empty.
func document(content []byte) (*yaml.Node, error) {
	if len(content) > maxFile {
		return nil, Mistakes{{What: fmt.Sprintf("it has more than %d KiB: this is not a configuration of kmsgate", maxFile>>10)}}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var first, second yaml.Node
	err := decoder.Decode(&first)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, notYAML(err)
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, Mistakes{{Line: second.Line, What: "a second document begins here: remove what follows the ---, only one is read"}}
	case !errors.Is(err, io.EOF):
		return nil, notYAML(err)
	}
	root := first.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, Mistakes{{Line: root.Line, What: "the file must be made of sections: " + strings.Join(names(reflect.TypeFor[Config]()), ", ")}}
	}
	return root, nil
}

// notYAML takes the line out of what the YAML package says.
func notYAML(err error) Mistakes {
	what, line := strings.TrimPrefix(err.Error(), "yaml: "), 0
	if rest, found := strings.CutPrefix(what, "line "); found {
		if number, rest, found := strings.Cut(rest, ": "); found {
			if n, err := strconv.Atoi(number); err == nil {
				line, what = n, rest
			}
		}
	}
	return Mistakes{{Line: line, What: "this is not YAML, nothing was read: " + what}}
}

// require names the fields that are missing or empty and must not be.
func (l *ledger) require(c reflect.Value) {
	walk(c, "", func(field string, tag reflect.StructTag, v reflect.Value) {
		if tag.Get("required") == "" || !v.IsZero() {
			return
		}
		want := wanted(tag)
		if v.Kind() == reflect.Slice {
			want = "at least one is needed, with an address"
		}
		l.wrong(field, "is missing: %s", want)
	})
}

// resolve makes all paths absolute.
func (c *Config) resolve(dir string) {
	base := dir
	walk(reflect.ValueOf(c).Elem(), "", func(field string, tag reflect.StructTag, v reflect.Value) {
		path := v.Addr().Interface()
		if tag.Get("is") != "path" || field != "directory" && v.String() == "" {
			return
		}
		p := path.(*string)
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
		*p = filepath.Clean(*p)
		if field == "directory" { // the first field: the others are relative to it
			base = *p
		}
	})
}
