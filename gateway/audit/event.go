package audit

import (
	"fmt"
	"time"
)

// A Kind says what an [Event] is about.
type Kind string

// The kinds of lines that the log writes about itself. [Kind.Meaning] explains
// each.
const (
	KindCheckpoint  Kind = "checkpoint"
	KindSuppressed  Kind = "suppressed"
	KindRecovered   Kind = "recovered"
	KindAbandoned   Kind = "abandoned"
	KindResumed     Kind = "resumed"
	KindUnwitnessed Kind = "unwitnessed"
	KindLost        Kind = "lost"
	KindRestored    Kind = "restored"
)

// An Event is a line that the log writes about itself. Every kind has one field,
// and that field is set. Source belongs to KindSuppressed; KindAbandoned also has
// Resumed.
type Event struct {
	Time        time.Time
	Kind        Kind        `json:",omitempty"`
	Source      string      `json:",omitempty"` // of the last refusal that Suppressed counts
	Suppressed  int         `json:",omitempty"` // how many refusals
	Checkpoint  *Checkpoint `json:",omitempty"` // the signed line
	Recovered   bool        `json:",omitempty"`
	Resumed     string      `json:",omitempty"` // why nothing could be written
	Abandoned   string      `json:",omitempty"` // why the file was given up
	Unwitnessed uint64      `json:",omitempty"` // how many lines
	Lost        string      `json:",omitempty"` // who accepted the loss, and of what
	Restored    *Checkpoint `json:",omitempty"` // the head of the log when the backup was made

	inferred bool // the line has no Kind: an earlier version wrote it
}

// A kindInfo holds all that differs from kind to kind: whoever shows, explains or
// verifies events asks it.
type kindInfo struct {
	kind    Kind
	meaning string
	carried func(e *Event) bool            // reports whether the kind's field is set
	text    func(e *Event) string          // nil: the kind in parentheses
	link    func(r *reading, l Line) error // what the verifier does before it checks that the line is the next one; nil: nothing
	take    func(r *reading, l Line) error // what it does once the line is part of the chain; nil: nothing
}

// kinds lists all kinds. An event without Kind has the first one whose field is
// set, so abandoned comes before resumed.
var kinds = []kindInfo{
	{
		kind:    KindCheckpoint,
		meaning: "the token's audit key has signed the named line, which vouches for all lines before it",
		carried: func(e *Event) bool { return e.Checkpoint != nil },
		take:    (*reading).checkpoint,
	},
	{
		kind:    KindSuppressed,
		meaning: "this many refusals of unauthenticated callers have no line of their own; `Source` is the address of the last one",
		carried: func(e *Event) bool { return e.Suppressed > 0 },
		text:    func(e *Event) string { return fmt.Sprintf("(%d suppressed)", e.Suppressed) },
	},
	{
		kind:    KindRecovered,
		meaning: "a crash tore the line before this one; nobody was answered on the strength of it",
		carried: func(e *Event) bool { return e.Recovered },
	},
	{
		kind:    KindAbandoned,
		meaning: "flushing the previous file failed; the log continues here, after the last line known to be flushed",
		carried: func(e *Event) bool { return e.Abandoned != "" },
		link:    (*reading).abandon,
	},
	{
		kind:    KindResumed,
		meaning: "the log could not be written until now, for the reason given",
		carried: func(e *Event) bool { return e.Resumed != "" },
	},
	{
		kind:    KindUnwitnessed,
		meaning: "after a crash, at its start the gateway found this many lines after the last one that the database records",
		carried: func(e *Event) bool { return e.Unwitnessed > 0 },
		text:    func(e *Event) string { return fmt.Sprintf("(%d unwitnessed)", e.Unwitnessed) },
	},
	{
		kind:    KindLost,
		meaning: "the operator accepted that lines before this one are missing or changed",
		carried: func(e *Event) bool { return e.Lost != "" },
	},
	{
		kind:    KindRestored,
		meaning: "the instance was restored here, from a backup taken when the named line was the log's last",
		carried: func(e *Event) bool { return e.Restored != nil },
		link:    (*reading).restored,
	},
}

// Kinds returns all kinds that this version writes.
func Kinds() []Kind {
	var all []Kind
	for _, k := range kinds {
		all = append(all, k.kind)
	}
	return all
}

// info returns what is known of a kind. A kind of a later version is not known:
// ok is false.
func (k Kind) info() (info kindInfo, ok bool) {
	for _, info := range kinds {
		if info.kind == k {
			return info, true
		}
	}
	return kindInfo{kind: k}, false
}

// Meaning says what a line of this kind tells, in one sentence without a full
// stop. It is empty for a kind of a later version.
func (k Kind) Meaning() string {
	info, _ := k.info()
	return info.meaning
}

// String is the event in a word or two, as "(checkpoint)" or "(7 suppressed)". It
// may contain characters that act on a terminal if the Kind was read from a file.
func (e *Event) String() string {
	if info, _ := e.Kind.info(); info.text != nil {
		return info.text(e)
	}
	return "(" + string(e.Kind) + ")"
}

// kindOfFields returns the kind whose field is set; empty if none is. Lines of
// earlier versions say their kind in no other way.
func (e *Event) kindOfFields() Kind {
	for _, info := range kinds {
		if info.carried(e) {
			return info.kind
		}
	}
	return ""
}
