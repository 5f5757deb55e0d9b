// Package secret keeps secrets out of logs, messages and responses.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// A Text is a secret that people type: a PIN or a passphrase. Printing, logging or encoding it
// produces a placeholder. string(t) is the secret itself.
type Text string

const placeholder = "(secret)"

// String returns the placeholder.
func (Text) String() string { return placeholder }

// GoString returns the placeholder.
func (Text) GoString() string { return placeholder }

// Format writes the placeholder for every verb. Without it, fmt would print the secret for a verb
// that does not fit the type.
func (Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, placeholder) }

// LogValue returns the placeholder.
func (Text) LogValue() slog.Value { return slog.StringValue(placeholder) }

// MarshalText returns the placeholder.
func (Text) MarshalText() ([]byte, error) { return []byte(placeholder), nil }
