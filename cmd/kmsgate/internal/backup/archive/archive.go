// Package archive implements the format of a backup: files in one encrypted stream that is
// signed by the instance.
//
// [Extract] leaves either all files, each byte as it was passed to [Writer.Add], or nothing.
// It refuses an archive that was changed, truncated, rearranged, extended, or not signed by
// the instance. An archive is untrusted input until its last byte has been checked, because
// anyone who knows a recipient's public key can encrypt to it.
//
// # Format
//
// An archive is an age file (age-encryption.org/v1) that holds a tar archive. The tar archive
// has the format USTAR and regular files only, in this order:
//
//   - the files that were added;
//   - manifest.json, a [Manifest], which lists them with their sizes and hashes;
//   - manifest.sig, the signature of the manifest's [Digest] by the instance's audit key. An
//     audit.PublicKey verifies it.
//
// An archive is written in one pass, so the manifest follows the files whose hashes it lists.
// Nothing is compressed, so the extracted files are no larger than the archive.
package archive

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"filippo.io/age"
)

// format is the version of the archive's format.
const format = 1

// Magic begins every backup: it is an age file.
const Magic = "age-encryption.org/v1\n"

const (
	manifestName  = "manifest.json"
	signatureName = "manifest.sig"
)

const (
	maxFiles     = 500_000   // more than SoftHSM needs for twice the maximum number of keys
	maxManifest  = 128 << 20 // bytes; enough for maxFiles files
	maxSignature = 256       // bytes
	maxName      = 100       // bytes; the size of USTAR's name field
)

// A Manifest describes an archive and lists its files.
type Manifest struct {
	Format    int    // of the archive; set by Writer.Close
	Kmsgate   string // the version of kmsgate that wrote the archive
	Instance  string // a description of the instance
	Time      time.Time
	PublicKey []byte // of the key that signs the manifest: SubjectPublicKeyInfo, DER
	AuditHead string // the instance's audit head when the archive was written
	Files     []File // in the archive's order; set by Writer.Close
}

// A File describes one file of an archive.
type File struct {
	Name   string // slash-separated, relative
	Size   int64  // in bytes
	SHA256 string // in hexadecimal
}

// Digest returns the digest of a manifest that is signed: the SHA-256 of the line "kmsgate
// backup manifest 1" and the manifest's text. The line keeps the signature from being valid
// for any other message that the key signs.
func Digest(manifest []byte) []byte {
	sum := sha256.Sum256(append([]byte("kmsgate backup manifest 1\n"), manifest...))
	return sum[:]
}

// checkName returns an error for a name that can denote another file than it seems to.
func checkName(name string) error {
	switch {
	case !fs.ValidPath(name) || name == ".":
		return fmt.Errorf("the file name %q is not a relative path", name)
	case len(name) > maxName:
		return fmt.Errorf("the file name %q has more than %d bytes", name, maxName)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }):
		return fmt.Errorf("the file name %q has a space, a backslash or a character that is not printable ASCII", name)
	}
	return nil
}

// A Writer writes an archive. The archive cannot be extracted before Close has completed it.
type Writer struct {
	sealed io.WriteCloser
	tar    *tar.Writer
	files  []File
}

// NewWriter starts an archive that each of the recipients can decrypt.
func NewWriter(w io.Writer, recipients ...Recipient) (*Writer, error) {
	sealed, err := age.Encrypt(w, recipients...)
	if err != nil {
		return nil, fmt.Errorf("encrypting the archive: %w", err)
	}
	return &Writer{sealed: sealed, tar: tar.NewWriter(sealed)}, nil
}

// Add adds a file. content must write size bytes.
func (w *Writer) Add(name string, size int64, content io.WriterTo) error {
	if err := checkName(name); err != nil {
		return err
	}
	if name == manifestName || name == signatureName {
		return fmt.Errorf("the file name %q is reserved", name)
	}
	if len(w.files) == maxFiles {
		return fmt.Errorf("adding %q: the archive has %d files already", name, maxFiles)
	}
	hash := sha256.New()
	err := w.add(name, size, func(file io.Writer) (int64, error) {
		return content.WriteTo(io.MultiWriter(file, hash))
	})
	if err != nil {
		return fmt.Errorf("adding %q: %w", name, err)
	}
	w.files = append(w.files, File{name, size, hex.EncodeToString(hash.Sum(nil))})
	return nil
}

func (w *Writer) add(name string, size int64, content func(io.Writer) (int64, error)) error {
	header := tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, Format: tar.FormatUSTAR}
	if err := w.tar.WriteHeader(&header); err != nil {
		return err
	}
	n, err := content(w.tar)
	if err == nil && n != size {
		err = fmt.Errorf("the file has %d bytes instead of %d", n, size)
	}
	return err
}

// Close completes the archive with a manifest. sign returns the signature of its [Digest].
func (w *Writer) Close(m Manifest, sign func(digest []byte) ([]byte, error)) error {
	m.Format, m.Files = format, w.files
	text, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return fmt.Errorf("encoding the manifest: %w", err)
	}
	signature, err := sign(Digest(text))
	if err != nil {
		return fmt.Errorf("signing the manifest: %w", err)
	}
	return errors.Join(w.addBytes(manifestName, text), w.addBytes(signatureName, signature),
		w.tar.Close(), w.sealed.Close())
}

func (w *Writer) addBytes(name string, content []byte) error {
	return w.add(name, int64(len(content)), func(file io.Writer) (int64, error) {
		n, err := file.Write(content)
		return int64(n), err
	})
}
