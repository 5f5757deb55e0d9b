package batch

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer/signertest"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestListChanges signs the list as it was when the batch began, and says that it was changed.
func TestListChanges(t *testing.T) {
	b := newBench(t)
	r := b.runner(200)
	original := b.read(r.In)
	changed := append([]byte(`{"Key": "other"}`+"\n"), original...)
	b.failSigning(func(n, _ int) error {
		if n == 100 {
			return os.WriteFile(r.In, changed, 0o600)
		}
		return nil
	})
	if _, err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "was changed after the batch had begun") {
		t.Errorf("a list that changes: got %v", err)
	}
	if _, err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "is not the list that this batch began with") {
		t.Errorf("with another list: got %v", err)
	}
	b.write(r.In, b.read(listPath(r.Out)))
	if m, err := r.Run(t.Context()); err != nil || m.Signed != 200 || !bytes.Equal(b.read(r.In), original) {
		t.Errorf("with the copy: got %+v, %v, want 200 signatures of the original", m, err)
	}
	b.wantOnce(200)
	b.proven(r)
}

// TestOtherInstance refuses to continue at another instance, where every key would be missing, and in
// another directory, where every file would.
func TestOtherInstance(t *testing.T) {
	b := newBench(t)
	r := b.runner(10)
	for want, change := range map[string]func(begun *begin){
		"began at instance other": func(begun *begin) { begun.Instance = "other" },
		"began in /elsewhere":     func(begun *begin) { begun.Directory = "/elsewhere" },
	} {
		begun := noError(r.scan())
		begun.Instance = signertest.Instance
		change(&begun)
		j, err := openJournal(r.Out, begun)
		if err := errors.Join(err, j.close()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if err := os.Remove(journalPath(r.Out)); err != nil {
			t.Fatal(err)
		}
	}
	b.wantOnce(0)
}

// TestUnproven does not succeed if the gateway does not attest a key.
func TestUnproven(t *testing.T) {
	b := newBench(t)
	b.Attested = func(a *kms.Attestation) { a.Keys = nil }
	r := b.runner(3)
	if _, err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "does not attest key version v") {
		t.Errorf("got %v, want the key", err)
	}
	b.Attested = nil
	if _, err := r.Run(t.Context()); err != nil {
		t.Error(err)
	}
	b.wantOnce(3)
	b.proven(r)
}

// TestOtherFiles leaves files that are not the batch's own as they are.
func TestOtherFiles(t *testing.T) {
	b := newBench(t)
	r := b.runner(3)
	for _, path := range []string{r.Out, ManifestPath(r.Out), ManifestPath(r.Out) + ".attestation", ManifestPath(r.Out) + ".attestation.sig", journalPath(r.Out), listPath(r.Out)} {
		b.write(path, []byte("mine"))
		if _, err := r.Run(t.Context()); err == nil || string(b.read(path)) != "mine" {
			t.Errorf("%s: got %v, and %q, want an error and the file", path, err, b.read(path))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{r.Out, ManifestPath(r.Out), listPath(r.Out)} {
		list := r
		list.In = path
		b.write(path, b.read(r.In))
		if _, err := list.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "which the batch writes itself") {
			t.Errorf("the list is %s: got %v", path, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", r.Out); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(t.Context()); err == nil {
		t.Error("the output is a link to nowhere: got no error")
	}
	b.wantOnce(0)
}

// TestAttestationLost attests again if the files of the attestation are lost.
func TestAttestationLost(t *testing.T) {
	b := newBench(t)
	r := b.runner(3)
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{".attestation", ".attestation.sig"} {
		if err := os.Remove(ManifestPath(r.Out) + path); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Run(t.Context()); err != nil {
			t.Errorf("without %s: %v", path, err)
		}
		b.proven(r)
	}
	b.wantOnce(3)
}

// TestEndedMeanwhile signs nothing if another run has completed the batch before the lock.
func TestEndedMeanwhile(t *testing.T) {
	b := newBench(t)
	r := b.runner(10)
	first, err := r.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(r.Out, begin{Format: format, Batch: "other", Requests: first.Requests, Lines: first.Lines})
	if err := errors.Join(err, j.close()); err != nil {
		t.Fatal(err)
	}
	if m, err := r.Run(t.Context()); err != nil || m.Batch != first.Batch {
		t.Errorf("got %+v, %v, want the first manifest", m, err)
	}
	b.wantOnce(10)
	b.proven(r)
}

// TestDamagedEnd continues after a crash has damaged the journal's last line, and refuses a journal that
// is damaged before it.
func TestDamagedEnd(t *testing.T) {
	b := newBench(t)
	b.failSigning(func(n, _ int) error {
		if n == 60 {
			return syscall.EIO
		}
		return nil
	})
	r := b.runner(100)
	if _, err := r.Run(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %v, want the error of the gateway", err)
	}
	journal := b.read(journalPath(r.Out))
	last := bytes.LastIndexByte(bytes.TrimSuffix(journal, []byte("\n")), '\n') + 1
	damage := func(from int) {
		damaged := bytes.Clone(journal)
		copy(damaged[from:], make([]byte, 20))
		b.write(journalPath(r.Out), damaged)
	}
	b.Fail = nil
	damage(bytes.IndexByte(journal, '\n') + 5)
	if _, err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "restore the file") {
		t.Errorf("damaged in the middle: got %v", err)
	}
	damage(last + 5)
	m, err := r.Run(t.Context())
	if err != nil || m.Signed != 100 {
		t.Errorf("damaged at the end: got %+v, %v, want 100 signatures", m, err)
	}
	b.wantNamed(m)
	b.proven(r)
}

// FuzzJournal opens what is no journal, or a damaged one: it never panics, and never cuts off a line
// that is whole, unless it is the last.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte(`[{"Begin":{"Format":"kmsgate batch 1","Batch":"","Instance":"","Time":"0001-01-01T00:00:00Z","Requests":"","Lines":9}}]` + "\n" + `[{"Result":{"Line":1,"Request":""}}]` + "\n" + `[{"Resu`))
	f.Add([]byte(`[{"Begin":{"Format":"kmsgate batch 1","Batch":"","Instance":"","Time":"0001-01-01T00:00:00Z","Requests":"","Lines":9}}]` + "\n" + `[{"Result":{"Line":1,"Req` + "\x00\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		out := filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(journalPath(out), content, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(out, begin{})
		left, readErr := os.ReadFile(journalPath(out))
		if readErr != nil {
			t.Fatal(readErr)
		}
		if err != nil {
			if !bytes.Equal(left, content) {
				t.Errorf("%v: left %q of %q", err, left, content)
			}
			return
		}
		defer j.close()
		whole := content[:bytes.LastIndexByte(content, '\n')+1]
		before := whole[:bytes.LastIndexByte(bytes.TrimSuffix(whole, []byte("\n")), '\n')+1]
		if !bytes.Equal(left, whole) && !bytes.HasPrefix(left, before) {
			t.Errorf("left %q of %q", left, content)
		}
	})
}
