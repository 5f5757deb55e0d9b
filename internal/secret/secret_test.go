package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/internal/secret"
)

// TestHidden prints, logs and encodes a secret in every way, alone and inside a struct.
func TestHidden(t *testing.T) {
	const text = "hunter2"
	pin := secret.Text(text)
	holder := struct{ PIN secret.Text }{pin}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%c", "%10s"} {
		fmt.Fprintf(&out, verb, pin)
		fmt.Fprintf(&out, verb, &pin)
		fmt.Fprintf(&out, verb, holder)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("login", "pin", pin, "inside", holder)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("login", "pin", pin, "inside", holder)
	if err := json.NewEncoder(&out).Encode(holder); err != nil {
		t.Fatal(err)
	}
	out.WriteString(pin.String() + pin.GoString() + pin.LogValue().String())
	if s := out.String(); strings.Contains(s, text) || strings.Contains(strings.ToLower(s), fmt.Sprintf("%x", text)) {
		t.Errorf("the output contains the secret: %s", s)
	}
	if string(pin) != text {
		t.Errorf("string(pin): got %q, want %q", string(pin), text)
	}
}
