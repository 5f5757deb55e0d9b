package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/version"
	"github.com/kmsgate/kmsgate/gateway"
)

// An archiver makes the archives of an appliance that is open.
type archiver struct{ appliance *appliance.Appliance }

// NewArchiver returns what makes backups of an open appliance, for
// [appliance.Options].Archiver.
func NewArchiver(a *appliance.Appliance) gateway.Archiver { return archiver{a} }

func (a archiver) Check(recipients []string) error {
	_, err := archive.ParseRecipients(recipients...)
	return err
}

// Archive writes the archive, encrypted, to a file without a name: nothing of it is left
// however this process ends.
func (a archiver) Archive(ctx context.Context, b gateway.Backup) (_ gateway.Archive, err error) {
	sources, err := a.sources()
	if err != nil {
		return nil, err
	}
	if err := a.checkRoom(b.Database.Size(), sources); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(a.appliance.Config.Directory, "backup-*.tmp")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	if err := a.write(ctx, f, b, sources); err != nil {
		return nil, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// checkRoom refuses an archive that the disk has no room for: on a full disk there are no
// audit lines, and without them no signatures.
func (a archiver) checkRoom(size int64, sources []source) error {
	const rest = 64 << 20
	for _, s := range sources {
		if info, err := os.Stat(s.path); err == nil {
			size += info.Size() + 1024 // in a tar archive it has a header, and is filled up
		}
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(a.appliance.Config.Directory, &disk); err != nil {
		return fmt.Errorf("%s: %w", a.appliance.Config.Directory, err)
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < uint64(size+rest) {
		return fmt.Errorf("the backup takes %d MiB for a while, and %s has %d MiB free: make room", (size+rest)>>20, a.appliance.Config.Directory, free>>20)
	}
	return nil
}

// write writes the token first: it is what changes least.
func (a archiver) write(ctx context.Context, to io.Writer, b gateway.Backup, sources []source) error {
	recipients, err := archive.ParseRecipients(b.Recipients...)
	if err != nil {
		return err
	}
	w, err := archive.NewWriter(to, recipients...)
	if err != nil {
		return err
	}
	for _, s := range sources {
		content, err := s.read(ctx)
		if err != nil {
			return err
		}
		if err := w.Add(s.name, int64(len(content)), bytes.NewReader(content)); err != nil {
			return err
		}
	}
	text, err := a.appliance.Config.Marshal()
	if err != nil {
		return err
	}
	if err := w.Add(archivedConfig, int64(len(text)), bytes.NewReader(text)); err != nil {
		return err
	}
	if err := w.Add(archivedDatabase, b.Database.Size(), b.Database); err != nil {
		return err
	}
	return a.finish(ctx, w, b)
}

// finish signs the archive with the instance's own key.
func (a archiver) finish(ctx context.Context, w *archive.Writer, b gateway.Backup) error {
	i := a.appliance.Config.Instance
	m := archive.Manifest{
		Kmsgate: version.String(), Time: time.Now().UTC(), PublicKey: a.appliance.AuditPublicKey(), AuditHead: b.Head.String(),
		Instance: fmt.Sprintf("instance %s in region %s of account %s", i.ID, i.Region, i.Account),
	}
	return w.Close(m, func(digest []byte) ([]byte, error) { return a.appliance.SignWithAuditKey(ctx, digest) })
}

// read returns the content that belongs in the archive.
func (s source) read(ctx context.Context) ([]byte, error) {
	if s.path == "" {
		return s.content, nil
	}
	return readSettled(ctx, s.path)
}

// readSettled reads a file until it reads the same twice: SoftHSM rewrites
// token.object in place at a login, and for a moment it is empty.
func readSettled(ctx context.Context, path string) ([]byte, error) {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	mayBeEmpty := filepath.Base(path) != "token.object"
	for range 400 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		first, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		second, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(first, second) && (mayBeEmpty || len(first) > 0) {
			return first, nil
		}
		<-poll.C
	}
	return nil, fmt.Errorf("%s is empty or changes all the time: a backup of it would be worth nothing", path)
}
