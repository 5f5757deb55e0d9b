package batch

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/attestation"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

// A gateway has one key in a fake backend, and an audit key.
type gateway struct {
	backend hsmtest.Fake
	key     hsm.Key
	audit   *ecdsa.PrivateKey

	mu     sync.Mutex
	signed map[string]int    // signatures by Reference
	fail   func(n int) error // the error of the n-th request for a signature
	asked  int               // requests for signatures
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{signed: make(map[string]int), fail: func(int) error { return nil }}
	var err error
	if g.key, err = g.backend.Generate(t.Context(), hsm.EC_P256, bytes.Repeat([]byte{7}, 16)); err != nil {
		t.Fatal(err)
	}
	if g.audit, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) Call(ctx context.Context, action string, parameters map[string]string, answer any) error {
	return g.Do(ctx, kms.AdminRequest{Action: action, Parameters: parameters}, answer)
}

func (g *gateway) Do(ctx context.Context, r kms.AdminRequest, answer any) error {
	response := map[string]any{"KeyId": "k", "KeyVersionId": "v", "PublicKey": hsm.PublicKeyPEM(g.key.Public), "TotalCount": 1,
		"KeyVersions": map[string]any{"KeyVersion": []any{map[string]string{"KeyVersionId": "v"}}}}
	switch r.Action {
	case "AsymmetricSign":
		g.mu.Lock()
		g.asked++
		err := g.fail(g.asked)
		g.mu.Unlock()
		digest, decodeErr := base64.StdEncoding.DecodeString(r.Parameters["Digest"])
		if err := errors.Join(err, decodeErr); err != nil {
			return err
		}
		signature, err := g.backend.Sign(ctx, g.key, hsm.Algorithm(r.Parameters["Algorithm"]), digest)
		if err != nil {
			return err
		}
		g.mu.Lock()
		g.signed[r.Reference]++
		g.mu.Unlock()
		response["Value"] = signature
	case "CreateAttestation":
		text, err := json.Marshal(kms.Attestation{Format: audit.AttestationFormat, Kind: r.Parameters["Kind"], Document: r.Parameters["Document"],
			Keys: []kms.AttestedKey{{KeyId: "k", KeyVersionId: "v", KeySpec: hsm.EC_P256, PublicKey: g.key.Public}}})
		if err != nil {
			return err
		}
		digest := sha256.Sum256(text)
		signature, err := ecdsa.SignASN1(rand.Reader, g.audit, digest[:])
		if err != nil {
			return err
		}
		response = map[string]any{"Attestation": text, "Signature": signature}
	}
	text, err := json.Marshal(response)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

func (g *gateway) Stream(context.Context, string, map[string]string, io.Writer) error {
	return kms.ErrNoOctets
}

func (g *gateway) Close() error { return nil }

// runner returns a runner of a list of n lines.
func (g *gateway) runner(t *testing.T, n int) Runner {
	t.Helper()
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, `{"Id": "%d", "Key": "k", "Digest": "%064x"}`+"\n", i, i)
	}
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return Runner{Client: signer.Client{Caller: g}, In: list, Out: filepath.Join(filepath.Dir(list), "out")}
}

// proven verifies the output of a runner.
func (g *gateway) proven(t *testing.T, r Runner) Manifest {
	t.Helper()
	p, err := Verifier{Key: &g.audit.PublicKey}.Verify(t.Context(), r.In, r.Out)
	if err != nil {
		t.Fatal(err)
	}
	return p.Manifest
}

// once tells whether each of n lines was signed once.
func (g *gateway) once(n int) bool {
	for _, count := range g.signed {
		if count != 1 {
			return false
		}
	}
	return len(g.signed) == n
}

// TestQuota waits while a quota is used up, as long as that takes, and signs no line twice.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t)
		g.fail = func(n int) error {
			if n%3 != 0 || n > 100 && n < 1000 {
				return kms.ErrThrottling
			}
			return nil
		}
		r := g.runner(t, 100)
		m, err := r.Run(t.Context())
		if err != nil || m.Signed != 100 || len(m.Runs) != 1 || !g.once(100) {
			t.Errorf("got %+v, %v, signed %v, want each line once in one run", m, err, g.signed)
		}
		g.proven(t, r)
	})
}

// TestGatewayComesBack continues when a gateway comes back, and names the lines that were in flight.
func TestGatewayComesBack(t *testing.T) {
	for name, failure := range map[string]error{
		"no connection": &url.Error{Op: "Post", URL: "http://kmsgate/", Err: io.EOF},
		"no token":      &kms.Error{Status: 503, Code: "ServiceUnavailableTemporary", Message: "m"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGateway(t)
				g.fail = func(n int) error {
					if n > 500 && n < 520 {
						return failure
					}
					return nil
				}
				r := g.runner(t, 1000)
				waits := 0
				r.Waiting = func(error) { waits++ }
				m, err := r.Run(t.Context())
				if err != nil || m.Signed != 1000 || len(m.Runs) != waits+1 || waits == 0 {
					t.Fatalf("got %+v, %v after %d waits, want 1000 lines", m, err, waits)
				}
				m = g.proven(t, r)
				for reference, count := range g.signed {
					var batch string
					var line, named int
					if _, err := fmt.Sscanf(reference, "batch %s line %d", &batch, &line); err != nil || batch != m.Batch {
						t.Fatalf("the reference %q is not of batch %s", reference, m.Batch)
					}
					for _, run := range m.Runs {
						if run.After < line && line <= run.After+run.MaybeTwice {
							named++
						}
					}
					if count > 1+named {
						t.Errorf("line %d was signed %d times, and %d runs of %+v say so", line, count, named, m.Runs)
					}
				}
			})
		})
	}
}

// TestGatewayIsGone gives up in the end, keeps the results, and continues from them.
func TestGatewayIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t)
		gone := true
		g.fail = func(n int) error {
			if gone && n > 300 {
				return &url.Error{Op: "Post", URL: "http://kmsgate/", Err: syscall.ECONNREFUSED}
			}
			return nil
		}
		r := g.runner(t, 400)
		begun := time.Now()
		if _, err := r.Run(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "again to continue") {
			t.Fatalf("got %v, want the connection's error", err)
		}
		if waited := time.Since(begun); waited < Patience || waited > 2*Patience {
			t.Errorf("it waited %v, want %v", waited, Patience)
		}
		if _, err := os.Stat(r.Out); err == nil {
			t.Error("the output exists although lines have no result")
		}
		gone = false
		asked := g.asked
		if m, err := r.Run(t.Context()); err != nil || m.Signed != 400 || g.asked-asked > 100+Window {
			t.Errorf("got %+v, %v after %d requests, want the lines that were left", m, err, g.asked-asked)
		}
		g.proven(t, r)
	})
}

// TestListGrows signs the lines that the list had at the start. A list that was changed stops the
// batch, which continues with the old one.
func TestListGrows(t *testing.T) {
	g := newGateway(t)
	r := g.runner(t, 200)
	original, err := os.ReadFile(r.In)
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	g.fail = func(n int) error {
		if n == 100 {
			return errors.Join(os.WriteFile(r.In, append(bytes.Clone(original), `{"Key": "k"}`+"\n"...), 0o600), stop)
		}
		return nil
	}
	if _, err := r.Run(t.Context()); !errors.Is(err, stop) {
		t.Fatalf("got %v, want the gateway's error", err)
	}
	if _, err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "is not the list that this batch began with") {
		t.Errorf("with another list: got %v", err)
	}
	if err := os.WriteFile(r.In, original, 0o600); err != nil {
		t.Fatal(err)
	}
	g.fail = func(n int) error {
		if n%50 == 0 { // while it is read
			f, err := os.OpenFile(r.In, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString(`{"Key": "k"}` + "\n")
			return errors.Join(err, f.Close())
		}
		return nil
	}
	if m, err := r.Run(t.Context()); err != nil || m.Lines != 200 || m.Signed != 200 {
		t.Errorf("a list that grows: got %+v, %v, want its first 200 lines", m, err)
	}
	if err := os.WriteFile(r.In, original, 0o600); err != nil {
		t.Fatal(err)
	}
	g.proven(t, r)
}

// TestKeyIsDisabled answers every line: those after the key was disabled are refusals.
func TestKeyIsDisabled(t *testing.T) {
	g := newGateway(t)
	g.fail = func(n int) error {
		if n > 50 {
			return kms.ErrKeyDisabled
		}
		return nil
	}
	r := g.runner(t, 80)
	if m, err := r.Run(t.Context()); err != nil || m.Signed != 50 || m.Refused != 30 {
		t.Errorf("got %+v, %v, want 50 signed and 30 refused", m, err)
	}
	g.proven(t, r)
	out, err := os.ReadFile(r.Out)
	if err != nil || strings.Count(string(out), `"Code":"`+kms.ErrKeyDisabled.Code+`"`) != 30 {
		t.Errorf("got %s, %v, want the code in 30 lines", out, err)
	}
}

// TestEndedMeanwhile signs nothing if another run has completed the batch before the lock.
func TestEndedMeanwhile(t *testing.T) {
	g := newGateway(t)
	r := g.runner(t, 10)
	first, err := r.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(r.Out, begin{Format: format, Batch: "other", Requests: first.Requests, Lines: first.Lines})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if m, err := r.Run(t.Context()); err != nil || m.Batch != first.Batch || !g.once(10) {
		t.Errorf("got %+v, %v, signed %v, want the first manifest", m, err, g.signed)
	}
	if _, err := os.Stat(journalPath(r.Out)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the new journal is left: %v", err)
	}
	g.proven(t, r)
}

// TestCancelled ends at once, with nothing left running, and continues.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		g := newGateway(t)
		ctx, cancel := context.WithCancel(t.Context())
		g.fail = func(n int) error {
			if n == 100 {
				cancel()
			}
			return ctx.Err()
		}
		r := g.runner(t, 200)
		if _, err := r.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want a cancelled batch", err)
		}
		g.fail = func(int) error { return nil }
		if m, err := r.Run(t.Context()); err != nil || m.Signed != 200 {
			t.Errorf("got %+v, %v, want 200 lines", m, err)
		}
		g.proven(t, r)
	})
}

// TestForgedBatch verifies outputs that are attested, and yet are wrong: who may attest can choose
// what.
func TestForgedBatch(t *testing.T) {
	g := newGateway(t)
	r := g.runner(t, 3)
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.proven(t, r)
	original, err := os.ReadFile(r.Out)
	if err != nil {
		t.Fatal(err)
	}
	var results [3]Result
	for i, text := range bytes.Split(bytes.TrimSpace(original), []byte("\n")) {
		if err := decode(text, &results[i]); err != nil {
			t.Fatal(err)
		}
	}
	other := make([]byte, hsm.DigestSize)
	other[0] = 1
	signature, err := g.backend.Sign(t.Context(), g.key, hsm.ECDSA_SHA_256, other)
	if err != nil {
		t.Fatal(err)
	}
	for want, forge := range map[string]func(all []Result, m *Manifest) []Result{
		"another digest": func(all []Result, _ *Manifest) []Result {
			all[1].Digest, all[1].Signature = hex.EncodeToString(other), signature
			return all
		},
		"its Id is":                     func(all []Result, _ *Manifest) []Result { all[1].Id = "9"; return all },
		"is not valid":                  func(all []Result, _ *Manifest) []Result { all[1].Algorithm = "SM2DSA"; return all },
		"is not in the manifest":        func(all []Result, _ *Manifest) []Result { all[1].KeyVersionId = "w"; return all },
		"does not attest":               func(all []Result, m *Manifest) []Result { m.Keys[0].KeyId = "l"; return all },
		"counts":                        func(all []Result, m *Manifest) []Result { m.Signed, m.Refused = 2, 1; return all },
		"made 3 signatures, not 2":      func(all []Result, m *Manifest) []Result { m.Keys[0].Signatures = 2; return all },
		"is not the one that":           func(all []Result, m *Manifest) []Result { m.Requests = strings.Repeat("0", 64); return all },
		"made 2 signatures, not 3":      func(all []Result, _ *Manifest) []Result { return all[:2] },
		"not the result of its line":    func(all []Result, _ *Manifest) []Result { all[0], all[1] = all[1], all[0]; return all },
		"not answer this line":          func(all []Result, _ *Manifest) []Result { all[1].Request = all[0].Request; return all },
		"both a signature and an error": func(all []Result, _ *Manifest) []Result { all[1].Error = "x"; return all },
	} {
		text, err := os.ReadFile(ManifestPath(r.Out))
		if err != nil {
			t.Fatal(err)
		}
		var m Manifest
		if err := decode(text, &m); err != nil {
			t.Fatal(err)
		}
		all := results
		var forged []byte
		for _, result := range forge(all[:], &m) {
			line, err := json.Marshal(result)
			if err != nil {
				t.Fatal(err)
			}
			forged = append(append(forged, line...), '\n')
		}
		sum := sha256.Sum256(forged)
		m.Results = hex.EncodeToString(sum[:])
		manifest, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		out := filepath.Join(dir, "out")
		if err := os.WriteFile(out, forged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := attestation.Write(t.Context(), g, attestation.Batch, ManifestPath(out), manifest, nil, false); err != nil {
			t.Fatal(err)
		}
		_, err = Verifier{Key: &g.audit.PublicKey}.Verify(t.Context(), r.In, out)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// FuzzJournal replays what is no journal, or a damaged one: it never panics, and never loses a record
// that is whole.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte(`{"Begin":{"Format":"kmsgate batch 1"}}` + "\n" + `{"Key":{"KeyVersionId":"v"}}` + "\n" + `{"Result":{"Line":1,"KeyVersionId":"v"}}` + "\n" + `{"Resu`))
	f.Add([]byte(`{"Begin":{"Format":"kmsgate batch 1"}}` + "\n{}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		out := filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(journalPath(out), content, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(out, begin{})
		if err != nil {
			t.Fatal(err)
		}
		defer j.close()
		results := 0
		err = j.replay(func(Result) error { results++; return nil })
		left, readErr := os.ReadFile(journalPath(out))
		if readErr != nil {
			t.Fatal(readErr)
		}
		whole := content[:bytes.LastIndexByte(content, '\n')+1]
		if err != nil && !bytes.Equal(left, content) || err == nil && (!bytes.Equal(left, whole) || results != j.results) {
			t.Errorf("%v: left %q of %q", err, left, content)
		}
	})
}
