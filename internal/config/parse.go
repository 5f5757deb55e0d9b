package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kmsgate/kmsgate/internal/ownership"
)

// maxFile is the maximum size of a configuration in bytes, ten times what one needs. It refuses
// other files before they are parsed.
const maxFile = 64 << 10

// Load reads the configuration file. It refuses a file that another user can change or replace, with
// an [*ownership.Error]: the configuration chooses the code that the gateway loads, and the socket
// that commands trust. If the file can be read, another error wraps [Mistakes].
func Load(path string) (*Config, error) {
	return load(path, ownership.CheckOpen, func(*yaml.Node) {})
}

// load reads the configuration file. It calls check before it reads the file, and change with the
// document before it decodes it.
func load(path string, check func(*os.File) error, change func(root *yaml.Node)) (*Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("opening the configuration: %w (%s)", err, accessHint(err, ""))
	}
	if err != nil {
		return nil, fmt.Errorf("opening the configuration: %w", err)
	}
	defer f.Close()
	if err := check(f); err != nil {
		return nil, fmt.Errorf("refusing the configuration: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c, err := parse(content, filepath.Dir(path), change)
	if err != nil {
		return nil, fmt.Errorf("the configuration %q has mistakes:\n%w", path, err)
	}
	return c, nil
}

// Parse reads the content of a configuration file in dir. It examines only the content;
// [Config.Check] examines the files that the configuration names.
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
	l.checkContradictions(&c)
	if err := l.err(); err != nil {
		return nil, err
	}
	return &c, nil
}

// document returns the root of the only document in content, or nil if content is empty.
func document(content []byte) (*yaml.Node, error) {
	if len(content) > maxFile {
		const format = "the file has more than %d KiB, so it is not a configuration of kmsgate"
		return nil, Mistakes{{What: fmt.Sprintf(format, maxFile>>10)}}
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
		const mistake = "a second YAML document starts here: remove everything after the line ---"
		return nil, Mistakes{{Line: second.Line, What: mistake}}
	case !errors.Is(err, io.EOF):
		return nil, notYAML(err)
	}
	root := first.Content[0]
	if root.Kind != yaml.MappingNode {
		sections := strings.Join(fieldNames(reflect.TypeFor[Config]()), ", ")
		return nil, Mistakes{{Line: root.Line, What: "the file must have the sections " + sections}}
	}
	return root, nil
}

// notYAML returns the mistake for an error of the YAML package, with the line that the error
// names.
func notYAML(err error) Mistakes {
	text, line := strings.TrimPrefix(err.Error(), "yaml: "), 0
	if rest, found := strings.CutPrefix(text, "line "); found {
		if number, rest, found := strings.Cut(rest, ": "); found {
			if n, err := strconv.Atoi(number); err == nil {
				line, text = n, rest
			}
		}
	}
	return Mistakes{{Line: line, What: "invalid YAML, so nothing else was checked: " + text}}
}

// require reports the required fields that are missing or empty.
func (l *ledger) require(c reflect.Value) {
	walk(c, "", func(field string, tag reflect.StructTag, v reflect.Value) {
		switch {
		case tag.Get("required") == "" || !v.IsZero():
		case v.Kind() == reflect.Slice:
			l.report(field, "is missing: it must have at least one element, with an address")
		default:
			l.report(field, "is missing: it %s", requirement(tag))
		}
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
		if field == "directory" { // walk visits it first; the other paths are relative to it
			base = *p
		}
	})
}
