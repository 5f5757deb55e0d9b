package gateway_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// A fakeArchiver encrypts nothing: its archive is a list of the key pairs that
// are in the token, before and after the database was copied, and the database.
type fakeArchiver struct {
	backend *hsmtest.Fake
	hold    chan struct{} // if not nil: says that it has begun, and waits until it may go on
	fail    error
	more    io.WriterTo // at the end
	closed  sync.WaitGroup
}

func (a *fakeArchiver) Check(recipients []string) error {
	if slices.Contains(recipients, "none") {
		return errors.New("it is no recipient")
	}
	return nil
}

func (a *fakeArchiver) Archive(ctx context.Context, b gateway.Backup) (gateway.Archive, error) {
	if a.fail != nil {
		return nil, a.fail
	}
	before := a.backend.IDs()
	if a.hold != nil {
		a.hold <- struct{}{}
		select {
		case <-a.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var octets bytes.Buffer
	fmt.Fprintln(&octets, strings.Join(b.Recipients, " "), b.Head)
	var database bytes.Buffer
	n, err := b.Database.WriteTo(&database)
	if err != nil || n != b.Database.Size() || n != int64(database.Len()) {
		return nil, fmt.Errorf("the database has %d bytes, %d were written: %w", b.Database.Size(), n, err)
	}
	binary.Write(&octets, binary.BigEndian, uint32(len(before)))
	for _, id := range before {
		octets.Write(id)
	}
	for i, id := range a.backend.IDs() {
		if i >= len(before) || !bytes.Equal(id, before[i]) {
			return nil, errors.New("key pairs were made or destroyed meanwhile")
		}
	}
	octets.Write(database.Bytes())
	a.closed.Add(1)
	return &fakeArchive{Buffer: &octets, archiver: a}, nil
}

type fakeArchive struct {
	*bytes.Buffer
	archiver *fakeArchiver
	once     sync.Once
}

func (a *fakeArchive) WriteTo(w io.Writer) (int64, error) {
	n, err := a.Buffer.WriteTo(w)
	if err == nil && a.archiver.more != nil {
		_, err = a.archiver.more.WriteTo(w)
	}
	return n, err
}

func (a *fakeArchive) Close() error {
	a.once.Do(a.archiver.closed.Done)
	return nil
}

// unpack reads an archive again: the token's key pairs and the records.
func unpack(t *testing.T, octets []byte) (ids [][]byte, db *store.Store) {
	t.Helper()
	_, rest, _ := bytes.Cut(octets, []byte{'\n'})
	n := int(binary.BigEndian.Uint32(rest))
	rest = rest[4:]
	for range n {
		ids = append(ids, rest[:16])
		rest = rest[16:]
	}
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, rest, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return ids, db
}

// TestBackupIsOfOneMoment makes backups while keys are created, get versions, and
// are deleted. In each of them every recorded key pair is in the token, and every
// key pair in the token is recorded, as a version or as an orphan.
func TestBackupIsOfOneMoment(t *testing.T) {
	t.Parallel()
	b, _ := signing(t)
	ctx, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	for range 6 {
		busy.Go(func() {
			for ctx.Err() == nil { // some of these fail, as they are made to
				var made struct{ KeyMetadata struct{ KeyId string } }
				_ = b.server.Call(ctx, "CreateKey", params("KeySpec", "EC_P256"), &made)
				id := made.KeyMetadata.KeyId
				_ = b.server.Call(ctx, "CreateKeyVersion", params("KeyId", id), nil)
				_ = b.server.Call(ctx, "ScheduleKeyDeletion", params("KeyId", id, "PendingWindowInDays", "7"), nil)
			}
		})
	}
	busy.Go(func() {
		for ctx.Err() == nil {
			b.clock.move(24 * time.Hour)
			b.server.CarryOutDeletions(ctx)
		}
	})
	busy.Go(func() {
		for ctx.Err() == nil {
			b.backend.FailGenerate(errors.New("no")) // leaves orphans for a while
			b.backend.FailGenerate(nil)
		}
	})
	most := 0
	for range 60 {
		var octets bytes.Buffer
		if err := b.server.Stream(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), &octets); err != nil {
			t.Fatal(err)
		}
		ids, db := unpack(t, octets.Bytes())
		recorded := make(map[string]bool)
		for v := range db.Now().Versions().All() {
			if !slices.ContainsFunc(ids, func(id []byte) bool { return bytes.Equal(id, v.Key.ID) }) {
				t.Errorf("version %s is recorded and not in the token", v.KeyVersionId)
			}
			recorded[string(v.Key.ID)] = true
		}
		for o := range db.Now().Orphans().All() {
			recorded[string(o.Key.ID)] = true
		}
		for _, id := range ids {
			if !recorded[string(id)] {
				t.Errorf("key pair %x is in the token, and nothing is recorded of it", id)
			}
		}
		most = max(most, len(ids))
	}
	stop()
	busy.Wait()
	if most < 3 {
		t.Errorf("there were never more than %d key pairs: nothing was tested", most)
	}
}

// TestBackupHoldsOff: while a backup is made signing goes on, a creation waits
// and gets through, one whose time is over gets 503, and a second backup waits.
func TestBackupHoldsOff(t *testing.T) {
	t.Parallel()
	archiver := &fakeArchiver{hold: make(chan struct{})}
	b, _ := signing(t, func(c *gateway.Config) {
		archiver.backend = c.Backend.(*hsmtest.Fake)
		c.Archiver = archiver
	})
	backup := func() error {
		return b.server.Stream(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), io.Discard)
	}
	backups, created := make(chan error, 2), make(chan error, 1)
	go func() { backups <- backup() }()
	<-archiver.hold // it has begun
	b.local("AsymmetricSign", nil, b.signParams()...)
	go func() {
		created <- b.server.Call(t.Context(), "CreateKey", params("KeySpec", "EC_P256"), nil)
	}()
	go func() { backups <- backup() }()
	select {
	case err := <-created:
		t.Fatalf("a key was created meanwhile: %v", err)
	case <-archiver.hold:
		t.Fatal("a second backup began meanwhile")
	case <-time.After(100 * time.Millisecond):
	}
	archiver.hold <- struct{}{} // go on
	if err := <-backups; err != nil {
		t.Error(err)
	}
	<-archiver.hold // the other one; the creation may be before or behind it
	archiver.hold <- struct{}{}
	if err := <-backups; err != nil {
		t.Error(err)
	}
	if err := <-created; err != nil {
		t.Error(err)
	}
}

// TestBackupFails: no line, no archive; no archive, no success; and every archive
// is closed.
func TestBackupFails(t *testing.T) {
	t.Parallel()
	archiver := new(fakeArchiver)
	b, _ := signing(t, func(c *gateway.Config) {
		archiver.backend = c.Backend.(*hsmtest.Fake)
		c.Archiver = archiver
	})
	var api *kms.Error
	archiver.fail = errors.New("no room")
	var octets bytes.Buffer
	c := b.admin()
	err := c.Stream(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), &octets)
	if !errors.As(err, &api) || api.Status != 500 || octets.Len() > 0 {
		t.Errorf("when the archive cannot be made: %v and %d octets", err, octets.Len())
	}
	archiver.fail = nil
	lines := b.auditLines()
	if e := lines[len(lines)-1]; e.Action != "CreateBackup" || e.Status != 500 || e.Subject != "age1test" || !strings.Contains(e.Reason, "no room") {
		t.Errorf("its line is %+v", e)
	}
	if err := c.Call(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), nil); err == nil {
		t.Error("Call took octets for an answer")
	}
	if err := b.server.Call(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), nil); err == nil {
		t.Error("the local Call took octets for an answer")
	}
	if err := c.Stream(t.Context(), "ListUsers", nil, &octets); err == nil || octets.Len() > 0 {
		t.Errorf("Stream took an answer for octets: %v", err)
	}
	if err := b.server.Stream(t.Context(), "ListUsers", nil, &octets); err == nil || octets.Len() > 0 {
		t.Errorf("the local Stream took an answer for octets: %v", err)
	}
	if err := os.Rename(filepath.Join(b.dir, "audit.log"), filepath.Join(b.dir, "away")); err != nil {
		t.Fatal(err)
	}
	for name, stream := range map[string]func(context.Context, string, map[string]string, io.Writer) error{"admin": c.Stream, "local": b.server.Stream} {
		err := stream(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), &octets)
		if !errors.As(err, &api) || api.Status != 503 || octets.Len() > 0 {
			t.Errorf("%s: without an audit log: %v and %d octets", name, err, octets.Len())
		}
	}
	if err := os.Rename(filepath.Join(b.dir, "away"), filepath.Join(b.dir, "audit.log")); err != nil {
		t.Fatal(err)
	}
	archiver.closed.Wait()
}

type cutShort struct{}

func (cutShort) WriteTo(io.Writer) (int64, error) { return 0, errors.New("the disk cannot be read") }

// TestBackupCutShort: half an archive is an error, and not an archive.
func TestBackupCutShort(t *testing.T) {
	t.Parallel()
	archiver := &fakeArchiver{more: cutShort{}}
	b, _ := signing(t, func(c *gateway.Config) {
		archiver.backend = c.Backend.(*hsmtest.Fake)
		c.Archiver = archiver
	})
	var octets bytes.Buffer
	if err := b.admin().Stream(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), &octets); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an archive that ends in the middle: %v after %d octets", err, octets.Len())
	}
	archiver.closed.Wait()
}

type zeros int64

func (z zeros) WriteTo(w io.Writer) (int64, error) {
	return io.CopyN(w, zeroReader{}, int64(z))
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestBackupClientLeaves: a client that takes nothing of a large archive and
// leaves does not keep the gateway from ending, nor the archive open.
func TestBackupClientLeaves(t *testing.T) {
	t.Parallel()
	archiver := &fakeArchiver{more: zeros(1 << 30)}
	b, _ := signing(t, func(c *gateway.Config) {
		archiver.backend = c.Backend.(*hsmtest.Fake)
		c.Archiver = archiver
	})
	path := filepath.Join(socketDir(t), "admin.sock")
	b.openAdmin(path)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	body := `{"Action":"CreateBackup","Parameters":{"Recipients.1":"age1test"}}`
	r, err := http.NewRequest("POST", "http://kmsgate/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	archiver.closed.Wait()
}

// TestProve finds a key without its key pair, and an access key that does not
// unseal; it tells what works all the same.
func TestProve(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.local("CreateKeyVersion", nil, "KeyId", b.key.KeyId)
	var lost struct{ KeyMetadata struct{ KeyId string } }
	b.local("CreateKey", &lost, "KeySpec", "EC_P256K")
	b.local("DisableKey", nil, "KeyId", lost.KeyMetadata.KeyId)
	b.newAccessPoint("app", []string{"key/*"})
	c := b.newNativeClient("app")
	proof, err := keypair.VerifyAll(t.Context(), b.db, b.backend, b.backend)
	if want := (keypair.Verified{Keys: 2, Versions: 3, AccessKeys: 1, ClientKeys: 1}); err != nil || proof != want {
		t.Errorf("of a whole instance: %+v, %v, want %+v", proof, err, want)
	}
	err = b.db.Update(func(tx *store.Tx) error {
		a := slices.Collect(tx.AccessKeys().All())[0]
		a.AccessKeyId = "moved" // it has another's sealed secret
		k, err := tx.ClientKeys().Get(c.id)
		k.AapName = "other" // for which it was not sealed
		return errors.Join(err, tx.ClientKeys().Put(k), tx.AccessKeys().Put(a))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.backend.Destroy(t.Context(), b.db.Now().VersionsOf(lost.KeyMetadata.KeyId)[0].Key); err != nil {
		t.Fatal(err)
	}
	proof, err = keypair.VerifyAll(t.Context(), b.db, b.backend, b.backend)
	if want := (keypair.Verified{Keys: 1, Versions: 2, AccessKeys: 1}); proof != want || !errors.Is(err, hsm.ErrNotFound) ||
		!strings.Contains(err.Error(), lost.KeyMetadata.KeyId) || !strings.Contains(err.Error(), "access key moved") || !strings.Contains(err.Error(), "client key "+c.id) {
		t.Errorf("of one with losses: %+v, %v, want %+v and an error that names all", proof, err, want)
	}
}

// TestMatchesToken tells a token that is another's from one that is away.
func TestMatchesToken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	auditKey, err := b.backend.Generate(t.Context(), hsm.EC_P256, bytes.Repeat([]byte{9}, 16))
	if err == nil {
		err = b.db.Update(func(tx *store.Tx) error { return tx.SetAuditKey(auditKey) })
	}
	if err != nil {
		t.Fatal(err)
	}
	other := new(hsmtest.Fake)
	away := new(hsmtest.Fake)
	away.Fail(fmt.Errorf("%w: away", hsm.ErrUnavailable))
	for name, c := range map[string]struct {
		backend *hsmtest.Fake
		sealer  hsm.Sealer
		want    error
	}{
		"its own":                   {b.backend, b.backend, nil},
		"another":                   {other, b.backend, keypair.ErrForeignToken},
		"another key for sealing":   {b.backend, otherSealer{other}, keypair.ErrForeignToken},
		"away":                      {away, b.backend, hsm.ErrUnavailable},
		"away after the first call": {b.backend, away, hsm.ErrUnavailable},
	} {
		err := keypair.MatchesToken(t.Context(), b.db, c.backend, c.sealer)
		if !errors.Is(err, c.want) || c.want == hsm.ErrUnavailable && errors.Is(err, keypair.ErrForeignToken) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// An otherSealer has another key.
type otherSealer struct{ *hsmtest.Fake }

func (otherSealer) Unseal(context.Context, []byte, []byte) ([]byte, error) {
	return nil, errors.New("sealed by another key")
}
