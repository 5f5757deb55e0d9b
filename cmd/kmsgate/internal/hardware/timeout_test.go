package hardware_test

import (
	"errors"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestGenerationTimeout sets token.generation_timeout. Both the token and the gateway must get it.
func TestGenerationTimeout(t *testing.T) {
	c := initialized(t)
	c.Token.GenerationTimeout = time.Nanosecond
	if got, err := hardware.GenerateAfter(c); err != nil || got != time.Nanosecond {
		t.Errorf("the token's limit: %v, %v, want 1ns", got, err)
	}
	a := open(t, c, options(t))
	err := a.Server.Call(t.Context(), "CreateKey", map[string]string{"KeySpec": "EC_P256"}, nil)
	if !errors.Is(err, kms.ErrUnavailable) {
		t.Errorf("CreateKey: %v, want %v", err, kms.ErrUnavailable)
	}
}
