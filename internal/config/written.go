package config

import (
	"os"
	"slices"

	"go.yaml.in/yaml/v3"
)

// LoadWritten is like [Load] for a configuration that kmsgate itself wrote, into a backup or
// the directory of kmsgate dev. It drops the settings of earlier versions that this version no
// longer has: they have no replacement, and no operator is there to edit the file. It does not check
// who can change the file: the caller must not load a module because the file names it.
func LoadWritten(path string) (*Config, error) {
	return load(path, func(*os.File) error { return nil }, dropRemoved)
}

// dropRemoved removes settings of earlier versions from a document:
//
//   - quotas.unauthenticated, because the limit of audit lines about unauthenticated callers is
//     now fixed;
//   - client_certificates: optional, which compared the certificates that clients presented. It
//     becomes none, because the gateway no longer requests them.
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

// member returns the value of a key in a mapping, or nil if the mapping lacks the key.
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

// index returns the index of a key in a mapping's Content, which alternates keys and values. It
// returns -1 if the mapping lacks the key.
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
