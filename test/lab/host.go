package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/test/syscalls"
)

// Host is one machine of a lab. Its methods that return nothing end the test when the lab itself fails.
type Host struct {
	Name       string // n1, also its hostname
	IPv4, IPv6 string

	lab *Lab
	dir string

	slow, thawed chan struct{} // the one ends SlowDisk, the other tells that it has ended; nil: the disk is fast

	skew time.Duration // how wrong the clock is

	nspawn chan error // receives when the container has ended; nil: the host is off
}

func newHost(l *Lab, i int) *Host {
	name := fmt.Sprintf("n%d", i)
	return &Host{
		Name: name, IPv4: fmt.Sprintf("10.77.0.%d", 10+i), IPv6: fmt.Sprintf("fd77::%d", 10+i),
		lab: l, dir: filepath.Join(l.dir, name),
	}
}

// Exec runs a program on the host, as root, and returns its standard output. The error holds the standard error.
func (h *Host) Exec(args ...string) (string, error) {
	var out bytes.Buffer
	err := h.Program(Program{Args: args, Out: &out})
	return out.String(), err
}

// Run is Exec of a program that has to succeed: the test ends when it does not.
func (h *Host) Run(args ...string) string {
	h.lab.t.Helper()
	out, err := h.Exec(args...)
	if err != nil {
		h.lab.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// Program is a program of a host, with its streams.
type Program struct {
	Args     []string
	In       io.Reader
	Out, Err io.Writer // an Err of nil is kept for the error
}

// Program runs a program on the host, as root, until it ends.
func (h *Host) Program(p Program) error {
	enter, err := h.enter()
	if err != nil {
		return err
	}
	name := h.Name + ": " + strings.Join(p.Args, " ")
	return h.runs(program{Name: name, Args: append(enter, p.Args...), In: p.In, Out: p.Out, Err: p.Err})
}

// Watch is Program with a watch over its system calls. The power may be cut in one.
func (h *Host) Watch(w syscalls.Watch, p Program) error {
	enter, err := h.enter()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // see program.run
	defer runtime.UnlockOSThread()
	c := exec.Command(enter[0], append(enter[1:], p.Args...)...) //nolint:gosec // this is what a host is for
	c.Stdin, c.Stdout, c.Stderr = p.In, p.Out, p.Err
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return w.Run(c)
}

// runs runs a program of this machine that is, or enters, the host: under its clock.
func (h *Host) runs(p program) error {
	if h.skew != 0 {
		return p.runSkewed(h.skew)
	}
	return p.run(context.Background())
}

// enter returns the beginning of a command that runs in the host. It counts among the host's processes.
func (h *Host) enter() ([]string, error) {
	pid := firstProcess(h.group())
	if pid == 0 {
		return nil, fmt.Errorf("%s is off", h.Name)
	}
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	group := filepath.Join(all[0], h.group(), "exec")
	if err := os.MkdirAll(group, 0o755); err != nil {
		return nil, err
	}
	return []string{
		"sh", "-c", `echo $$ > "$0"/cgroup.procs && exec nsenter "$@"`, group,
		"--target", fmt.Sprint(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
	}, nil
}

// Copy puts a file of the machine onto the host, with its mode. It survives a loss of power.
func (h *Host) Copy(from, to string) {
	h.lab.t.Helper()
	f, err := os.Open(from)
	if err != nil {
		h.lab.t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		h.lab.t.Fatal(err)
	}
	h.write(f, to, info.Mode())
}

// Write puts a file onto the host. It survives a loss of power.
func (h *Host) Write(to string, mode os.FileMode, contents string) {
	h.lab.t.Helper()
	h.write(strings.NewReader(contents), to, mode)
}

func (h *Host) write(from io.Reader, to string, mode os.FileMode) {
	h.lab.t.Helper()
	script := `install -D -m "$1" /dev/stdin "$0" && sync -f "$0"`
	if err := h.Program(Program{Args: []string{"sh", "-c", script, to, fmt.Sprintf("%04o", mode.Perm())}, In: from}); err != nil {
		h.lab.t.Fatal(err)
	}
}

// Journal returns the journal of the host since its first boot, of a unit or of all ("").
func (h *Host) Journal(unit string) string {
	h.lab.t.Helper()
	args := []string{"journalctl", "--no-pager", "--output=short-precise"}
	if unit != "" {
		args = append(args, "--unit="+unit)
	}
	h.Run("journalctl", "--sync") // what was said before, it may not have written yet
	return h.Run(args...)
}

// Path is where a file of the host is on this machine. From PowerOff or LoseDisk to Start it is nowhere.
func (h *Host) Path(of string) string { return filepath.Join(h.root(), of) }

// Process returns the number by which this machine knows the oldest process of the host that runs a program of that name,
// 0 when there is none.
func (h *Host) Process(program string) int {
	oldest := 0
	for _, pid := range processes(h.group()) {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.TrimSpace(string(name)) == program && (oldest == 0 || pid < oldest) {
			oldest = pid
		}
	}
	return oldest
}

// Kill ends every process of the host at once. What they had written stays, synced or not.
func (h *Host) Kill() {
	h.lab.t.Helper()
	if err := h.kill(); err != nil {
		h.lab.t.Fatal(err)
	}
}

func (h *Host) kill() error {
	h.setFast()
	if pid := firstProcess(h.group()); pid != 0 {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	if err := killGroup(h.group()); err != nil {
		return err // and the container may never end
	}
	return h.ended()
}

// PowerOff ends the host as the loss of power does: what was written and not synced is gone.
func (h *Host) PowerOff() {
	h.lab.t.Helper()
	if err := h.powerOff(); err != nil {
		h.lab.t.Fatal(err)
	}
}

func (h *Host) powerOff() error {
	h.setFast()
	// Nobody sees the processes that go on for a moment on a disk that is gone already.
	if err := h.plug("down"); err != nil {
		return err
	}
	return errors.Join(h.cutDisk(), h.kill(), h.detach())
}

// Start turns a host on that is off, and waits until it has booted.
func (h *Host) Start() {
	h.lab.t.Helper()
	if err := h.start(); err != nil {
		h.lab.t.Fatal(err)
	}
}

func (h *Host) start() error {
	if h.nspawn != nil {
		return fmt.Errorf("%s is on already", h.Name)
	}
	if err := h.attach(); err != nil {
		return err
	}
	if err := h.boot(); err != nil {
		return err
	}
	return h.booted(0)
}

// Reboot boots the host anew, from inside: its services are stopped first.
func (h *Host) Reboot() {
	h.lab.t.Helper()
	before := firstProcess(h.group())
	// systemctl may be stopped before it can say that it has succeeded.
	if _, err := h.Exec("systemctl", "reboot"); err != nil && firstProcess(h.group()) == before && before == 0 {
		h.lab.t.Fatal(err)
	}
	if err := h.booted(before); err != nil {
		h.lab.t.Fatal(err)
	}
}

// group is the host's cgroup.
func (h *Host) group() string { return filepath.Join(h.lab.id, h.Name) }
