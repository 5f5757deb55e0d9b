package doctor

import "syscall"

// SetStatfs replaces the system call that describes a file system.
func (dr *Doctor) SetStatfs(f func(path string, disk *syscall.Statfs_t) error) { dr.statfs = f }
