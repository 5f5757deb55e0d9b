// Package backup takes backups of an appliance and restores them. It prints nothing.
//
// A backup holds everything needed to sign: the database with the sealed keys, the
// configuration, the CA, and a SoftHSM token with its PIN. It does not hold an HSM's keys. It
// is always encrypted.
//
// [NewArchiver] creates backups in the gateway, and [Write] and [WriteSealed] fetch them.
// [Restore] turns a backup back into an appliance once every key has made a valid signature,
// unless lost keys are accepted.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/internal/secret"
)

// A Streamer calls operations whose response is a stream of bytes.
type Streamer interface {
	// Stream calls an operation and writes its response to w. If the error is nil, the
	// response is complete.
	Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error
}

// Write has the gateway create a backup that each recipient can decrypt, and writes it to w.
func Write(ctx context.Context, c Streamer, w io.Writer, recipients []string) error {
	parameters := make(map[string]string)
	for i, r := range recipients {
		parameters[fmt.Sprintf("Recipients.%d", i+1)] = r
	}
	return c.Stream(ctx, "CreateBackup", parameters, w)
}

// WriteSealed is like Write for a backup that a passphrase decrypts. This process encrypts
// with the passphrase, which the gateway never sees. The gateway encrypts to a key that exists
// only in this process.
func WriteSealed(ctx context.Context, c Streamer, w io.Writer, passphrase secret.Text) error {
	key, err := archive.NewTransitKey()
	if err != nil {
		return err
	}
	r, sent := io.Pipe()
	streamed := make(chan error, 1)
	go func() {
		err := Write(ctx, c, sent, []string{key.Recipient()})
		streamed <- err
		sent.CloseWithError(err)
	}()
	err = key.Seal(w, r, passphrase)
	r.CloseWithError(err)
	if streamErr := <-streamed; streamErr != nil && !errors.Is(streamErr, err) {
		return streamErr // the cause; err is only its effect on Seal
	}
	return err
}
