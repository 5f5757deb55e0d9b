package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emmansun/gmsm/sm2"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/hsm/sealed"
)

func TestContract(t *testing.T) {
	hsmtest.TestBackend(t, sealed.New(new(hsmtest.Fake)), hsm.EC_SM2)
}

func newKey(t *testing.T, b *sealed.Backend, id byte) hsm.Key {
	t.Helper()
	key, err := b.Generate(t.Context(), hsm.EC_SM2, bytes.Repeat([]byte{id}, 16))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestBoundToRecord rewrites a record, as an attacker with write access to the database could,
// and expects no signature.
func TestBoundToRecord(t *testing.T) {
	b := sealed.New(new(hsmtest.Fake))
	mine, theirs := newKey(t, b, 1), newKey(t, b, 2)
	flipped := bytes.Clone(mine.Sealed)
	flipped[len(flipped)-1] ^= 1
	for name, k := range map[string]hsm.Key{
		"another's sealed key":                {ID: mine.ID, Spec: mine.Spec, Public: mine.Public, Sealed: theirs.Sealed},
		"another's sealed key and public key": {ID: mine.ID, Spec: mine.Spec, Public: theirs.Public, Sealed: theirs.Sealed},
		"another's id":                        {ID: theirs.ID, Spec: mine.Spec, Public: mine.Public, Sealed: mine.Sealed},
		"flipped bit":                         {ID: mine.ID, Spec: mine.Spec, Public: mine.Public, Sealed: flipped},
		"cut short":                           {ID: mine.ID, Spec: mine.Spec, Public: mine.Public, Sealed: mine.Sealed[:8]},
		"empty":                               {ID: mine.ID, Spec: mine.Spec, Public: mine.Public, Sealed: []byte{}},
	} {
		if sig, err := b.Sign(t.Context(), k, hsm.SM2DSA, make([]byte, 32)); err == nil {
			t.Errorf("%s: Sign returned %x, want an error", name, sig)
		}
	}
}

// wrongSealer unseals every input to the same secret.
type wrongSealer struct {
	hsmtest.Fake
	secret []byte
}

func (w *wrongSealer) Unseal(context.Context, []byte, []byte) ([]byte, error) {
	return bytes.Clone(w.secret), nil
}

func TestComparedWithPublicKey(t *testing.T) {
	other := make([]byte, 32)
	other[31] = 7
	b := sealed.New(&wrongSealer{secret: other})
	if _, err := b.Generate(t.Context(), hsm.EC_SM2, make([]byte, 16)); err == nil {
		t.Error("Generate accepted a sealer that returned another key")
	}
}

// TestDropped checks that an unsealed key is dropped when the token is lost, when the key is
// destroyed, and at the latest after a while.
func TestDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sealer hsmtest.Fake
		b := sealed.New(&sealer)
		key := newKey(t, b, 1)
		sign := func() error {
			_, err := b.Sign(t.Context(), key, hsm.SM2DSA, make([]byte, 32))
			return err
		}
		outage := errors.New("down")
		sealer.Fail(outage)
		if err := sign(); err != nil {
			t.Errorf("Sign with a key in memory: %v", err)
		}
		b.DropAll()
		if err := sign(); !errors.Is(err, outage) {
			t.Errorf("Sign after DropAll: %v, want the sealer's error", err)
		}
		sealer.Fail(nil)
		if err := sign(); err != nil {
			t.Error(err)
		}
		// Only the ID, the KeySpec and the sealed key of an orphan are recorded.
		if err := b.Destroy(t.Context(), hsm.Key{ID: key.ID, Spec: key.Spec, Sealed: key.Sealed}); err != nil {
			t.Error(err)
		}
		sealer.Fail(outage)
		if err := sign(); !errors.Is(err, outage) {
			t.Errorf("Sign after Destroy: %v, want the sealer's error", err)
		}
		sealer.Fail(nil)
		if err := sign(); err != nil {
			t.Error(err)
		}
		sealer.Fail(outage)
		time.Sleep(time.Hour) // on synctest's clock
		synctest.Wait()
		if err := sign(); !errors.Is(err, outage) {
			t.Errorf("Sign an hour later: %v, want the sealer's error", err)
		}
	})
}

// slowSealer unseals when release is closed.
type slowSealer struct {
	hsmtest.Fake
	begun, release chan struct{}
}

func (s *slowSealer) Unseal(ctx context.Context, sealed, aad []byte) ([]byte, error) {
	if s.begun != nil {
		s.begun <- struct{}{}
		<-s.release
	}
	return s.Fake.Unseal(ctx, sealed, aad)
}

// TestDroppedWhileUnsealing loses the token while a key is being unsealed. The key must not be
// kept in memory.
func TestDroppedWhileUnsealing(t *testing.T) {
	sealer := new(slowSealer)
	b := sealed.New(sealer)
	key := newKey(t, b, 1)
	b.DropAll()
	sealer.begun, sealer.release = make(chan struct{}), make(chan struct{})
	signed := make(chan error)
	go func() {
		_, err := b.Sign(t.Context(), key, hsm.SM2DSA, make([]byte, 32))
		signed <- err
	}()
	<-sealer.begun
	b.DropAll()
	close(sealer.release)
	if err := <-signed; err != nil {
		t.Errorf("Sign during the loss: %v", err)
	}
	sealer.begun = nil
	outage := errors.New("down")
	sealer.Fail(outage)
	if _, err := b.Sign(t.Context(), key, hsm.SM2DSA, make([]byte, 32)); !errors.Is(err, outage) {
		t.Errorf("Sign after the loss: %v, want the sealer's error", err)
	}
}

func TestHealth(t *testing.T) {
	var sealer hsmtest.Fake
	b := sealed.New(&sealer)
	sealer.Fail(hsm.ErrUnavailable)
	if err := b.Health(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Health with the sealer down: %v, want ErrUnavailable", err)
	}
	if err := sealed.New(&wrongSealer{}).Health(t.Context()); err == nil {
		t.Error("Health accepted a sealer that returned another value")
	}
}

// TestOpenSSLMessage exchanges signatures of a whole message with openssl in both directions.
// Openssl computes Z_A and the digest itself, with the default user id that KMS's samples use.
func TestOpenSSLMessage(t *testing.T) {
	dir := t.TempDir()
	openssl := func(args ...string) {
		t.Helper()
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	message := []byte("a whole message, not a digest")
	write("message", message)

	b := sealed.New(new(hsmtest.Fake))
	ours := newKey(t, b, 1)
	digest := digestSM2(t, ours.Public, message)
	sig, err := b.Sign(t.Context(), ours, hsm.SM2DSA, digest)
	if err != nil {
		t.Fatal(err)
	}
	write("ours.pem", []byte(hsm.PublicKeyPEM(ours.Public)))
	write("ours.sig", sig)
	openssl("dgst", "-sm3", "-verify", "ours.pem", "-sigopt", "distid:1234567812345678",
		"-signature", "ours.sig", "message")

	openssl("genpkey", "-algorithm", "SM2", "-out", "theirs.pem")
	openssl("pkey", "-in", "theirs.pem", "-pubout", "-outform", "DER", "-out", "theirs.der")
	openssl("dgst", "-sm3", "-sign", "theirs.pem", "-sigopt", "distid:1234567812345678", "-out", "theirs.sig", "message")
	public, err := os.ReadFile(filepath.Join(dir, "theirs.der"))
	if err != nil {
		t.Fatal(err)
	}
	sig, err = os.ReadFile(filepath.Join(dir, "theirs.sig"))
	if err != nil {
		t.Fatal(err)
	}
	theirs := hsm.Key{Spec: hsm.EC_SM2, Public: public}
	if ok, err := hsm.Verify(theirs, hsm.SM2DSA, digestSM2(t, public, message), sig); err != nil || !ok {
		t.Errorf("Verify of openssl's signature: %v, %v, want true", ok, err)
	}
}

// digestSM2 returns SM3(Z_A || M) for the default user id. The public key is the last 65 bytes
// of spki, a SubjectPublicKeyInfo.
func digestSM2(t *testing.T, spki, message []byte) []byte {
	t.Helper()
	pub, err := sm2.NewPublicKey(spki[len(spki)-65:])
	if err != nil {
		t.Fatal(err)
	}
	digest, err := sm2.CalculateSM2Hash(pub, message, nil)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}
