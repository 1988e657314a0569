package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

const (
	// askAgain is the pause between two questions to systemd.
	askAgain = 20 * time.Millisecond
	// manyStarts is how often systemd may start etcd again by itself before it counts as one that does not come up.
	manyStarts = 3
)

// slowStart is after what time it is told what a start waits for. Tests make it shorter.
var slowStart = 5 * time.Second

// unitRunning is etcd running as a unit, with a digest.
type unitRunning struct {
	*systemd
	digest string
	begun  bool // Apply has seen it run: whether it stays up is for others to await
}

// errEnded says that a process is gone, or about to be, which systemd has just told of.
var errEnded = errors.New("the process has ended meanwhile")

// Check compares what the process carries with the settings and with the unit on the disk.
func (r *unitRunning) Check(ctx context.Context) (converge.Diff, error) {
	if !r.live {
		return nil, r.needed()
	}
	for deadline := time.Now().Add(startLimit); ; { // until systemd has seen it too
		d, err := r.judge(ctx)
		if !errors.Is(err, errEnded) || time.Now().After(deadline) {
			return d, err
		}
		if err := pause(ctx, askAgain); err != nil {
			return nil, err
		}
	}
}

func (r *unitRunning) judge(ctx context.Context) (converge.Diff, error) {
	u, err := r.show(ctx)
	if err != nil && !errors.Is(err, exec.ErrNotFound) {
		return nil, err
	}
	gap := func(have, want string) (converge.Diff, error) {
		return converge.Diff{{What: "etcd", Have: have, Want: want}}, nil
	}
	pid := u.pid()
	switch {
	case u.ends() && r.begun && u.number("Job") == 0: // by itself: whether it is started again is seen in an instant
		return nil, errEnded
	case u.ends():
		return gap("being stopped", "running")
	case pid == 0:
		if again, err := r.startsAgain(u); err != nil || again {
			return nil, err
		}
		have := "not running"
		if u["SubState"] == "auto-restart" {
			have = "between two starts"
		}
		if last := r.ended(u); last != "" {
			have += " (" + last + ")"
		}
		return gap(have, "running")
	}
	due, err := r.due(ctx, pid, u)
	switch {
	case err != nil:
		return nil, err
	case due != "":
		return gap(due, "restarted")
	case u["NeedDaemonReload"] == "yes":
		return gap("its unit has changed on the disk", "restarted")
	}
	return nil, nil
}

// startsAgain tells whether an etcd that we have started has ended since, and systemd is about to start it again with what is
// wanted. Whether it comes up in the end is for others to await. One that had ended before is started by us, and at once:
// what made it end may be mended, and who waits for it sees it run.
func (r *unitRunning) startsAgain(u shown) (bool, error) {
	if !r.begun || u["SubState"] != "auto-restart" || u["NeedDaemonReload"] == "yes" || u["FragmentPath"] != constants.UnitFile {
		return false, nil
	}
	text, err := r.host.ReadFile(constants.EnvFile)
	if err != nil {
		return false, err
	}
	kvs, err := ParseEnv(text)
	return slices.Contains(kvs, KV{constants.DigestVariable, r.digest}), err
}

// due tells why the running etcd has to be restarted, or "".
func (r *unitRunning) due(ctx context.Context, pid int, u shown) (string, error) {
	env, err := startedWith(ctx, r.host, pid)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("whether etcd has to be restarted: %w", err)
	case err != nil && ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", errEnded
	}
	text, err := r.unitOnDisk()
	if err != nil {
		return "", err
	}
	started, err := r.host.Started(pid)
	program := path.Join(r.unit.InstallDir, "etcd")
	switch {
	case env[constants.DigestVariable] != r.digest:
		return "running with other settings", nil
	case env[unitVariable] != unitDigestOf(text):
		return "running from another unit", nil
	case strings.Contains(u["ExecStart"], " path="+program+" ;") && otherProgram(r.host, pid, program): // a drop-in may start another one
		return "running another program", nil
	case err == nil && r.changedSince(started, u):
		return "running without the drop-ins as they are now", nil
	}
	return "", nil
}

// Apply has systemd read the unit if it changed, and starts or restarts it. It does not wait for READY, which may take
// other members: it waits until etcd runs.
func (r *unitRunning) Apply(ctx context.Context) error {
	if err := r.needed(); err != nil {
		return err
	}
	if err := mayStart(r.host, r.unit.DataDir); err != nil {
		return err
	}
	if d, err := r.Check(ctx); err != nil || len(d) == 0 {
		return err
	}
	u, err := r.show(ctx)
	if err != nil {
		return err
	}
	if at := u["FragmentPath"]; u.pid() != 0 && at != "" && at != constants.UnitFile {
		return errs.New(errs.Precondition, "an etcd runs as the unit %s, which is not etcdadm's", at).
			Hint("if nobody needs it any more: systemctl disable --now %s", constants.Unit)
	}
	if u["NeedDaemonReload"] == "yes" || u["LoadState"] != "loaded" || u["FragmentPath"] != constants.UnitFile {
		if err := r.run(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	verb := "restart"
	if u.idle() {
		verb = "start"
	}
	if err := r.run(ctx, verb, "--no-block", constants.Unit); err != nil {
		return err
	}
	if err := r.started(ctx, u.pid(), u.number("NRestarts")); err != nil {
		return err
	}
	r.begun = true
	return nil
}

// started waits until an etcd runs that is not the one before, and that nobody is stopping, within the limit of ctx: systemd
// stops that one first, and may have to start others, such as a network that is slow to come up. One that keeps ending is
// given up: systemd counts its starts anew when it has begun with what it was asked for, and tells of those before until then.
func (r *unitRunning) started(ctx context.Context, before, starts int) error {
	last, awaited := shown{}, ""
	late := func(err error) error {
		if ctx.Err() == nil {
			return err
		}
		what := fmt.Sprintf("the unit is %s (%s)", last["ActiveState"], last["SubState"])
		if awaited != "" {
			what += ", and waits for " + awaited
		}
		return errs.New(errs.StatusOf(ctx.Err()), "%s: %w", what, ctx.Err()).
			Hint("see what it waits for: systemctl list-jobs; systemctl status %s", constants.Unit)
	}
	for slow := time.Now().Add(slowStart); ; {
		u, err := r.show(ctx)
		if err != nil {
			return late(err)
		}
		last = u
		pid := u.pid()
		again := u.number("NRestarts")
		if again < starts {
			starts = 0
		}
		switch {
		case pid != 0 && pid != before && !u.ends():
			env, err := startedWith(ctx, r.host, pid)
			switch {
			case errors.Is(err, fs.ErrPermission) || err == nil && env[constants.DigestVariable] == r.digest:
				return nil
			case err == nil && env[constants.DigestVariable] != "": // before it is etcd, the process has systemd's environment
				return errs.New(errs.Failed, "etcd was started with other settings than wanted: %s was not written for them", constants.EnvFile).
					Hint("write it first: etcdadm init phase configure, or etcdadm join phase configure URL")
			}
		case pid == 0 && (u.idle() || again >= starts+manyStarts):
			return NotUp(ctx, r.systemd, r.ended(u))
		case awaited == "" && time.Now().After(slow):
			if awaited = r.jobs(ctx); awaited != "" {
				converge.Notef(ctx, "systemd starts etcd when it has done with %s", awaited)
			}
		}
		if err := pause(ctx, askAgain); err != nil {
			return late(err)
		}
	}
}

// jobs names the other units that systemd is at work on; "" when there are none, or it does not tell.
func (s *systemd) jobs(ctx context.Context) string {
	out, err := s.host.Query(ctx, s.systemctl("list-jobs", "--no-legend"))
	if err != nil {
		return ""
	}
	var names []string
	for line := range strings.Lines(string(out)) { // "<id> <unit> <type> <state>"
		if f := strings.Fields(line); len(f) == 4 && f[3] == "running" && f[1] != constants.Unit {
			names = append(names, f[1])
		}
	}
	return strings.Join(names, ", ")
}

// unitStopped is the unit not active, and not about to be.
type unitStopped struct{ *systemd }

// Check leaves alone what etcdadm did not write.
func (s unitStopped) Check(ctx context.Context) (converge.Diff, error) {
	u, err := s.show(ctx)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil
	}
	if err != nil || u.idle() {
		return nil, err
	}
	ours, err := s.ours(u)
	if err != nil {
		return nil, err
	}
	if !ours {
		converge.Warnf(ctx, "%s is not etcdadm's: it is left alone", u["FragmentPath"])
		return nil, nil
	}
	return converge.Diff{{What: "etcd", Have: "running", Want: "stopped"}}, nil
}

// Apply waits until etcd has stopped: systemd kills it after the unit's limit.
func (s unitStopped) Apply(ctx context.Context) error { return s.run(ctx, "stop", constants.Unit) }

// unitEnabled is the unit started at boot, or not.
type unitEnabled struct {
	*systemd
	want bool
}

// Check asks systemctl, which reads files: it works in an image, and where systemd does not run. Without a unit of ours
// there is nothing to disable.
func (e unitEnabled) Check(ctx context.Context) (converge.Diff, error) {
	text, err := e.unitOnDisk()
	if err != nil {
		return nil, err
	}
	if !e.want && !e.wrote(text) {
		return nil, nil
	}
	out, err := e.host.Query(ctx, e.systemctl("is-enabled", constants.Unit))
	if err != nil && ctx.Err() != nil { // any other error is one of the states, which all but some have a status for
		return nil, err
	}
	state, _, _ := strings.Cut(string(out), "\n")
	have := cmp.Or(state, "without a unit")
	switch {
	case e.want && state != "enabled":
		return converge.Diff{{What: constants.Unit, Have: have, Want: "enabled"}}, nil
	case !e.want && strings.HasPrefix(state, "enabled"):
		return converge.Diff{{What: constants.Unit, Have: have, Want: "disabled"}}, nil
	}
	return nil, nil
}

// Apply makes or removes the links. systemctl leaves it to time when they reach the disk.
func (e unitEnabled) Apply(ctx context.Context) error {
	args := []string{"disable", constants.Unit}
	if e.want {
		args = []string{"enable", "--no-reload", constants.Unit} // what is read at boot only
	}
	if err := e.run(ctx, args...); err != nil {
		return err
	}
	return e.host.SyncTree(path.Dir(constants.UnitFile))
}

// Removed is no unit of ours, on the disk and in systemd.
func (s *systemd) Removed() converge.Resource { return unitRemoved{s} }

type unitRemoved struct{ *systemd }

func (r unitRemoved) files() file.Absent {
	return file.Absent{Host: r.host, Paths: []string{
		constants.UnitFile, host.Staging(constants.UnitFile), constants.SysusersFile, host.Staging(constants.SysusersFile),
	}}
}

// Check leaves a unit alone that etcdadm did not write.
func (r unitRemoved) Check(ctx context.Context) (converge.Diff, error) {
	if ours, err := r.ours(nil); err != nil || !ours {
		return nil, err
	}
	d, err := r.files().Check(ctx)
	if err != nil || len(d) > 0 {
		return d, err
	}
	u, err := r.show(ctx)
	if err == nil && u["FragmentPath"] == constants.UnitFile && u["LoadState"] == "loaded" {
		d = converge.Diff{{What: constants.Unit, Have: "known to systemd", Want: "forgotten"}}
	}
	return d, nil
}

// Apply removes the files, and has systemd forget the unit and that it failed. Drop-ins are the operator's, and stay.
func (r unitRemoved) Apply(ctx context.Context) error {
	if r.booted() {
		_ = r.run(ctx, "reset-failed", constants.Unit) // an error is a unit that is not loaded
	}
	if err := r.files().Apply(ctx); err != nil || !r.booted() {
		return err
	}
	return r.run(ctx, "daemon-reload")
}

// unitLoaded is the unit on the disk being known to systemd.
type unitLoaded struct{ *systemd }

// Check asks systemd, where it runs.
func (l unitLoaded) Check(ctx context.Context) (converge.Diff, error) {
	u, err := l.show(ctx)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil
	}
	if err != nil || u["NeedDaemonReload"] != "yes" {
		return nil, err
	}
	return converge.Diff{{What: constants.Unit, Have: "changed on the disk", Want: "known to systemd"}}, nil
}

// Apply has systemd read its units. What runs goes on.
func (l unitLoaded) Apply(ctx context.Context) error { return l.run(ctx, "daemon-reload") }
