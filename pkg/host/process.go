package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/errs"
)

// Command is a program with its arguments. Secrets go to Stdin or a file, never to Args or Env.
type Command struct {
	Path   string   // a real path, or a name to look up in PATH
	Args   []string // without the program's name
	Env    []string // added to ours
	Stdin  io.Reader
	Stderr io.Writer // nil: kept for the error
}

// Query runs a command that changes nothing and returns its standard output.
func (h *Host) Query(ctx context.Context, c Command) ([]byte, error) { return run(ctx, c) }

// Run runs a command that changes something and returns its standard output.
func (h *Host) Run(ctx context.Context, c Command) ([]byte, error) {
	if err := h.Act("run %s %s", filepath.Base(c.Path), strings.Join(c.Args, " ")); err != nil {
		return nil, err
	}
	return run(ctx, c)
}

// run starts a command that dies with us, and waits for it.
func run(ctx context.Context, c Command) ([]byte, error) {
	// The death signal is tied to the thread that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, &stdout, &stderr
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(c.Stderr, &stderr)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return stdout.Bytes(), &CommandError{Name: filepath.Base(c.Path), Stderr: lastLines(stderr.String(), 5), Err: err}
	}
	return stdout.Bytes(), nil
}

// CommandError says which program failed, and what it said last.
type CommandError struct {
	Name   string
	Stderr string // the last lines, "" when it was silent
	Err    error
}

func (e *CommandError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("%s: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("%s: %v: %s", e.Name, e.Err, e.Stderr)
}

// Unwrap returns the error of the run.
func (e *CommandError) Unwrap() error { return e.Err }

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// Detach starts a program in a session of its own, with no terminal, that outlives us. Its output is appended to a
// file of the node. It returns the process id.
func (h *Host) Detach(c Command, output string) (int, error) {
	if err := h.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return 0, err
	}
	if err := h.Act("start %s", filepath.Base(c.Path)); err != nil {
		return 0, err
	}
	out, err := os.OpenFile(h.RealPath(output), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	pid := cmd.Process.Pid
	go func() { _ = cmd.Wait() }() // no zombie while we live
	return pid, nil
}

// Signal sends a signal to a process. A process that is gone already is no error.
func (h *Host) Signal(pid int, sig syscall.Signal) error {
	if err := h.Act("signal %d with %s", pid, unix.SignalName(sig)); err != nil {
		return err
	}
	if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// Process is a running process of this machine.
type Process struct {
	PID, PPID int
	Name      string // the kernel's short name, at most 15 bytes
	State     byte   // of proc(5): R, S, D, Z ...
}

// Process returns one process, or fs.ErrNotExist.
func (h *Host) Process(pid int) (Process, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			err = fs.ErrNotExist
		}
		return Process{}, err
	}
	// "pid (name) state ppid ..."; the name may hold blanks and parentheses.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return Process{}, fmt.Errorf("process %d: %q is not a line of proc(5)", pid, b)
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 2 {
		return Process{}, fmt.Errorf("process %d: %q is not a line of proc(5)", pid, b)
	}
	ppid, err := strconv.Atoi(f[1])
	return Process{PID: pid, PPID: ppid, Name: string(b[open+1 : end]), State: f[0][0]}, err
}

// Processes lists the running processes of this machine by id. Those that end meanwhile, and zombies, are left out.
func (h *Host) Processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var list []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := h.Process(pid); err == nil && p.State != 'Z' {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b Process) int { return a.PID - b.PID })
	return list, nil
}

// Children lists the running children of a process. It asks the kernel for them, and looks at all processes where the
// kernel does not tell (it is built without CONFIG_PROC_CHILDREN). A process that has ended has none.
func (h *Host) Children(pid int) ([]Process, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(lists) == 0 {
		all, err := h.Processes()
		return slices.DeleteFunc(all, func(p Process) bool { return p.PPID != pid }), err
	}
	var children []Process
	for _, list := range lists {
		ids, _ := os.ReadFile(list) // a thread that has ended has none
		for id := range strings.FieldsSeq(string(ids)) {
			child, err := strconv.Atoi(id)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", list, err)
			}
			if p, err := h.Process(child); err == nil && p.State != 'Z' {
				children = append(children, p)
			}
		}
	}
	return children, nil
}

// Environ returns the environment with which a process was started. It needs the process's user, or root.
func (h *Host) Environ(pid int) (map[string]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for kv := range strings.SplitSeq(string(b), "\x00") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env, nil
}

// Args returns the command line of a process, its program first.
func (h *Host) Args(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"), nil
}

// Program returns the file that a process runs, and its logical path, which another file may have by now. It needs the
// process's user, or root.
func (h *Host) Program(pid int) (path string, file fs.FileInfo, err error) {
	exe := fmt.Sprintf("/proc/%d/exe", pid)
	if path, err = os.Readlink(exe); err != nil {
		return "", nil, err
	}
	if file, err = os.Stat(exe); err != nil {
		return "", nil, err
	}
	root, err := filepath.EvalSymlinks(h.root) // the kernel's path has no links in it
	return below(root, strings.TrimSuffix(path, " (deleted)")), file, err
}

// SharesRoot tells whether a directory, as a process sees it, is the root of this host. A container has one of its own
// under the same name. Where we may not look through the eyes of the process, the name decides.
func (h *Host) SharesRoot(pid int, root string) bool {
	ours, err := os.Stat(h.root)
	if err != nil {
		return false
	}
	theirs, err := os.Stat(filepath.Join(fmt.Sprintf("/proc/%d/root", pid), root))
	if errors.Is(err, fs.ErrPermission) {
		theirs, err = os.Stat(root)
	}
	return err == nil && os.SameFile(ours, theirs)
}

// holderLimit is how long whoever has just taken a lock may take to say so in its file, and whoever has just been killed to be
// gone: on a busy machine either may wait for the processor or for a disk.
const holderLimit = 5 * time.Second

// lockMode is that of a lock file: whoever may open one can lock it, and with it everybody else out.
const lockMode = 0o600

// Lock takes a lock file for this process, and fails within a moment (status 4) when another process holds it. The kernel
// frees it when we die; release frees it earlier, and is told whether all is done for which it was taken. A lock is no act:
// it leaves nothing that counts.
func (h *Host) Lock(path string) (release func(done bool), err error) {
	real := h.RealPath(path)
	if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(real, os.O_RDWR|os.O_CREATE, lockMode)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(lockMode); err != nil { // one of an older etcdadm, or of somebody's umask
		return nil, errors.Join(err, f.Close())
	}
	err = tryLock(f, unix.LOCK_EX)
	for late := time.Now().Add(holderLimit); errors.Is(err, unix.EWOULDBLOCK) && h.holder(f) == 0 && time.Now().Before(late); {
		err = tryLock(f, unix.LOCK_EX) // nobody has it who would not be done in an instant, on a machine that is not busy
	}
	if err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		who := "another process"
		if b, err := io.ReadAll(io.LimitReader(f, 32)); err == nil && len(bytes.TrimSpace(b)) > 0 {
			who = "process " + string(bytes.TrimSpace(b))
		}
		return nil, errs.New(errs.Locked, "%s is locked by %s", path, who).
			Hint("wait until the other etcdadm has ended, then run this command again")
	}
	// Best effort: the id serves the message above, and Unfinished.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return func(done bool) {
		if done {
			_ = f.Truncate(0)
		}
		_ = f.Close()
	}, nil
}

// tryLock takes a lock on an open file, LOCK_EX or LOCK_SH, and fails within a moment with EWOULDBLOCK when another process
// holds it.
func tryLock(f *os.File, how int) error {
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	for i := 0; errors.Is(err, unix.EWOULDBLOCK) && i < 40; i++ {
		time.Sleep(5 * time.Millisecond) // one that only looks has it for an instant, as has one that is just dying
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	}
	return err
}

// Unfinished tells whether the last holder of a lock file was killed, or gave it back before all was done, since the machine
// booted.
func (h *Host) Unfinished(path string) bool {
	b, err := os.ReadFile(h.RealPath(path))
	return err == nil && len(bytes.TrimSpace(b)) > 0
}

// LockedBy returns the id of the process that holds a lock file, or 0 when nobody does.
func (h *Host) LockedBy(path string) (int, error) {
	f, err := os.Open(h.RealPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// The holder writes its id right after it has taken the lock; until then the id of one that was not done may
	// stand there. A holder that dies frees the lock when the last of its threads is gone.
	for late := time.Now().Add(holderLimit); time.Now().Before(late); {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			return 0, nil // free; closing gives it back
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return 0, fmt.Errorf("lock %s: %w", path, err)
		}
		if pid := h.holder(f); pid != 0 {
			return pid, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, errs.New(errs.Failed, "%s is locked, but names no process of this machine", path).
		Hint("see who has it, and write its id there: fuser -v %s", f.Name())
}

// holder returns the id of the running process that a lock file names, or 0.
func (h *Host) holder(f *os.File) int {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(string(bytes.TrimSpace(b[:n])))
	if err != nil {
		return 0
	}
	if p, err := h.Process(pid); err != nil || p.State == 'Z' {
		return 0
	}
	return pid
}

// Self returns the path of this program, for what runs in a process of its own.
func (h *Host) Self() (string, error) { return os.Executable() }
