package config

import (
	"slices"

	"go.yaml.in/yaml/v3"
)

// LoadWritten is [Load] for a configuration that kmsgate itself wrote, into a backup or a
// directory of kmsgate dev. An earlier version may have done so: LoadWritten drops the
// settings that this version no longer has. They have no substitute, and no operator is
// there to edit the file.
func LoadWritten(path string) (*Config, error) { return load(path, dropRemoved) }

// dropRemoved takes out of a document what earlier versions had:
//
//   - quotas.unauthenticated: how many audit lines unauthenticated callers get is fixed;
//   - client_certificates: optional, which compared the certificates that clients showed.
//     They are no longer asked for, as with none.
func dropRemoved(root *yaml.Node) {
	drop(member(root, "quotas"), "unauthenticated")
	if listeners := member(root, "listeners"); listeners != nil {
		for _, listener := range listeners.Content {
			if v := member(listener, "client_certificates"); v != nil && v.Value == "optional" {
				v.Value = "none"
			}
		}
	}
}

// member returns the value of a key in a mapping; nil if there is none.
func member(mapping *yaml.Node, key string) *yaml.Node {
	if i := index(mapping, key); i >= 0 {
		return mapping.Content[i+1]
	}
	return nil
}

func drop(mapping *yaml.Node, key string) {
	if i := index(mapping, key); i >= 0 {
		mapping.Content = slices.Delete(mapping.Content, i, i+2)
	}
}

// index returns where a key of a mapping is in its Content, which has keys and values in
// turn; less than 0 if it is not there.
func index(mapping *yaml.Node, key string) int {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return -1
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return i
		}
	}
	return -1
}
