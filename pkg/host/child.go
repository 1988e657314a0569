package host

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Child is a program that dies with us.
type Child struct {
	PID  int
	Exit <-chan error // gets what exec.Cmd.Wait returns, once
}

// Spawn starts a program that dies with us and does not wait for it. Its output is appended to a file of the node;
// c.Env is its whole environment.
func (h *Host) Spawn(c Command, output string) (Child, error) {
	if err := h.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return Child{}, err
	}
	if err := h.Act("start %s", filepath.Base(c.Path)); err != nil {
		return Child{}, err
	}
	out, err := h.openLog(output)
	if err != nil {
		return Child{}, err
	}
	defer out.Close()
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.Env = "/", append([]string{}, c.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, exit := make(chan error), make(chan error, 1)
	go func() {
		// The death signal is tied to the thread that started the child: it has to last as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exit <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return Child{}, err
	}
	return Child{PID: cmd.Process.Pid, Exit: exit}, nil
}

// Append adds data to a log file, which is made when it is absent. Nothing is staged or synced.
func (h *Host) Append(path string, data []byte) error {
	if err := h.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := h.Act("append to %s", path); err != nil {
		return err
	}
	f, err := h.openLog(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	return err
}

func (h *Host) openLog(path string) (*os.File, error) {
	return os.OpenFile(h.RealPath(path), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
}

// Started returns when a process was started, or fs.ErrNotExist.
func (h *Host) Started(pid int) (time.Time, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, fs.ErrNotExist
	}
	// Field 22 of proc(5), the 20th behind the name, is the start in ticks after boot: 100 a second on every Linux that Go knows.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return time.Time{}, fmt.Errorf("process %d: %q is not a line of proc(5)", pid, b)
	}
	ticks, err := strconv.ParseInt(f[19], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, err
	}
	age := time.Duration(boot.Nano()) - time.Duration(ticks)*(time.Second/100)
	return time.Now().Add(-age), nil
}
