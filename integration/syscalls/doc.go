// Package syscalls intercepts the system calls with which a program opens, writes, flushes and
// renames files. A test can make the N-th of them fail or hang ([Watch.Inject]), or learn what a
// power failure would leave of a directory ([Disk]).
//
// It uses the user notifications of seccomp: the kernel holds a call until the test has decided
// about it. In contrast to a tracer, it counts the calls of all threads together, leaves all other
// calls alone, and attaches to nothing.
//
// A test binary that uses the package must call [Main] first in TestMain: [Watch.Start] runs the
// binary again to install the filter in the process that becomes the program. The test must be root
// if the program hides its memory from other processes of its user, as kmsgate does.
package syscalls
