package gateway

import "slices"

// Operations gives the names of the operations that the world can ask for.
func Operations() (names []string) {
	for name, o := range operations {
		if o.door == rpcDoor {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Unsupported gives the names of KMS's operations that the gateway has not.
func Unsupported() []string { return unsupported }

var Decode = decode

const (
	MaxBody      = maxBody
	MaxPerSource = maxPerSource
)
