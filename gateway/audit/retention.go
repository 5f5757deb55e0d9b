package audit

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// retainInterval is the interval at which retention looks for a file to delete. It also looks after
// each rotation.
const retainInterval = time.Minute

// heldInterval is the time after which retention verifies a file again that it could not delete.
const heldInterval = 10 * time.Minute

// unprovenFactor is the factor by which the time until the next attempt exceeds the time that it took
// to find that no checkpoint covers a file yet.
const unprovenFactor = 10

// A retention deletes the oldest files of a log. Its goroutine is not the one that writes
// checkpoints, because verifying a file takes seconds.
type retention struct {
	log      *Log
	opened   time.Time // when the log was opened
	lastTime time.Time // the time of the last line then; zero if the log had none

	begins   Head    // the line after which the log begins since the last deletion; zero if there was none
	named    Head    // the line that the last deleted event of this process names
	namedBy  uint64  // the number of that event
	held     timed   // the oldest file, if it cannot be deleted, and when to try again
	newest   timed   // the oldest file and the time of its newest line; before it is verified, that of its last line
	reported version // the file that the last error was about
}

// A version is a file with the content that it had when it was listed.
type version struct {
	path    string
	size    int64 // in bytes
	changed int64 // in nanoseconds since 1970
}

type timed struct {
	version
	time time.Time
}

// run deletes files until ctx is done.
func (r *retention) run(ctx context.Context) {
	ticker := time.NewTicker(retainInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-r.log.rotated:
		}
		for r.deleteOldest(ctx) {
		}
	}
}

// deleteOldest deletes the oldest file if it is due, and reports whether it did.
func (r *retention) deleteOldest(ctx context.Context) bool {
	if !r.mayDelete() {
		return false
	}
	files, err := r.list()
	if err != nil || len(files) < 2 {
		return false // the writer reports the same error
	}
	oldest := files[0]
	if r.held.version == oldest && time.Now().Before(r.held.time) || !r.isDue(files) {
		return false
	}
	started := time.Now()
	end, err := r.verify(ctx, files)
	if errors.Is(err, errUnproven) {
		r.held = timed{oldest, time.Now().Add(max(retainInterval, unprovenFactor*time.Since(started)))}
		return false // the log warns about checkpoints that fail
	}
	if err != nil {
		err = &unverifiedError{err}
	} else if !r.isDue(files) || !r.mayDelete() {
		return false // only now it is known how old the newest line is, and verifying takes time
	} else {
		err = r.delete(ctx, oldest, end)
	}
	if err != nil && ctx.Err() == nil && r.lists(files) {
		r.hold(oldest, err)
	}
	return err == nil
}

// lists reports whether the log still has these files. If one was rotated or compressed while it was
// to be read, an error means nothing.
func (r *retention) lists(files []version) bool {
	again, err := r.list()
	return err == nil && slices.EqualFunc(files, again, func(a, b version) bool { return a.path == b.path })
}

// mayDelete reports whether the log can be written and the clock can be believed.
func (r *retention) mayDelete() bool {
	return r.log.Err() == nil && (r.log.cfg.Trusted == nil || r.log.cfg.Trusted())
}

// list returns the log's files, the oldest first, without empty ones.
func (r *retention) list() ([]version, error) {
	paths, err := Files(r.log.cfg.Path)
	if err != nil {
		return nil, err
	}
	var files []version
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the file was rotated or compressed after it was listed
		}
		if err != nil {
			return nil, err
		}
		if info.Size() > 0 {
			files = append(files, version{path, info.Size(), info.ModTime().UnixNano()})
		}
	}
	return files, nil
}

// isDue reports whether the oldest file must be deleted. A file that cannot be read is due: verify
// returns the reason.
func (r *retention) isDue(files []version) bool {
	cfg := r.log.cfg
	size := int64(0)
	for _, f := range files {
		size += f.size
	}
	if cfg.RetainSize > 0 && size > cfg.RetainSize {
		return true
	}
	if cfg.RetainAge == 0 {
		return false
	}
	if r.newest.version != files[0] {
		last, ok, err := lastLine(files[0].path)
		if !ok || err != nil {
			return true
		}
		r.newest = timed{files[0], last.Time()}
	}
	return r.now().Sub(r.newest.time) > cfg.RetainAge
}

// now returns the time of the last line when the log was opened, plus the time since then by the
// monotonic clock. A clock that is set ahead does not
// change it. It never exceeds the time of the clock, so that a clock that was ahead for a while does
// not matter once it is right again.
func (r *retention) now() time.Time {
	now := time.Now()
	if passed := r.lastTime.Add(now.Sub(r.opened)); !r.lastTime.IsZero() && passed.Before(now) {
		return passed
	}
	return now
}

// delete deletes a file that ends with the line end. An interruption at any point does no harm: the
// next round, or the next process, begins again.
func (r *retention) delete(ctx context.Context, f version, end Head) error {
	if r.named != end {
		event := Event{Time: time.Now().UTC(), Kind: KindDeleted,
			Deleted: &Deletion{Head: end, File: filepath.Base(f.path)}}
		written, err := r.log.append(event, 0)
		if err != nil {
			return err
		}
		r.named, r.namedBy = end, written.Seq
	}
	if err := r.log.prove(ctx, r.namedBy); err != nil {
		return err
	}
	if err := r.remove(uncompressed(f.path)); err != nil {
		return err
	}
	r.log.cfg.Logger.Info("deleted the oldest file of the audit log", "path", f.path, "size", f.size, "lastLine", end.Seq,
		"newestLine", r.newest.time)
	r.begins = end
	return nil
}

// remove removes a file and what gzip has made of it so far.
func (r *retention) remove(path string) error {
	for _, name := range []string{path + compressedSuffix, path} {
		if err := r.log.cfg.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(path))
}

// An unverifiedError is the reason why a file could not be verified.
type unverifiedError struct{ error }

func (e *unverifiedError) Unwrap() error { return e.error }

// hold leaves a file alone for a while, and reports the reason once.
func (r *retention) hold(f version, reason error) {
	r.held = timed{f, time.Now().Add(heldInterval)}
	if r.reported == f {
		return
	}
	r.reported = f
	logger := r.log.cfg.Logger.With("path", f.path, "err", reason, "retry", heldInterval)
	if unverified := new(unverifiedError); !errors.As(reason, &unverified) {
		logger.Warn("deleting the audit log's oldest file failed")
		return
	}
	hint := "put the right file back, or move the wrong one to other storage; kmsgate audit verify names the wrong line"
	if errors.Is(reason, ErrFilesMissing) {
		hint = r.log.cfg.AcceptLossHint
	}
	logger.Error("the audit log's oldest file does not verify: neither it nor any later file is deleted", "hint", hint)
}
