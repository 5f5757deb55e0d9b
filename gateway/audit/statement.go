package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
)

// StatementDigest returns the digest of a statement that the audit key signs: the SHA-256 of the
// line "kmsgate statement 1" and the text. The line keeps the signature from being valid for a
// checkpoint, a backup or anything else that the key signs.
func StatementDigest(text []byte) []byte {
	h := sha256.New()
	h.Write([]byte("kmsgate statement 1\n"))
	h.Write(text)
	return h.Sum(nil)
}

// SignStatement signs a text with the key that signs checkpoints. [Signed] checks the signature
// with the statement's digest.
func (l *Log) SignStatement(ctx context.Context, text []byte) ([]byte, error) {
	if l.cfg.Sign == nil {
		return nil, errors.New("the audit log has no key")
	}
	signature, err := l.cfg.Sign(ctx, StatementDigest(text))
	if err != nil {
		return nil, fmt.Errorf("signing a statement with the audit key: %w", err)
	}
	return signature, nil
}
