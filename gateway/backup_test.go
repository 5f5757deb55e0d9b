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
	"github.com/kmsgate/kmsgate/store/storetest"
)

// A fakeArchiver encrypts nothing. Its archive has the ids of the key pairs in the token and the
// database. It fails if the key pairs change while it is made.
type fakeArchiver struct {
	backend *hsmtest.Fake
	hold    chan struct{} // if not nil, Archive sends to it when it begins, and receives before it continues
	fail    error         // the error of Archive
	more    io.WriterTo   // written at the end of the archive
	closed  sync.WaitGroup
}

func (a *fakeArchiver) Check(recipients []string) error {
	if slices.Contains(recipients, "none") {
		return errors.New("invalid recipient")
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
			return nil, errors.New("key pairs were created or destroyed during the backup")
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

// unpack returns the ids of the token's key pairs and the records in an archive.
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
	db, err := storetest.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return ids, db
}

// TestBackupIsOfOneMoment makes backups while keys are created, get versions, and are deleted. In
// each backup, every recorded key pair must be in the token, and every key pair in the token must
// be recorded, as a version or as an orphan.
func TestBackupIsOfOneMoment(t *testing.T) {
	t.Parallel()
	b, _ := signing(t)
	ctx, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	for range 6 {
		busy.Go(func() {
			for ctx.Err() == nil { // some calls fail, because the backend is made to fail
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
	maxPairs := 0
	for n := 0; n < 60 || maxPairs < 3; n++ { // with fewer pairs, the test would show nothing
		var octets bytes.Buffer
		if err := b.server.Stream(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), &octets); err != nil {
			t.Fatal(err)
		}
		ids, db := unpack(t, octets.Bytes())
		recorded := make(map[string]bool)
		for v := range db.Now().Versions().All() {
			if !slices.ContainsFunc(ids, func(id []byte) bool { return bytes.Equal(id, v.Key.ID) }) {
				t.Errorf("version %s is recorded but not in the token", v.KeyVersionId)
			}
			recorded[string(v.Key.ID)] = true
		}
		for o := range db.Now().Orphans().All() {
			recorded[string(o.Key.ID)] = true
		}
		for _, id := range ids {
			if !recorded[string(id)] {
				t.Errorf("key pair %x is in the token but not recorded", id)
			}
		}
		maxPairs = max(maxPairs, len(ids))
	}
	stop()
	busy.Wait()
}

// TestBackupHoldsOff checks that signing continues during a backup, and that a creation and a
// second backup wait for its end.
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
	<-archiver.hold // the first backup has begun
	b.local("AsymmetricSign", nil, b.signParams()...)
	go func() {
		created <- b.server.Call(t.Context(), "CreateKey", params("KeySpec", "EC_P256"), nil)
	}()
	go func() { backups <- backup() }()
	select {
	case err := <-created:
		t.Fatalf("CreateKey returned during a backup: %v", err)
	case <-archiver.hold:
		t.Fatal("a second backup began during the first")
	case <-time.After(100 * time.Millisecond):
	}
	archiver.hold <- struct{}{} // let it continue
	if err := <-backups; err != nil {
		t.Error(err)
	}
	<-archiver.hold // the second backup; the creation may come before or after it
	archiver.hold <- struct{}{}
	if err := <-backups; err != nil {
		t.Error(err)
	}
	if err := <-created; err != nil {
		t.Error(err)
	}
}

// TestBackupFails checks that a backup fails if the archive or the audit line cannot be written,
// and that every archive is closed.
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
		t.Errorf("without room for the archive: got %v and %d octets, want 500 and none", err, octets.Len())
	}
	archiver.fail = nil
	lines := b.auditLines()
	if e := lines[len(lines)-1]; e.Action != "CreateBackup" || e.Status != 500 || e.Subject != "age1test" || !strings.Contains(e.Reason, "no room") {
		t.Errorf("without room for the archive: got audit line %+v, want 500 with the reason", e)
	}
	if err := c.Call(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), nil); err == nil {
		t.Error("Call of an operation that returns octets: got no error")
	}
	if err := b.server.Call(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), nil); err == nil {
		t.Error("local Call of an operation that returns octets: got no error")
	}
	if err := c.Stream(t.Context(), "ListUsers", nil, &octets); err == nil || octets.Len() > 0 {
		t.Errorf("Stream of an operation that returns no octets: got %v and %d octets, want an error",
			err, octets.Len())
	}
	if err := b.server.Stream(t.Context(), "ListUsers", nil, &octets); err == nil || octets.Len() > 0 {
		t.Errorf("local Stream of an operation that returns no octets: got %v and %d octets, want an error",
			err, octets.Len())
	}
	if err := os.Rename(filepath.Join(b.dir, "audit.log"), filepath.Join(b.dir, "away")); err != nil {
		t.Fatal(err)
	}
	type streamFunc = func(context.Context, string, map[string]string, io.Writer) error
	for name, stream := range map[string]streamFunc{"admin": c.Stream, "local": b.server.Stream} {
		err := stream(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), &octets)
		if !errors.As(err, &api) || api.Status != 503 || octets.Len() > 0 {
			t.Errorf("%s, without an audit log: got %v and %d octets, want 503 and none", name, err, octets.Len())
		}
	}
	if err := os.Rename(filepath.Join(b.dir, "away"), filepath.Join(b.dir, "audit.log")); err != nil {
		t.Fatal(err)
	}
	archiver.closed.Wait()
}

type cutShort struct{}

func (cutShort) WriteTo(io.Writer) (int64, error) { return 0, errors.New("the disk cannot be read") }

// TestBackupCutShort checks that Stream returns an error if the archive ends in the middle.
func TestBackupCutShort(t *testing.T) {
	t.Parallel()
	archiver := &fakeArchiver{more: cutShort{}}
	b, _ := signing(t, func(c *gateway.Config) {
		archiver.backend = c.Backend.(*hsmtest.Fake)
		c.Archiver = archiver
	})
	var octets bytes.Buffer
	err := b.admin().Stream(t.Context(), "CreateBackup", params("Recipients.1", "age1test"), &octets)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v after %d octets, want %v", err, octets.Len(), io.ErrUnexpectedEOF)
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

// TestBackupClientLeaves checks that the archive is closed, and that the gateway can end, if a
// client closes its connection without reading a large archive.
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

// TestProve checks that VerifyAll finds a missing key pair and records that the token cannot
// unseal, and still counts the ones that work.
func TestProve(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.local("CreateKeyVersion", nil, "KeyId", b.key.KeyId)
	var lost struct{ KeyMetadata struct{ KeyId string } }
	b.local("CreateKey", &lost, "KeySpec", "EC_P256K")
	b.local("DisableKey", nil, "KeyId", lost.KeyMetadata.KeyId)
	b.newAccessPoint("app", []string{"key/*"})
	c := b.newNativeClient("app")
	verified, err := keypair.VerifyAll(t.Context(), b.db, b.backend, b.backend)
	if want := (keypair.Verified{Keys: 2, Versions: 3, AccessKeys: 1, ClientKeys: 1}); err != nil || verified != want {
		t.Errorf("complete instance: got %+v, %v, want %+v", verified, err, want)
	}
	err = b.db.Update(func(tx *store.Tx) error {
		a := slices.Collect(tx.AccessKeys().All())[0]
		a.AccessKeyId = "moved" // its secret was sealed for another
		k, err := tx.ClientKeys().Get(c.id)
		k.AapName = "other" // it was sealed for app
		return errors.Join(err, tx.ClientKeys().Put(k), tx.AccessKeys().Put(a))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.backend.Destroy(t.Context(), b.db.Now().VersionsOf(lost.KeyMetadata.KeyId)[0].Key); err != nil {
		t.Fatal(err)
	}
	verified, err = keypair.VerifyAll(t.Context(), b.db, b.backend, b.backend)
	if want := (keypair.Verified{Keys: 1, Versions: 2, AccessKeys: 1}); verified != want || !errors.Is(err, hsm.ErrNotFound) ||
		!strings.Contains(err.Error(), lost.KeyMetadata.KeyId) || !strings.Contains(err.Error(), `access key "moved"`) || !strings.Contains(err.Error(), `client key "`+c.id) {
		t.Errorf("instance with losses: got %+v, %v, want %+v and an error that names all of them", verified, err, want)
	}
}

// TestMatchesToken checks that MatchesToken tells another instance's token from an unavailable one.
func TestMatchesToken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	auditKey, err := b.backend.Audit().Generate(t.Context(), hsm.EC_P256, bytes.Repeat([]byte{9}, 16))
	if err == nil {
		err = b.db.Update(func(tx *store.Tx) error { return tx.SetAuditKey(auditKey) })
	}
	if err != nil {
		t.Fatal(err)
	}
	other := new(hsmtest.Fake)
	unavailable := new(hsmtest.Fake)
	unavailable.Fail(fmt.Errorf("%w: away", hsm.ErrUnavailable))
	for name, c := range map[string]struct {
		backend *hsmtest.Fake
		token   keypair.Token
		want    error
	}{
		"right token":                      {b.backend, b.backend, nil},
		"another token":                    {other, other, keypair.ErrForeignToken},
		"another sealing key":              {b.backend, otherSealer{b.backend, errors.New("sealed by another key")}, keypair.ErrForeignToken},
		"unavailable":                      {unavailable, unavailable, hsm.ErrUnavailable},
		"unavailable after the first call": {b.backend, otherSealer{b.backend, hsm.ErrUnavailable}, hsm.ErrUnavailable},
	} {
		err := keypair.MatchesToken(t.Context(), b.db, c.backend, c.token)
		if !errors.Is(err, c.want) || c.want == hsm.ErrUnavailable && errors.Is(err, keypair.ErrForeignToken) {
			t.Errorf("%s: got error %v, want %v", name, err, c.want)
		}
	}
}

// An otherSealer cannot unseal anything.
type otherSealer struct {
	*hsmtest.Fake
	err error // of Unseal
}

func (o otherSealer) Unseal(context.Context, []byte, []byte) ([]byte, error) { return nil, o.err }
