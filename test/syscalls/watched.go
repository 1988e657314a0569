package syscalls

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// system describes a system call that is watched.
type system struct {
	name string
	// object is what the call works on, as a path.
	object func(thread int, args [6]uint64) string
	// counts tells whether a call with these arguments changes anything; nil: each does.
	counts func(args [6]uint64) bool
}

// watched are the calls that change files, and those that talk to the network. What Go does not use is left out (rename,
// mkdir and others without "at"), and so is sendto: it asks the kernel for addresses.
var watched = map[uintptr]system{
	unix.SYS_OPENAT:          {"openat", at(0), func(a [6]uint64) bool { return a[2]&(unix.O_CREAT|unix.O_TRUNC) != 0 }},
	unix.SYS_MKDIRAT:         {"mkdirat", at(0), nil},
	unix.SYS_MKNODAT:         {"mknodat", at(0), nil},
	unix.SYS_RENAMEAT:        {"renameat", at(2), nil},
	unix.SYS_RENAMEAT2:       {"renameat2", at(2), nil},
	unix.SYS_UNLINKAT:        {"unlinkat", at(0), nil},
	unix.SYS_LINKAT:          {"linkat", at(2), nil},
	unix.SYS_SYMLINKAT:       {"symlinkat", at(1), nil},
	unix.SYS_FCHMODAT:        {"fchmodat", at(0), nil},
	unix.SYS_FCHOWNAT:        {"fchownat", at(0), nil},
	unix.SYS_UTIMENSAT:       {"utimensat", at(0), nil},
	unix.SYS_TRUNCATE:        {"truncate", path(0), nil},
	unix.SYS_FTRUNCATE:       {"ftruncate", descriptor(0), nil},
	unix.SYS_FALLOCATE:       {"fallocate", descriptor(0), nil},
	unix.SYS_FCHMOD:          {"fchmod", descriptor(0), nil},
	unix.SYS_FCHOWN:          {"fchown", descriptor(0), nil},
	unix.SYS_FSYNC:           {"fsync", descriptor(0), nil},
	unix.SYS_FDATASYNC:       {"fdatasync", descriptor(0), nil},
	unix.SYS_SYNCFS:          {"syncfs", descriptor(0), nil},
	unix.SYS_WRITE:           {"write", descriptor(0), nil},
	unix.SYS_WRITEV:          {"writev", descriptor(0), nil},
	unix.SYS_PWRITE64:        {"pwrite64", descriptor(0), nil},
	unix.SYS_SENDFILE:        {"sendfile", descriptor(0), nil},
	unix.SYS_SPLICE:          {"splice", descriptor(2), nil},
	unix.SYS_COPY_FILE_RANGE: {"copy_file_range", descriptor(2), nil},
	unix.SYS_CONNECT:         {"connect", descriptor(0), nil},
}

// descriptor is the file or the socket behind the n-th argument.
func descriptor(n int) func(int, [6]uint64) string {
	return func(thread int, args [6]uint64) string {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, int32(args[n]))) //nolint:gosec // a descriptor
		return to
	}
}

// path is the n-th argument, a path.
func path(n int) func(int, [6]uint64) string {
	return func(thread int, args [6]uint64) string {
		p := text(thread, uintptr(args[n]))
		if !filepath.IsAbs(p) {
			dir, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", thread))
			p = filepath.Join(dir, p)
		}
		return p
	}
}

// at is the path in the argument behind the n-th, which is its directory.
func at(n int) func(int, [6]uint64) string {
	return func(thread int, args [6]uint64) string {
		p := path(n + 1)
		if dir := int32(args[n]); dir != unix.AT_FDCWD { //nolint:gosec // a descriptor
			name := text(thread, uintptr(args[n+1]))
			if !filepath.IsAbs(name) {
				return filepath.Join(descriptor(n)(thread, args), name)
			}
		}
		return p(thread, args)
	}
}

// text reads a string of another process. It reads page by page: what lies behind the string may not be there.
func text(thread int, address uintptr) string {
	const page = 4096
	var all []byte
	for len(all) < unix.PathMax {
		part := make([]byte, page-address%page)
		n, err := unix.ProcessVMReadv(thread, []unix.Iovec{{Base: &part[0], Len: uint64(len(part))}}, []unix.RemoteIovec{{Base: address, Len: len(part)}}, 0)
		if err != nil {
			return ""
		}
		if end := bytes.IndexByte(part[:n], 0); end >= 0 {
			return string(append(all, part[:end]...))
		}
		all = append(all, part[:n]...)
		address += uintptr(n)
	}
	return ""
}
