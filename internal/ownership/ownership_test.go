package ownership_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/internal/ownership"
)

const (
	stranger = 65534 // another user, and the user's group
	service  = 54321 // a third one
)

// tree makes the directory outer/inner with the file file, and returns a function that returns the
// path of a name in outer.
func tree(t *testing.T) (path func(name string) string) {
	t.Helper()
	outer := filepath.Join(t.TempDir(), "outer")
	path = func(name string) string { return filepath.Join(outer, name) }
	err := errors.Join(os.Mkdir(outer, 0o755), os.Mkdir(path("inner"), 0o755), os.WriteFile(path("inner/file"), nil, 0o644),
		os.Chmod(outer, 0o755), os.Chmod(path("inner"), 0o755), os.Chmod(path("inner/file"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A testCase is a change of a tree. If it is foreign, it needs root.
type testCase struct {
	foreign bool
	change  func(path func(string) string) error
	want    string // a part of the error; empty: none
	owner   int    // of the error
}

func chmod(name string, mode fs.FileMode) func(path func(string) string) error {
	return func(path func(string) string) error { return os.Chmod(path(name), mode) }
}

func chown(name string, uid, gid int, mode fs.FileMode) func(path func(string) string) error {
	return func(path func(string) string) error {
		return errors.Join(os.Lchown(path(name), uid, gid), os.Chmod(path(name), mode))
	}
}

// link replaces a file by a symbolic link of a user.
func link(name, target string, uid int) func(path func(string) string) error {
	return func(path func(string) string) error {
		return errors.Join(os.Rename(path(name), path(target)), os.Symlink(path(target), path(name)), os.Lchown(path(name), uid, -1))
	}
}

func run(t *testing.T, cases map[string]testCase, check func(path func(string) string) error) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.foreign && os.Getuid() != 0 {
				if os.Getenv("CI") != "" {
					t.Fatal("only root can give files to other users")
				}
				t.Skip("only root can give files to other users")
			}
			path := tree(t)
			if err := c.change(path); err != nil {
				t.Fatal(err)
			}
			err := check(path)
			var other *ownership.Error
			switch found := errors.As(err, &other); {
			case c.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case c.want != "" && (!found || !strings.Contains(err.Error(), c.want) || other.Owner != c.owner):
				t.Errorf("got %v, want %q and the owner %d", err, c.want, c.owner)
			}
		})
	}
}

// TestCheckFile tests which users can change a file, or put another in its place.
func TestCheckFile(t *testing.T) {
	self := os.Getuid()
	run(t, map[string]testCase{
		"nobody else":             {change: chmod("inner/file", 0o600)},
		"everybody can read it":   {change: chmod("inner/file", 0o755)},
		"all can write it":        {change: chmod("inner/file", 0o646), want: `file" is writable by all users (run chmod o-w `, owner: -1},
		"its own group writes it": {change: chmod("inner/file", 0o664)},
		"a group can write it":    {foreign: true, change: chown("inner/file", 0, stranger, 0o664), want: "file\" is writable by a group", owner: -1},
		"a group can read it":     {foreign: true, change: chown("inner/file", 0, stranger, 0o640)},
		"it belongs to another":   {foreign: true, change: chown("inner/file", stranger, 0, 0o600), want: "file\" belongs to uid 65534", owner: stranger},
		"all write its directory": {change: chmod("inner", 0o777), want: `inner" is writable by all users`, owner: -1},
		"a sticky directory":      {change: chmod("inner", 0o777|fs.ModeSticky)},
		"another's directory":     {foreign: true, change: chown("inner", stranger, 0, 0o755), want: "inner\" belongs to uid 65534", owner: stranger},
		"another's sticky one": {foreign: true, change: chown("inner", stranger, 0, 0o777|fs.ModeSticky),
			want: "inner\" belongs to uid 65534", owner: stranger},
		"a group writes its directory": {foreign: true, change: chown("inner", 0, stranger, 0o775), want: "inner\" is writable by a group", owner: -1},
		"all write the one above":      {change: chmod("", 0o777), want: `outer" is writable by all users`, owner: -1},
		"the one above is sticky":      {change: chmod("", 0o777|fs.ModeSticky)},
		"a link":                       {change: link("inner/file", "elsewhere", self)},
		"a link of another": {foreign: true, change: link("inner/file", "elsewhere", stranger),
			want: "file\" belongs to uid 65534", owner: stranger},
		"a link to what all can write": {change: func(path func(string) string) error {
			return errors.Join(link("inner/file", "elsewhere", self)(path), os.Chmod(path("elsewhere"), 0o666))
		}, want: `elsewhere" is writable by all users`, owner: -1},
		"a link into what all can write": {change: func(path func(string) string) error {
			return errors.Join(os.Mkdir(path("open"), 0o755), link("inner/file", "open/file", self)(path), os.Chmod(path("open"), 0o777))
		}, want: `open" is writable by all users`, owner: -1},
	}, func(path func(string) string) error { return ownership.CheckFile(path("inner/file")) })
}

// TestCheckDirectory tests which users can create files in a directory.
func TestCheckDirectory(t *testing.T) {
	run(t, map[string]testCase{
		"nobody else":       {change: chmod("inner", 0o700)},
		"all can write it":  {change: chmod("inner", 0o703), want: `inner" is writable by all users`, owner: -1},
		"a sticky one":      {change: chmod("inner", 0o777|fs.ModeSticky), want: `inner" is writable by all users`, owner: -1},
		"the service's":     {foreign: true, change: chown("inner", service, service, 0o700)},
		"a group writes it": {foreign: true, change: chown("inner", service, service, 0o770), want: "inner\" is writable by a group", owner: -1},
		"another's":         {foreign: true, change: chown("inner", stranger, stranger, 0o700), want: "inner\" belongs to uid 65534", owner: stranger},
		"all write above":   {change: chmod("", 0o777), want: `outer" is writable by all users`, owner: -1},
		"another's above":   {foreign: true, change: chown("", stranger, stranger, 0o755)},
	}, func(path func(string) string) error { return ownership.CheckDirectory(path("inner"), service) })
}

// TestNothing tests that a missing file is not the fault of another user.
func TestNothing(t *testing.T) {
	path := tree(t)
	for _, name := range []string{"inner/none", "none/file"} {
		if err := ownership.CheckFile(path(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("CheckFile(%q): got %v, want fs.ErrNotExist", name, err)
		}
	}
	if err := ownership.CheckDirectory(path("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("CheckDirectory: got %v, want fs.ErrNotExist", err)
	}
	if err := os.Symlink("loop", path("loop")); err != nil {
		t.Fatal(err)
	}
	if err := ownership.CheckFile(path("loop")); err == nil {
		t.Error("CheckFile of a link to itself: got no error")
	}
}

// TestCheckOpen tests that the file at the path must be the one that is open.
func TestCheckOpen(t *testing.T) {
	path := tree(t)
	f, err := os.Open(path("inner/file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := ownership.CheckOpen(f); err != nil {
		t.Error(err)
	}
	if err := errors.Join(os.Rename(path("inner/file"), path("old")), os.WriteFile(path("inner/file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var other *ownership.Error
	if err := ownership.CheckOpen(f); !errors.As(err, &other) {
		t.Errorf("after another file took its place: got %v, want an *ownership.Error", err)
	}
}

// TestTrusts tests that root and this process's user are always trusted.
func TestTrusts(t *testing.T) {
	if !ownership.Trusts(0) || !ownership.Trusts(os.Geteuid()) || !ownership.Trusts(stranger, service, stranger) || ownership.Trusts(stranger, service) {
		t.Error("Trusts: got a wrong answer")
	}
}

// TestPipe reads from a pipe, which has no path that somebody could replace.
func TestPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := ownership.CheckOpen(r); err != nil {
		t.Errorf("a pipe: got %v, want nil", err)
	}
}
