package p11

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// A Module is a PKCS#11 module in this process. Use [Load].
type Module struct {
	path string
	ctx  *pkcs11.Ctx // never destroyed, because unloading SoftHSM can crash the process

	calls    calls
	sessions sync.Map // the open sessions: pkcs11.SessionHandle → true

	oneAtATime atomic.Bool
	turn       sync.Mutex // held during a call if oneAtATime
}

// Load loads the module from a shared library without initializing it.
func Load(path string) (*Module, error) {
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, fmt.Errorf("cannot load PKCS#11 module %q "+
			"(check the path, and run ldd on it for missing libraries)", path)
	}
	return &Module{path: path, ctx: ctx}, nil
}

// Path returns the path that the module was loaded from.
func (m *Module) Path() string { return m.path }

// SetOneAtATime enables or disables the serialization of calls. It is for a module that has a
// separate instance for each binding, such as p11-kit's client. That client waits forever if
// its server is killed while two calls are in flight (0.24.1, rpc_socket_read), and its server
// processes calls one after the other anyway.
func (m *Module) SetOneAtATime(enable bool) { m.oneAtATime.Store(enable) }

// OneAtATime reports whether calls are serialized.
func (m *Module) OneAtATime() bool { return m.oneAtATime.Load() }

// A Call is a call in flight.
type Call struct {
	ID   uint64 // not 0, and greater than those of earlier calls of the Module
	Name string
	Age  time.Duration // as Module.Age has counted it
}

// Generates reports whether the call makes a key, which can take minutes.
func (c Call) Generates() bool { return strings.HasPrefix(c.Name, "C_GenerateKey") }

// Age makes the calls in flight older by d. The caller counts the time, because the clock runs on while
// the process stands still. While a call is in flight that excuses the others, the others become no
// older: some modules do one thing at a time.
func (m *Module) Age(d time.Duration, excuses func(Call) bool) { m.calls.age(d, excuses) }

// InFlight returns the calls in flight.
func (m *Module) InFlight() []Call { return m.calls.inFlight() }

// Progress returns the ID of the last call that has begun, and the greatest ID of a call of the module that
// has returned.
func (m *Module) Progress() (begun, returned uint64) { return m.calls.progress() }

// Call calls f, which uses the module through another binding or can hang for another reason.
// Call protects and times f like the calls of this package, but does not mark its error.
// f must not call Call.
func (m *Module) Call(name string, f func() error) error {
	if m.oneAtATime.Load() {
		m.turn.Lock()
		defer m.turn.Unlock()
	}
	c := m.calls.begin(name)
	defer m.calls.end(c)
	return Protect(f)
}

// call is like Call and marks the error of f, which calls a function of the module.
func (m *Module) call(name string, f func() error) error { return Wrap(name, m.Call(name, f)) }

// result is like call for an f that returns a value.
func result[T any](m *Module, name string, f func() (T, error)) (v T, err error) {
	err = m.call(name, func() error {
		var err error
		v, err = f()
		return err
	})
	return v, err
}

// Initialize initializes the module. repeated reports whether it was already initialized in
// this process, which is not an error.
func (m *Module) Initialize() (repeated bool, err error) {
	err = m.call("C_Initialize", func() error { return m.ctx.Initialize() })
	if Is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return true, nil
	}
	return false, err
}

// Finalize finalizes the module. All sessions and handles become invalid. If finalizeOthers is not
// nil, Finalize calls it first to finalize other uses of the module. The error names the
// descriptors of the module that could not be reopened (descriptors.go).
func (m *Module) Finalize(finalizeOthers func()) error {
	defer KeepStandardInput()
	before := lockFiles()
	if finalizeOthers != nil {
		finalizeOthers()
	}
	_ = m.call("C_Finalize", m.ctx.Finalize) // the sessions are gone even after an error
	m.sessions.Clear()
	return reopen(before)
}

// Info returns the module's CK_INFO.
func (m *Module) Info() (pkcs11.Info, error) { return result(m, "C_GetInfo", m.ctx.GetInfo) }

// Slots lists the slots that have a token.
func (m *Module) Slots() ([]uint, error) {
	return result(m, "C_GetSlotList", func() ([]uint, error) { return m.ctx.GetSlotList(true) })
}

// TokenInfo returns the CK_TOKEN_INFO of the token in a slot.
func (m *Module) TokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	return result(m, "C_GetTokenInfo", func() (pkcs11.TokenInfo, error) { return m.ctx.GetTokenInfo(slot) })
}

// A Mechanism is a mechanism that a token lists.
type Mechanism struct {
	ID uint
	pkcs11.MechanismInfo
}

// Mechanisms lists the mechanisms of the token in a slot.
func (m *Module) Mechanisms(slot uint) ([]Mechanism, error) {
	list, err := result(m, "C_GetMechanismList", func() ([]*pkcs11.Mechanism, error) {
		return m.ctx.GetMechanismList(slot)
	})
	if err != nil {
		return nil, err
	}
	all := make([]Mechanism, 0, len(list))
	for _, mechanism := range list {
		info, err := result(m, "C_GetMechanismInfo", func() (pkcs11.MechanismInfo, error) {
			return m.ctx.GetMechanismInfo(slot, []*pkcs11.Mechanism{mechanism})
		})
		if err != nil {
			return nil, err
		}
		all = append(all, Mechanism{mechanism.Mechanism, info})
	}
	return all, nil
}

// InitToken initializes the token in a slot and destroys all its objects.
func (m *Module) InitToken(slot uint, officerPIN, label string) error {
	return m.call("C_InitToken", func() error { return m.ctx.InitToken(slot, officerPIN, label) })
}
