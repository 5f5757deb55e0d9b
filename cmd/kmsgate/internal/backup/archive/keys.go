package archive

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"github.com/kmsgate/kmsgate/internal/secret"
)

// minPassphrase keeps words from being taken for passphrases: in an archive there
// can be the token itself, and who has a copy can try for ever.
const minPassphrase = 16

// ParsePassphrase reads a passphrase from a file's text. A newline at its end is
// not part of it.
func ParsePassphrase(text []byte) (secret.Text, error) {
	p := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case strings.ContainsAny(p, "\r\n\x00"):
		return "", errors.New("a passphrase is one line, and there are more")
	case len(p) < minPassphrase:
		return "", fmt.Errorf("the passphrase has less than %d bytes: take a random one, as of `openssl rand -base64 24`", minPassphrase)
	}
	return secret.Text(p), nil
}

// maxWork bounds what opening an archive takes, 1 GiB: whoever made it may have
// asked for more than there is. Ours take a quarter of that.
const maxWork = 20

// An Identity opens archives.
type Identity = age.Identity

// A Recipient can open an archive that was made for it.
type Recipient = age.Recipient

// PassphraseIdentity returns the identity that opens what a passphrase has encrypted.
func PassphraseIdentity(passphrase secret.Text) (Identity, error) {
	i, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, err
	}
	i.SetMaxWorkFactor(maxWork)
	return i, nil
}

// ParseIdentities reads a file of identities as age-keygen writes it.
func ParseIdentities(r io.Reader) ([]Identity, error) {
	identities, err := age.ParseIdentities(r)
	if err != nil {
		// age's own error quotes the line, which can be all of a secret but a letter.
		return nil, errors.New("it is not a file of age identities, as age-keygen writes it")
	}
	return identities, nil
}

// ParseRecipients reads recipients: age1… of age-keygen.
func ParseRecipients(texts ...string) (recipients []Recipient, err error) {
	if len(texts) == 0 {
		return nil, errors.New("there is no recipient: a backup is always encrypted")
	}
	for _, text := range texts {
		r, err := parseRecipient(text)
		if err != nil { // without text: it may be an identity, by mistake
			return nil, errors.New("a recipient is an age1… as age-keygen prints it, and one of these is not")
		}
		recipients = append(recipients, r)
	}
	if _, err := age.Encrypt(io.Discard, recipients...); err != nil {
		return nil, fmt.Errorf("these recipients do not go together: %w", err)
	}
	return recipients, nil
}

func parseRecipient(text string) (Recipient, error) {
	if strings.HasPrefix(text, "age1pq1") {
		return age.ParseHybridRecipient(text)
	}
	return age.ParseX25519Recipient(text)
}

// Passing is the key of an archive on its way from who makes it to who encrypts
// it with a passphrase, which the former never sees.
type Passing struct{ identity *age.X25519Identity }

// NewPassing makes one.
func NewPassing() (Passing, error) {
	i, err := age.GenerateX25519Identity()
	return Passing{i}, err
}

// Recipient is for whom the archive has to be made.
func (p Passing) Recipient() string { return p.identity.Recipient().String() }

// Seal reads the archive and writes it encrypted with a passphrase.
func (p Passing) Seal(w io.Writer, r io.Reader, passphrase secret.Text) error {
	opened, err := age.Decrypt(r, p.identity)
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
