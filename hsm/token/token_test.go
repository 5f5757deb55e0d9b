package token_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/hsm/sealed"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
)

// newSoftHSM returns a SoftHSM token in a temporary directory.
func newSoftHSM(t testing.TB) (soft *softhsm.Token, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "softhsm")
	soft, err := softhsm.Open(dir, func(module, label, officerPIN, userPIN string) error {
		return token.Init(module, label, token.PIN(officerPIN), token.PIN(userPIN))
	})
	if err != nil {
		t.Fatal(err)
	}
	return soft, dir
}

func config(soft *softhsm.Token) token.Config {
	return token.Config{
		Module:      soft.Module,
		Label:       softhsm.Label,
		PIN:         token.PIN(soft.PIN()),
		Provision:   true,
		BeforeLogin: soft.Guard,
		AfterChange: soft.Flush,
	}
}

// open opens a token that is closed when the test ends. Its keys get session copies whatever
// the trial measures, so that no test depends on the speed of the machine.
func open(t *testing.T, cfg token.Config) *token.Token {
	t.Helper()
	token.ForceCopies(t)
	tok, err := token.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tok.Close() })
	return tok
}

func generate(t testing.TB, b hsm.Backend, spec hsm.KeySpec) hsm.Key {
	t.Helper()
	id := make([]byte, 16)
	rand.Read(id)
	key, err := b.Generate(t.Context(), spec, id)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign signs through a Route and verifies the signature.
func sign(ctx context.Context, b hsm.Backend, key hsm.Key) error {
	digest := sha256.Sum256(key.ID)
	alg := hsm.Algorithms(key.Spec)[0]
	sig, err := hsm.NewRoute(b, nil).Sign(ctx, key, alg, digest[:])
	if err != nil {
		return err
	}
	if ok, err := hsm.Verify(key, alg, digest[:], sig); err != nil || !ok {
		return errors.Join(errors.New("the signature does not verify"), err)
	}
	return nil
}

func TestContract(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	t.Run("token", func(t *testing.T) {
		hsmtest.TestBackend(t, tok, hsm.RSA_2048, hsm.RSA_3072, hsm.RSA_4096, hsm.EC_P256, hsm.EC_P256K)
	})
	t.Run("sealed", func(t *testing.T) { hsmtest.TestBackend(t, sealed.New(tok), hsm.EC_SM2) })
	t.Run("route", func(t *testing.T) {
		hsmtest.TestBackend(t, hsm.Route{Token: tok, Sealed: sealed.New(tok)}, hsm.EC_P256, hsm.EC_SM2)
	})
	t.Run("audit", func(t *testing.T) {
		hsmtest.TestAuditKeeper(t, tok)
		hsmtest.TestBackend(t, tok.Audit(), hsm.EC_P256, hsm.RSA_2048)
	})
	t.Run("random", func(t *testing.T) { hsmtest.TestRandomizer(t, tok) })
}

// rawSession opens a session of another binding, as another part of the process could. The
// session is already logged in.
func rawSession(t *testing.T, module string) (*pkcs11.Ctx, pkcs11.SessionHandle) {
	t.Helper()
	p11 := pkcs11.New(module)
	slots, err := p11.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p11.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	return p11, s
}

func findObjects(
	t *testing.T, p11 *pkcs11.Ctx, s pkcs11.SessionHandle, template ...*pkcs11.Attribute,
) []pkcs11.ObjectHandle {
	t.Helper()
	if err := p11.FindObjectsInit(s, template); err != nil {
		t.Fatal(err)
	}
	found, _, err := p11.FindObjects(s, 100)
	if err := errors.Join(err, p11.FindObjectsFinal(s)); err != nil {
		t.Fatal(err)
	}
	return found
}

// TestCannotBeReadOut logs in and tries to extract private keys from the token.
func TestCannotBeReadOut(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	for _, spec := range []hsm.KeySpec{hsm.RSA_2048, hsm.EC_P256, hsm.EC_P256K} {
		generate(t, tok, spec)
	}
	p11, s := rawSession(t, soft.Module)
	aes := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}
	wrapping, err := p11.GenerateKey(s, aes, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
	})
	if err != nil {
		t.Fatal(err)
	}
	secrets := append(
		findObjects(t, p11, s, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)),
		findObjects(t, p11, s,
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))...)
	if len(secrets) != 5 {
		t.Fatalf("%d secret objects in the token, want 5: three keys, the canary and the sealing key", len(secrets))
	}
	for _, o := range secrets {
		for _, attribute := range []uint{pkcs11.CKA_VALUE, pkcs11.CKA_PRIVATE_EXPONENT, pkcs11.CKA_PRIME_1} {
			a, err := p11.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
			if err == nil && len(a[0].Value) > 0 {
				t.Errorf("object %d: attribute %#x can be read, want an error", o, attribute)
			}
		}
		for attribute, value := range map[uint]bool{pkcs11.CKA_EXTRACTABLE: true, pkcs11.CKA_SENSITIVE: false} {
			err := p11.SetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, value)})
			if err == nil {
				t.Errorf("object %d: attribute %#x was changed to %v, want an error", o, attribute, value)
			}
		}
		for _, id := range []uint{pkcs11.CKM_AES_KEY_WRAP, pkcs11.CKM_AES_KEY_WRAP_PAD} {
			wrapped, err := p11.WrapKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(id, nil)}, wrapping, o)
			if err == nil {
				t.Errorf("object %d was wrapped into %d bytes, want an error", o, len(wrapped))
			}
		}
	}
}

// TestAgreesWithCrypto11 uses our key in the token with another PKCS#11 library.
func TestAgreesWithCrypto11(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	key := generate(t, tok, hsm.EC_P256)
	c11, err := crypto11.Configure(&crypto11.Config{Path: soft.Module, TokenLabel: softhsm.Label, Pin: soft.PIN()})
	if err != nil {
		t.Fatal(err)
	}
	defer c11.Close()
	pair, err := c11.FindKeyPair(key.ID, nil)
	if err != nil || pair == nil {
		t.Fatalf("crypto11 did not find the key: %v", err)
	}
	digest := sha256.Sum256([]byte("message"))
	sig, err := tok.Sign(t.Context(), key, hsm.ECDSA_SHA_256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(pair.Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("our signature does not verify with the public key that crypto11 read")
	}
	sig, err = pair.Sign(rand.Reader, digest[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := hsm.Verify(key, hsm.ECDSA_SHA_256, digest[:], sig); err != nil || !ok {
		t.Errorf("Verify of crypto11's signature: %v, %v, want true", ok, err)
	}
}

func TestKeysOutliveTheConnection(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	key := generate(t, tok, hsm.EC_P256K)
	sealedText, err := tok.Seal(t.Context(), []byte("secret"), []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	tok.Close()
	if err := sign(t.Context(), tok, key); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Sign after Close: %v, want ErrUnavailable", err)
	}
	cfg := config(soft)
	cfg.Provision = false
	tok = open(t, cfg)
	if err := sign(t.Context(), tok, key); err != nil {
		t.Errorf("Sign after opening again: %v", err)
	}
	if got, err := tok.Unseal(t.Context(), sealedText, []byte("aad")); err != nil || string(got) != "secret" {
		t.Errorf("Unseal after opening again: %q, %v", got, err)
	}
	if got, err := tok.Unseal(t.Context(), sealedText, []byte("other")); err == nil {
		t.Errorf("Unseal with other additional data returned %q, want an error", got)
	}
	if err := tok.Health(t.Context()); err != nil {
		t.Errorf("Health after a failed Unseal: %v", err)
	}
}

// TestWrongToken opens a token of another installation.
func TestWrongToken(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	sealedText, err := tok.Seal(t.Context(), []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	tok.Close()
	other, _ := newSoftHSM(t)
	cfg := config(other)
	cfg.Provision = false
	if _, err := token.Open(cfg); err == nil || !strings.Contains(err.Error(), "not provisioned") {
		t.Errorf("Open of an unprovisioned token: %v, want \"not provisioned\"", err)
	}
	tok = open(t, config(other))
	_, err = tok.Unseal(t.Context(), sealedText, nil)
	if err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("Unseal of another token's secret: %v, want an error that says so", err)
	}
}

func TestRefusedConfig(t *testing.T) {
	soft, _ := newSoftHSM(t)
	for name, change := range map[string]func(*token.Config){
		"no module":      func(c *token.Config) { c.Module = "" },
		"no label":       func(c *token.Config) { c.Label = "" },
		"no PIN":         func(c *token.Config) { c.PIN = "" },
		"missing module": func(c *token.Config) { c.Module = "/nonexistent.so" },
		"unknown label":  func(c *token.Config) { c.Label = "unknown" },
	} {
		cfg := config(soft)
		change(&cfg)
		if _, err := token.Open(cfg); err == nil {
			t.Errorf("%s: Open succeeded, want an error", name)
		}
	}
	open(t, config(soft)) // the failed attempts have released the module
}

// TestTokenReturns removes and restores the token's files while 32 callers sign. Callers
// within their deadlines get their signatures.
func TestTokenReturns(t *testing.T) {
	soft, dir := newSoftHSM(t)
	var losses atomic.Int32
	cfg := config(soft)
	cfg.OnLoss = func() { losses.Add(1) }
	cfg.WatchEvery = 50 * time.Millisecond // needed because session copies sign without the files
	tok := open(t, cfg)
	keys := []hsm.Key{generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048)}
	tokens, away := filepath.Join(dir, "tokens"), filepath.Join(dir, "away")

	stop := make(chan struct{})
	var signed atomic.Int64
	var callers sync.WaitGroup
	for i := range 32 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				err := sign(ctx, tok, keys[i%len(keys)])
				cancel()
				if err != nil {
					t.Errorf("a caller within its deadline failed: %v", err)
					return
				}
				signed.Add(1)
			}
		})
	}
	for round := range 5 {
		waitFor(t, "signatures", func() bool { return signed.Load() > int64(100*(round+1)) })
		if err := os.Rename(tokens, away); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the loss to be noticed", func() bool { return losses.Load() > int32(round) })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := sign(ctx, tok, keys[0]); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("Sign with an absent token: %v, want ErrUnavailable", err)
		}
		cancel()
		if err := os.Rename(away, tokens); err != nil {
			t.Fatal(err)
		}
		back, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := sign(back, tok, keys[0]); err != nil {
			t.Errorf("Sign within a second of the token's return: %v", err)
		}
		cancel()
	}
	close(stop)
	callers.Wait()
}

// waitFor waits until holds returns true, or fails the test after 20 s.
func waitFor(t *testing.T, description string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for %s", description)
		}
		runtime.Gosched()
	}
}

// TestBusy overloads one session that has a queue of one.
func TestBusy(t *testing.T) {
	soft, _ := newSoftHSM(t)
	cfg := config(soft)
	cfg.Sessions, cfg.Queue = 1, 1
	tok := open(t, cfg)
	key := generate(t, tok, hsm.RSA_2048)
	var good, busy atomic.Int32
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			switch err := sign(t.Context(), tok, key); {
			case err == nil:
				good.Add(1)
			case errors.Is(err, hsm.ErrBusy):
				busy.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if good.Load() == 0 || busy.Load() == 0 {
		t.Errorf("%d signatures and %d times ErrBusy, want some of both", good.Load(), busy.Load())
	}
	if err := sign(t.Context(), tok, key); err != nil {
		t.Errorf("Sign after the overload: %v", err)
	}
}

// TestDeletedElsewhere has another application delete a key.
func TestDeletedElsewhere(t *testing.T) {
	soft, _ := newSoftHSM(t)
	var losses atomic.Int32
	cfg := config(soft)
	cfg.OnLoss = func() { losses.Add(1) }
	tok := open(t, cfg)
	gone, stays := generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.EC_P256)
	p11, s := rawSession(t, soft.Module)
	for _, o := range findObjects(t, p11, s, pkcs11.NewAttribute(pkcs11.CKA_ID, gone.ID)) {
		if err := p11.DestroyObject(s, o); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := sign(t.Context(), tok, gone); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("Sign with the deleted key: %v, want ErrNotFound", err)
		}
	}
	if err := sign(t.Context(), tok, stays); err != nil {
		t.Errorf("Sign with the other key: %v", err)
	}
	if n := losses.Load(); n != 0 {
		t.Errorf("the deletion of one key caused %d connection losses, want 0", n)
	}
}

// TestDuplicateID creates a second private key with a key's CKA_ID. The two cannot be
// distinguished, so neither signs.
func TestDuplicateID(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	key, other := generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.EC_P256)
	if _, err := tok.Generate(t.Context(), hsm.EC_P256, key.ID); err == nil {
		t.Error("Generate made a second key with the same id")
	}
	p11, s := rawSession(t, soft.Module)
	for _, o := range findObjects(t, p11, s,
		pkcs11.NewAttribute(pkcs11.CKA_ID, other.ID), pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)) {
		if _, err := p11.CopyObject(s, o, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_ID, key.ID),
		}); err != nil {
			t.Fatal(err)
		}
	}
	tok.Close()
	tok = open(t, config(soft))
	if err := sign(t.Context(), tok, key); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Sign with a duplicate key: %v, want ErrNotFound", err)
	}
	if err := sign(t.Context(), tok, other); err != nil {
		t.Errorf("Sign with the other key: %v", err)
	}
}

// TestWithheld requests a signature under a public key that does not match the token's key, as
// a tampered database or a faulty token would.
func TestWithheld(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	digest := bytes.Repeat([]byte{1}, hsm.DigestSize)
	for _, spec := range []hsm.KeySpec{hsm.RSA_2048, hsm.EC_P256} {
		key, other := generate(t, tok, spec), generate(t, tok, spec)
		tok.Close()
		tok = open(t, config(soft)) // no signature was verified on this connection
		key.Public = other.Public
		sig, err := hsm.NewRoute(tok, nil).Sign(t.Context(), key, hsm.Algorithms(spec)[0], digest)
		if !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: Sign with a wrong public key: %x, %v, want ErrNotFound", spec, sig, err)
		}
	}
}

// TestDestroyWithoutToken destroys a key while the token's files are missing. SoftHSM then finds
// no objects and reports success, which must not be taken to mean that the key is gone.
func TestDestroyWithoutToken(t *testing.T) {
	soft, dir := newSoftHSM(t)
	tok := open(t, config(soft))
	key := generate(t, tok, hsm.EC_P256)
	entries, err := os.ReadDir(filepath.Join(dir, "tokens"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v: want one token", entries, err)
	}
	token := filepath.Join(dir, "tokens", entries[0].Name())
	if err := os.Rename(token, filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := tok.Destroy(ctx, key); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Destroy without the token's files: %v, want ErrUnavailable", err)
	}
	if err := os.Rename(filepath.Join(dir, "away"), token); err != nil {
		t.Fatal(err)
	}
	if err := sign(t.Context(), tok, key); err != nil {
		t.Errorf("Sign after a failed Destroy: %v", err)
	}
	if err := tok.Destroy(t.Context(), key); err != nil {
		t.Error(err)
	}
	if err := sign(t.Context(), tok, key); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Sign after Destroy: %v, want ErrNotFound", err)
	}
}

// TestSlowKeysDelayNoOthers makes keys on P-256 while the token makes an RSA key of 4096 bits.
func TestSlowKeysDelayNoOthers(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	begun, slow := make(chan struct{}), make(chan error, 1)
	go func() {
		close(begun)
		_, err := tok.Generate(context.Background(), hsm.RSA_4096, bytes.Repeat([]byte{4}, 16))
		slow <- err
	}()
	<-begun
	quick := 0
	for len(slow) == 0 {
		generate(t, tok, hsm.EC_P256)
		quick++
	}
	if err := <-slow; err != nil {
		t.Fatal(err)
	}
	// The RSA key may delay the first key and be ready before the loop continues.
	if quick < 3 {
		t.Errorf("%d keys on P-256 were made at the same time, want at least 3", quick)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	soft, _ := newSoftHSM(t)
	before := runtime.NumGoroutine()
	for range 5 {
		tok, err := token.Open(config(soft))
		if err != nil {
			t.Fatal(err)
		}
		if err := tok.Health(t.Context()); err != nil {
			t.Error(err)
		}
		tok.Close()
	}
	waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}

// TestCanaryDeleted deletes the canary key. The token still works, so it gets another canary
// key.
func TestCanaryDeleted(t *testing.T) {
	soft, _ := newSoftHSM(t)
	cfg := config(soft)
	cfg.WatchEvery = 20 * time.Millisecond
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	p11, s := rawSession(t, soft.Module)
	for _, o := range findObjects(t, p11, s,
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, "kmsgate-canary"),
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)) {
		if err := p11.DestroyObject(s, o); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the connection to be lost", func() bool { return tok.Stats().Losses > 0 })
	if err := sign(t.Context(), tok, key); err != nil {
		t.Errorf("Sign after the canary was deleted: %v", err)
	}
	if err := tok.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestKeyRestored deletes a key that is in use from the token and restores it later.
func TestKeyRestored(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	key := generate(t, tok, hsm.EC_P256)
	p11, s := rawSession(t, soft.Module)
	private := findObjects(t, p11, s,
		pkcs11.NewAttribute(pkcs11.CKA_ID, key.ID), pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))[0]
	copyKey := func(from pkcs11.ObjectHandle, id []byte, label string) pkcs11.ObjectHandle {
		t.Helper()
		h, err := p11.CopyObject(s, from, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_ID, id),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	kept := copyKey(private, []byte("kept"), "kept")
	destroyElsewhere(t, soft.Module, key)
	if err := sign(t.Context(), tok, key); !errors.Is(err, hsm.ErrNotFound) {
		t.Fatalf("Sign with a deleted key: %v, want ErrNotFound", err)
	}
	if err := tok.Has(key); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Has: %v, want ErrNotFound", err)
	}
	copyKey(kept, key.ID, "kmsgate")
	waitFor(t, "the key to sign again", func() bool {
		err := sign(t.Context(), tok, key)
		if err != nil && !errors.Is(err, hsm.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	})
	if err := tok.Has(key); err != nil {
		t.Errorf("Has: %v", err)
	}
}
