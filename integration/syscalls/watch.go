package syscalls

import (
	"errors"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Watch intercepts the calls of one program, from Start until the program ends. The zero value is
// ready for use, and its methods are safe for concurrent use.
type Watch struct {
	listener  int          // set by Start
	answering sync.RWMutex // held for reading while the listener is in use
	ended     bool         // the listener is closed; guarded by answering

	mu    sync.Mutex
	hooks []*hook // guarded by mu
}

type hook struct{ decide func(Call) Action }

// An Action is what happens to a call. The zero value lets the program make it.
type Action struct {
	Errno unix.Errno      // the call is not made and fails with this error, unless it is zero
	Skip  bool            // the call is not made and returns 0
	Until <-chan struct{} // all of this happens only when the channel is closed; nil means at once
}

// Intercept calls decide with every call until the function that it returns is called. Calls of
// decide never overlap, and the program's other calls wait for them. If there are several such
// functions, the first Action that is not the zero value applies.
func (w *Watch) Intercept(decide func(Call) Action) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	added := &hook{decide}
	w.hooks = append(slices.Clip(w.hooks), added)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.hooks = slices.DeleteFunc(slices.Clone(w.hooks), func(h *hook) bool { return h == added })
	}
}

func (w *Watch) decide(n *notification) Action {
	w.mu.Lock()
	hooks := w.hooks
	w.mu.Unlock()
	if len(hooks) == 0 {
		return Action{}
	}
	c := newCall(n)
	var action Action
	for _, h := range hooks {
		if a := h.decide(c); action == (Action{}) {
			action = a
		}
	}
	return action
}

// A notification is struct seccomp_notif of linux/seccomp.h.
type notification struct {
	id            uint64
	thread, flags uint32
	number        int32
	arch          uint32
	instruction   uint64
	args          [6]uint64
}

// A response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// serve decides about the program's calls until the program ends.
func (w *Watch) serve() {
	defer w.end()
	for {
		events := []unix.PollFd{{Fd: int32(w.listener), Events: unix.POLLIN}}
		_, err := unix.Poll(events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || events[0].Revents&unix.POLLIN == 0 {
			return // no process has the filter any more
		}
		var n notification
		if err := ioctl(w.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
			continue // the call has been interrupted
		}
		action := w.decide(&n)
		if action.Until == nil {
			w.answer(n.id, action)
			continue
		}
		go func() {
			<-action.Until
			w.answer(n.id, action)
		}()
	}
}

// end closes the listener, whose number the kernel may then use for another file.
func (w *Watch) end() {
	w.answering.Lock()
	defer w.answering.Unlock()
	w.ended = true
	_ = unix.Close(w.listener)
}

func (w *Watch) answer(id uint64, a Action) {
	w.answering.RLock()
	defer w.answering.RUnlock()
	if w.ended {
		return
	}
	r := response{id: id}
	switch {
	case a.Errno != 0:
		r.errno = -int32(a.Errno)
	case !a.Skip:
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	// An error means that the program has been killed.
	_ = ioctl(w.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r))
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
