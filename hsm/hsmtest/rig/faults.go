package rig

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Faults is a PKCS#11 module that passes every call to a real module and injects faults. It
// works in any process that loads Module: this one, or a gateway that the test starts. The test
// may set faults before the module is loaded. Parameters called name are the names of PKCS#11
// functions, such as C_Sign. The methods are safe for concurrent use.
//
// A query for the length of an output counts as a call: miekg/pkcs11 calls C_Sign twice for a
// signature.
type Faults struct {
	Module string // the path of the module; one process may load it

	t       testing.TB
	control *control
	acting  sync.Mutex // held while an action is requested
}

// NewFaults returns a module that injects faults between real, the path of a module, and its
// user.
func NewFaults(t testing.TB, real string) *Faults {
	t.Helper()
	shim, err := compile()
	if err != nil {
		t.Fatal(err)
	}
	// Each test gets a separate copy, since a loaded module stays loaded.
	f := &Faults{t: t, Module: filepath.Join(t.TempDir(), "faults.so")}
	if err := os.WriteFile(f.Module, shim.module, 0o700); err != nil {
		t.Fatal(err)
	}
	if f.control, err = mapControl(f.Module + ".control"); err != nil {
		t.Fatal(err)
	}
	f.control.size.Store(int64(unsafe.Sizeof(control{})))
	if n := copy(f.control.real[:], real); n == len(f.control.real) {
		t.Fatalf("the path of the real module is too long: %q", real)
	}
	t.Cleanup(func() {
		f.Release() // otherwise a hanging call would outlive the test
		f.control.ask(quit)
	})
	return f
}

// control is shared with shim/faults.c, which documents its fields and has the same layout.
type control struct {
	size                                                    atomic.Int64
	real                                                    [4096]byte
	inFlight, collisions, sessions, tokenFlags, maxSessions atomic.Int64
	badSlot, badSlotCode, backwards, lostFlags, serial      atomic.Int64
	hidden                                                  [64]atomic.Int64
	request, done, released, _                              atomic.Uint32
	action, result                                          atomic.Int64
	functions                                               [96]function
}

type function struct {
	calls, code                  atomic.Int64
	fail, flip, cut, hang, crash atomic.Int64
	delay                        atomic.Int64
	lie, length                  atomic.Int64
	mislead, promise             atomic.Int64
	swap, repeat                 atomic.Int64
	other, last                  [2]atomic.Int64
	fill, first, step            atomic.Int64
}

// mapControl makes the file that a module and the test share. It is never unmapped, because
// goroutines of a finished test may still read it.
func mapControl(path string) (*control, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const size = int(unsafe.Sizeof(control{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*control)(unsafe.Pointer(&b[0])), nil
}

//go:embed shim/faults.c
var shimSource string

// A shim is shim/faults.c compiled.
type shim struct {
	module  []byte
	numbers map[string]int // function name → index in control.functions
}

// compile compiles the shim once in a process. It uses the headers of the binding.
var compile = sync.OnceValues(func() (s shim, err error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		return s, fmt.Errorf("finding the headers of PKCS#11: %w", err)
	}
	headers := strings.TrimSpace(string(out))
	if s.numbers, err = functionNumbers(filepath.Join(headers, "pkcs11f.h")); err != nil {
		return s, err
	}
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	module := filepath.Join(dir, "faults.so")
	cc := exec.Command("cc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-fvisibility=hidden",
		"-Wl,-Bsymbolic", "-pthread", "-I"+headers, "-o", module, "-x", "c", "-")
	cc.Stdin = strings.NewReader(shimSource)
	if out, err := cc.CombinedOutput(); err != nil {
		return s, fmt.Errorf("compiling shim/faults.c: %w: %s", err, out)
	}
	s.module, err = os.ReadFile(module)
	return s, err
})

// functionNumbers numbers the functions in the same way as shim/faults.c.
func functionNumbers(header string) (map[string]int, error) {
	text, err := os.ReadFile(header)
	if err != nil {
		return nil, err
	}
	numbers := make(map[string]int)
	for i, m := range regexp.MustCompile(`(?m)^CK_PKCS11_FUNCTION_INFO\((\w+)\)`).FindAllSubmatch(text, -1) {
		numbers[string(m[1])] = i
	}
	return numbers, nil
}

func (f *Faults) function(name string) *function {
	f.t.Helper()
	shim, err := compile()
	number, ok := shim.numbers[name]
	if err != nil || !ok {
		f.t.Fatalf("PKCS#11 has no function %q", name)
	}
	return &f.control.functions[number]
}

// Always, as the number of times, applies a fault to all calls until it is cleared.
const Always = -1

// Fail makes the next times calls of a function return code without reaching the
// real module. Zero times clears the fault.
func (f *Faults) Fail(name string, code uint, times int) {
	f.t.Helper()
	f.function(name).code.Store(int64(code))
	f.function(name).fail.Store(int64(times))
}

// Flip flips the last bit of the next times outputs of a function.
func (f *Faults) Flip(name string, times int) {
	f.t.Helper()
	f.function(name).flip.Store(int64(times))
}

// Truncate makes the next times outputs of a function one byte shorter.
func (f *Faults) Truncate(name string, times int) {
	f.t.Helper()
	f.function(name).cut.Store(int64(times))
}

// Fill replaces the bytes of the next times outputs of a function by first, first + step and
// so on.
func (f *Faults) Fill(name string, first, step byte, times int) {
	f.t.Helper()
	f.function(name).first.Store(int64(first))
	f.function(name).step.Store(int64(step))
	f.function(name).fill.Store(int64(times))
}

// SetLength makes a function report n as the length of its next times outputs, whatever their
// true length. The outputs of C_GetAttributeValue are attributes. C_FindObjects reports n
// objects; zero makes a page appear empty.
func (f *Faults) SetLength(name string, n uint, times int) {
	f.t.Helper()
	f.function(name).length.Store(int64(n))
	f.function(name).lie.Store(int64(times))
}

// Promise makes a function answer the next times queries for the length of its output with n.
func (f *Faults) Promise(name string, n uint, times int) {
	f.t.Helper()
	f.function(name).promise.Store(int64(n))
	f.function(name).mislead.Store(int64(times))
}

// InputHandle, as an argument of Swap, is the handle that was passed to the call.
const InputHandle = ^uint(0)

// Swap makes the next times calls of C_CopyObject, C_GenerateKeyPair, C_OpenSession
// or C_FindObjects return the given handles instead of the right ones. For a key pair they are
// those of the public and the private half. Zero leaves a handle unchanged. The real module
// still makes the objects.
func (f *Faults) Swap(name string, times int, handles ...uint) {
	f.t.Helper()
	function := f.function(name)
	for i := range function.other {
		function.other[i].Store(0)
		if i < len(handles) {
			function.other[i].Store(int64(handles[i]))
		}
	}
	function.swap.Store(int64(times))
}

// Repeat makes the next times calls of a function that Swap supports return the handles of the
// previous call. C_FindObjects lists the last object of a page twice.
func (f *Faults) Repeat(name string, times int) {
	f.t.Helper()
	f.function(name).repeat.Store(int64(times))
}

// Pending returns how many faults of a function are still to come, summed over the methods
// with a number of times. It is negative after Always.
func (f *Faults) Pending(name string) int {
	f.t.Helper()
	function, n := f.function(name), int64(0)
	for _, times := range []*atomic.Int64{
		&function.fail, &function.flip, &function.cut, &function.hang, &function.crash,
		&function.lie, &function.mislead, &function.swap, &function.repeat, &function.fill,
	} {
		n += times.Load()
	}
	return int(n)
}

// Clear clears all faults of a function.
func (f *Faults) Clear(name string) {
	f.t.Helper()
	function := f.function(name)
	for _, times := range []*atomic.Int64{
		&function.fail, &function.flip, &function.cut, &function.hang, &function.crash, &function.delay,
		&function.lie, &function.mislead, &function.swap, &function.repeat, &function.fill,
	} {
		times.Store(0)
	}
}

// Hang makes the next times calls of a function wait for Release before they reach the real
// module.
func (f *Faults) Hang(name string, times int) {
	f.t.Helper()
	f.function(name).hang.Store(int64(times))
}

// Release lets all hanging calls continue, and clears all hangs.
func (f *Faults) Release() {
	for i := range f.control.functions {
		f.control.functions[i].hang.Store(0)
	}
	f.control.released.Add(1)
	futexWake(&f.control.released)
}

// Delay makes every call of a function take d longer.
func (f *Faults) Delay(name string, d time.Duration) {
	f.t.Helper()
	f.function(name).delay.Store(int64(d))
}

// Crash makes the next call of a function abort the process that calls it.
func (f *Faults) Crash(name string) {
	f.t.Helper()
	f.function(name).crash.Store(1)
}

// SetTokenFlags adds flags to those of every token, until SetTokenFlags(0).
func (f *Faults) SetTokenFlags(flags uint) { f.control.tokenFlags.Store(int64(flags)) }

// ClearTokenFlags removes flags from those of every token, until ClearTokenFlags(0).
func (f *Faults) ClearTokenFlags(flags uint) { f.control.lostFlags.Store(int64(flags)) }

// LimitSessions makes every token report n as its maximum number of sessions, until
// LimitSessions(0).
func (f *Faults) LimitSessions(n uint) { f.control.maxSessions.Store(int64(n)) }

// FailSlot makes C_GetTokenInfo return code for a slot. CKR_OK clears the fault.
func (f *Faults) FailSlot(slot, code uint) {
	f.control.badSlotCode.Store(int64(code))
	f.control.badSlot.Store(0)
	if code != 0 {
		f.control.badSlot.Store(int64(slot) + 1)
	}
}

// ReverseSlots makes C_GetSlotList list the slots in reverse order from now on.
func (f *Faults) ReverseSlots() { f.control.backwards.Store(1) }

// Serialize makes the module do one call at a time from now on. Each call waits until the previous
// one has returned, even if that one hangs. Calls does not count a call that waits.
func (f *Faults) Serialize() { f.control.serial.Store(1) }

// HideMechanisms hides the given mechanisms and rejects their use. Previously hidden mechanisms
// become visible again.
func (f *Faults) HideMechanisms(mechanisms ...uint) {
	for i := range f.control.hidden {
		f.control.hidden[i].Store(0)
	}
	for i, m := range mechanisms {
		f.control.hidden[i].Store(int64(m) + 1)
	}
}

// Calls returns how often a function was called.
func (f *Faults) Calls(name string) int {
	f.t.Helper()
	return int(f.function(name).calls.Load())
}

// InFlight returns how many calls have not returned.
func (f *Faults) InFlight() int { return int(f.control.inFlight.Load()) }

// Sessions returns how many sessions are open.
func (f *Faults) Sessions() int { return int(f.control.sessions.Load()) }

// Collisions returns how often C_Finalize or C_CloseAllSessions was called while another
// call was in flight, which crashes real modules.
func (f *Faults) Collisions() int { return int(f.control.collisions.Load()) }

// The actions of shim/faults.c.
const (
	closeSessions = iota + 1
	logout
	reinitialize
	quit
)

// CloseSessions closes all sessions of the real module while no call is in flight.
// The login ends with them.
func (f *Faults) CloseSessions() { f.act("closing sessions", closeSessions) }

// Logout ends the login to the real module while no call is in flight.
func (f *Faults) Logout() { f.act("logging out", logout) }

// Reinitialize finalizes and initializes the real module while no call is in flight.
func (f *Faults) Reinitialize() { f.act("reinitializing", reinitialize) }

// act has the shim's thread act on the real module. An action fails between two connections of
// the module's user, so act repeats it until it succeeds.
func (f *Faults) act(description string, action int64) {
	f.t.Helper()
	f.acting.Lock()
	defer f.acting.Unlock()
	poll(f.t, description, func() bool {
		asked := f.control.ask(action)
		for deadline := time.Now().Add(timeout); f.control.done.Load() != asked; {
			futexWait(&f.control.done, asked-1, time.Second)
			if time.Now().After(deadline) {
				f.t.Fatalf("%s: no process that loaded %s responded within %v", description, f.Module, timeout)
			}
		}
		return f.control.result.Load() == 0
	})
}

// ask requests an action. It returns what done will be once the action is.
func (c *control) ask(action int64) uint32 {
	c.action.Store(action)
	asked := c.request.Add(1)
	futexWake(&c.request)
	return asked
}

// The operations of linux/futex.h.
const (
	opWait = 0
	opWake = 1
)

// futexWait waits until another process or thread wakes the word. It returns at once if the
// word is not old, and after limit at the latest.
func futexWait(word *atomic.Uint32, old uint32, limit time.Duration) {
	ts := unix.NsecToTimespec(int64(limit))
	// The result does not matter: the caller reads the word again.
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), opWait, uintptr(old),
		uintptr(unsafe.Pointer(&ts)), 0, 0)
}

func futexWake(word *atomic.Uint32) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), opWake, 1<<30, 0, 0, 0)
}
