// Package syscalls stops programs at system calls: at each one by which they change a file or talk to the network, it
// asks what is to become of the call. It works on any program, so that what users run is what is tried; and since the
// kernel asks for all threads at once, the n-th call is the n-th of the whole process.
//
// See seccomp_unotify(2).
package syscalls

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Call is a system call that is about to be made.
type Call struct {
	N    int      // its number among all that count, from 1
	PID  int      // the process that makes it, as seen from here
	Name string   // "renameat"
	Path string   // of the file, as its process sees it; "socket:[4026]" for a socket
	Args []string // the command line of the process
}

// An Answer is what becomes of a call.
type Answer struct {
	kill  bool
	errno syscall.Errno
}

var (
	// Continue lets the call be made.
	Continue = Answer{}
	// Kill ends the process by SIGKILL, before the call is made.
	Kill = Answer{kill: true}
)

// Fail lets the call end with an error, without being made.
func Fail(errno syscall.Errno) Answer { return Answer{errno: errno} }

// A Watch says which processes count, and what becomes of their calls.
type Watch struct {
	// Exe is the base name of the executable of the processes whose calls count.
	Exe string
	// Ask decides on a call. It is asked for one call at a time, while the process waits.
	Ask func(Call) Answer
}

// Run starts a command, and waits for it. What the command starts is watched too, for as long as it lives: this process
// has to stay for as long.
func (w Watch) Run(cmd *exec.Cmd) error {
	if cmd.Err != nil {
		return cmd.Err
	}
	here, there, err := pair()
	if err != nil {
		return err
	}
	defer func() { _ = here.Close() }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", launcher, 3+len(cmd.ExtraFiles)))
	cmd.ExtraFiles = append(cmd.ExtraFiles, there)
	cmd.Args = append([]string{self, cmd.Path}, cmd.Args...)
	cmd.Path = self
	err = cmd.Start()
	_ = there.Close()
	if err != nil {
		return err
	}
	listener, err := receive(here)
	if err != nil {
		return errors.Join(err, cmd.Wait())
	}
	counter := &watcher{Watch: w, listener: listener}
	go counter.serve()
	return cmd.Wait()
}

// watcher answers the calls of one command and of all that came of it.
type watcher struct {
	Watch
	listener int
	mu       sync.Mutex
	n        int
}

// serve answers until nobody is left who could ask.
func (w *watcher) serve() {
	defer func() { _ = unix.Close(w.listener) }()
	for {
		ready := []unix.PollFd{{Fd: int32(w.listener), Events: unix.POLLIN}} //nolint:gosec // a descriptor is small
		if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		switch {
		case ready[0].Revents&unix.POLLIN != 0:
			var q question
			if err := ioctl(w.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, &q); err != nil {
				continue // who asked has died meanwhile
			}
			w.answer(q)
		case ready[0].Revents != 0:
			return
		}
	}
}

func (w *watcher) answer(q question) {
	r := reply{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if c, counts := w.call(q); counts {
		switch a := w.Ask(c); {
		case a.kill:
			_ = unix.Kill(c.PID, unix.SIGKILL)
			return
		case a.errno != 0:
			r.flags, r.error = 0, -int32(a.errno) //nolint:gosec // an error number is small
		}
	}
	_ = ioctl(w.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, &r) // who asked may have died meanwhile
}

// call tells what is about to be called, and whether it counts.
func (w *watcher) call(q question) (c Call, counts bool) {
	thread := int(q.pid)
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", thread))
	if err != nil || strings.TrimSuffix(filepath.Base(exe), " (deleted)") != w.Exe {
		return c, false
	}
	s := watched[uintptr(q.nr)] //nolint:gosec // the number of a system call
	if s.counts != nil && !s.counts(q.args) {
		return c, false
	}
	c = Call{PID: group(thread), Name: s.name, Path: s.object(thread, q.args)}
	if !changes(c.Path) {
		return c, false
	}
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", thread))
	c.Args = strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	c.N = w.n
	return c, true
}

// changes tells whether a call on that object leaves anything behind: pipes, terminals and the kernel's own files do not.
func changes(path string) bool {
	for _, p := range []string{"/dev/", "/proc/", "/sys/"} {
		if strings.HasPrefix(path, p) && !strings.HasPrefix(path, "/dev/shm/") { // which may be where tests have their files
			return false
		}
	}
	return strings.HasPrefix(path, "/") || strings.HasPrefix(path, "socket:")
}

// group is the process that a thread belongs to.
func group(thread int) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	for line := range strings.Lines(string(status)) {
		if id, ok := strings.CutPrefix(line, "Tgid:"); ok {
			n := 0
			_, _ = fmt.Sscan(id, &n)
			return n
		}
	}
	return thread
}

// pair returns two ends of a connection: one for the launcher, and one to receive from it.
func pair() (here *net.UnixConn, there *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	mine := os.NewFile(uintptr(fds[0]), "here")
	defer func() { _ = mine.Close() }()
	there = os.NewFile(uintptr(fds[1]), "there")
	conn, err := net.FileConn(mine)
	if err != nil {
		return nil, nil, errors.Join(err, there.Close())
	}
	here, _ = conn.(*net.UnixConn)
	return here, there, nil
}

// receive takes the listener of the filter over from the launcher.
func receive(from *net.UnixConn) (int, error) {
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := from.ReadMsgUnix(make([]byte, 1), control)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("the launcher has ended without a filter (%w)", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return 0, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, err
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}
