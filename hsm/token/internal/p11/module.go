package p11

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// A Module is a PKCS#11 module in this process. Use [Load].
type Module struct {
	path string
	ctx  *pkcs11.Ctx // never destroyed: SoftHSM is known to crash when unloaded

	calls    calls
	sessions sync.Map // the handles of those that are open: pkcs11.SessionHandle → true

	oneAtATime atomic.Bool
	turn       sync.Mutex // held during a call if oneAtATime
}

// Load loads the module from a shared library, and does not initialize it.
func Load(path string) (*Module, error) {
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, fmt.Errorf("%s cannot be loaded as a PKCS#11 module", path)
	}
	return &Module{path: path, ctx: ctx}, nil
}

// Path returns the path that the module was loaded from.
func (m *Module) Path() string { return m.path }

// SetOneAtATime has calls be made one after the other, or not. It is for a module that
// has an instance for each binding: p11-kit's client, which is of that kind, waits for
// ever if its server is killed while two calls are under way (0.24.1,
// rpc_socket_read), and its server does them one after the other anyway.
func (m *Module) SetOneAtATime(on bool) { m.oneAtATime.Store(on) }

// OneAtATime reports whether calls are made one after the other.
func (m *Module) OneAtATime() bool { return m.oneAtATime.Load() }

// Longest returns the call that has been under way for longest, and for how long; zero
// if there is none.
func (m *Module) Longest() (call string, took time.Duration) { return m.calls.longest() }

// Call does f, which calls into the module by another binding, or does something else
// that can hang. It is as safe and as timed as this package's own calls; f's error is
// not marked. f must not call Call.
func (m *Module) Call(name string, f func() error) error {
	if m.oneAtATime.Load() {
		m.turn.Lock()
		defer m.turn.Unlock()
	}
	c := m.calls.begin(name)
	defer m.calls.end(c)
	return Safely(f)
}

// call is Call for a function of the module, and marks its error.
func (m *Module) call(name string, f func() error) error { return Wrap(name, m.Call(name, f)) }

// result is call for a function that returns something.
func result[T any](m *Module, name string, f func() (T, error)) (v T, err error) {
	err = m.call(name, func() error {
		var err error
		v, err = f()
		return err
	})
	return v, err
}

// Initialize initializes the module, and reports whether something in this process
// had done so already, which is no error.
func (m *Module) Initialize() (already bool, err error) {
	err = m.call("C_Initialize", func() error { return m.ctx.Initialize() })
	if Is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return true, nil
	}
	return false, err
}

// Finalize ends the use of the module: all sessions and handles are gone. What also
// uses the module finalizes it in others, if that is not nil. The error says which
// descriptors of the module could not be kept (descriptors.go).
func (m *Module) Finalize(others func()) error {
	defer KeepStandardInput()
	before := lockFiles()
	if others != nil {
		others()
	}
	_ = m.call("C_Finalize", m.ctx.Finalize) // an error says that this was the end, too
	m.sessions.Clear()
	return reopen(before)
}

// Info returns what the module says of itself.
func (m *Module) Info() (pkcs11.Info, error) { return result(m, "C_GetInfo", m.ctx.GetInfo) }

// Slots lists the slots that have a token.
func (m *Module) Slots() ([]uint, error) {
	return result(m, "C_GetSlotList", func() ([]uint, error) { return m.ctx.GetSlotList(true) })
}

// TokenInfo returns what the token in a slot says of itself.
func (m *Module) TokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	return result(m, "C_GetTokenInfo", func() (pkcs11.TokenInfo, error) { return m.ctx.GetTokenInfo(slot) })
}

// A Mechanism is one that a token lists.
type Mechanism struct {
	ID uint
	pkcs11.MechanismInfo
}

// Mechanisms lists the mechanisms of the token in a slot.
func (m *Module) Mechanisms(slot uint) ([]Mechanism, error) {
	list, err := result(m, "C_GetMechanismList", func() ([]*pkcs11.Mechanism, error) { return m.ctx.GetMechanismList(slot) })
	if err != nil {
		return nil, err
	}
	all := make([]Mechanism, 0, len(list))
	for _, one := range list {
		info, err := result(m, "C_GetMechanismInfo", func() (pkcs11.MechanismInfo, error) {
			return m.ctx.GetMechanismInfo(slot, []*pkcs11.Mechanism{one})
		})
		if err != nil {
			return nil, err
		}
		all = append(all, Mechanism{one.Mechanism, info})
	}
	return all, nil
}

// InitToken initializes the token in a slot, which destroys what is in it.
func (m *Module) InitToken(slot uint, officerPIN, label string) error {
	return m.call("C_InitToken", func() error { return m.ctx.InitToken(slot, officerPIN, label) })
}
