// Package version reports the version of this build.
package version

import "runtime/debug"

// String returns the version of the main module that this program was built from, or
// "(unknown)" if the build did not record it.
func String() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "(unknown)"
}
