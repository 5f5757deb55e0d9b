package audit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// signTimeout limits the wait for a checkpoint's signature.
const signTimeout = 2500 * time.Millisecond

// maxLag is the maximum number of lines between a checkpoint and the line that it names. A verifier
// remembers twice as many.
const maxLag = historySize / 2

// checkpointRetryDelay is the delay before the log retries a checkpoint that failed.
const checkpointRetryDelay = 5 * time.Second

// maintain writes checkpoints, rotates the log and warns before the disk is full.
func (l *Log) maintain(ctx context.Context) {
	ticker := time.NewTicker(l.cfg.CheckpointEvery)
	defer ticker.Stop()
	early := time.NewTimer(min(time.Second, l.cfg.CheckpointEvery)) // a new log gets a checkpoint early
	defer early.Stop()
	fileStart, warned := l.fileStart, false
	for {
		rotate := uint64(0)
		select {
		case <-ctx.Done():
			return
		case <-early.C:
		case <-l.resumed: // lines that were written before have waited for a checkpoint
		case rotate = <-l.full:
		case <-ticker.C:
			if l.cfg.RotateAge > 0 && time.Since(fileStart) >= l.cfg.RotateAge {
				rotate = l.state.Load().file
			}
		}
		if err := l.checkpoint(ctx, rotate); err != nil {
			l.cfg.Logger.Warn("writing a checkpoint failed; the audit log is proven only up to the previous one",
				"err", err, "retry", checkpointRetryDelay)
			early.Reset(checkpointRetryDelay)
		}
		if rotate != 0 {
			fileStart = time.Now()
		}
		warned = l.warn(warned)
	}
}

// checkpoint adds a checkpoint of the last line, unless that line is itself a checkpoint and says that all
// intended lines are closed. With rotate, the first line of a file, it then ends that file, even without a
// checkpoint, because the log must rotate while the token is unavailable.
func (l *Log) checkpoint(ctx context.Context, rotate uint64) error {
	l.signing.Lock()
	defer l.signing.Unlock()
	c, err := l.newCheckpoint(ctx)
	if c == nil {
		if rotate != 0 {
			_, _ = l.write(&pending{rotate: rotate}) // if it fails, the next line signals again that the file is full
		}
		return err
	}
	closed := closedTo(l)
	written, err := l.append(Event{Time: c.Time, Kind: KindCheckpoint, Checkpoint: c, Changes: l.cfg.changes(), ClosedTo: closed}, rotate)
	if err != nil {
		return err
	}
	l.lastClosedTo = closed
	if written.Seq == c.Seq+1 {
		l.covered = written // no line in between is left for the next checkpoint
	}
	if l.keep(*c, false) {
		l.kept = c.Seq
	}
	return nil
}

// prove writes a checkpoint that covers a line, unless there is one. It returns an error unless the
// checkpoint is also stored elsewhere, so that the next Open expects this line or a later one.
func (l *Log) prove(ctx context.Context, seq uint64) error {
	if err := l.checkpoint(ctx, 0); err != nil {
		return err
	}
	l.signing.Lock()
	defer l.signing.Unlock()
	if l.kept < seq {
		return fmt.Errorf("no checkpoint that covers line %d is stored yet", seq)
	}
	return nil
}

// newCheckpoint signs the last line. It returns nil if there is no key, or if a checkpoint already
// covers all lines and says that all intended lines are closed.
func (l *Log) newCheckpoint(ctx context.Context) (*Checkpoint, error) {
	head := l.Head()
	if l.cfg.Sign == nil || head == l.covered && !l.intents.becameClosed(l.lastClosedTo, closedTo(l)) || head.Seq == 0 || l.Err() != nil {
		return nil, nil
	}
	c, err := l.sign(ctx, head)
	if err != nil {
		return nil, err
	}
	if l.Head().Seq-head.Seq > maxLag {
		return nil, fmt.Errorf("signing took too long: more than %d lines were written in the meantime", maxLag)
	}
	return &c, nil
}

// keep passes a checkpoint to Keep, and reports whether there was no error.
func (l *Log) keep(c Checkpoint, ended bool) bool {
	if l.cfg.Keep == nil {
		return true
	}
	err := l.cfg.Keep(c, ended)
	if err != nil {
		l.cfg.Logger.Warn("storing a checkpoint outside the audit log failed", "err", err)
	}
	return err == nil
}

func (l *Log) sign(ctx context.Context, head Head) (Checkpoint, error) {
	if l.cfg.Sign == nil {
		return Checkpoint{}, errors.New("the audit log has no key for checkpoints")
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	c := Checkpoint{Head: head, Time: time.Now().UTC()}
	var err error
	if c.Signature, err = l.cfg.Sign(ctx, c.Digest()); err != nil {
		return Checkpoint{}, fmt.Errorf("signing a checkpoint: %w", err)
	}
	return c, nil
}

// Checkpoint returns a signed checkpoint of the last line on stable storage, for an auditor to
// store. It does not write it to the log.
func (l *Log) Checkpoint(ctx context.Context) (Checkpoint, error) { return l.sign(ctx, l.Head()) }

// warn logs once that the disk is filling up. It returns the new value of warned.
func (l *Log) warn(warned bool) bool {
	free, err := l.Free()
	if err != nil || free >= l.cfg.WarnFree {
		return false
	}
	if !warned {
		l.cfg.Logger.Warn("the audit log's disk is filling up; on a full disk the gateway signs nothing "+
			"(compress rotated files, PATH.N, with gzip, or let the gateway delete them: audit.keep_size)", "free", free, "path", l.cfg.Path)
	}
	return true
}
