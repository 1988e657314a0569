package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

const (
	// lookAgain is the pause between two looks at processes, which change within milliseconds.
	lookAgain = 5 * time.Millisecond
	// tailSize is how much of the end of the log is read for its last lines, in bytes.
	tailSize = 256 << 10
)

// process keeps etcd running as the child of a supervisor, a process of this program that nobody waits for. What
// runs is read from the kernel: who holds the supervisor's lock, which process is its child, and what environment
// that one was started with.
type process struct {
	host                *host.Host
	installDir, dataDir string // logical

	// alone is set from when no process of this machine was found to be a supervisor of this root until one is started:
	// nobody else does that, as this run has the lock of the node. To look through all processes takes milliseconds.
	alone bool
}

// NewProcess returns the backend that keeps etcd running without an init system: for containers, tests and
// demonstrations. It does not start etcd at boot. This program has to run Supervise as `supervise --root DIR
// --install-dir DIR --data-dir DIR`.
func NewProcess(h *host.Host, installDir, dataDir string) Backend {
	return &process{host: h, installDir: path.Clean(installDir), dataDir: path.Clean(dataDir)}
}

// PathFor returns the real path: etcd runs outside of the root.
func (p *process) PathFor(logical string) string { return p.host.Path(logical) }

// Definition is the command line.
func (p *process) Definition() string { return strings.Join(p.command(), " ") }

func (p *process) command() []string {
	return []string{"etcd", "--data-dir", p.host.RealPath(p.dataDir)}
}

// LogCommand shows the log file.
func (p *process) LogCommand() string { return "less " + quote(p.host.Path(constants.LogFile)) }

// StartLimit is that of the program.
func (p *process) StartLimit() time.Duration { return constants.StartTimeout }

// Owner is the caller.
func (p *process) Owner() host.Owner { return host.Owner{} }

// Files are none: all that etcd needs is on the command line.
func (p *process) Files() []file.File { return nil }

// Removed always holds.
func (p *process) Removed() converge.Resource { return file.Absent{Host: p.host} }

// Running is etcd running with the digest.
func (p *process) Running(digest string) converge.Resource {
	return &running{process: p, digest: digest}
}

// Stopped is no etcd running under the supervisor of this host.
func (p *process) Stopped() converge.Resource { return stopped{p} }

// view is what is seen from outside.
type view struct {
	supervisor, etcd int    // process ids, 0 when there is none
	digest           string // of the running etcd
	other            bool   // it runs another program than the one in the install directory
	unreadable       error  // why the digest is not known
}

// look finds the supervisor by its lock, and etcd as its child.
func (p *process) look(ctx context.Context) (view, error) {
	var v view
	var err error
	if v.supervisor, err = p.supervisor(ctx); err != nil || v.supervisor == 0 {
		return view{}, err
	}
	children, err := p.host.Children(v.supervisor)
	if err != nil {
		return view{}, err
	}
	for _, c := range children {
		env, err := startedWith(ctx, p.host, c.PID)
		switch {
		case errors.Is(err, fs.ErrPermission):
			v.unreadable = err
		case err != nil && ctx.Err() != nil:
			return view{}, ctx.Err()
		case err != nil: // ended meanwhile
			continue
		}
		v.etcd, v.digest = c.PID, env[constants.DigestVariable]
		v.other = v.digest != "" && otherProgram(p.host, c.PID, path.Join(p.installDir, "etcd"))
	}
	return v, nil
}

// supervisor returns the process id of the supervisor of this root, or 0. The lock file names it, but for a moment
// after a start names the one before, so the command line has to agree. One that dies has none any more.
func (p *process) supervisor(ctx context.Context) (int, error) {
	for late := time.Now().Add(startLimit); ; {
		pid, err := p.host.LockedBy(constants.SupervisorFile)
		switch {
		case err == nil && pid == 0, errors.Is(err, fs.ErrPermission):
			return p.unlocked()
		case err != nil:
			return 0, err
		}
		if args, err := p.host.Args(pid); err == nil && slices.Contains(args, superviseCommand) {
			return pid, nil
		}
		if time.Now().After(late) {
			return 0, fmt.Errorf("%s is locked by process %d, which is no supervisor of etcd", constants.SupervisorFile, pid)
		}
		if err := pause(ctx, lookAgain); err != nil {
			return 0, err
		}
	}
}

// unlocked finds the supervisor by its command line. The lock file is not for every user to read, and somebody may have
// deleted it under the supervisor: a second etcd on the same data must not be started for that.
func (p *process) unlocked() (int, error) {
	if p.alone {
		return 0, nil
	}
	all, err := p.host.Processes()
	if err != nil {
		return 0, err
	}
	for _, c := range all {
		args, err := p.host.Args(c.PID)
		if err != nil || len(args) < 4 || args[1] != superviseCommand || args[2] != "--root" {
			continue
		}
		if p.host.SharesRoot(c.PID, args[3]) {
			return c.PID, nil
		}
	}
	p.alone = true
	return 0, nil
}

// status is what the supervisor last told.
func (p *process) status() supervisorStatus {
	var s supervisorStatus
	if b, err := p.host.ReadFile(constants.SupervisorStatusFile); err == nil {
		_ = json.Unmarshal(b, &s) // it only serves messages
	}
	return s
}

// exited returns how etcd ended last, under the supervisor of v or, when there is none, under the last one.
func (p *process) exited(v view) supervisorStatus {
	if s := p.status(); v.supervisor == 0 || v.supervisor == s.PID {
		return s
	}
	return supervisorStatus{}
}

// State tells what runs now.
func (p *process) State(ctx context.Context) (State, error) {
	v, err := p.look(ctx)
	if err != nil {
		return State{}, err
	}
	last := p.exited(v)
	s := State{
		Running: v.etcd != 0, PID: v.etcd, Digest: v.digest, Restarts: last.Restarts, LastExit: last.LastExit,
		Removed: v.etcd == 0 && last.LastExit == removedText, Again: v.etcd == 0 && v.supervisor != 0,
	}
	if s.Running {
		s.StartedAt, err = p.host.Started(v.etcd)
		if errors.Is(err, fs.ErrNotExist) { // ended meanwhile
			return State{Restarts: s.Restarts, LastExit: s.LastExit, Removed: s.Removed, Again: true}, nil
		}
	}
	return s, err
}

// Logs returns the last lines of the log; none when there is no log yet.
func (p *process) Logs(n int) ([]string, error) {
	text, err := tail(p.host, constants.LogFile, 0)
	if err != nil || text == "" {
		return nil, err
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return lines[max(0, len(lines)-n):], nil
}

// tail returns the end of a file, from the offset on at the earliest; "" when the file is absent.
func tail(h *host.Host, path string, offset int64) (string, error) {
	f, err := h.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	if _, err := f.Seek(max(offset, size-tailSize), io.SeekStart); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, tailSize))
	return string(b), err
}
