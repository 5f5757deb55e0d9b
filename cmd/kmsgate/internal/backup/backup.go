// Package backup takes backups of an appliance and restores them. It prints nothing.
//
// A backup holds everything needed to sign: the database with the sealed keys, the
// configuration, the CA, and a SoftHSM token with its PIN. It is always encrypted.
// [NewArchiver] makes one on the gateway's side, [Write] and [WriteSealed] fetch it, and
// [Restore] turns it back into an appliance once every key has made a valid signature,
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

// A Streamer does operations that answer with octets.
type Streamer interface {
	// Stream does one operation and writes its answer to w. Without an error the answer
	// is complete.
	Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error
}

// Write has the gateway make a backup that the recipients can open, and writes it to w.
func Write(ctx context.Context, c Streamer, w io.Writer, recipients []string) error {
	parameters := make(map[string]string)
	for i, r := range recipients {
		parameters[fmt.Sprintf("Recipients.%d", i+1)] = r
	}
	return c.Stream(ctx, "CreateBackup", parameters, w)
}

// WriteSealed is Write for a backup that a passphrase opens. The passphrase encrypts on
// this side: the gateway never sees it, and what the gateway sends is encrypted, too.
func WriteSealed(ctx context.Context, c Streamer, w io.Writer, passphrase secret.Text) error {
	passing, err := archive.NewPassing()
	if err != nil {
		return err
	}
	r, sent := io.Pipe()
	streamed := make(chan error, 1)
	go func() {
		err := Write(ctx, c, sent, []string{passing.Recipient()})
		streamed <- err
		sent.CloseWithError(err)
	}()
	err = passing.Seal(w, r, passphrase)
	r.CloseWithError(err)
	if streamErr := <-streamed; streamErr != nil && !errors.Is(streamErr, err) {
		return streamErr // and not what the other end made of it
	}
	return err
}
