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

// Faults is a PKCS#11 module that hands every call to a real one, and injects
// faults. It obeys in whatever process it is loaded, in this one or in a gateway
// that the test started, and may be told before it is loaded. Functions are named
// as PKCS#11 names them. Its methods may be called from any goroutine.
//
// A question for the length of an output is a call of its own: miekg/pkcs11 calls
// C_Sign twice for a signature.
type Faults struct {
	Module string // to be loaded, once

	t       testing.TB
	control *control
	acting  sync.Mutex // held while an action is asked for
}

// NewFaults puts a module between real and its user.
func NewFaults(t testing.TB, real string) *Faults {
	t.Helper()
	shim, err := compile()
	if err != nil {
		t.Fatal(err)
	}
	// A copy for each test: a module that was loaded stays loaded.
	f := &Faults{t: t, Module: filepath.Join(t.TempDir(), "faults.so")}
	if err := os.WriteFile(f.Module, shim.module, 0o700); err != nil {
		t.Fatal(err)
	}
	if f.control, err = mapControl(f.Module + ".control"); err != nil {
		t.Fatal(err)
	}
	f.control.size.Store(int64(unsafe.Sizeof(control{})))
	if n := copy(f.control.real[:], real); n == len(f.control.real) {
		t.Fatalf("the module's path is too long: %s", real)
	}
	t.Cleanup(func() {
		f.Release() // or a hung call would outlive the test
		f.request(quit)
	})
	return f
}

// control is shared with shim/faults.c, which says what its fields mean and has
// the same layout.
type control struct {
	size                                              atomic.Int64
	real                                              [4096]byte
	inFlight, torn, sessions, tokenFlags, maxSessions atomic.Int64
	badSlot, badSlotCode, backwards, lostFlags        atomic.Int64
	hidden                                            [64]atomic.Int64
	request, done, released, _                        atomic.Uint32
	action, result                                    atomic.Int64
	functions                                         [96]function
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

// mapControl makes the file that a module and the test share. It is never
// unmapped: what is left of a test may still look at it.
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
	numbers map[string]int // of the functions
}

// compile compiles the shim, once for a process, with the headers that come with
// the binding.
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
	cc := exec.Command("cc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-Bsymbolic", "-pthread",
		"-I"+headers, "-o", module, "-x", "c", "-")
	cc.Stdin = strings.NewReader(shimSource)
	if out, err := cc.CombinedOutput(); err != nil {
		return s, fmt.Errorf("compiling shim/faults.c: %w: %s", err, out)
	}
	s.module, err = os.ReadFile(module)
	return s, err
})

// functionNumbers numbers the functions as shim/faults.c does.
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

// Always, as a number of calls, is all of them until told otherwise.
const Always = -1

// Fail makes the next times calls of a function return code without reaching the
// real module. Zero times ends it.
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

// Short makes the next times outputs of a function a byte shorter.
func (f *Faults) Short(name string, times int) {
	f.t.Helper()
	f.function(name).cut.Store(int64(times))
}

// Fill makes the next times outputs of a function first, first + step and so on.
func (f *Faults) Fill(name string, first, step byte, times int) {
	f.t.Helper()
	f.function(name).first.Store(int64(first))
	f.function(name).step.Store(int64(step))
	f.function(name).fill.Store(int64(times))
}

// Length makes the next times outputs of a function be said to be n bytes long,
// whatever they are. C_GetAttributeValue gives out attributes, C_FindObjects n
// objects: none of a page, if n is zero.
func (f *Faults) Length(name string, n uint, times int) {
	f.t.Helper()
	f.function(name).length.Store(int64(n))
	f.function(name).lie.Store(int64(times))
}

// Promise makes the next times questions for the length of a function's output be
// answered with n.
func (f *Faults) Promise(name string, n uint, times int) {
	f.t.Helper()
	f.function(name).promise.Store(int64(n))
	f.function(name).mislead.Store(int64(times))
}

// Own is, for Swap, the handle that the call was given.
const Own = ^uint(0)

// Swap makes the next times calls of C_CopyObject, C_GenerateKeyPair, C_OpenSession
// or C_FindObjects give out other handles than they should: of a pair, those of its
// public and its private half. Zero leaves a handle as it is. What was made is there
// all the same.
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

// Repeat makes the next times calls of such a function give out what the call before
// made, another time. C_FindObjects lists the last object of a page twice.
func (f *Faults) Repeat(name string, times int) {
	f.t.Helper()
	f.function(name).repeat.Store(int64(times))
}

// Pending is how often a function will still be made to do what it should not, by
// any of the methods that say how often; less than zero is always.
func (f *Faults) Pending(name string) int {
	f.t.Helper()
	function, n := f.function(name), int64(0)
	for _, times := range []*atomic.Int64{&function.fail, &function.flip, &function.cut, &function.hang, &function.crash,
		&function.lie, &function.mislead, &function.swap, &function.repeat, &function.fill} {
		n += times.Load()
	}
	return int(n)
}

// End ends all that a function was made to do and not to do.
func (f *Faults) End(name string) {
	f.t.Helper()
	function := f.function(name)
	for _, times := range []*atomic.Int64{&function.fail, &function.flip, &function.cut, &function.hang, &function.crash, &function.delay,
		&function.lie, &function.mislead, &function.swap, &function.repeat, &function.fill} {
		times.Store(0)
	}
}

// Hang makes the next times calls of a function wait for Release, in front of
// the real module.
func (f *Faults) Hang(name string, times int) {
	f.t.Helper()
	f.function(name).hang.Store(int64(times))
}

// Release lets all calls that hang go on, and no further one hang.
func (f *Faults) Release() {
	for i := range f.control.functions {
		f.control.functions[i].hang.Store(0)
	}
	f.control.released.Add(1)
	futexWake(&f.control.released)
}

// Delay makes every call of a function take so much longer.
func (f *Faults) Delay(name string, d time.Duration) {
	f.t.Helper()
	f.function(name).delay.Store(int64(d))
}

// Crash makes the next call of a function abort its process.
func (f *Faults) Crash(name string) {
	f.t.Helper()
	f.function(name).crash.Store(1)
}

// TokenFlags adds flags to those of every token, until TokenFlags(0).
func (f *Faults) TokenFlags(flags uint) { f.control.tokenFlags.Store(int64(flags)) }

// WithoutTokenFlags takes flags from those of every token, until
// WithoutTokenFlags(0).
func (f *Faults) WithoutTokenFlags(flags uint) { f.control.lostFlags.Store(int64(flags)) }

// MaxSessions has every token say that it can have no more sessions open than n,
// until MaxSessions(0).
func (f *Faults) MaxSessions(n uint) { f.control.maxSessions.Store(int64(n)) }

// FailSlot makes C_GetTokenInfo return code for a slot. CKR_OK ends it.
func (f *Faults) FailSlot(slot, code uint) {
	f.control.badSlotCode.Store(int64(code))
	f.control.badSlot.Store(0)
	if code != 0 {
		f.control.badSlot.Store(int64(slot) + 1)
	}
}

// SlotsBackwards has the slots be listed in the other order from now on.
func (f *Faults) SlotsBackwards() { f.control.backwards.Store(1) }

// WithoutMechanism hides mechanisms, and no others, and refuses their use.
func (f *Faults) WithoutMechanism(mechanisms ...uint) {
	for i := range f.control.hidden {
		f.control.hidden[i].Store(0)
	}
	for i, m := range mechanisms {
		f.control.hidden[i].Store(int64(m) + 1)
	}
}

// Calls is how often a function was called.
func (f *Faults) Calls(name string) int {
	f.t.Helper()
	return int(f.function(name).calls.Load())
}

// InFlight is how many calls have not returned.
func (f *Faults) InFlight() int { return int(f.control.inFlight.Load()) }

// Sessions is how many sessions are open.
func (f *Faults) Sessions() int { return int(f.control.sessions.Load()) }

// Torn is how often C_Finalize or C_CloseAllSessions was called while another
// call had not returned, which crashes real modules.
func (f *Faults) Torn() int { return int(f.control.torn.Load()) }

// The actions of shim/faults.c.
const (
	closeSessions = iota + 1
	logout
	reinitialize
	quit
)

// CloseSessions closes all sessions underneath, when no call is in the module.
// The login ends with them.
func (f *Faults) CloseSessions() { f.act("closing sessions", closeSessions) }

// Logout ends the login underneath, when no call is in the module.
func (f *Faults) Logout() { f.act("logging out", logout) }

// Reinitialize finalizes and initializes the module underneath, when no call is
// in it.
func (f *Faults) Reinitialize() { f.act("reinitializing", reinitialize) }

// act has the shim's thread do something to the real module. Between two
// connections of its user there is nothing to be done, so it waits for the next.
func (f *Faults) act(what string, action int64) {
	f.t.Helper()
	f.acting.Lock()
	defer f.acting.Unlock()
	poll(f.t, what, func() bool {
		asked := f.request(action)
		for deadline := time.Now().Add(patience); f.control.done.Load() != asked; {
			futexWait(&f.control.done, asked-1, time.Second)
			if time.Now().After(deadline) {
				f.t.Fatalf("%s: no process that has loaded %s did it in %v", what, f.Module, patience)
			}
		}
		return f.control.result.Load() == 0
	})
}

func (f *Faults) request(action int64) uint32 {
	f.control.action.Store(action)
	asked := f.control.request.Add(1)
	futexWake(&f.control.request)
	return asked
}

// Of linux/futex.h.
const (
	opWait = 0
	opWake = 1
)

// futexWait waits until another process or thread wakes the word, if it is still
// what it was.
func futexWait(word *atomic.Uint32, was uint32, atMost time.Duration) {
	timeout := unix.NsecToTimespec(int64(atMost))
	// Whatever ends it, the caller looks again.
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), opWait, uintptr(was), uintptr(unsafe.Pointer(&timeout)), 0, 0)
}

func futexWake(word *atomic.Uint32) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), opWake, 1<<30, 0, 0, 0)
}
