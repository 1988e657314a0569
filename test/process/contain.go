package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/host"
)

// contained is in the environment of the process that runs the tests.
const contained = "TEST_CONTAINED"

// Contain goes on in a child process only, and ends what that leaves running. Where tests panic or take too long, their
// cleanups do not run, and supervisors would start their etcd again for ever. It stands in TestMain, before the tests and
// behind whatever else the program may be. The child is started with attr; nil: as usual.
func Contain(attr *syscall.SysProcAttr) {
	if os.Getenv(contained) != "" {
		_ = os.Unsetenv(contained) // not for those who start this program as something else
		return
	}
	status, err := contain(attr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// contain runs this program again, and returns its exit status when all that descends from it has ended.
func contain(attr *syscall.SysProcAttr) (status int, err error) {
	// Whose parent ends becomes a child of this process, and not of the machine's first one (prctl(2)).
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become a subreaper: %w", err)
	}
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	attr.Pdeathsig = syscall.SIGKILL
	runtime.LockOSThread() // the child is killed when this thread ends
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Args[0] = os.Args[0]
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), contained+"=1")
	c.SysProcAttr = attr
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT) // the last is go test's, for its stacks
	if err := c.Start(); err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			_ = c.Process.Signal(s)
		}
	}()
	var how unix.WaitStatus
	for ended := 0; ended != c.Process.Pid; { // others that have ended are its orphans
		if ended, err = unix.Wait4(-1, &how, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
	}
	if status = how.ExitStatus(); how.Signaled() {
		fmt.Fprintln(os.Stderr, "signal:", how.Signal())
		status = 1
	}
	return status, endChildren()
}

// endChildren kills all processes that descend from this one: the children of one that is killed are its own ones next.
func endChildren() error {
	h := host.New("/", host.ReadOnly())
	for {
		children, err := h.Children(os.Getpid())
		if err != nil {
			return err
		}
		for _, c := range children {
			if err := unix.Kill(c.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		switch _, err := unix.Wait4(-1, nil, 0, nil); {
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}
