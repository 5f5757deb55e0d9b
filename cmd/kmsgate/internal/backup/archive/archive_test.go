package archive_test

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/internal/secret"
)

// A signer is the audit key of an instance.
type signer struct {
	private *ecdsa.PrivateKey
	public  []byte
}

func newSigner(t testing.TB) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, public}
}

func (s signer) sign(digest []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, s.private, digest)
}

func newIdentity(t testing.TB) *age.X25519Identity {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

var content = map[string]string{
	"kmsgate.db":             strings.Repeat("records ", 20_000),
	"empty":                  "",
	"softhsm/pin":            "1234\n",
	"softhsm/tokens/x/1.obj": "an object",
}

// write returns an archive of content as an instance writes it.
func write(t testing.TB, s signer, recipients ...age.Recipient) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, recipients...)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sorted(content) {
		if err := w.Add(name, int64(len(content[name])), strings.NewReader(content[name])); err != nil {
			t.Fatal(err)
		}
	}
	m := archive.Manifest{
		Kmsgate: "v1", Instance: "kst-test", Time: time.Unix(1e9, 0).UTC(), PublicKey: s.public, AuditHead: "head",
	}
	if err := w.Close(m, s.sign); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sorted(m map[string]string) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// readTree returns the content of all files under a directory by name, and checks their modes.
func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[d.IsDir()]; info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
		if d.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	s, one, other := newSigner(t), newIdentity(t), newIdentity(t)
	sealed := write(t, s, one.Recipient(), other.Recipient())
	for name, text := range content {
		if text != "" && bytes.Contains(sealed, []byte(text)) {
			t.Errorf("the archive has %s unencrypted", name)
		}
	}
	for _, identity := range []age.Identity{one, other} {
		dir := filepath.Join(t.TempDir(), "new")
		m, err := archive.Extract(bytes.NewReader(sealed), dir, &s.private.PublicKey, newIdentity(t), identity)
		if err != nil {
			t.Fatal(err)
		}
		if m.Instance != "kst-test" || m.AuditHead != "head" || len(m.Files) != len(content) {
			t.Errorf("Extract: got the manifest %+v", m)
		}
		got := readTree(t, dir)
		for name, text := range content {
			if got[name] != text {
				t.Errorf("%s has %d bytes, want %d", name, len(got[name]), len(text))
			}
		}
		if len(got) != len(content) {
			t.Errorf("Extract wrote %v, want %v", sorted(got), sorted(content))
		}
	}
}

// expectRefused expects Extract to return the error want, and to leave nothing. name describes
// the archive.
func expectRefused(
	t *testing.T, name string, sealed []byte, want error, trusted audit.PublicKey, identities ...age.Identity,
) {
	t.Helper()
	parent := t.TempDir()
	_, err := archive.Extract(bytes.NewReader(sealed), filepath.Join(parent, "new"), trusted, identities...)
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", name, err, want)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("%s: Extract left %v", name, left)
	}
}

// TestDamage truncates an archive at many places, and flips a bit at each of them.
func TestDamage(t *testing.T) {
	s, identity := newSigner(t), newIdentity(t)
	sealed := write(t, s, identity.Recipient())
	for _, n := range cuts(len(sealed)) {
		expectRefused(t, fmt.Sprintf("truncated after %d bytes", n), sealed[:n], archive.ErrBroken, nil, identity)
	}
	for _, n := range cuts(len(sealed)) {
		changed := bytes.Clone(sealed)
		changed[n] ^= 1
		parent := t.TempDir()
		if _, err := archive.Extract(bytes.NewReader(changed), filepath.Join(parent, "new"), nil,
			identity); err == nil {
			t.Errorf("a flipped bit in byte %d: got no error", n)
		}
		if left, _ := os.ReadDir(parent); len(left) > 0 {
			t.Errorf("a flipped bit in byte %d: Extract left %v", n, left)
		}
	}
	expectRefused(t, "with a byte after its end", append(bytes.Clone(sealed), 0), archive.ErrBroken, nil, identity)
	expectRefused(t, "twice", append(bytes.Clone(sealed), sealed...), archive.ErrBroken, nil, identity)
	expectRefused(t, "nothing", nil, archive.ErrBroken, nil, identity)
	expectRefused(t, "something else", []byte("SQLite format 3"), archive.ErrBroken, nil, identity)
}

// cuts returns offsets in a file of n bytes: all near its start and its end, and some between.
func cuts(n int) (all []int) {
	for i := range n {
		if i < 100 || i >= n-20 || i%8209 == 0 {
			all = append(all, i)
		}
	}
	return all
}

func TestForeign(t *testing.T) {
	s, other, identity := newSigner(t), newSigner(t), newIdentity(t)
	sealed := write(t, s, identity.Recipient())
	expectRefused(t, "for another identity", sealed, archive.ErrClosed, nil, newIdentity(t))
	expectRefused(t, "another instance's", sealed, archive.ErrForeign, &other.private.PublicKey, identity)
	dir := t.TempDir()
	if _, err := archive.Extract(bytes.NewReader(sealed), dir, nil, identity); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Extract into an existing directory: got %v, want fs.ErrExist", err)
	}
}

func TestPassphrase(t *testing.T) {
	s := newSigner(t)
	key, err := archive.NewTransitKey()
	if err != nil {
		t.Fatal(err)
	}
	recipients, err := archive.ParseRecipients(key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	p, err := archive.ParsePassphrase([]byte("correct horse battery\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	if err := key.Seal(&sealed, bytes.NewReader(write(t, s, recipients...)), p); err != nil {
		t.Fatal(err)
	}
	right, err := archive.PassphraseIdentity(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Extract(bytes.NewReader(sealed.Bytes()), filepath.Join(t.TempDir(), "new"), nil,
		right); err != nil {
		t.Error(err)
	}
	wrong, err := archive.PassphraseIdentity("correct horse batterz")
	if err != nil {
		t.Fatal(err)
	}
	expectRefused(t, "with another passphrase", sealed.Bytes(), archive.ErrClosed, nil, wrong)
	for _, format := range []string{"%v", "%s", "%q", "%+v", "%#v"} {
		if text := fmt.Sprintf(format, struct{ P secret.Text }{p}); strings.Contains(text, "horse") {
			t.Errorf("%s prints the passphrase: %s", format, text)
		}
	}
	if p.LogValue().String() != "(secret)" {
		t.Error("LogValue: got the passphrase, want the placeholder")
	}
	for _, text := range []string{"", "\n", "too short", "correct horse\nbattery staple"} {
		if _, err := archive.ParsePassphrase([]byte(text)); err == nil {
			t.Errorf("ParsePassphrase(%q): got no error", text)
		}
	}
}

func sum(text string) string {
	hash := sha256.Sum256([]byte(text))
	return hex.EncodeToString(hash[:])
}

func TestRecipients(t *testing.T) {
	x := newIdentity(t).Recipient().String()
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for name, texts := range map[string][]string{
		"none": {}, "empty": {""}, "a word": {"alice"}, "an identity": {newIdentity(t).String()}, "two in one": {x + "\n" + x},
		"an SSH key": {"ssh-ed25519 AAAA"}, "a post-quantum one with an X25519 one": {x, hybrid.Recipient().String()},
	} {
		if _, err := archive.ParseRecipients(texts...); err == nil {
			t.Errorf("%s: got no error", name)
		} else if strings.Contains(err.Error(), "AGE-SECRET") {
			t.Errorf("%s: the error has the secret: %v", name, err)
		}
	}
	for _, texts := range [][]string{{x}, {x, x}, {hybrid.Recipient().String()}} {
		if _, err := archive.ParseRecipients(texts...); err != nil {
			t.Errorf("%v: %v", texts, err)
		}
	}
	if _, err := archive.ParseIdentities(strings.NewReader("# created\nAGE-SECRET-KEY-1OOPS\n")); err == nil ||
		strings.Contains(err.Error(), "OOPS") {
		t.Errorf("ParseIdentities of a broken identity: got %v, want an error without it", err)
	}
}

// An entry is an entry of a forged tar archive.
type entry struct {
	header tar.Header
	text   string
}

func file(name, text string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(text)),
		Format: tar.FormatUSTAR}, text}
}

// forge returns an archive of any entries, with the text suffix after the tar archive.
func forge(t testing.TB, recipient age.Recipient, suffix string, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	sealed, err := age.Encrypt(&b, recipient)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(sealed)
	for _, e := range entries {
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	err = w.Close()
	if err == nil {
		_, err = io.WriteString(sealed, suffix)
	}
	if err := errors.Join(err, sealed.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// manifest returns the entries with a signed manifest that lists them. change, if not nil, changes
// the manifest before it is signed.
func manifest(t testing.TB, s signer, change func(*archive.Manifest), entries ...entry) []entry {
	t.Helper()
	m := archive.Manifest{Format: 1, PublicKey: s.public}
	for _, e := range entries {
		m.Files = append(m.Files, archive.File{Name: e.header.Name, Size: int64(len(e.text)), SHA256: sum(e.text)})
	}
	if change != nil {
		change(&m)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := s.sign(archive.Digest(text))
	if err != nil {
		t.Fatal(err)
	}
	return append(slices.Clone(entries), file("manifest.json", string(text)), file("manifest.sig", string(signature)))
}

// TestAttacks tests archives that an attacker can write who knows the recipient. For some of them
// the attacker needs the instance's key too.
func TestAttacks(t *testing.T) {
	s, identity := newSigner(t), newIdentity(t)
	a, b := file("a", "first"), file("b", "second")
	typed := func(typ byte, name, link string) entry {
		return entry{tar.Header{Typeflag: typ, Name: name, Linkname: link, Mode: 0o777, Format: tar.FormatUSTAR}, ""}
	}
	extended := file("a", "first")
	extended.header.Format, extended.header.PAXRecords = tar.FormatPAX, map[string]string{"KMS.x": "y"}
	gnu := file("a", "first")
	gnu.header.Format = tar.FormatGNU
	other := newSigner(t)
	text := manifest(t, s, nil, a)
	stranger, err := other.sign([]byte("32 bytes that another key signs."))
	if err != nil {
		t.Fatal(err)
	}
	for name, entries := range map[string][]entry{
		"above":                manifest(t, s, nil, file("../a", "x")),
		"above, later":         manifest(t, s, nil, file("b/../../a", "x")),
		"absolute":             manifest(t, s, nil, file("/etc/a", "x")),
		"the directory itself": manifest(t, s, nil, file(".", "x")),
		"not clean":            manifest(t, s, nil, file("b//a", "x")),
		"dots":                 manifest(t, s, nil, file("./a", "x")),
		"a backslash":          manifest(t, s, nil, file(`..\a`, "x")),
		"a control character":  manifest(t, s, nil, file("a\x1b[31m", "x")),
		"a symbolic link": append([]entry{typed(tar.TypeSymlink, "l", "/etc")},
			manifest(t, s, nil, file("l/passwd", "x"))...),
		"a hard link":           append([]entry{typed(tar.TypeLink, "l", "/etc/passwd")}, text...),
		"a device":              append([]entry{typed(tar.TypeChar, "null", "")}, text...),
		"a pipe":                append([]entry{typed(tar.TypeFifo, "pipe", "")}, text...),
		"a directory":           append([]entry{typed(tar.TypeDir, "d", "")}, text...),
		"an extended header":    manifest(t, s, nil, extended),
		"GNU's format":          manifest(t, s, nil, gnu),
		"a file twice":          manifest(t, s, nil, a, a),
		"a file as a directory": manifest(t, s, nil, a, file("a/b", "x")),
		"a missing file": manifest(t, s, func(m *archive.Manifest) {
			m.Files = append(m.Files,
				m.Files[0])
		}, a),
		"an unlisted file":           manifest(t, s, func(m *archive.Manifest) { m.Files = m.Files[:1] }, a, b),
		"another name":               manifest(t, s, func(m *archive.Manifest) { m.Files[0].Name = "c" }, a),
		"another order":              manifest(t, s, func(m *archive.Manifest) { slices.Reverse(m.Files) }, a, b),
		"another size":               manifest(t, s, func(m *archive.Manifest) { m.Files[0].Size++ }, a),
		"another hash":               manifest(t, s, func(m *archive.Manifest) { m.Files[0].SHA256 = sum("x") }, a),
		"no public key":              manifest(t, s, func(m *archive.Manifest) { m.PublicKey = nil }, a),
		"another public key":         manifest(t, s, func(m *archive.Manifest) { m.PublicKey = other.public }, a),
		"no manifest":                {a},
		"no signature":               text[:2],
		"another signature":          {text[0], text[1], file("manifest.sig", string(stranger))},
		"an invalid manifest":        {a, file("manifest.json", "{"), text[2]},
		"a long signature":           {text[0], text[1], file("manifest.sig", strings.Repeat("x", 300))},
		"two manifests":              {text[0], text[1], text[1], text[2]},
		"a file after the signature": append(slices.Clone(text), b),
		"nothing":                    {},
	} {
		expectRefused(t, name, forge(t, identity.Recipient(), "", entries...), archive.ErrBroken, nil, identity)
	}
	expectRefused(t, "data after the tar archive", forge(t, identity.Recipient(), "x", text...), archive.ErrBroken,
		nil, identity)
	parent := t.TempDir()
	newer := manifest(t, s, func(m *archive.Manifest) { m.Format, m.Kmsgate = 2, "v9" }, a)
	if _, err := archive.Extract(bytes.NewReader(forge(t, identity.Recipient(), "", newer...)),
		filepath.Join(parent, "new"), nil, identity); err == nil || !strings.Contains(err.Error(), "v9") {
		t.Errorf("a newer format: got %v, want an error with the version", err)
	}
	// Without an attack, forge writes archives that Extract accepts.
	if _, err := archive.Extract(bytes.NewReader(forge(t, identity.Recipient(), "", text...)),
		filepath.Join(parent, "new"), nil, identity); err != nil {
		t.Errorf("without an attack: %v", err)
	}
}

// TestWriterRefuses tests that Add refuses files that Extract would refuse.
func TestWriterRefuses(t *testing.T) {
	w, err := archive.NewWriter(io.Discard, newIdentity(t).Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "../a", "/a", "manifest.json", "manifest.sig", strings.Repeat("x", 101), "a b"} {
		if err := w.Add(name, 1, strings.NewReader("x")); err == nil {
			t.Errorf("Add(%q): got no error", name)
		}
	}
	for _, size := range []int64{0, 2} {
		if err := w.Add(fmt.Sprint("file", size), size, strings.NewReader("x")); err == nil {
			t.Errorf("Add of 1 byte with size %d: got no error", size)
		}
	}
}

// FuzzExtract tests that Extract writes only into its directory, and leaves nothing on an error.
func FuzzExtract(f *testing.F) {
	s, identity := newSigner(f), newIdentity(f)
	plain := func(sealed []byte) []byte {
		r, err := age.Decrypt(bytes.NewReader(sealed), identity)
		if err != nil {
			f.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			f.Fatal(err)
		}
		return text
	}
	f.Add(plain(forge(f, identity.Recipient(), "", manifest(f, s, nil, file("a", "first"), file("b/c", "second"))...)))
	f.Add(plain(forge(f, identity.Recipient(), "", file("../a", "x"))))
	f.Fuzz(func(t *testing.T, text []byte) {
		parent := t.TempDir()
		m, err := archive.Unpack(bytes.NewReader(text), filepath.Join(parent, "new"), nil)
		left, dirErr := os.ReadDir(parent)
		if dirErr != nil {
			t.Fatal(dirErr)
		}
		if err != nil && len(left) > 0 || err == nil && (len(left) != 1 || left[0].Name() != "new") {
			t.Fatalf("Unpack: got %v, and left %v", err, left)
		}
		if err == nil && len(readTree(t, filepath.Join(parent, "new"))) != len(m.Files) {
			t.Fatalf("Unpack wrote other files than %+v", m.Files)
		}
	})
}
