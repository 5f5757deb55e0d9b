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
	// ErrClosed means that no identity decrypts the archive.
	ErrClosed = errors.New("this passphrase or identity does not decrypt the backup")
	// ErrBroken means that the archive is not as the instance wrote it.
	ErrBroken = errors.New("the backup is damaged or was changed")
	// ErrForeign means that the archive is intact but another instance's.
	ErrForeign = errors.New("the backup belongs to another instance")
)

// Extract creates dir and writes an archive's files into it. Files have mode 0600 and
// directories 0700. If it returns no error, everything is on stable storage. On an error it
// removes dir. The key that the manifest names must have signed the manifest, and must equal
// trusted unless trusted is nil.
func Extract(r io.Reader, dir string, trusted audit.PublicKey, identities ...Identity) (Manifest, error) {
	opened, err := age.Decrypt(r, identities...)
	if mismatch := (*age.NoIdentityMatchError)(nil); errors.As(err, &mismatch) {
		return Manifest{}, ErrClosed
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return unpack(opened, dir, trusted)
}

// unpack is Extract for a decrypted archive.
func unpack(opened io.Reader, dir string, trusted audit.PublicKey) (_ Manifest, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Manifest{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	root, err := os.OpenRoot(dir) // keeps every name in the archive inside dir
	if err != nil {
		return Manifest{}, err
	}
	defer root.Close()
	x := extraction{root: root, tar: tar.NewReader(opened), seen: make(map[string]bool)}
	manifest, err := x.extract(opened, trusted)
	if err != nil {
		return Manifest{}, err
	}
	return manifest, flush(dir)
}

// An extraction is an Extract in progress.
type extraction struct {
	root  *os.Root
	tar   *tar.Reader
	files []File
	seen  map[string]bool // the names of files
}

// extract extracts and checks everything. x.tar reads from opened.
func (x *extraction) extract(opened io.Reader, trusted audit.PublicKey) (Manifest, error) {
	text, err := x.extractFiles()
	if err != nil {
		return Manifest{}, err
	}
	signature, err := x.readSignature()
	if err != nil {
		return Manifest{}, err
	}
	// Only reading to the end shows that the age file was not truncated.
	rest, err := io.Copy(io.Discard, opened)
	if err != nil {
		return Manifest{}, readError(err)
	}
	if rest > 0 {
		return Manifest{}, fmt.Errorf("%w: %d bytes follow its end", ErrBroken, rest)
	}
	return x.check(text, signature, trusted)
}

// extractFiles writes the files and returns the text of the manifest that follows them.
func (x *extraction) extractFiles() (manifest []byte, err error) {
	for {
		header, err := x.next()
		if err != nil {
			return nil, err
		}
		if header.Name == manifestName {
			return x.readAll(header, maxManifest)
		}
		if err := x.extractFile(header); err != nil {
			return nil, err
		}
	}
}

// readSignature returns the signature, which must be the archive's last entry.
func (x *extraction) readSignature() ([]byte, error) {
	header, err := x.next()
	if err != nil {
		return nil, err
	}
	if header.Name != signatureName {
		return nil, fmt.Errorf("%w: %q follows the manifest", ErrBroken, header.Name)
	}
	signature, err := x.readAll(header, maxSignature)
	if err != nil {
		return nil, err
	}
	if _, err := x.tar.Next(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the signature (%v)", ErrBroken, err)
	}
	return signature, nil
}

// next returns the next entry's header. The entry must be a regular file. next also refuses
// extended headers, which can declare a file larger than its data in the archive.
func (x *extraction) next() (*tar.Header, error) {
	header, err := x.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: its manifest is missing", ErrBroken)
	}
	if err != nil {
		return nil, readError(err)
	}
	if header.Typeflag != tar.TypeReg || header.Format != tar.FormatUSTAR || len(header.PAXRecords) > 0 {
		return nil, fmt.Errorf("%w: its entry %q is not a regular file", ErrBroken, header.Name)
	}
	if err := checkName(header.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return header, nil
}

// readError wraps an error of reading the archive in ErrBroken, but returns the operating
// system's errors unchanged: they are not the archive's fault.
func readError(err error) error {
	if system := (*os.PathError)(nil); errors.As(err, &system) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: its end is missing", ErrBroken)
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

// readAll returns the content of the current entry, which may have limit bytes.
func (x *extraction) readAll(header *tar.Header, limit int64) ([]byte, error) {
	if header.Size > limit {
		return nil, fmt.Errorf("%w: its entry %q has more than %d bytes", ErrBroken, header.Name, limit)
	}
	content, err := io.ReadAll(x.tar)
	if err != nil {
		return nil, readError(err)
	}
	return content, nil
}

// extractFile writes the file of the current entry.
func (x *extraction) extractFile(header *tar.Header) (err error) {
	name := header.Name
	if x.seen[name] {
		return fmt.Errorf("%w: it has the file %q twice", ErrBroken, name)
	}
	if len(x.files) == maxFiles {
		return fmt.Errorf("%w: it has more than %d files", ErrBroken, maxFiles)
	}
	x.seen[name] = true
	f, err := x.create(name)
	if err != nil {
		return fmt.Errorf("extracting %q: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), x.tar)
	if err != nil {
		return readError(err)
	}
	x.files = append(x.files, File{name, n, hex.EncodeToString(hash.Sum(nil))})
	return nil
}

// create creates a file and its parent directories.
func (x *extraction) create(name string) (*os.File, error) {
	err := x.root.MkdirAll(path.Dir(name), 0o700)
	if err == nil {
		var f *os.File
		if f, err = x.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
			return f, nil
		}
	}
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR) {
		err = fmt.Errorf("%w: the same name is a file and a directory (%w)", ErrBroken, err)
	}
	return nil, err
}

// check checks the manifest against its signature, and the extracted files against the
// manifest.
func (x *extraction) check(text, signature []byte, trusted audit.PublicKey) (m Manifest, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%w: decoding its manifest: %w", ErrBroken, err)
	}
	if m.Format != format {
		return m, fmt.Errorf("the backup has format %d but this kmsgate reads format %d (restore it with the version "+
			"that wrote it, %q)", m.Format, format, clip(m.Kmsgate))
	}
	key, err := m.Key()
	if err != nil {
		return m, err
	}
	if trusted != nil && !key.Equal(trusted) {
		return m, fmt.Errorf("%w: the given audit public key is not that of its signer", ErrForeign)
	}
	if !audit.Signed(key, Digest(text), signature) {
		return m, fmt.Errorf("%w: its manifest has an invalid signature", ErrBroken)
	}
	if len(m.Files) != len(x.files) {
		return m, fmt.Errorf("%w: it has %d files but its manifest lists %d", ErrBroken, len(x.files), len(m.Files))
	}
	for i, f := range x.files {
		if f != m.Files[i] {
			return m, fmt.Errorf("%w: its file %q differs from its manifest", ErrBroken, f.Name)
		}
	}
	return m, nil
}

// Key returns the public key that the manifest names as its signer.
func (m Manifest) Key() (audit.PublicKey, error) {
	key, err := audit.DecodePublicKey(m.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return key, nil
}

func clip(s string) string { return s[:min(len(s), 64)] }

// flush writes the whole file system of dir to stable storage. Flushing tens of thousands of
// files one by one would take minutes.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("flushing the file system of %q: %w", dir, err)
	}
	return nil
}
