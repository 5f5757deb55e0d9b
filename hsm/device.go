package hsm

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
	Close() error
}
