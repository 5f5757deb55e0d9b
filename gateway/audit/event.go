package audit

import (
	"fmt"
	"time"
)

// A Kind is the kind of an [Event].
type Kind string

// The kinds of lines that the log writes about itself. [Kind.Meaning] explains each kind.
const (
	KindCheckpoint  Kind = "checkpoint"
	KindSuppressed  Kind = "suppressed"
	KindRecovered   Kind = "recovered"
	KindAbandoned   Kind = "abandoned"
	KindResumed     Kind = "resumed"
	KindUnwitnessed Kind = "unwitnessed"
	KindLost        Kind = "lost"
	KindRestored    Kind = "restored"
	KindUnanswered  Kind = "unanswered"
	KindDeleted     Kind = "deleted"
	KindRolledBack  Kind = "rolledback"
	KindInDoubt     Kind = "indoubt"
)

// An Event is a line that the log writes about itself. Each kind has a field of the same name,
// which is set. Source, Principal, Code, First and Last belong to KindSuppressed, and Changes and
// ClosedTo to KindCheckpoint. KindAbandoned also has Resumed.
type Event struct {
	Time        time.Time
	Kind        Kind        `json:",omitempty"`
	Source      string      `json:",omitempty"` // the address of the last refusal that Suppressed counts
	Suppressed  int         `json:",omitempty"` // the number of refusals
	Checkpoint  *Checkpoint `json:",omitempty"` // the signed line
	Recovered   bool        `json:",omitempty"`
	Resumed     string      `json:",omitempty"` // why the log could not be written
	Abandoned   string      `json:",omitempty"` // why the log abandoned the file
	Unwitnessed uint64      `json:",omitempty"` // the number of lines
	Lost        string      `json:",omitempty"` // who accepted the loss, and what was lost
	Restored    *Checkpoint `json:",omitempty"` // the head of the log when the backup was taken
	Unanswered  []uint64    `json:",omitempty"` // the numbers of the lines
	Deleted     *Deletion   `json:",omitempty"` // the end of the deleted file
	Changes     uint64      `json:",omitempty"` // the number of the database's last change
	RolledBack  *Rollback   `json:",omitempty"` // how far the database is behind
	InDoubt     []uint64    `json:",omitempty"` // the numbers of the lines
	ClosedTo    uint64      `json:",omitempty"` // all Intended lines up to this number are closed

	// The common properties of the refusals that Suppressed counts, and the times of the first and
	// the last. Without a Code, their callers could not authenticate. With a Code but without a
	// Principal, they had several callers.
	Principal string    `json:",omitempty"`
	Code      string    `json:",omitempty"`
	First     time.Time `json:",omitzero"`
	Last      time.Time `json:",omitzero"`

	inferred bool // the line has no Kind, because an earlier version wrote it
}

// A Rollback tells that the database is older than something that has seen it.
type Rollback struct {
	Found uint64 // the number of the database's last change
	Seen  uint64 // the greatest number of a change in the log or in the token
}

// A Deletion names a file that retention deletes. The log flushes the event, and a checkpoint that
// covers it, before it removes the file.
type Deletion struct {
	Head        // the last line of the file: the one that the next file follows
	File string // the file's name, without its directory
}

// A kindInfo describes how to show, explain and verify events of one kind.
type kindInfo struct {
	kind    Kind
	meaning string
	isSet   func(e *Event) bool            // reports whether the kind's field is set
	text    func(e *Event) string          // nil means the kind in parentheses
	prepare func(r *reading, l Line) error // runs before the verifier checks that the line is the next one; can be nil
	accept  func(r *reading, l Line) error // runs once the line is part of the chain; can be nil
}

// kinds lists all kinds. An event without Kind has the first kind whose field is set, so abandoned
// precedes resumed.
var kinds = []kindInfo{
	{
		kind:    KindCheckpoint,
		meaning: "the token's audit key has signed the named line, which vouches for all lines before it",
		isSet:   func(e *Event) bool { return e.Checkpoint != nil },
		accept:  (*reading).checkpoint,
	},
	{
		kind: KindSuppressed,
		meaning: "this many refusals have no separate line: those of one `Principal` with one `Code` or, without " +
			"these, of unauthenticated callers; `First` and `Last` are their times, `Source` is the last one's address",
		isSet: func(e *Event) bool { return e.Suppressed > 0 },
		text:  func(e *Event) string { return fmt.Sprintf("(%d suppressed)", e.Suppressed) },
	},
	{
		kind:    KindRecovered,
		meaning: "a crash tore the line before this one; no request was answered because of the torn line",
		isSet:   func(e *Event) bool { return e.Recovered },
		accept:  (*reading).doubt,
	},
	{
		kind:    KindAbandoned,
		meaning: "flushing the previous file failed; the log continues here, after the last line known to be flushed",
		isSet:   func(e *Event) bool { return e.Abandoned != "" },
		prepare: (*reading).abandon,
	},
	{
		kind:    KindResumed,
		meaning: "the log could not be written before this line, for the given reason",
		isSet:   func(e *Event) bool { return e.Resumed != "" },
	},
	{
		kind: KindUnwitnessed,
		meaning: "at its start after a crash, the gateway found this many lines " +
			"after the last one recorded in the database",
		isSet:  func(e *Event) bool { return e.Unwitnessed > 0 },
		text:   func(e *Event) string { return fmt.Sprintf("(%d unwitnessed)", e.Unwitnessed) },
		accept: (*reading).doubt,
	},
	{
		kind:    KindLost,
		meaning: "the operator accepted that lines before this one are missing or changed",
		isSet:   func(e *Event) bool { return e.Lost != "" },
		accept:  (*reading).doubt,
	},
	{
		kind:    KindRestored,
		meaning: "the instance was restored from a backup that was taken when the named line was the log's last",
		isSet:   func(e *Event) bool { return e.Restored != nil },
		prepare: (*reading).restored,
	},
	{
		kind: KindUnanswered,
		meaning: "the results of the named lines were not released: the callers had already got 503, or the log could not " +
			"take the `NotReleased` lines; changes were made nevertheless",
		isSet: func(e *Event) bool { return len(e.Unanswered) > 0 },
		text:  func(e *Event) string { return fmt.Sprintf("(%d unanswered)", len(e.Unanswered)) },
	},
	{
		kind:    KindDeleted,
		meaning: "retention deletes the named file, which ends with the named line; the log can begin after that line",
		isSet:   func(e *Event) bool { return e.Deleted != nil },
		accept:  (*reading).deleted,
	},
	{
		kind: KindRolledBack,
		meaning: "the operator insisted on a database that lacks the last changes in the log or in the token, " +
			"or restored one from a backup",
		isSet:  func(e *Event) bool { return e.RolledBack != nil },
		accept: (*reading).rolledBack,
	},
	{
		kind:    KindInDoubt,
		meaning: "after a crash, nothing in the log says whether the results of these intended lines were released",
		isSet:   func(e *Event) bool { return len(e.InDoubt) > 0 },
		text:    func(e *Event) string { return fmt.Sprintf("(%d indoubt)", len(e.InDoubt)) },
		accept:  (*reading).inDoubt,
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

// info returns the description of k. ok is false for a kind of a later version, which is not known.
func (k Kind) info() (info kindInfo, ok bool) {
	for _, info := range kinds {
		if info.kind == k {
			return info, true
		}
	}
	return kindInfo{kind: k}, false
}

// Meaning explains a line of this kind in one sentence without a full stop. It is empty for a kind
// of a later version.
func (k Kind) Meaning() string {
	info, _ := k.info()
	return info.meaning
}

// String returns the event in a word or two, for example "(checkpoint)" or "(7 suppressed)". If the
// Kind was read from a file, the text can contain terminal control characters.
func (e *Event) String() string {
	if info, _ := e.Kind.info(); info.text != nil {
		return info.text(e)
	}
	return "(" + string(e.Kind) + ")"
}

// kindOfFields returns the kind whose field is set, or "" if none is. Lines of earlier versions
// have no other indication of their kind.
func (e *Event) kindOfFields() Kind {
	for _, info := range kinds {
		if info.isSet(e) {
			return info.kind
		}
	}
	return ""
}
