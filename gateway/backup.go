package gateway

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// An Archiver makes encrypted archives of the instance that the gateway serves.
type Archiver interface {
	// Check returns an error if a recipient is invalid.
	Check(recipients []string) error
	// Archive makes an archive that the recipients can open. Until it returns, the gateway
	// neither creates nor destroys key pairs. Archive returns early if ctx is done.
	Archive(ctx context.Context, b Backup) (Archive, error)
}

// A Backup is what the gateway contributes to an archive.
type Backup struct {
	Recipients []string
	Database   *store.Snapshot
	Head       audit.Checkpoint // of the audit log, no earlier than the database
}

// An Archive is an encrypted archive. The caller may write it once, and must close it.
type Archive interface {
	io.WriterTo
	io.Closer
}

// octets is a response of raw bytes instead of a message. The recipient must close it.
type octets interface {
	kms.Response
	Archive
}

// discard closes a response that is not sent.
func discard(resp kms.Response) error {
	if o, ok := resp.(octets); ok {
		return o.Close()
	}
	return nil
}

type createBackupResponse struct {
	kms.Result
	Archive
}

// createBackup archives the instance. The archive is complete before its audit line is
// written and before its first byte is sent. The audit line names the recipients, which
// are public. Passphrases never reach the gateway.
func createBackup(ctx context.Context, c *call, req *kms.CreateBackupRequest) (*createBackupResponse, error) {
	c.entry.Subject = kms.ClipTo(kms.MaxReason, strings.Join(req.Recipients, " "))
	archiver := c.server.config.Archiver
	if archiver == nil {
		return nil, kms.ErrUnsupportedOperation.Because("This gateway was started without support for backups.")
	}
	if err := archiver.Check(req.Recipients); err != nil {
		return nil, kms.InvalidParameter("Recipients", "%v", err)
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	start := time.Now()
	archive, err := c.server.archive(ctx, req.Recipients)
	if err != nil {
		return nil, fmt.Errorf("creating a backup: %w", err)
	}
	c.server.config.Logger.Info("backup created", "RequestId", c.requestId, "duration", time.Since(start))
	return &createBackupResponse{Archive: archive}, nil
}

// OutsideBackup waits until no backup is copying the token, calls f, which may change the token, and returns its
// error. No backup begins to copy the token before f returns. If ctx ends first, it returns kms.ErrUnavailable.
func (s *Server) OutsideBackup(ctx context.Context, f func() error) error {
	if err := s.pairs.Enter(ctx); err != nil {
		return err
	}
	defer s.pairs.Exit()
	return f()
}

// archive copies the records and the key pairs. Until it returns, the gateway neither
// creates nor destroys key pairs, but continues to sign.
func (s *Server) archive(ctx context.Context, recipients []string) (Archive, error) {
	thaw, err := s.pairs.Freeze(ctx)
	if err != nil {
		return nil, err
	}
	defer thaw()
	database, err := s.config.Store.Snapshot()
	if err != nil {
		return nil, err
	}
	defer database.Close()
	// The checkpoint comes after the snapshot. Every change in the snapshot therefore has
	// its line before the checkpoint, or in the snapshot's outbox.
	head, err := s.config.Audit.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	return s.config.Archiver.Archive(ctx, Backup{recipients, database, head})
}
