package audit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// signTime bounds how long a checkpoint's signature is waited for.
const signTime = 2500 * time.Millisecond

// maxLag is how many lines a checkpoint may come behind the line it names. A
// verifier remembers twice as many.
const maxLag = remembered / 2

// retryCheckpoint is when a checkpoint that could not be made is tried again.
const retryCheckpoint = 5 * time.Second

// maintain makes checkpoints, begins new files and watches the free space.
func (l *Log) maintain(ctx context.Context) {
	ticker := time.NewTicker(l.cfg.CheckpointEvery)
	defer ticker.Stop()
	early := time.NewTimer(min(time.Second, l.cfg.CheckpointEvery)) // so that a new log soon has one
	defer early.Stop()
	began, warned := l.began, false
	for {
		rotate := false
		select {
		case <-ctx.Done():
			return
		case <-early.C:
		case <-l.full:
			rotate = true
		case <-ticker.C:
			rotate = l.cfg.RotateAge > 0 && time.Since(began) >= l.cfg.RotateAge
		}
		if err := l.checkpoint(ctx, rotate); err != nil {
			l.cfg.Logger.Warn("no checkpoint: the audit log is proven up to the last one only; trying again", "error", err)
			early.Reset(retryCheckpoint)
		}
		if rotate {
			began = time.Now()
		}
		warned = l.warn(warned)
	}
}

// checkpoint adds a checkpoint of the last line, unless that line is one itself. With
// rotate it then begins a new file, also without a checkpoint: the log is rotated while
// the token is unavailable.
func (l *Log) checkpoint(ctx context.Context, rotate bool) error {
	l.signing.Lock()
	defer l.signing.Unlock()
	c, err := l.newCheckpoint(ctx)
	if c == nil {
		if rotate {
			_, _ = l.write(&pending{rotate: true}) // if it fails, the file is full at the next line too
		}
		return err
	}
	written, err := l.append(Event{Time: c.Time, Kind: KindCheckpoint, Checkpoint: c}, rotate)
	if err != nil {
		return fmt.Errorf("writing it: %w", err)
	}
	if written.Seq == c.Seq+1 {
		l.covered = written // no line between them is left for the next one to cover
	}
	l.keep(*c, false)
	return nil
}

// newCheckpoint signs the last line. It returns nil if there is no key, or no line
// without a checkpoint.
func (l *Log) newCheckpoint(ctx context.Context) (*Checkpoint, error) {
	head := l.Head()
	if l.cfg.Sign == nil || head == l.covered || head.Seq == 0 || l.Err() != nil {
		return nil, nil
	}
	c, err := l.sign(ctx, head)
	if err != nil {
		return nil, err
	}
	if l.Head().Seq-head.Seq > maxLag {
		return nil, errors.New("signing took so long that too many lines were written in the meantime")
	}
	return &c, nil
}

func (l *Log) keep(c Checkpoint, ended bool) {
	if l.cfg.Keep == nil {
		return
	}
	if err := l.cfg.Keep(c, ended); err != nil {
		l.cfg.Logger.Warn("a checkpoint of the audit log could not be kept elsewhere", "error", err)
	}
}

func (l *Log) sign(ctx context.Context, head Head) (Checkpoint, error) {
	if l.cfg.Sign == nil {
		return Checkpoint{}, errors.New("there is no key for checkpoints")
	}
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	c := Checkpoint{Head: head, Time: time.Now().UTC()}
	var err error
	if c.Signature, err = l.cfg.Sign(ctx, c.Digest()); err != nil {
		return Checkpoint{}, fmt.Errorf("signing a checkpoint: %w", err)
	}
	return c, nil
}

// Checkpoint signs the last line on stable storage, for an auditor to keep.
func (l *Log) Checkpoint(ctx context.Context) (Checkpoint, error) { return l.sign(ctx, l.Head()) }

// warn tells the operator that the disk is filling up, once.
func (l *Log) warn(warned bool) bool {
	free, err := l.Free()
	if err != nil || free >= l.cfg.WarnFree {
		return false
	}
	if !warned {
		l.cfg.Logger.Warn("the audit log's disk is filling up: once it is full, nothing is signed (move old files away: PATH.N, not PATH)",
			"free", free, "path", l.cfg.Path)
	}
	return true
}
