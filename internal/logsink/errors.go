package logsink

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	errKey      = "err"      // the attribute with the error's text
	repeatedKey = "repeated" // the attribute with the number of records that were held back

	errorInterval = time.Second
	maxReasons    = 1000 // reasons that are remembered; further ones share one entry
	maxReason     = 1024 // bytes of a reason that are compared
)

// LimitErrors returns a handler that hands records on to next. Of the records of level ERROR or
// above, it hands on one for each reason and second, and holds the others back. The next record
// with that reason then has the attribute "repeated", the number of records held back before it. If
// none comes, or a thousand other reasons come first, that number is not reported.
//
// A reason is the record's message and the text of its attribute "err", without the identifiers in
// that text. Other attributes, such as RequestId and KeyId, do not belong to the reason.
func LimitErrors(next slog.Handler) slog.Handler {
	return &limiter{next: next, seen: &reasons{byText: make(map[string]*occurrence)}}
}

type limiter struct {
	next slog.Handler
	seen *reasons // shared with the handlers that WithAttrs and WithGroup return
	err  string   // the text of an attribute "err" of WithAttrs
}

// Enabled implements slog.Handler.
func (l *limiter) Enabled(ctx context.Context, level slog.Level) bool {
	return l.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (l *limiter) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelError {
		return l.next.Handle(ctx, r)
	}
	err := l.err
	r.Attrs(func(a slog.Attr) bool {
		err += errorText(a)
		return true
	})
	repeated, pass := l.seen.pass(reason(r.Message, err), time.Now())
	if !pass {
		return nil
	}
	if repeated > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int(repeatedKey, repeated))
	}
	return l.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *limiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	derived := *l
	derived.next = l.next.WithAttrs(attrs)
	for _, a := range attrs {
		derived.err += errorText(a)
	}
	return &derived
}

// WithGroup implements slog.Handler.
func (l *limiter) WithGroup(name string) slog.Handler {
	derived := *l
	derived.next = l.next.WithGroup(name)
	return &derived
}

// errorText returns the text of an attribute "err", and nothing for other attributes.
func errorText(a slog.Attr) string {
	if a.Key != errKey {
		return ""
	}
	return a.Value.Resolve().String()
}

// reason returns what equal errors have in common.
func reason(message, err string) string {
	err = err[:min(len(err), maxReason)]
	var b strings.Builder
	b.WriteString(message + "\n")
	for len(err) > 0 {
		n := strings.IndexFunc(err, func(r rune) bool { return !isWordRune(r) })
		switch {
		case n == 0: // what separates words
			b.WriteByte(err[0])
			err = err[1:]
			continue
		case n < 0:
			n = len(err)
		}
		if word := err[:n]; !isIdentifier(word) {
			b.WriteString(word)
		}
		err = err[n:]
	}
	return b.String()
}

func isWordRune(r rune) bool {
	return r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// isIdentifier reports whether a word may be the identifier of a request, a key or a version: these
// are long and have digits.
func isIdentifier(word string) bool {
	const shortest = 8
	return len(word) >= shortest && strings.ContainsAny(word, "0123456789")
}

// reasons remembers when a record of each reason was handed on. It is safe for concurrent use.
type reasons struct {
	mu     sync.Mutex // guards what follows
	byText map[string]*occurrence
	forgot time.Time // when forget last looked at all of them
}

// An occurrence is the last record of a reason that was handed on.
type occurrence struct {
	time time.Time
	held int // records that were held back since then
}

// pass reports whether a record of a reason may be handed on now, and how many were held back since
// the last one.
func (r *reasons) pass(reason string, now time.Time) (repeated int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.byText[reason]
	if o == nil && len(r.byText) >= maxReasons {
		r.forget(now)
		if len(r.byText) >= maxReasons {
			reason = "" // what further reasons share
			o = r.byText[reason]
		}
	}
	switch {
	case o == nil:
		r.byText[reason] = &occurrence{time: now}
		return 0, true
	case now.Sub(o.time) < errorInterval:
		o.held++
		return 0, false
	}
	repeated = o.held
	*o = occurrence{time: now}
	return repeated, true
}

// forget removes the reasons that no record would be held back for, except the one that further
// reasons share. It looks at them once in an interval, because a flood calls it for each record.
func (r *reasons) forget(now time.Time) {
	if now.Sub(r.forgot) < errorInterval {
		return
	}
	r.forgot = now
	for text, o := range r.byText {
		if text != "" && now.Sub(o.time) >= errorInterval {
			delete(r.byText, text)
		}
	}
}
