// Package archive is the form of a backup: files in one stream that is encrypted
// and says whose it is.
//
// What it guarantees: [Extract] leaves either all files, each byte of them as
// they were given to [Writer.Add], or nothing. What was changed, cut off,
// rearranged, added to or made by somebody else than the instance is refused,
// whoever made it and whatever it names: an archive is a stranger's input until
// its last byte was checked, for everybody who knows a recipient's public key can
// encrypt to it.
//
// # Format
//
// An age file (age-encryption.org/v1), and in it a tar archive, format USTAR, of
// regular files only: those that were added, then manifest.json, which is a
// [Manifest] and lists them with their sizes and hashes, then manifest.sig, the
// signature of [Digest] of the manifest's text by the instance's audit key, for an
// audit.PublicKey to check. The manifest is last because hashes are known last: an archive is
// written in one pass. Nothing is compressed, so that what is extracted is no
// larger than what was read.
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

// format is the version of what a Manifest says.
const format = 1

const (
	manifestName  = "manifest.json"
	signatureName = "manifest.sig"
)

const (
	maxFiles     = 500_000   // more than SoftHSM makes for twice the keys that there can be
	maxManifest  = 128 << 20 // maxFiles of them fit in
	maxSignature = 256
	maxName      = 100 // what USTAR has in one field
)

// A Manifest says what an archive is of, and what is in it.
type Manifest struct {
	Format    int    // of the archive; set by Writer.Close
	Kmsgate   string // the version that wrote it
	Instance  string // whose archive it is, in words
	Time      time.Time
	PublicKey []byte // of the key that signs the manifest: SubjectPublicKeyInfo, DER
	AuditHead string // how far the instance's audit log had come
	Files     []File // in the archive's order; set by Writer.Close
}

// A File is one file of an archive.
type File struct {
	Name   string // slash-separated, relative
	Size   int64
	SHA256 string // in hexadecimal
}

// Digest is what is signed of a manifest: the SHA-256 of the line "kmsgate
// backup manifest 1" and its text. The line keeps the signature from being one of
// anything else that the key signs.
func Digest(manifest []byte) []byte {
	sum := sha256.Sum256(append([]byte("kmsgate backup manifest 1\n"), manifest...))
	return sum[:]
}

// checkName refuses what could be another file than it seems.
func checkName(name string) error {
	switch {
	case !fs.ValidPath(name) || name == ".":
		return fmt.Errorf("%q is not the relative path of a file", name)
	case len(name) > maxName:
		return fmt.Errorf("%q has more than %d bytes", name, maxName)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }):
		return fmt.Errorf("%q has other characters than names here have", name)
	}
	return nil
}

// A Writer writes an archive. Without Close there is none: what was written
// cannot be extracted.
type Writer struct {
	sealed io.WriteCloser
	tar    *tar.Writer
	files  []File
}

// NewWriter begins an archive that each of some recipients can open.
func NewWriter(w io.Writer, recipients ...Recipient) (*Writer, error) {
	sealed, err := age.Encrypt(w, recipients...)
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return &Writer{sealed: sealed, tar: tar.NewWriter(sealed)}, nil
}

// Add adds a file of which the content's size is known.
func (w *Writer) Add(name string, size int64, content io.WriterTo) error {
	if err := checkName(name); err != nil {
		return err
	}
	if name == manifestName || name == signatureName || len(w.files) == maxFiles {
		return fmt.Errorf("there is no room for a file %s in an archive", name)
	}
	hash := sha256.New()
	if err := w.add(name, size, func(to io.Writer) (int64, error) { return content.WriteTo(io.MultiWriter(to, hash)) }); err != nil {
		return fmt.Errorf("adding %s: %w", name, err)
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
		err = fmt.Errorf("it has %d bytes and not %d", n, size)
	}
	return err
}

// Close ends the archive with a manifest that sign, given its Digest, signs.
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
	return errors.Join(w.addBytes(manifestName, text), w.addBytes(signatureName, signature), w.tar.Close(), w.sealed.Close())
}

func (w *Writer) addBytes(name string, content []byte) error {
	return w.add(name, int64(len(content)), func(to io.Writer) (int64, error) {
		n, err := to.Write(content)
		return int64(n), err
	})
}
