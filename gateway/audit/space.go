package audit

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	measureEvery = time.Second // the interval at which the log measures the free space

	// maxMeasureAge is the age beyond which a measurement no longer says what is free.
	maxMeasureAge = 10 * time.Second

	// reserveShare is the part of the file system that the reserve has at most: a twentieth.
	reserveShare = 20
)

// Space describes a file system.
type Space struct {
	Free uint64 // bytes that the log can use
	Size uint64 // bytes in total
}

// spaceOf returns the space of the file system that holds the files of a log.
func spaceOf(path string) (Space, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(path), &s); err != nil { // while the log is rotated, it has no file
		return Space{}, fmt.Errorf("measuring the free space for the audit log %q: %w", path, err)
	}
	block := uint64(s.Bsize)
	return Space{Free: s.Bavail * block, Size: s.Blocks * block}, nil
}

// A gauge knows the space for a log without asking the file system, which can hang. Only one
// goroutine measures.
type gauge struct {
	written atomic.Uint64               // bytes that the log has written
	last    atomic.Pointer[measurement] // nil before the first measurement has ended
}

// A measurement is the space at a moment.
type measurement struct {
	Space
	written uint64    // bytes that the log had written before
	ended   time.Time // when it ended
	err     error     // why it failed; Space and written are then those of the one before
}

func (g *gauge) measure(space func() (Space, error)) {
	m := measurement{written: g.written.Load()}
	m.Space, m.err = space()
	if last := g.last.Load(); m.err != nil && last != nil {
		m.Space, m.written = last.Space, last.written
	}
	m.ended = time.Now()
	g.last.Store(&m)
}

// left returns how many bytes were free at the last measurement, without those that the log has
// written since.
func (g *gauge) left() (free, size uint64) {
	m := g.last.Load()
	return m.Free - min(m.Free, g.written.Load()-m.written), m.Size
}

// Free returns the number of free bytes on the log's file system. It does not ask the file
// system, so the number can be a second old. If the file system has not answered for 10 s, or
// answered with an error, Free returns an error.
func (l *Log) Free() (uint64, error) {
	m := l.gauge.last.Load()
	if m.err != nil {
		return 0, m.err
	}
	if age := time.Since(m.ended); age > maxMeasureAge {
		return 0, fmt.Errorf("the file system of the audit log %q has not answered for %v (check the disk)",
			l.cfg.Path, age.Round(time.Second))
	}
	free, _ := l.gauge.left()
	return free, nil
}

// Scarce returns an error while less than the Reserve is free. Callers should then append only
// lines of administrators. It does not ask the file system: it counts what the log has written
// since it was last measured, at most a second ago unless the file system hangs.
func (l *Log) Scarce() error {
	free, size := l.gauge.left()
	if free >= min(l.cfg.Reserve, size/reserveShare) {
		return nil
	}
	return errScarce
}

// errScarce is the error of Scarce. It has no numbers: each refused request has it.
var errScarce = errors.New("the disk of the audit log is almost full: only local administrators are served (make room on " +
	"it; see audit.reserve)")

// watchSpace measures the space until ctx is done, and logs when it becomes scarce and when it no
// longer is.
func (l *Log) watchSpace(ctx context.Context) {
	ticker := time.NewTicker(measureEvery)
	defer ticker.Stop()
	for scarce := false; ; l.gauge.measure(l.cfg.Space) {
		if now := l.Scarce() != nil; now != scarce {
			scarce = now
			free, _ := l.gauge.left()
			if scarce {
				l.cfg.Logger.Error("the audit log's disk has less free space than the reserve; the gateway serves only local administrators "+
					"until there is more (make room on it; see audit.reserve)", "free", free, "path", l.cfg.Path)
			} else {
				l.cfg.Logger.Info("the audit log's disk has enough free space again; the gateway serves everybody",
					"free", free, "path", l.cfg.Path)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
