package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

const (
	// startLimit is how long a supervisor may take to take its lock and to start etcd.
	startLimit = 10 * time.Second
	// stopMargin is what a supervisor may take beyond the limit that it gives etcd.
	stopMargin = 5 * time.Second
)

// mayStart refuses to start a member that has lost its data: it would come back under its old identity and break
// promises that it made to the others. A member has data once it has a write-ahead log; before, it has a bootstrap file.
func mayStart(h *host.Host, dataDir string) error {
	wal, err := h.ReadDir(path.Join(dataDir, "member", "wal"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if slices.ContainsFunc(wal, func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), ".wal") }) {
		return nil
	}
	if there, err := h.Exists(constants.BootstrapFile); err != nil || there {
		return err
	}
	return errs.New(errs.Precondition, "%s", lostData(dataDir)).
		Hint("put the data back, or start over from a snapshot: etcdadm restore FILE").
		Hint("or remove this member and add it anew: etcdadm reset --skip-remove-member; etcdctl member remove ID on another node; etcdadm join URL")
}

func lostData(dataDir string) string {
	return fmt.Sprintf("the data directory %s has no write-ahead log, and %s is absent: this member has lost its data, or was never set up", dataDir, constants.BootstrapFile)
}

// running is etcd running with a digest.
type running struct {
	*process
	digest string
	begun  bool // Apply has seen it run: whether it stays up is for others to await
}

// Check compares the digest in the environment of the running etcd.
func (r *running) Check(ctx context.Context) (converge.Diff, error) {
	v, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	gap := func(have, want string) (converge.Diff, error) {
		if last := r.exited(v).LastExit; v.etcd == 0 && last != "" {
			have += " (" + last + ")"
		}
		return converge.Diff{{What: "etcd", Have: have, Want: want}}, nil
	}
	switch {
	case v.supervisor == 0:
		return gap("not running", "running")
	case v.etcd == 0 && !r.begun:
		return gap("between two starts", "running")
	case v.etcd == 0:
		return nil, nil
	case v.unreadable != nil:
		return nil, fmt.Errorf("whether etcd has to be restarted: %w", v.unreadable)
	case v.digest != r.digest:
		return gap("running with other settings", "restarted")
	case v.other:
		return gap("running another program", "restarted")
	case r.starved(v):
		return gap("ending again and again, with fewer open files than it could have now", "restarted")
	}
	return nil, nil
}

// starved tells whether etcd has ended under a supervisor that may open fewer files than this process: it would have been
// started from a shell with a low limit, which all that it starts has too.
func (r *running) starved(v view) bool {
	var theirs, ours unix.Rlimit
	return r.exited(v).LastExit != "" && unix.Prlimit(v.supervisor, unix.RLIMIT_NOFILE, nil, &theirs) == nil &&
		unix.Getrlimit(unix.RLIMIT_NOFILE, &ours) == nil && theirs.Cur < ours.Cur
}

// Apply starts etcd, after it has stopped one that runs with other settings or that does not stay up.
func (r *running) Apply(ctx context.Context) error {
	if err := mayStart(r.host, r.dataDir); err != nil {
		return err
	}
	v, err := r.look(ctx)
	if err != nil {
		return err
	}
	// A supervisor of which no etcd has ended yet is about to start its first.
	starting := v.supervisor != 0 && v.etcd == 0 && r.exited(v).PID == 0
	if v.supervisor != 0 && !starting && (v.etcd == 0 || v.digest != r.digest || v.other || r.starved(v)) {
		if err := r.stop(ctx, v); err != nil {
			return err
		}
		v = view{}
	}
	pid := v.supervisor
	if pid == 0 {
		if pid, err = r.start(); err != nil {
			return err
		}
	}
	if err := r.started(ctx, pid); err != nil {
		return err
	}
	r.begun = true
	return nil
}

func (p *process) start() (int, error) {
	self, err := p.host.Self()
	if err != nil {
		return 0, err
	}
	return p.host.Detach(host.Command{Path: self, Args: []string{ // as unlocked looks for it
		superviseCommand, "--root", p.host.Root(), "--install-dir", p.installDir, "--data-dir", p.dataDir,
	}}, constants.LogFile)
}

// started waits until etcd runs under the supervisor with the given process id, or under another one.
func (r *running) started(ctx context.Context, pid int) error {
	deadline := time.Now().Add(startLimit)
	for {
		// Looked at before the lock: a supervisor that ended in between was not the last one to be asked.
		alive := !r.gone(pid)
		v, err := r.look(ctx)
		switch {
		case err != nil:
			return err
		case v.etcd != 0 && (v.digest == r.digest || v.unreadable != nil):
			r.alone = false
			return nil //nolint:nilerr // what cannot be read is not judged
		case v.etcd != 0 && v.digest != "":
			return errs.New(errs.Failed, "etcd was started with other settings than wanted: %s was not written for them", constants.EnvFile).
				Hint("write it first: etcdadm init phase configure, or etcdadm join phase configure URL")
		case v.supervisor == 0 && !alive:
			last := r.exited(v).LastExit
			if last == "" {
				last = "see the last lines of the log"
			}
			return errs.New(errs.Failed, "etcd was not started: %s", last).Hint("tail %s", r.host.Path(constants.LogFile))
		case time.Now().After(deadline) && r.exited(v).LastExit != "":
			return NotUp(ctx, r.process, r.exited(v).LastExit)
		case time.Now().After(deadline):
			return errs.New(errs.Timeout, "etcd did not start within %s", startLimit).Hint("tail %s", r.host.Path(constants.LogFile))
		}
		if err := pause(ctx, lookAgain); err != nil {
			return err
		}
	}
}

// stopped is no etcd running.
type stopped struct{ *process }

// Check looks for a supervisor: etcd does not outlive it.
func (s stopped) Check(ctx context.Context) (converge.Diff, error) {
	v, err := s.look(ctx)
	if err != nil || v.supervisor == 0 {
		return nil, err
	}
	return converge.Diff{{What: "etcd", Have: "running", Want: "stopped"}}, nil
}

// Apply stops etcd and its supervisor.
func (s stopped) Apply(ctx context.Context) error {
	v, err := s.look(ctx)
	if err != nil || v.supervisor == 0 {
		return err
	}
	return s.stop(ctx, v)
}

// stop ends the supervisor, which ends etcd, and waits until both are gone.
func (p *process) stop(ctx context.Context, v view) error {
	if err := p.host.Signal(v.supervisor, syscall.SIGTERM); err != nil {
		return err
	}
	if ended, err := p.ended(ctx, v, constants.StopTimeout+stopMargin); err != nil || ended {
		return err
	}
	converge.Warnf(ctx, "the supervisor of etcd (process %d) does not stop; it is killed, and etcd with it", v.supervisor)
	if now, err := p.look(ctx); err == nil && now.supervisor == v.supervisor {
		v = now
	}
	if err := p.host.Signal(v.supervisor, syscall.SIGKILL); err != nil {
		return err
	}
	if ended, err := p.ended(ctx, v, stopMargin); err != nil || ended {
		return err
	}
	return errs.New(errs.Timeout, "process %d does not end", v.supervisor).Hint("look at its state: grep State /proc/%d/status", v.supervisor)
}

// ended waits until the processes of v are gone, and tells whether they were within the limit.
func (p *process) ended(ctx context.Context, v view, limit time.Duration) (bool, error) {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if p.gone(v.supervisor) && (v.etcd == 0 || p.gone(v.etcd)) {
			return true, nil
		}
		if err := pause(ctx, lookAgain); err != nil {
			return false, err
		}
	}
	return false, nil
}

// gone tells whether a process has ended; one that nobody has waited for yet has.
func (p *process) gone(pid int) bool {
	proc, err := p.host.Process(pid)
	return errors.Is(err, fs.ErrNotExist) || err == nil && proc.State == 'Z'
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
