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
	// Check reports what is wrong with a recipient.
	Check(recipients []string) error
	// Archive makes an archive that the recipients can open. Until it returns no
	// key pair is made or destroyed. It returns when ctx is done.
	Archive(ctx context.Context, b Backup) (Archive, error)
}

// A Backup is what the gateway gives for an archive.
type Backup struct {
	Recipients []string
	Database   *store.Snapshot
	Head       audit.Checkpoint // of the audit log: no earlier than the database
}

// An Archive is an encrypted one, to be written once and closed.
type Archive interface {
	io.WriterTo
	io.Closer
}

// octets is a response that is written as it is. It has to be closed.
type octets interface {
	kms.Response
	Archive
}

// discard closes a response that nobody gets.
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

// createBackup archives the instance. The archive is complete before its line is
// written and before the first octet of it leaves. Who can read it is public and
// belongs into the log; a passphrase never gets here.
func createBackup(ctx context.Context, c *call, req *kms.CreateBackupRequest) (*createBackupResponse, error) {
	c.entry.Subject = kms.ClipTo(kms.MaxReason, strings.Join(req.Recipients, " "))
	archiver := c.server.config.Archiver
	if archiver == nil {
		return nil, kms.ErrUnsupportedOperation.Because("This gateway was started without backups.")
	}
	if err := archiver.Check(req.Recipients); err != nil {
		return nil, kms.InvalidParameter("Recipients", "%v", err)
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	began := time.Now()
	archive, err := c.server.archive(ctx, req.Recipients)
	if err != nil {
		return nil, fmt.Errorf("making a backup: %w", err)
	}
	c.server.config.Logger.Info("a backup was made", "RequestId", c.requestId, "duration", time.Since(began))
	return &createBackupResponse{Archive: archive}, nil
}

// archive copies records and key pairs while neither are made nor destroyed.
// Signing goes on.
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
	head, err := s.config.Audit.Checkpoint(ctx) // after the snapshot: every change in it has its line before that, or in its outbox
	if err != nil {
		return nil, err
	}
	return s.config.Archiver.Archive(ctx, Backup{recipients, database, head})
}
