package syscalls

import "golang.org/x/sys/unix"

const arch = unix.AUDIT_ARCH_X86_64

// oldRename is the number of the call that C libraries make to rename a file.
const oldRename = unix.SYS_RENAME
