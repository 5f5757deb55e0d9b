package appliance_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/software"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/store"
)

// A fixture is an appliance with keys in software, and with a counter in memory.
type fixture struct {
	*config.Config
	counter *counter
}

// newFixture returns an appliance that does not exist yet.
func newFixture(t *testing.T) fixture {
	t.Helper()
	text := "instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: softhsm}\nlisteners: [{address: '127.0.0.1:0'}]\n"
	c, err := config.Parse([]byte(text), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return fixture{c, new(counter)}
}

// initialized creates an appliance and closes it.
func initialized(t *testing.T) fixture {
	t.Helper()
	f := newFixture(t)
	o := f.options(t)
	o.Provision = true
	closeNow(t, f.open(t, o))
	return f
}

func (f fixture) options(t *testing.T) appliance.Options {
	t.Helper()
	return appliance.Options{
		Logger: config.Log{}.Quiet(t.Output()),
		Device: func(*config.Config, appliance.Options) hsm.Device { return device{f} },
	}
}

func (f fixture) open(t *testing.T, o appliance.Options) *appliance.Appliance {
	t.Helper()
	a, err := appliance.Open(t.Context(), f.Config, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNow(t, a) })
	return a
}

// change changes the records while no gateway runs.
func (f fixture) change(t *testing.T, change func(tx *store.Tx) error) {
	t.Helper()
	a, err := appliance.OpenRecords(t.Context(), f.Config, f.options(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.Store.Update(change), a.Close()); err != nil {
		t.Fatal(err)
	}
}

func (f fixture) expectRefused(t *testing.T, o appliance.Options, want string) {
	t.Helper()
	a, err := appliance.Open(t.Context(), f.Config, o)
	if err == nil {
		closeNow(t, a)
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Open: %v, want an error with %q", err, want)
	}
}

func closeNow(t *testing.T, a *appliance.Appliance) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// A device has keys in software.
type device struct{ fixture }

func (d device) files() hsm.Device { return software.Device(filepath.Join(d.Directory, "software")) }

func (d device) Open(provision bool, onLoss func()) (hsm.Token, error) {
	token, err := d.files().Open(provision, onLoss)
	return struct {
		hsm.Token
		*counter
	}{token, d.counter}, err
}

func (d device) Inspect(inspect func(hsm.Inspector) error) error { return d.files().Inspect(inspect) }

func (d device) String() string { return d.files().String() }

// A counter is an hsm.Counter that records what is written to it.
type counter struct {
	mu       sync.Mutex
	writes   []uint64 // guarded by mu
	expected int      // see expectWrites
	err      error    // of Counter; guarded by mu
}

func (c *counter) Counter(context.Context) (n uint64, known bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || len(c.writes) == 0 {
		return 0, false, c.err
	}
	return c.writes[len(c.writes)-1], true, nil
}

func (c *counter) SetCounter(_ context.Context, n uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes = append(c.writes, n)
	return nil
}

// makeDue records two keys without key pairs whose deletion is due.
func makeDue(tx *store.Tx) error {
	due := store.Key{KeyState: store.PendingDeletion, DeleteDate: time.Now().Add(-time.Hour)}
	first, second := due, due
	first.KeyId, second.KeyId = "key-1", "key-2"
	return errors.Join(tx.Keys().Put(first), tx.Keys().Put(second))
}

func expectKept(t *testing.T, a *appliance.Appliance) {
	t.Helper()
	a.Server.CarryOutDeletions(t.Context())
	for _, id := range []string{"key-1", "key-2"} {
		if k, err := a.Store.Now().Keys().Get(id); err != nil || k.KeyState != store.Enabled {
			t.Errorf("key %s: state %q, %v, want it kept", id, k.KeyState, err)
		}
	}
}

// TestRollbackCutOff opens an older database that the operator accepts, but the start fails after the number of
// the last change was raised, and before the keys that are due are kept. A start without the flag keeps them.
func TestRollbackCutOff(t *testing.T) {
	f := initialized(t)
	unreadable := store.Outbox{RequestId: "r", Entry: json.RawMessage(`"no line"`)}
	f.change(t, func(tx *store.Tx) error { return errors.Join(makeDue(tx), tx.Outbox().Put(unreadable)) })
	n, _, _ := f.counter.Counter(t.Context())
	_ = f.counter.SetCounter(t.Context(), n+100)
	f.expectRefused(t, f.options(t), "start once with --accept-store-rollback")
	o := f.options(t)
	o.AcceptStoreRollback = true
	f.expectRefused(t, o, "decoding the audit line")
	f.change(t, func(tx *store.Tx) error { return tx.Outbox().Delete(unreadable.RequestId) })

	a := f.open(t, f.options(t))
	expectKept(t, a)
	closeNow(t, a)
	if log := read(t, f.Audit.File); !bytes.Contains(log, []byte(`"RolledBack":{"Found":`)) {
		t.Errorf("the audit log does not tell of the rollback:\n%s", log)
	}
	// The rollback is dealt with: what falls due from now on is deleted.
	f.change(t, func(tx *store.Tx) error { return makeDue(tx) })
	a = f.open(t, f.options(t))
	if left := a.Store.Now().Keys().Len(); left != 0 {
		t.Errorf("the next start left %d keys whose deletion is due", left)
	}
}

// TestRollbackByOne opens an accepted older database that lacks only one change. Opening the log makes a change
// itself, but does not hide that.
func TestRollbackByOne(t *testing.T) {
	f := initialized(t)
	var n uint64
	f.change(t, func(tx *store.Tx) error { n = tx.Number(); return makeDue(tx) })
	_ = f.counter.SetCounter(t.Context(), n+1)
	o := f.options(t)
	o.AcceptStoreRollback = true
	expectKept(t, f.open(t, o))
}

// appendLine adds a line to the audit log as anyone can who may write its file.
func (f fixture) appendLine(t *testing.T, text string) {
	t.Helper()
	log := read(t, f.Audit.File)
	lines := bytes.Split(bytes.TrimSuffix(log, []byte("\n")), []byte("\n"))
	log = fmt.Appendf(log, `{"Seq":%d,"Prev":"%x",%s}`+"\n", len(lines)+1, sha256.Sum256(lines[len(lines)-1]), text)
	write(t, f.Audit.File, log)
}

// kill closes an appliance, and leaves its files and the counter as if the process had been killed.
func (f fixture) kill(t *testing.T, a *appliance.Appliance) {
	t.Helper()
	f.counter.mu.Lock()
	writes := slices.Clone(f.counter.writes)
	f.counter.mu.Unlock()
	database, log := read(t, f.Store.File), read(t, f.Audit.File)
	closeNow(t, a)
	f.counter.writes = writes
	write(t, f.Store.File, database)
	write(t, f.Audit.File, log)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestForgedChange adds lines with the numbers of changes to the audit log. The start is refused. Whatever the
// operator then accepts, the instance starts again afterwards, and an older database is still found.
func TestForgedChange(t *testing.T) {
	for name, test := range map[string]struct {
		change uint64
		want   string
		accept func(o *appliance.Options)
	}{
		"plausible": {1 << 39, "no checkpoint covers them", func(o *appliance.Options) { o.AcceptStoreRollback = true }},
		"implausible": {1 << 62, "no gateway reaches that number (put the right file back; if it is lost, start once with " +
			"--accept-audit-loss)", func(o *appliance.Options) { o.AcceptAuditLoss = true }},
	} {
		t.Run(name, func(t *testing.T) {
			f := initialized(t)
			a := f.open(t, f.options(t))
			createUser(t, a, "u1")
			f.kill(t, a)
			f.appendLine(t, fmt.Sprintf(`"Action":"CreateUser","Status":200,"Change":%d`, test.change))
			f.expectRefused(t, f.options(t), test.want)
			o := f.options(t)
			test.accept(&o)
			closeNow(t, f.open(t, o))
			closeNow(t, f.open(t, f.options(t)))
			older := read(t, f.Store.File)
			a = f.open(t, f.options(t))
			createUser(t, a, "u2")
			closeNow(t, a)
			write(t, f.Store.File, older)
			f.counter.writes = nil // only the log shows it
			f.expectRefused(t, f.options(t), "the database is an older one")
		})
	}
}

// TestCounterAhead opens an instance whose token has a number that is far ahead of the database's, or that no
// gateway reaches. Once the operator has accepted the former, it is like any other.
func TestCounterAhead(t *testing.T) {
	f := initialized(t)
	_ = f.counter.SetCounter(t.Context(), 1<<63)
	o := f.options(t)
	o.AcceptStoreRollback = true
	f.expectRefused(t, o, "which no gateway reaches")
	_ = f.counter.SetCounter(t.Context(), 1<<62)
	f.expectRefused(t, f.options(t), "start once with --accept-store-rollback")
	closeNow(t, f.open(t, o))
	for range 2 {
		a := f.open(t, f.options(t))
		createUser(t, a, fmt.Sprintf("u%d", len(f.counter.writes)))
		closeNow(t, a)
	}
	if n, _, _ := f.counter.Counter(t.Context()); n <= 1<<62 {
		t.Errorf("the token has the number %d, want a greater one than before", n)
	}
}

func createUser(t *testing.T, a *appliance.Appliance, name string) {
	t.Helper()
	if err := a.Server.Call(t.Context(), "CreateUser", map[string]string{"UserName": name}, nil); err != nil {
		t.Fatal(err)
	}
}

// TestInitCutOff creates an instance with a token that has the number of an earlier instance. The first attempt is
// cut off before the number is read.
func TestInitCutOff(t *testing.T) {
	f := newFixture(t)
	f.counter.writes, f.counter.err = []uint64{100}, errors.New("cut off")
	o := f.options(t)
	o.Provision = true
	f.expectRefused(t, o, "cut off")
	f.counter.err = nil
	a := f.open(t, o)
	if n := a.Store.Now().Number(); n <= 100 {
		t.Errorf("the number of the instance's last change is %d, want more than 100", n)
	}
}
