package front

import (
	"math"
	"sync/atomic"
	"syscall"
)

// A Process counts the connections to all listeners of this process. It allows half as many
// as the process may have files open: one signature attempted without a free file descriptor
// breaks SoftHSM's token for the rest of the process (measured).
type Process struct {
	limit int64
	taken atomic.Int64
}

// NewProcess returns a Process without connections. The limit is half of RLIMIT_NOFILE at
// the time of the call.
func NewProcess() *Process {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur > math.MaxInt32 {
		return &Process{limit: math.MaxInt32}
	}
	return &Process{limit: int64(files.Cur / 2)}
}

func (p *Process) take() bool {
	if p.taken.Add(1) > p.limit {
		p.taken.Add(-1)
		return false
	}
	return true
}

func (p *Process) release() { p.taken.Add(-1) }
