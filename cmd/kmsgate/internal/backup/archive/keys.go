package archive

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"github.com/kmsgate/kmsgate/internal/secret"
)

// minPassphrase is the minimum length of a passphrase in bytes. It keeps operators from using
// a word: an archive can hold the token itself, and an attacker with a copy has unlimited time.
const minPassphrase = 16

// ParsePassphrase returns the passphrase in a file's text, without the newline at its end.
func ParsePassphrase(text []byte) (secret.Text, error) {
	p := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case strings.ContainsAny(p, "\r\n\x00"):
		return "", errors.New("the passphrase has more than one line (write it as the file's only line)")
	case len(p) < minPassphrase:
		return "", fmt.Errorf("the passphrase has fewer than %d bytes (create one with `openssl rand -base64 24`)",
			minPassphrase)
	}
	return secret.Text(p), nil
}

// maxWork is the maximum scrypt work factor, the logarithm to base 2 of N. It limits the memory
// for decrypting an archive to 1 GiB: a malicious archive can ask for more than the machine has.
// The archives that Seal writes need a quarter of that.
const maxWork = 20

// An Identity decrypts archives.
type Identity = age.Identity

// A Recipient is a public key that an archive is encrypted to.
type Recipient = age.Recipient

// PassphraseIdentity returns the identity that decrypts archives encrypted with a passphrase.
func PassphraseIdentity(passphrase secret.Text) (Identity, error) {
	i, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, err
	}
	i.SetMaxWorkFactor(maxWork)
	return i, nil
}

// ParseIdentities reads a file of identities in the format of age-keygen.
func ParseIdentities(r io.Reader) ([]Identity, error) {
	identities, err := age.ParseIdentities(r)
	if err != nil {
		// age's error quotes the line, which can be a secret with one wrong letter.
		return nil, errors.New("not a file of age identities (create one with age-keygen)")
	}
	return identities, nil
}

// ParseRecipients parses recipients that age-keygen prints, which start with age1.
func ParseRecipients(texts ...string) (recipients []Recipient, err error) {
	if len(texts) == 0 {
		return nil, errors.New("no recipient: a backup is always encrypted")
	}
	for _, text := range texts {
		r, err := parseRecipient(text)
		if err != nil { // the message must not quote text, which can be an identity by mistake
			return nil, errors.New("invalid recipient (pass the public key age1… that age-keygen prints)")
		}
		recipients = append(recipients, r)
	}
	if _, err := age.Encrypt(io.Discard, recipients...); err != nil {
		return nil, fmt.Errorf("encrypting to these recipients together: %w", err)
	}
	return recipients, nil
}

func parseRecipient(text string) (Recipient, error) {
	if strings.HasPrefix(text, "age1pq1") {
		return age.ParseHybridRecipient(text)
	}
	return age.ParseX25519Recipient(text)
}

// A TransitKey encrypts an archive on its way from the gateway to the client. The client then
// encrypts the archive with a passphrase, which the gateway never sees.
type TransitKey struct{ identity *age.X25519Identity }

// NewTransitKey generates a key.
func NewTransitKey() (TransitKey, error) {
	i, err := age.GenerateX25519Identity()
	return TransitKey{i}, err
}

// Recipient returns the recipient that the archive must be encrypted to.
func (k TransitKey) Recipient() string { return k.identity.Recipient().String() }

// Seal reads the archive from r and writes it to w, encrypted with a passphrase.
func (k TransitKey) Seal(w io.Writer, r io.Reader, passphrase secret.Text) error {
	opened, err := age.Decrypt(r, k.identity)
	if err != nil {
		return err
	}
	recipient, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return err
	}
	sealed, err := age.Encrypt(w, recipient)
	if err != nil {
		return err
	}
	if _, err := io.Copy(sealed, opened); err != nil {
		return err
	}
	return sealed.Close()
}
