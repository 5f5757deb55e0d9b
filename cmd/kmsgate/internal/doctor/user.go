package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/ownership"
)

// identify records which user examines the gateway: most things that a doctor cannot do, it
// cannot do because it is the wrong user.
func (e *examination) identify(ctx context.Context) {
	e.found.UID = os.Getuid()
	e.found.User = nameOf(ctx, e.found.UID)
}

// nameOf returns the name of a user. It is empty if the user has none, or if the system's
// directory service does not answer soon.
func nameOf(ctx context.Context, uid int) string {
	ctx, cancel := share(ctx, 0.1)
	defer cancel()
	name, _ := start(step{}, func() string {
		u, err := user.LookupId(strconv.Itoa(uid))
		if err != nil {
			return ""
		}
		return u.Username
	}).wait(ctx)
	return name
}

// describeUser describes a user: uid 998 (kmsgate).
func describeUser(ctx context.Context, uid int) string {
	if name := nameOf(ctx, uid); name != "" {
		return fmt.Sprintf("uid %d (%s)", uid, name)
	}
	return fmt.Sprintf("uid %d", uid)
}

// runAs returns the advice to run the command as another user.
func (dr *Doctor) runAs(uid int) string {
	command := cmp.Or(dr.Command, "kmsgate doctor")
	if uid == 0 {
		return "run it as root: sudo " + command
	}
	return fmt.Sprintf("run it as that user: sudo -u '#%d' %s", uid, command)
}

// configure loads the configuration, and reports whether the examination can continue.
func (e *examination) configure(ctx context.Context) bool {
	if e.config != nil {
		return true
	}
	type loaded struct {
		config *config.Config
		err    error
		owner  int // of a configuration that this user may not read or must not trust, or -1
	}
	ctx, cancel := share(ctx, 0.5)
	defer cancel()
	reading := step{"Reading the configuration", fileAdvice}
	l, ok := start(reading, func() loaded {
		c, err := e.Configuration()
		return loaded{c, err, ownerBehind(err)}
	}).wait(ctx)
	switch {
	case !ok:
		e.found.late = append(e.found.late, reading)
	case l.err != nil && l.owner >= 0 && l.owner != e.found.UID:
		e.found.problem(e.runAs(l.owner), "The configuration cannot be read, so nothing else was examined: %v.", l.err)
	case l.err != nil:
		e.found.problem("correct it and run kmsgate doctor again; nothing else was examined",
			"The configuration cannot be read: %v.", l.err)
	case l.config == nil:
		e.found.note("pass the configuration with --config FILE, or the directory of kmsgate dev with --dir DIR",
			"The configuration and the files were not examined.")
	}
	e.config = l.config
	return ok && l.err == nil
}

// enter reports whether the instance's directory exists, and whether this user may use it.
// Otherwise every other finding would be a symptom.
func (e *examination) enter(ctx context.Context) bool {
	if e.config == nil {
		return true
	}
	type entry struct {
		owner int // of the directory, or else of the one above it that this user may not enter
		err   error
	}
	dir := e.config.Directory
	limited, cancel := share(ctx, 0.4)
	defer cancel()
	examining := step{fmt.Sprintf("Examining the instance's directory %q", dir), fileAdvice}
	f, ok := start(examining, func() entry {
		info, err := os.Stat(dir)
		if err != nil {
			return entry{ownerBehind(err), err}
		}
		return entry{ownerOf(info), nil}
	}).wait(limited)
	e.owner = f.owner
	isOther := f.owner >= 0 && f.owner != e.found.UID && e.found.UID != 0
	switch {
	case !ok: // a gateway that runs may still answer
		e.found.late = append(e.found.late, examining)
	case errors.Is(f.err, fs.ErrNotExist):
		e.found.problem("create it or correct the configuration; if the instance was there, mount its file system, or "+
			"restore a backup with kmsgate restore",
			"The instance's directory %q does not exist, so nothing else was examined.", dir)
		return false
	case isOther && f.err != nil:
		e.found.problem(e.runAs(f.owner), "You may not use the instance's directory, so nothing else was examined: %v.", f.err)
		return false
	case isOther:
		advice := e.runAs(f.owner)
		if f.owner != 0 {
			advice += "; or, while the gateway runs, as root: sudo " + cmp.Or(e.Command, "kmsgate doctor")
		}
		e.found.problem(advice, "The instance's directory %q belongs to %s, and you are neither that user nor root, so "+
			"nothing else was examined.", dir, describeUser(ctx, f.owner))
		return false
	}
	return true
}

// ownerBehind returns the owner of the file that this user may not use, or of the directory
// above it that this user may not enter, or who could change the file. It returns -1 if err has
// another reason.
func ownerBehind(err error) int {
	var other *ownership.Error
	if errors.As(err, &other) {
		return other.Owner
	}
	var denied *fs.PathError
	if !errors.As(err, &denied) || !errors.Is(err, fs.ErrPermission) {
		return -1
	}
	for path := denied.Path; ; path = filepath.Dir(path) {
		if info, err := os.Stat(path); err == nil {
			return ownerOf(info)
		}
		if path == filepath.Dir(path) {
			return -1
		}
	}
}

// ownerOf returns the uid of a file's owner, or -1 if it is unknown.
func ownerOf(info fs.FileInfo) int {
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(owner.Uid)
	}
	return -1
}
