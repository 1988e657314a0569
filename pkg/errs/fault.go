package errs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// fault is a state of the machine that the kernel tells of, whatever was being done.
type fault struct {
	status Status
	hint   string // PATH is the directory in question
}

func (f fault) about(dir string) string {
	if dir == "" {
		return strings.ReplaceAll(f.hint, " PATH", "")
	}
	return strings.ReplaceAll(f.hint, "PATH", dir)
}

// OfMachine tells whether an error is a fault of this machine: a full disk, say, or too many open files.
func OfMachine(err error) bool {
	_, _, ok := faultOf(err)
	return ok
}

// faults are those that a correction on this machine ends, and those that none does.
var faults = map[syscall.Errno]fault{
	syscall.ENOSPC: {Precondition, "make room there, in bytes or in files, then run this command again: df -h PATH; df -i PATH"},
	syscall.EDQUOT: {Precondition, "the quota is used up: raise it or make room, then run this command again: quota -s; df -h PATH"},
	syscall.EROFS:  {Precondition, "see how it is mounted, and why: findmnt -T PATH; dmesg | tail -n 50"},
	syscall.EMFILE: {Precondition, "raise the limit of open files, then run this command again: ulimit -n 1024"},
	syscall.ENFILE: {Precondition, "this machine has too many open files: sysctl fs.file-nr; sysctl fs.file-max"},
	syscall.EIO:    {Failed, "the disk may be failing; see what the kernel says: dmesg | tail -n 50"},
}

// faultOf finds the fault in an error, and the directory that it is about, "" where that is not told.
func faultOf(err error) (f fault, dir string, ok bool) {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return f, "", false
	}
	var file *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &file):
		dir = filepath.Dir(file.Path)
	case errors.As(err, &link):
		dir = filepath.Dir(link.New)
	}
	f, ok = faults[errno]
	return f, dir, ok
}
