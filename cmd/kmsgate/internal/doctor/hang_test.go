package doctor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/doctor"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/internal/config"
)

// A fakeGateway has keys with one version each. Its answers come after a delay, unless the request is
// given up before.
type fakeGateway struct {
	target.Caller // not used
	keys          int
	delay         map[string]time.Duration // by action
	closing       chan struct{}            // Close waits for it, unless it is nil

	mu     sync.Mutex // guards what follows
	tested int        // key versions that have signed
	closed int
}

func (g *fakeGateway) Call(ctx context.Context, action string, parameters map[string]string, answer any) error {
	if delay := g.delay[action]; delay > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	text := "{}"
	switch action {
	case "DescribeToken":
		text = `{"Survey":{"Sealing":"AES-GCM in the token"}}`
	case "ListKeys":
		page, err := strconv.Atoi(parameters["PageNumber"])
		if err != nil {
			return err
		}
		var keys []string
		for n := (page - 1) * 100; n < min(page*100, g.keys); n++ {
			keys = append(keys, fmt.Sprintf(`{"KeyId":"k%d"}`, n))
		}
		text = fmt.Sprintf(`{"TotalCount":%d,"Keys":{"Key":[%s]}}`, g.keys, strings.Join(keys, ","))
	case "ListKeyVersions":
		text = fmt.Sprintf(`{"TotalCount":1,"KeyVersions":{"KeyVersion":[{"KeyId":%q,"KeyVersionId":"v"}]}}`, parameters["KeyId"])
	case "TestKeyVersion":
		g.mu.Lock()
		g.tested++
		g.mu.Unlock()
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal([]byte(text), answer)
}

func (g *fakeGateway) Close() error {
	if g.closing != nil {
		<-g.closing
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed++
	return nil
}

// doctor returns a doctor of the gateway, without its configuration.
func (g *fakeGateway) doctor() *doctor.Doctor {
	return &doctor.Doctor{
		Configuration: func() (*config.Config, error) { return nil, nil },
		Dial:          func(bool) (target.Caller, error) { return g, nil },
	}
}

// inTime examines in a bubble with a fake clock, and wants the examination and Close to end within
// 5 s. It returns the error of Close.
func inTime(t *testing.T, d *doctor.Doctor) (*doctor.Diagnosis, error) {
	t.Helper()
	began := time.Now()
	found := d.Examine(t.Context())
	err := d.Close()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Examine and Close: took %v, want at most 5s", took)
	}
	return found, err
}

// expectLate expects one problem, which says that a step has not finished.
func expectLate(t *testing.T, found *doctor.Diagnosis, doing, do string) {
	t.Helper()
	expectFinding(t, found, doctor.Problem, doing+" has not finished in time", do)
	if found.Problems() != 1 || !found.Incomplete {
		t.Errorf("Examine: got %+v, want one problem, and Incomplete", found)
	}
}

// TestHangs has every request to a gateway hang, one at a time. Examine must return in time and name
// it.
func TestHangs(t *testing.T) {
	for action, doing := range map[string]string{
		"ListKmsInstances": "Waiting for the gateway's first answer", "ListApplicationAccessPoints": "Listing the access points",
		"ListClientKeys": "Listing the client keys", "DescribeToken": "Examining the token",
		"ListTokenObjects": "Comparing the token with the records",
	} {
		synctest.Test(t, func(t *testing.T) {
			g := &fakeGateway{keys: 1, delay: map[string]time.Duration{action: time.Hour}}
			found, err := inTime(t, g.doctor())
			if err != nil {
				t.Errorf("%s: Close: %v", action, err)
			}
			expectLate(t, found, doing, "--timeout 1m")
		})
	}
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{keys: 2, delay: map[string]time.Duration{"TestKeyVersion": time.Hour}}
		found, err := inTime(t, g.doctor())
		if err != nil {
			t.Errorf("Close: %v", err)
		}
		expectFinding(t, found, doctor.Problem, "The time was over when 0 of 2 keys had been tested", "check that the token")
	})
}

// TestHangsWithoutContext has calls hang that cannot be cancelled, as a PKCS#11 module and a file
// system do.
func TestHangsWithoutContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		released := make(chan struct{})
		d := new(fakeGateway).doctor()
		d.Configuration = func() (*config.Config, error) { <-released; return nil, nil }
		found, err := inTime(t, d)
		if err != nil {
			t.Errorf("Close: %v", err)
		}
		expectLate(t, found, "Reading the configuration", "named pipe")
		close(released)
	})
	synctest.Test(t, func(t *testing.T) {
		g, released := new(fakeGateway), make(chan struct{})
		d := g.doctor()
		d.Dial = func(bool) (target.Caller, error) { <-released; return g, nil }
		found, err := inTime(t, d)
		if err != nil {
			t.Errorf("Close: %v", err)
		}
		expectLate(t, found, "Connecting to the gateway", "restart the gateway")
		close(released)
		synctest.Wait()
		if g.mu.Lock(); g.closed != 1 {
			t.Errorf("a gateway that opened too late: closed %d times, want once", g.closed)
		}
		g.mu.Unlock()
	})
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{closing: make(chan struct{})}
		found, err := inTime(t, g.doctor())
		if err == nil || !strings.Contains(err.Error(), "closing the instance has not finished within 1s") {
			t.Errorf("Close: got %v, want that it has not finished", err)
		}
		if found.Problems() != 0 {
			t.Errorf("Examine: got %+v, want no problems", found)
		}
		close(g.closing)
	})
}

// TestManyKeys has more keys than the time allows to test. Examine must say how many it has tested,
// and test all of them if it has time.
func TestManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{keys: 10_000, delay: map[string]time.Duration{"TestKeyVersion": 10 * time.Millisecond}}
		d := g.doctor()
		found, err := inTime(t, d)
		if err != nil || found.Problems() != 0 || !found.Incomplete || g.tested == 0 || g.tested > 500 {
			t.Errorf("Examine: tested %d keys, got %+v, %v, want some tested and no problem", g.tested, found, err)
		}
		expectFinding(t, found, doctor.Note, fmt.Sprintf("The time was over when %d of 10000 keys had been tested.", g.tested),
			"--timeout 10m")
		d, g.tested = g.doctor(), 0
		d.Timeout = 10 * time.Minute
		if found := d.Examine(t.Context()); found.Incomplete || found.Problems() != 0 || g.tested != 10_000 {
			t.Errorf("Examine in 10 min: tested %d keys, got %+v, want all tested", g.tested, found)
		}
	})
}

// within examines, and fails the test if that does not end.
func within(t *testing.T, d *doctor.Doctor) *doctor.Diagnosis {
	t.Helper()
	result := make(chan *doctor.Diagnosis, 1)
	go func() { result <- d.Examine(t.Context()) }()
	select {
	case found := <-result:
		return found
	case <-time.After(time.Minute):
		t.Fatal("Examine has not returned within a minute")
		return nil
	}
}

// TestPipes replaces files by named pipes, whose readers wait for a writer. Examine must return, name
// the file, and not open the instance, which would hang too.
func TestPipes(t *testing.T) {
	for name, path := range map[string]func(c *config.Config) string{
		"the CA's key": func(c *config.Config) string { return c.TLS.CAKeyFile },
		"SoftHSM's files": func(c *config.Config) string {
			objects, err := filepath.Glob(filepath.Join(c.Token.SoftHSM, "tokens", "*", "token.object"))
			if err != nil || len(objects) != 1 {
				t.Fatalf("got the tokens %q, %v, want one", objects, err)
			}
			return objects[0]
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := initialized(t, nil)
			pipe := path(c)
			if err := errors.Join(os.Rename(pipe, pipe+".away"), syscall.Mkfifo(pipe, 0o600)); err != nil {
				t.Fatal(err)
			}
			d := doctorOf(t, c)
			d.Timeout = doctor.DefaultTimeout
			found := within(t, d)
			if found.Problems() != 1 || !found.Incomplete || found.Findings[0].Severity != doctor.Problem {
				t.Fatalf("Examine: got %+v, want one problem, which comes first", found)
			}
			first := found.Findings[0]
			texts := append([]string{first.What}, first.Symptoms...)
			if !slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, name) && strings.Contains(s, "has not finished") }) ||
				!slices.Contains(texts, "The token and the database were not examined.") {
				t.Errorf("Examine: got %q, want %s, and that nothing was opened", texts, name)
			}
			// A writer that ends releases the reader.
			f, err := os.OpenFile(pipe, os.O_RDWR, 0)
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSilentGateway examines a gateway that accepts connections and does not answer.
func TestSilentGateway(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // the kernel accepts connections until then
	d := new(fakeGateway).doctor()
	d.Dial = func(bool) (target.Caller, error) { return target.Target{Socket: socket}.DialRunning() }
	expectLate(t, within(t, d), "Waiting for the gateway's first answer", "look for the reason in the gateway's log")
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestDisk examines an instance on a file system that is read-only or full. That the instance does
// not open is then a symptom.
func TestDisk(t *testing.T) {
	c := initialized(t, nil)
	for sentence, test := range map[string]struct {
		disk syscall.Statfs_t
		err  error
	}{
		"is read-only":      {syscall.Statfs_t{Blocks: 9, Bavail: 9, Flags: syscall.MS_RDONLY}, syscall.EROFS},
		"is full":           {syscall.Statfs_t{Blocks: 9}, syscall.ENOSPC},
		"has no free inode": {syscall.Statfs_t{Blocks: 9, Bavail: 9, Files: 9}, syscall.ENOSPC},
	} {
		d := doctorOf(t, c)
		d.Dial = func(bool) (target.Caller, error) { return nil, fmt.Errorf("writing the lock: %w", test.err) }
		d.SetStatfs(func(_ string, disk *syscall.Statfs_t) error { *disk = test.disk; return nil })
		found := d.Examine(t.Context())
		expectFinding(t, found, doctor.Problem, fmt.Sprintf("The file system of %q %s", c.Directory, sentence), "")
		if found.Problems() != 1 || len(found.Findings[0].Symptoms) != 1 ||
			!strings.Contains(found.Findings[0].Symptoms[0], "The instance cannot be opened: writing the lock") {
			t.Errorf("%s: got %+v, want one problem, and the error of opening as its symptom", sentence, found.Findings)
		}
	}
}
