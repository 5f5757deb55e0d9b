// Package version says which kmsgate this is.
package version

import "runtime/debug"

// String returns the version that this program was built from.
func String() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "(unknown)"
}
