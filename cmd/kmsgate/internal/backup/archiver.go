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

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/version"
	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/internal/appliance"
)

// An archiver creates archives of an open appliance.
type archiver struct{ appliance *appliance.Appliance }

// NewArchiver returns an archiver of an open appliance, for [appliance.Options].Archiver.
func NewArchiver(a *appliance.Appliance) gateway.Archiver { return archiver{a} }

// Check returns an error if a recipient is invalid.
func (a archiver) Check(recipients []string) error {
	_, err := archive.ParseRecipients(recipients...)
	return err
}

// Archive writes the encrypted archive to a file without a name. The file disappears however
// this process ends.
func (a archiver) Archive(ctx context.Context, b gateway.Backup) (_ gateway.Archive, err error) {
	sources, err := a.sources()
	if err != nil {
		return nil, err
	}
	if err := a.checkSpace(b.Database.Size(), sources); err != nil {
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

// checkSpace refuses an archive that would fill the disk. On a full disk the gateway can
// write no audit lines, and without them it does not sign.
func (a archiver) checkSpace(size int64, sources []source) error {
	const reserve = 64 << 20
	for _, s := range sources {
		if info, err := os.Stat(s.path); err == nil {
			size += info.Size() + 1024 // the tar archive's header and padding, 512 bytes each at most
		}
	}
	dir := a.appliance.Config.Directory
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return fmt.Errorf("measuring the free space of %q: %w", dir, err)
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < uint64(size+reserve) {
		return fmt.Errorf("the backup needs %d MiB in %q for a while, but only %d MiB are free (free some space)",
			(size+reserve)>>20, dir, free>>20)
	}
	return nil
}

// write writes the token's files first because they change least.
func (a archiver) write(ctx context.Context, out io.Writer, b gateway.Backup, sources []source) error {
	recipients, err := archive.ParseRecipients(b.Recipients...)
	if err != nil {
		return err
	}
	w, err := archive.NewWriter(out, recipients...)
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

// finish signs the archive with the instance's audit key.
func (a archiver) finish(ctx context.Context, w *archive.Writer, b gateway.Backup) error {
	i := a.appliance.Config.Instance
	m := archive.Manifest{
		Kmsgate: version.String(), Time: time.Now().UTC(),
		PublicKey: a.appliance.AuditPublicKey(), AuditHead: b.Head.String(),
		Instance: fmt.Sprintf("instance %s in region %s of account %s", i.ID, i.Region, i.Account),
	}
	return w.Close(m, func(digest []byte) ([]byte, error) { return a.appliance.SignWithAuditKey(ctx, digest) })
}

// read returns the source's content for the archive.
func (s source) read(ctx context.Context) ([]byte, error) {
	if s.path == "" {
		return s.content, nil
	}
	return readStable(ctx, s.path)
}

// readStable reads a file until two reads return the same content, and gives up after about
// 2 s. SoftHSM rewrites token.object in place at a login, and for a moment the file is empty.
func readStable(ctx context.Context, path string) ([]byte, error) {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	emptyAllowed := filepath.Base(path) != "token.object"
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
		if bytes.Equal(first, second) && (emptyAllowed || len(first) > 0) {
			return first, nil
		}
		<-poll.C
	}
	return nil, fmt.Errorf("the token's file %q stays empty or keeps changing, so a backup of it would be useless "+
		"(run kmsgate doctor, then try again)", path)
}
