package hsm

import "context"

// A Device is where an instance keeps its keys. It is not open yet.
type Device interface {
	// Open opens the device. With provision it creates what is missing. The token calls onLoss
	// whenever it has lost its connection, possibly before Open returns.
	Open(provision bool, onLoss func()) (Token, error)

	// Inspect opens the device, calls inspect, and closes it again. It creates nothing. If the
	// device does not exist yet, it does not call inspect, and returns nil.
	Inspect(inspect func(Inspector) error) error

	String() string // names the device in messages, such as `the token with label "kms"`
}

// A Token is an open Device. The private keys of its Backend are not sealed.
type Token interface {
	Backend
	Sealer
	Randomizer
	Inspector
	AuditKeeper
	Close() error
}

// An AuditKeeper keeps the key that signs the audit log apart from the keys that sign for users.
// Its methods are safe for concurrent use.
type AuditKeeper interface {
	// Audit returns the Backend that makes the audit log's key and signs with it. Every other
	// Backend of the token lacks the keys that it has made, whatever a Key says.
	Audit() Backend

	// Reserve keeps the key pair with an id for Audit, even if it was made as a signing key, as
	// earlier versions did. From then on only Audit signs with it, and nothing destroys it. A later
	// call replaces the id.
	Reserve(id []byte)
}

// A Counter keeps one number in a token. Files of an instance that were exchanged for older ones
// do not change it. It is safe for concurrent use.
type Counter interface {
	// Counter returns the stored number. known is false if the token has none. If SetCounter was
	// cut off, it returns the greater of the previous number and the new one.
	Counter(ctx context.Context) (n uint64, known bool, err error)

	// SetCounter stores a number, and returns once it is on stable storage. The error is
	// ErrNoCounter if the token does not store such an object.
	SetCounter(ctx context.Context, n uint64) error
}
