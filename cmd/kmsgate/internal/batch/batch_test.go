package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer/signertest"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// A bench runs batches at a gateway with one key.
type bench struct {
	*signertest.Gateway
	t *testing.T
}

func newBench(t *testing.T) *bench {
	t.Helper()
	return &bench{signertest.NewGateway(t, hsm.EC_P256), t}
}

// failSigning lets fail decide the error of each request for a signature; n counts them.
func (b *bench) failSigning(fail func(n, line int) error) {
	n := 0
	b.Fail = func(r kms.AdminRequest) error {
		if r.Action != "AsymmetricSign" {
			return nil
		}
		n++
		return fail(n, b.line(r))
	}
}

// line returns the line of the list that a request for a signature belongs to.
func (b *bench) line(r kms.AdminRequest) (line int) {
	b.t.Helper()
	var id string
	if _, err := fmt.Sscanf(r.Reference, "batch %s line %d", &id, &line); err != nil {
		b.t.Errorf("the reference %q names no line", r.Reference)
	}
	return line
}

// signings counts the requests for a signature, by line.
func (b *bench) signings() map[int]int {
	b.t.Helper()
	all := make(map[int]int)
	for _, r := range b.Asked() {
		if r.Action == "AsymmetricSign" {
			all[b.line(r)]++
		}
	}
	return all
}

// wantOnce checks that each of n lines was asked for once.
func (b *bench) wantOnce(n int) {
	b.t.Helper()
	all := b.signings()
	for line := 1; line <= n; line++ {
		if all[line] != 1 {
			b.t.Errorf("line %d was asked for %d times, want once", line, all[line])
		}
	}
}

func requestLine(i int) string {
	return fmt.Sprintf(`{"Id": "%d", "Key": "alias/a", "Digest": "%064x"}`, i, i)
}

// runner returns a runner of a list of n lines.
func (b *bench) runner(n int) Runner {
	b.t.Helper()
	var lines []string
	for i := range n {
		lines = append(lines, requestLine(i))
	}
	return b.runnerOf(lines...)
}

func (b *bench) runnerOf(lines ...string) Runner {
	b.t.Helper()
	list := filepath.Join(b.t.TempDir(), "list")
	b.write(list, []byte(strings.Join(lines, "\n")+"\n"))
	return Runner{Client: signer.Client{Caller: b}, In: list, Out: filepath.Join(filepath.Dir(list), "out")}
}

func (b *bench) write(path string, content []byte) {
	b.t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) read(path string) []byte {
	b.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	return content
}

// proven verifies the output of a runner, and that no other file is left.
func (b *bench) proven(r Runner) Manifest {
	b.t.Helper()
	p, err := Verifier{Key: &b.Audit.PublicKey}.Verify(b.t.Context(), r.In, r.Out)
	if err != nil {
		b.t.Error(err)
	}
	for _, path := range []string{journalPath(r.Out), listPath(r.Out)} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			b.t.Errorf("%s is left: %v", path, err)
		}
	}
	return p.Manifest
}

// named reports whether a manifest says that a line can have been signed more than once.
func named(m Manifest, line int) bool {
	return slices.ContainsFunc(m.Again, func(s Span) bool { return s.From <= line && line <= s.To })
}

// wantNamed checks that a manifest names every line that was asked for more than once.
func (b *bench) wantNamed(m Manifest) {
	b.t.Helper()
	for line, count := range b.signings() {
		if count > 1 && !named(m, line) {
			b.t.Errorf("line %d was asked for %d times, and the manifest does not say so", line, count)
		}
	}
}

var (
	errNoAnswer  = fmt.Errorf("%w (%w)", io.ErrUnexpectedEOF, kms.ErrNoAnswer)
	errNoGateway = &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	errNoToken   = &kms.Error{Status: 503, Code: "ServiceUnavailableTemporary", Message: "m"}
	errInternal  = &kms.Error{Status: 500, Code: "InternalFailure", Message: "m"}
)

// TestQuota waits while a quota is used up, as long as that takes.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		signed := 0
		b.failSigning(func(n, _ int) error {
			if n%3 != 0 || n > 100 && n < 3000 {
				return kms.ErrThrottling
			}
			signed++
			return nil
		})
		r := b.runner(100)
		begun := time.Now()
		m, err := r.Run(t.Context())
		if err != nil || m.Signed != 100 || len(m.Runs) != 1 || len(m.Again) != 0 || signed != 100 {
			t.Errorf("got %+v, %v after %d signatures, want each line once in one run", m, err, signed)
		}
		if time.Since(begun) < Patience {
			t.Error("the quota was free too soon to show that it is waited for")
		}
		b.proven(r)
	})
}

// TestGatewayFails asks again only for the line that a gateway could not answer, and names it if the
// gateway can have signed.
func TestGatewayFails(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		named bool
	}{"no answer": {errNoAnswer, true}, "no token": {errNoToken, true}, "quota": {kms.ErrThrottling, false}, "no gateway": {errNoGateway, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				failures := 0
				b.failSigning(func(_, line int) error {
					if line == 50 && failures < 20 {
						failures++
						return tc.err
					}
					return nil
				})
				r := b.runner(200)
				notices := 0
				r.Waiting = func(error) { notices++ }
				m, err := r.Run(t.Context())
				if err != nil || m.Signed != 200 || len(m.Runs) != 1 || (notices == 1) != (tc.err != kms.ErrThrottling) {
					t.Fatalf("got %+v, %v after %d notices, want 200 lines in one run", m, err, notices)
				}
				for line, count := range b.signings() {
					if want := map[bool]int{true: 21, false: 1}[line == 50]; count != want {
						t.Errorf("line %d was asked for %d times, want %d", line, count, want)
					}
					if named(m, line) != (tc.named && line == 50) {
						t.Errorf("line %d is named as signed again: %v", line, named(m, line))
					}
				}
				b.proven(r)
			})
		})
	}
}

// TestGatewayIsGone gives up in the end, keeps the results, and continues from them.
func TestGatewayIsGone(t *testing.T) {
	for name, failure := range map[string]error{"no answer": errNoAnswer, "no token": errNoToken} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				gone := true
				b.failSigning(func(n, _ int) error {
					if gone && n > 300 {
						return failure
					}
					return nil
				})
				r := b.runner(400)
				begun := time.Now()
				if _, err := r.Run(t.Context()); !errors.Is(err, failure) || !strings.Contains(err.Error(), "again to continue") {
					t.Fatalf("got %v, want the gateway's error", err)
				}
				if waited := time.Since(begun); waited < Patience || waited > Patience+2*maxWait {
					t.Errorf("it waited %v, want %v", waited, Patience)
				}
				if _, err := os.Stat(r.Out); err == nil {
					t.Error("the output exists although lines have no result")
				}
				gone = false
				before := len(b.Asked())
				m, err := r.Run(t.Context())
				if asked := len(b.Asked()) - before; err != nil || m.Signed != 400 || asked > 100+3 {
					t.Errorf("got %+v, %v after %d requests, want those of the 100 lines that were left", m, err, asked)
				}
				b.wantNamed(m)
				b.proven(r)
			})
		})
	}
}

// TestGatewayHangs gives up after a gateway has not answered for as long as a call takes.
func TestGatewayHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		hanging := &hanging{bench: b}
		r := b.runner(100)
		r.Client.Caller = hanging
		begun := time.Now()
		if _, err := r.Run(t.Context()); !errors.Is(err, kms.ErrNoAnswer) {
			t.Errorf("got %v, want ErrNoAnswer", err)
		}
		if waited := time.Since(begun); waited != Patience {
			t.Errorf("it waited %v, want %v", waited, Patience)
		}
		r.Client.Caller = b
		m, err := r.Run(t.Context())
		if err != nil || m.Signed != 100 || !named(m, 1) {
			t.Errorf("got %+v, %v, want 100 signatures, and line 1 named", m, err)
		}
		b.proven(r)
	})
}

// hanging is a gateway that does not sign: a call ends after Patience, as those of the admin socket do.
type hanging struct{ *bench }

func (h *hanging) Do(ctx context.Context, r kms.AdminRequest, answer any) error {
	if r.Action != "AsymmetricSign" {
		return h.bench.Do(ctx, r, answer)
	}
	select {
	case <-time.After(Patience):
		return errNoAnswer
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestInternalFailure makes a line that always fails a refusal, if the gateway answers.
func TestInternalFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.failSigning(func(_, line int) error {
			if line == 7 {
				return errInternal
			}
			return nil
		})
		r := b.runner(50)
		if m, err := r.Run(t.Context()); err != nil || m.Signed != 49 || m.Refused != 1 {
			t.Errorf("got %+v, %v, want one refusal", m, err)
		}
		b.proven(r)
	})
}

// TestKeyIsDisabled answers every line: those after the key was disabled are refusals.
func TestKeyIsDisabled(t *testing.T) {
	b := newBench(t)
	b.failSigning(func(n, _ int) error {
		if n > 50 {
			return kms.ErrKeyDisabled
		}
		return nil
	})
	r := b.runner(80)
	if m, err := r.Run(t.Context()); err != nil || m.Signed != 50 || m.Refused != 30 {
		t.Errorf("got %+v, %v, want 50 signed and 30 refused", m, err)
	}
	b.proven(r)
	b.wantOnce(80)
	if out := b.read(r.Out); strings.Count(string(out), `"Code":"`+kms.ErrKeyDisabled.Code+`"`) != 30 {
		t.Errorf("got %s, want the code in 30 lines", out)
	}
}

// TestRefusals answers lines that are no requests, or ask for what cannot be.
func TestRefusals(t *testing.T) {
	b := newBench(t)
	digest := strings.Repeat("0", 64)
	lines := map[string]string{
		``:   "the line is not a request",
		`{}`: "no Key",
		`[]`: "no JSON object",
		`{"Key": "k", "Digest": "` + digest + `", "Digest": "` + digest + `"}`:                        "one twice",
		`{"Key": "k", "digest": "` + digest + `"}`:                                                    "unknown member",
		`{"Key": "k", "Digest": 1}`:                                                                   "cannot unmarshal",
		`{"Key": "k", "Digest": "` + digest + `"} {}`:                                                 "something follows",
		`{"Key": "k", "Digest": "` + digest + `"`:                                                     "not a request",
		`{"Key": "none", "Digest": "` + digest + `"}`:                                                 kms.ErrKeyNotFound.Code,
		`{"Key": "k", "Algorithm": "` + strings.Repeat("‹", 20000) + `", "Digest": "` + digest + `"}`: "algorithm ‹",
		`{"Key": "k", "Id": "` + strings.Repeat("x", maxId+1) + `"}`:                                  "more than 256 bytes",
		`{"Key": "` + strings.Repeat("x", MaxLine) + `"}`:                                             "more than 64 KiB",
		`{"Key": "k", "File": "` + strings.Repeat("é", 4000) + `"}`:                                   "open é",
	}
	list := slices.Collect(func(yield func(string) bool) {
		for line := range lines {
			if !yield(line) {
				return
			}
		}
	})
	r := b.runnerOf(list...)
	if m, err := r.Run(t.Context()); err != nil || m.Refused != len(lines) {
		t.Fatalf("got %+v, %v, want %d refusals", m, err, len(lines))
	}
	b.proven(r)
	for i, text := range bytes.Split(bytes.TrimSpace(b.read(r.Out)), []byte("\n")) {
		if want := lines[list[i]]; !bytes.Contains(text, []byte(want)) {
			t.Errorf("%.80q: got %.200s, want %q", list[i], text, want)
		}
	}
}

// TestCancelled ends at once, with nothing left running, keeps what was answered, and continues.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		b := newBench(t)
		cause := errors.New("the person has had enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		b.failSigning(func(n, _ int) error {
			if n == 100 {
				cancel(cause)
			}
			return ctx.Err()
		})
		r := b.runner(200)
		if _, err := r.Run(ctx); !errors.Is(err, cause) {
			t.Fatalf("got %v, want the cause of the end", err)
		}
		b.Fail = nil
		m, err := r.Run(t.Context())
		if err != nil || m.Signed != 200 {
			t.Errorf("got %+v, %v, want 200 lines", m, err)
		}
		b.wantNamed(m)
		b.proven(r)
	})
}

// TestCancelledBetween ends although every answer is a result: nothing but the cancellation ends it.
func TestCancelledBetween(t *testing.T) {
	b := newBench(t)
	r := b.runnerOf(slices.Repeat([]string{"{}"}, 10000)...)
	ctx, cancel := context.WithCancel(t.Context())
	r.Progress = func(done, _ int) {
		if done > 100 {
			cancel()
		}
	}
	if _, err := r.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want a cancelled batch", err)
	}
	r.Progress = nil
	if m, err := r.Run(t.Context()); err != nil || m.Refused != 10000 {
		t.Errorf("got %+v, %v, want 10000 refusals", m, err)
	}
	b.proven(r)
}

// TestAliasMoves signs all lines with the key that the alias named first, in every run.
func TestAliasMoves(t *testing.T) {
	b := newBench(t)
	moved, stop := false, errors.New("stop")
	b.failSigning(func(n, _ int) error {
		if n == 50 {
			moved = true
			return stop
		}
		return nil
	})
	inner := b.Fail
	b.Fail = func(r kms.AdminRequest) error {
		if moved && r.Parameters["KeyId"] == "alias/a" {
			return kms.ErrKeyVersionNotFound
		}
		return inner(r)
	}
	r := b.runner(100)
	if _, err := r.Run(t.Context()); !errors.Is(err, stop) {
		t.Fatalf("got %v, want the gateway's error", err)
	}
	if m, err := r.Run(t.Context()); err != nil || m.Signed != 100 || !slices.Equal(m.Keys[0].Names, []string{"alias/a"}) {
		t.Errorf("got %+v, %v, want 100 signatures", m, err)
	}
	b.proven(r)
}

func noError[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
