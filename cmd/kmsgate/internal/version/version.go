// Package version reports the version of this build.
package version

import "runtime/debug"

// String returns the version that this program was built from.
func String() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "(unknown)"
}
