package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
)

// AttestationFormat is the first member, Format, of every attestation. No other text that the key
// signs begins like that, so the signature of an attestation is valid for nothing else.
const AttestationFormat = "kmsgate attestation 1"

// SignAttestation signs the text of an attestation, a JSON object, with the key that signs
// checkpoints. It refuses other texts. [Signed] checks the signature with the SHA-256 of the
// text.
func (l *Log) SignAttestation(ctx context.Context, text []byte) ([]byte, error) {
	if !strings.HasPrefix(string(text), `{"Format":"`+AttestationFormat+`",`) {
		return nil, errors.New("the text is not an attestation")
	}
	if l.cfg.Sign == nil {
		return nil, errors.New("the audit log has no key")
	}
	digest := sha256.Sum256(text)
	signature, err := l.cfg.Sign(ctx, digest[:])
	if err != nil {
		return nil, fmt.Errorf("signing an attestation with the audit key: %w", err)
	}
	return signature, nil
}
