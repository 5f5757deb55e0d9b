package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/internal/config"
)

// TestLogger tests the format and the level of a gateway's log, that the level can be changed, and
// that errors are limited.
func TestLogger(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var b bytes.Buffer
		logger, level := config.Log{Format: format, Level: "warn"}.Logger(&b)
		logger.Info("hidden")
		level.Set(slog.LevelDebug)
		logger.Debug("shown", "took", 1500*time.Millisecond)
		for range 3 {
			logger.Error("failed", "err", errors.New("of a reason"))
		}
		text := b.String()
		if strings.Contains(text, "hidden") || !strings.Contains(text, "shown") || !strings.Contains(text, "1.5s") || strings.Count(text, "of a reason") != 1 {
			t.Errorf("%s: got the log\n%s", format, text)
		}
		if line, _, _ := strings.Cut(text, "\n"); json.Valid([]byte(line)) != (format == "json") {
			t.Errorf("%s: got the line %q", format, line)
		}
	}
	var b bytes.Buffer
	logger := config.Log{Format: "text", Level: "info"}.Quiet(&b)
	logger.Info("hidden")
	for range 3 {
		logger.Error("failed", "err", errors.New("of a reason"))
	}
	if text := b.String(); strings.Contains(text, "hidden") || strings.Count(text, "\n") != 3 {
		t.Errorf("a command's log: got\n%s\nwant all three errors", text)
	}
}

// TestDroppedLine tests that the line about dropped lines is one line in the log's format, whatever
// the level.
func TestDroppedLine(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		line := string(config.Log{Format: format, Level: "error"}.DroppedLine(42))
		if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") || !strings.Contains(line, "42 log lines were dropped") || json.Valid([]byte(line)) != (format == "json") {
			t.Errorf("%s: got %q", format, line)
		}
	}
}
