package software

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// The files in the directory of a Token. Each key pair is in a file of PEM, named after its ID in
// hexadecimal. The audit log's key has another suffix than the keys that sign for users.
const (
	sealingKeyFile = "sealing.key"
	keySuffix      = ".pem"
	auditSuffix    = ".audit.pem"
	sealingKeySize = 32 // bytes, for AES-256
)

// Device returns the device whose files are in a directory.
func Device(dir string) hsm.Device { return device(dir) }

type device string

func (d device) String() string { return fmt.Sprintf("the software keys in %q", string(d)) }

// Open implements hsm.Device. A Token is never lost.
func (d device) Open(provision bool, _ func()) (hsm.Token, error) { return Open(string(d), provision) }

// Inspect implements hsm.Device.
func (d device) Inspect(inspect func(hsm.Inspector) error) error {
	if _, err := os.Stat(string(d)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	t, err := Open(string(d), false)
	if errors.Is(err, hsm.ErrNotOurs) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(inspect(t), t.Close())
}

// A Token is an open device. It is safe for concurrent use.
type Token struct {
	dir  string // empty: in memory only
	seal cipher.AEAD

	mu       sync.Mutex
	keys     map[string]*pair // by ID; guarded by mu
	reserved string           // the ID of the key that Reserve keeps for the audit log; guarded by mu
}

// A pair is a key pair that is read from its file when it is used for the first time.
type pair struct {
	path  string
	audit bool // it was made for the audit log

	mu      sync.Mutex
	private *privatekey.Key // guarded by mu; nil until it is read
}

// read returns the key pair. It tries again after an error.
func (p *pair) read() (privatekey.Key, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.private != nil {
		return *p.private, nil
	}
	text, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return privatekey.Key{}, fmt.Errorf("%w: %w", hsm.ErrNotFound, err)
	}
	if err != nil {
		return privatekey.Key{}, err
	}
	k, err := privatekey.Parse(text)
	if err != nil {
		return k, fmt.Errorf("reading %q: %w", p.path, err)
	}
	p.private = &k
	return k, nil
}

var _ hsm.Token = (*Token)(nil)

// New returns an empty Token in memory.
func New() *Token {
	t, err := newToken("", random(sealingKeySize))
	if err != nil {
		panic(err) // cannot happen: the key has the size of AES-256
	}
	return t
}

func newToken(dir string, sealingKey []byte) (*Token, error) {
	block, err := aes.NewCipher(sealingKey)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &Token{dir: dir, seal: aead, keys: make(map[string]*pair)}, err
}

// Open opens the Token in a directory. With provision it creates what is missing. Without, the error
// is hsm.ErrNotOurs if there is none.
func Open(dir string, provision bool) (*Token, error) {
	path := filepath.Join(dir, sealingKeyFile)
	sealingKey, err := os.ReadFile(path)
	switch {
	case err == nil && len(sealingKey) != sealingKeySize:
		return nil, fmt.Errorf("%q has %d bytes instead of %d: it was damaged", path, len(sealingKey), sealingKeySize)
	case errors.Is(err, fs.ErrNotExist) && !provision:
		return nil, fmt.Errorf("there are no software keys in %q: %w", dir, hsm.ErrNotOurs)
	case errors.Is(err, fs.ErrNotExist):
		sealingKey = random(sealingKeySize)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if err := durable.Write(path, sealingKey, 0o600); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	t, err := newToken(dir, sealingKey)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		name, isAudit := strings.CutSuffix(entry.Name(), auditSuffix)
		name, isKey := strings.CutSuffix(name, keySuffix)
		if id, err := hex.DecodeString(name); err == nil && (isAudit || isKey) {
			t.keys[string(id)] = &pair{path: t.path(id, isAudit), audit: isAudit}
		}
	}
	return t, err
}

func (t *Token) path(id []byte, audit bool) string {
	suffix := keySuffix
	if audit {
		suffix = auditSuffix
	}
	return filepath.Join(t.dir, hex.EncodeToString(id)+suffix)
}

// Close does nothing: every change is in the files.
func (t *Token) Close() error { return nil }

// Generate makes a key pair and writes its file.
func (t *Token) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	return t.generate(ctx, spec, id, false)
}

func (t *Token) generate(ctx context.Context, spec hsm.KeySpec, id []byte, audit bool) (hsm.Key, error) {
	if err := ctx.Err(); err != nil {
		return hsm.Key{}, err
	}
	k, err := privatekey.New(spec)
	if err != nil {
		return hsm.Key{}, err
	}
	return t.add(ctx, k, id, audit)
}

// Import is Generate with an existing key pair.
func (t *Token) Import(ctx context.Context, k privatekey.Key, id []byte) (hsm.Key, error) {
	if err := ctx.Err(); err != nil {
		return hsm.Key{}, err
	}
	return t.add(ctx, k, id, false)
}

func (t *Token) add(ctx context.Context, k privatekey.Key, id []byte, audit bool) (hsm.Key, error) {
	t.mu.Lock()
	_, exists := t.keys[string(id)]
	t.mu.Unlock()
	if exists {
		return hsm.Key{}, fmt.Errorf("there is a key with the ID %x already", id)
	}
	path := t.path(id, audit)
	if t.dir != "" {
		text, err := k.PEM()
		if err != nil {
			return hsm.Key{}, err
		}
		if err := durable.Write(path, text, 0o600); err != nil {
			return hsm.Key{}, err
		}
	}
	t.mu.Lock()
	t.keys[string(id)] = &pair{path: path, audit: audit, private: &k}
	t.mu.Unlock()
	key := hsm.Key{ID: bytes.Clone(id), Spec: k.Spec(), Public: k.Public()}
	var b hsm.Backend = t
	if audit {
		b = t.Audit()
	}
	if err := hsm.SelfTest(ctx, b, key); err != nil {
		return hsm.Key{}, errors.Join(err, t.Destroy(context.WithoutCancel(ctx), key))
	}
	return key, nil
}

// find returns a key pair that is for signing or, with audit, for the audit log. The error is
// hsm.ErrNotFound if there is none.
func (t *Token) find(id []byte, audit bool) (*pair, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.keys[string(id)]
	if !ok || audit != (p.audit || t.reserved == string(id)) {
		return nil, fmt.Errorf("%w: %x", hsm.ErrNotFound, id)
	}
	return p, nil
}

// Sign signs in this process.
func (t *Token) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	return t.sign(ctx, k, alg, digest, false)
}

func (t *Token) sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte, audit bool) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := t.find(k.ID, audit)
	if err != nil {
		return nil, err
	}
	private, err := p.read()
	if err != nil {
		return nil, err
	}
	return private.Sign(alg, digest)
}

// Destroy removes the key pair's file, whatever the key is for. The error is hsm.ErrReserved if it
// is reserved for the audit log.
func (t *Token) Destroy(ctx context.Context, k hsm.Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reserved == string(k.ID) {
		return fmt.Errorf("destroying key %x: %w", k.ID, hsm.ErrReserved)
	}
	for _, audit := range []bool{false, true} {
		if t.dir == "" {
			break
		}
		if err := os.Remove(t.path(k.ID, audit)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	delete(t.keys, string(k.ID))
	return nil
}

// Has returns nil if the Token knows the key pair. It does not read the file.
func (t *Token) Has(k hsm.Key) error {
	_, err := t.find(k.ID, false)
	return err
}

// Forget does nothing: there is no faster copy.
func (t *Token) Forget(hsm.Key) {}

// Quarantine reads the key pair's file again before the next signature.
func (t *Token) Quarantine(ctx context.Context, k hsm.Key) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, ok := t.keys[string(k.ID)]; ok && t.dir != "" {
		t.keys[string(k.ID)] = &pair{path: p.path, audit: p.audit}
	}
	return ctx.Err()
}

// Health returns nil unless ctx is done.
func (t *Token) Health(ctx context.Context) error { return ctx.Err() }

// Seal encrypts under the key in the directory.
func (t *Token) Seal(ctx context.Context, plaintext, aad []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return t.seal.Seal(nil, nil, plaintext, aad), nil
}

// Unseal is the inverse of Seal.
func (t *Token) Unseal(ctx context.Context, sealed, aad []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	plaintext, err := t.seal.Open(nil, nil, sealed, aad)
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	return plaintext, nil
}

// Random returns bytes of the operating system.
func (t *Token) Random(ctx context.Context, n int) ([]byte, error) {
	if err := errors.Join(hsm.CheckRandom(n), ctx.Err()); err != nil {
		return nil, err
	}
	return random(n), nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// Survey describes a token that makes keys of every KeySpec and protects none.
func (t *Token) Survey(ctx context.Context) (hsm.Survey, error) {
	s := hsm.Survey{
		Module:  hsm.ModuleInfo{Path: t.dir, Manufacturer: "kmsgate", Description: "keys in files, for tests"},
		Token:   hsm.TokenInfo{Label: "software", Manufacturer: "kmsgate", Model: "no protection"},
		Sealing: hsm.SealAESGCM,
	}
	for _, spec := range hsm.KeySpecs() {
		s.Offers = append(s.Offers, hsm.Offer{KeySpec: spec, Offered: true, Software: true})
	}
	return s, ctx.Err()
}

// Objects lists both halves of every key pair.
func (t *Token) Objects(ctx context.Context) (all []hsm.Object, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	pairs := maps.Clone(t.keys)
	t.mu.Unlock()
	for i, id := range slices.Sorted(maps.Keys(pairs)) {
		k, err := pairs[id].read()
		if errors.Is(err, hsm.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		o := hsm.Object{Handle: uint(1 + 2*i), Class: hsm.ClassPublicKey, Label: "kmsgate", ID: []byte(id),
			KeySpec: k.Spec(), Public: k.Public(), Ours: true, Purpose: hsm.PurposeKey}
		if pairs[id].audit {
			o.Label, o.Purpose = "kmsgate-audit", hsm.PurposeAudit
		}
		all = append(all, o)
		o.Handle, o.Class, o.Public = o.Handle+1, hsm.ClassPrivateKey, nil
		all = append(all, o)
	}
	return all, nil
}

// DestroyObject destroys the key pair that an object belongs to.
func (t *Token) DestroyObject(ctx context.Context, o hsm.Object) error {
	t.mu.Lock()
	_, ok := t.keys[string(o.ID)]
	t.mu.Unlock()
	if !ok {
		return fmt.Errorf("%w: %x", hsm.ErrNotFound, o.ID)
	}
	return t.Destroy(ctx, hsm.Key{ID: o.ID})
}

// Attributes reports that a key can leave the token.
func (t *Token) Attributes(ctx context.Context, k hsm.Key) ([]hsm.Attribute, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if k.Sealed == nil {
		if err := t.Has(k); err != nil {
			return nil, err
		}
	}
	return []hsm.Attribute{{Name: "CKA_TOKEN", Value: "true"}, {Name: "CKA_SENSITIVE", Value: "false"}, {Name: "CKA_EXTRACTABLE", Value: "true"}}, nil
}
