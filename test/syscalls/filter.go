package syscalls

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// launcher names the descriptor over which a launcher hands its filter out. Only a launcher has it in its environment.
const launcher = "ETCDADM_SYSCALLS"

// Main becomes the command that Run was given, below the filter; it returns at once where Run has not started this
// process. It is the first call of a program that uses Run.
func Main() {
	number := os.Getenv(launcher)
	if number == "" {
		return
	}
	fmt.Fprintln(os.Stderr, "syscalls:", launch(number, os.Args[1], os.Args[2:]))
	os.Exit(127)
}

// launch returns only when it fails.
func launch(number, path string, args []string) error {
	to, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	unix.CloseOnExec(to)
	if err := os.Unsetenv(launcher); err != nil {
		return err
	}
	runtime.LockOSThread() // the filter is that of one thread, which goes on as the command
	if os.Geteuid() != 0 {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	listener, err := install(program())
	if err != nil {
		return fmt.Errorf("install the filter: %w", err)
	}
	if err := unix.Sendmsg(to, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return fmt.Errorf("hand the filter out: %w", err)
	}
	return syscall.Exec(path, args, os.Environ()) //nolint:gosec // this is what a launcher is for
}

// program lets everything pass but what is watched, and asks for that.
func program() []unix.SockFilter {
	load := func(offset uintptr) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: uint32(offset)} //nolint:gosec // small
	}
	end := func(what uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what} }
	equal := func(to uint32, yes, no int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: to, Jt: uint8(yes), Jf: uint8(no)} //nolint:gosec // small
	}
	var q question
	n := len(watched)
	p := []unix.SockFilter{
		load(unsafe.Offsetof(q.arch) - unsafe.Offsetof(q.nr)),
		equal(architecture, 0, n+1), // calls of another architecture have other numbers
		load(0),
	}
	left := n
	for nr := range watched {
		p = append(p, equal(uint32(nr), left, 0))
		left--
	}
	return append(p, end(unix.SECCOMP_RET_ALLOW), end(unix.SECCOMP_RET_USER_NOTIF))
}

// install puts the calling thread, and what comes of it, below a filter.
func install(p []unix.SockFilter) (listener int, err error) {
	program := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]} //nolint:gosec // small
	// A call that was asked for is not broken off by a signal, and so not asked for twice.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}

// question is struct seccomp_notif of linux/seccomp.h.
type question struct {
	id   uint64
	pid  uint32
	_    uint32 // flags
	nr   int32
	arch uint32
	_    uint64 // instruction pointer
	args [6]uint64
}

// reply is struct seccomp_notif_resp.
type reply struct {
	id    uint64
	_     int64 // what the call returns
	error int32
	flags uint32
}

func ioctl[T any](fd int, request uintptr, arg *T) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
		return errno
	}
	return nil
}
