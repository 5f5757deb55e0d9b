package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"filippo.io/age"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

var (
	// ErrClosed: no identity opens the archive.
	ErrClosed = errors.New("it is not a backup that this passphrase or identity opens")
	// ErrBroken: it is not as it was written.
	ErrBroken = errors.New("the backup is damaged or was changed")
	// ErrForeign: it is whole, and of another instance than it has to be.
	ErrForeign = errors.New("the backup is not this instance's")
)

// Extract writes an archive's files into dir, which it makes: files have mode
// 0600 and directories 0700. When it returns without an error all is on stable
// storage; with one there is no dir. The manifest has to be signed by the key
// that it names, and that has to be trusted unless trusted is nil.
func Extract(r io.Reader, dir string, trusted audit.PublicKey, identities ...Identity) (Manifest, error) {
	opened, err := age.Decrypt(r, identities...)
	if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
		return Manifest{}, ErrClosed
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return unpack(opened, dir, trusted)
}

// unpack is Extract behind the encryption.
func unpack(opened io.Reader, dir string, trusted audit.PublicKey) (_ Manifest, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Manifest{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	root, err := os.OpenRoot(dir) // nothing that is named can be outside of it
	if err != nil {
		return Manifest{}, err
	}
	defer root.Close()
	x := extraction{root: root, tar: tar.NewReader(opened), there: make(map[string]bool)}
	manifest, err := x.all(opened, trusted)
	if err != nil {
		return Manifest{}, err
	}
	return manifest, flush(dir)
}

// An extraction is an Extract on its way.
type extraction struct {
	root  *os.Root
	tar   *tar.Reader
	files []File
	there map[string]bool
}

// all extracts everything and checks it. opened is what the tar archive is read
// from.
func (x *extraction) all(opened io.Reader, trusted audit.PublicKey) (Manifest, error) {
	text, err := x.content()
	if err != nil {
		return Manifest{}, err
	}
	signature, err := x.last()
	if err != nil {
		return Manifest{}, err
	}
	// To the very end: only there it is known that nothing was cut off.
	rest, err := io.Copy(io.Discard, opened)
	if err != nil {
		return Manifest{}, broken(err)
	}
	if rest > 0 {
		return Manifest{}, fmt.Errorf("%w: %d bytes follow its end", ErrBroken, rest)
	}
	return x.check(text, signature, trusted)
}

// content writes the files and gives the manifest behind them.
func (x *extraction) content() (manifest []byte, err error) {
	for {
		header, err := x.next()
		if err != nil {
			return nil, err
		}
		if header.Name == manifestName {
			return x.small(header, maxManifest)
		}
		if err := x.file(header); err != nil {
			return nil, err
		}
	}
}

// last gives the signature, behind which there must be nothing.
func (x *extraction) last() ([]byte, error) {
	header, err := x.next()
	if err != nil {
		return nil, err
	}
	if header.Name != signatureName {
		return nil, fmt.Errorf("%w: %q follows the manifest", ErrBroken, header.Name)
	}
	signature, err := x.small(header, maxSignature)
	if err != nil {
		return nil, err
	}
	if _, err := x.tar.Next(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the signature (%v)", ErrBroken, err)
	}
	return signature, nil
}

// next gives the next entry, which has to be a plain file. Headers that extend
// others are refused too: with one of them a file could be larger than what is
// there of it.
func (x *extraction) next() (*tar.Header, error) {
	header, err := x.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: its manifest is missing", ErrBroken)
	}
	if err != nil {
		return nil, broken(err)
	}
	if header.Typeflag != tar.TypeReg || header.Format != tar.FormatUSTAR || len(header.PAXRecords) > 0 {
		return nil, fmt.Errorf("%w: %q in it is no plain file", ErrBroken, header.Name)
	}
	if err := checkName(header.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return header, nil
}

// broken says what reading the archive failed for. The system's own errors are
// not the archive's fault.
func broken(err error) error {
	if system := (*os.PathError)(nil); errors.As(err, &system) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: its end is missing", ErrBroken)
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

func (x *extraction) small(header *tar.Header, most int64) ([]byte, error) {
	if header.Size > most {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrBroken, header.Name, most)
	}
	content, err := io.ReadAll(x.tar)
	if err != nil {
		return nil, broken(err)
	}
	return content, nil
}

// file writes one file.
func (x *extraction) file(header *tar.Header) (err error) {
	name := header.Name
	if x.there[name] {
		return fmt.Errorf("%w: %q is in it twice", ErrBroken, name)
	}
	if len(x.files) == maxFiles {
		return fmt.Errorf("%w: it has more than %d files", ErrBroken, maxFiles)
	}
	x.there[name] = true
	f, err := x.create(name)
	if err != nil {
		return fmt.Errorf("extracting %q: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), x.tar)
	if err != nil {
		return broken(err)
	}
	x.files = append(x.files, File{name, n, hex.EncodeToString(hash.Sum(nil))})
	return nil
}

// create makes a file and the directories that it is in.
func (x *extraction) create(name string) (*os.File, error) {
	err := x.root.MkdirAll(path.Dir(name), 0o700)
	if err == nil {
		var f *os.File
		if f, err = x.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
			return f, nil
		}
	}
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR) {
		err = fmt.Errorf("%w: it is a file and a directory (%w)", ErrBroken, err)
	}
	return nil, err
}

// check holds what was extracted against the manifest, and the manifest against
// its signature.
func (x *extraction) check(text, signature []byte, trusted audit.PublicKey) (m Manifest, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%w: reading its manifest: %w", ErrBroken, err)
	}
	if m.Format != format {
		return m, fmt.Errorf("the backup has format %d and this program knows %d: restore it with the kmsgate that made it, %s", m.Format, format, clip(m.Kmsgate))
	}
	key, err := m.Key()
	if err != nil {
		return m, err
	}
	if trusted != nil && !key.Equal(trusted) {
		return m, fmt.Errorf("%w: it is signed by another key than the audit public key that was given", ErrForeign)
	}
	if !audit.Signed(key, Digest(text), signature) {
		return m, fmt.Errorf("%w: the signature of its manifest is wrong", ErrBroken)
	}
	if len(m.Files) != len(x.files) {
		return m, fmt.Errorf("%w: it has %d files, and its manifest lists %d", ErrBroken, len(x.files), len(m.Files))
	}
	for i, f := range x.files {
		if f != m.Files[i] {
			return m, fmt.Errorf("%w: %q is not what its manifest lists", ErrBroken, f.Name)
		}
	}
	return m, nil
}

// Key is the key that signs the manifest.
func (m Manifest) Key() (audit.PublicKey, error) {
	key, err := audit.DecodePublicKey(m.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return key, nil
}

func clip(s string) string { return s[:min(len(s), 64)] }

// flush brings all of the file system to stable storage: one flush for each of
// some ten thousand files would take minutes.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("flushing %s: %w", dir, err)
	}
	return nil
}
