package config

import (
	"io"
	"log/slog"
)

// Logger returns a logger that writes to w as the configuration says.
func (l Log) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		level = slog.LevelInfo // Parse has checked it
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: withUnit}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// withUnit writes a duration with its unit: slog's JSON has nanoseconds without one.
func withUnit(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// Quiet returns a logger for commands: it writes warnings and errors only.
func (l Log) Quiet(w io.Writer) *slog.Logger { return Log{Format: l.Format, Level: "warn"}.Logger(w) }
