package config

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"

	"github.com/kmsgate/kmsgate/internal/logsink"
)

// Logger returns the logger of a gateway, which writes to w as the configuration says, and its
// level, which can be changed. It writes one line a second for each reason of an error: see
// [logsink.LimitErrors].
func (l Log) Logger(w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(l.SlogLevel())
	return slog.New(logsink.LimitErrors(l.handler(w, level))), level
}

// Quiet returns a logger for commands: it writes warnings and errors only.
func (l Log) Quiet(w io.Writer) *slog.Logger { return slog.New(l.handler(w, slog.LevelWarn)) }

// Notices returns a logger for what must be logged whatever the level: that the gateway serves, and why it
// ends.
func (l Log) Notices(w io.Writer) *slog.Logger { return slog.New(l.handler(w, slog.LevelInfo)) }

// DroppedLine returns the line that reports n lines of the log that were dropped, whatever the
// level.
func (l Log) DroppedLine(n uint64) []byte {
	var b bytes.Buffer
	l.Quiet(&b).Warn(fmt.Sprintf("%d log lines were dropped because standard error could not be written", n))
	return b.Bytes()
}

// SlogLevel returns the level as slog has it.
func (l Log) SlogLevel() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return slog.LevelInfo // Parse has checked it
	}
	return level
}

func (l Log) handler(w io.Writer, level slog.Leveler) slog.Handler {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: withUnit}
	if l.Format == "json" {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

// withUnit writes a duration with its unit: slog's JSON has nanoseconds without one.
func withUnit(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
