package syscalls

import "golang.org/x/sys/unix"

const arch = unix.AUDIT_ARCH_AARCH64

// oldRename is no call's number: this architecture has only newer calls to rename a file.
const oldRename = -1
