package service

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

// systemd keeps etcd running as a unit of the init system. What runs is read from systemd and from the kernel: the main
// process of the unit, and the environment that it was started with.
type systemd struct {
	host *host.Host
	unit Unit
	// live tells that systemd, when it runs, runs on this host. Under another root there are only files: an image.
	live bool
}

// NewSystemd returns the backend that keeps etcd running as etcd.service. Under a root other than "/" it prepares files,
// and starts nothing.
func NewSystemd(h *host.Host, u Unit) Backend { return &systemd{h, u, h.Root() == "/"} }

// PathFor returns the path itself: etcd runs on this host, or on the one that an image becomes.
func (s *systemd) PathFor(logical string) string { return logical }

// Definition is the unit.
func (s *systemd) Definition() string { return s.unit.Render() }

// StartLimit is that of the program.
func (s *systemd) StartLimit() time.Duration { return constants.StartTimeout }

// Owner is the user in whose name the unit runs etcd.
func (s *systemd) Owner() host.Owner { return host.Owner{Name: constants.User} }

// Files is the unit.
func (s *systemd) Files() []file.File {
	return []file.File{{Host: s.host, Path: constants.UnitFile, Data: []byte(s.unit.Render()), Mode: 0o644}}
}

// LogCommand reads the journal.
func (s *systemd) LogCommand() string { return "journalctl -u " + constants.Unit }

// Running is etcd running with the digest.
func (s *systemd) Running(digest string) converge.Resource {
	return &unitRunning{systemd: s, digest: digest}
}

// Stopped is the unit not active.
func (s *systemd) Stopped() converge.Resource { return unitStopped{s} }

// Enabled is the unit started at boot.
func (s *systemd) Enabled() converge.Resource { return unitEnabled{s, true} }

// Disabled is the unit not started at boot.
func (s *systemd) Disabled() converge.Resource { return unitEnabled{s, false} }

// booted tells whether systemd is the init system here (sd_booted(3)).
func (s *systemd) booted() bool {
	info, err := s.host.Lstat("/run/systemd/system")
	return s.live && err == nil && info.IsDir()
}

// needed refuses what takes a running systemd.
func (s *systemd) needed() error {
	if !s.live {
		return errs.New(errs.Precondition, "etcd cannot be started under %s: systemd runs on the machine that this becomes", s.host.Root()).
			Hint("prepare it with the phases before, such as: etcdadm init phase configure --root %s; and start etcd when it has booted: etcdadm init", s.host.Root()).
			Hint("or run etcd as a child process: --init-system process")
	}
	if !s.booted() {
		return errs.New(errs.Precondition, "systemd is not the init system here: /run/systemd/system is absent").
			Hint("run etcd as a child process: --init-system process")
	}
	return nil
}

// systemctl is a command line that gives the same answer whatever the caller's environment says.
func (s *systemd) systemctl(args ...string) host.Command {
	if !s.live {
		args = append([]string{"--root=" + s.host.Root()}, args...)
	}
	return host.Command{Path: "systemctl", Args: append([]string{"--no-pager", "--no-ask-password"}, args...), Env: []string{"LC_ALL=C", "SYSTEMD_COLORS=0"}}
}

func (s *systemd) run(ctx context.Context, args ...string) error {
	_, err := s.host.Run(ctx, s.systemctl(args...))
	return err
}

// properties are those of systemd's D-Bus interface (org.freedesktop.systemd1(5)) that tell what the unit does.
var properties = []string{
	"LoadState", "FragmentPath", "DropInPaths", "NeedDaemonReload", "ActiveState", "SubState", "Job",
	"Result", "MainPID", "NRestarts", "ExecMainCode", "ExecMainStatus", "ExecStart",
}

// shown is the unit as systemd tells it. Without systemd it is as one that does not exist.
type shown map[string]string

func (s *systemd) show(ctx context.Context) (shown, error) {
	u := shown{}
	if !s.booted() {
		return u, nil
	}
	out, err := s.host.Query(ctx, s.systemctl("show", constants.Unit, "--property="+strings.Join(properties, ",")))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(out)) {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			u[k] = v
		}
	}
	if s.unread(u) {
		u["NeedDaemonReload"] = "yes"
	}
	return u, nil
}

// unread tells whether a drop-in is there that systemd does not know. Before version 253 it does not say so of one in a
// directory that is new: it looks for it in its cache of directories.
func (s *systemd) unread(u shown) bool {
	dir := constants.UnitFile + ".d"
	entries, err := s.host.ReadDir(dir)
	if err != nil || u["LoadState"] != "loaded" {
		return false
	}
	for _, e := range entries {
		name := e.Name()
		if path.Ext(name) != ".conf" || name[0] == '.' || strings.ContainsAny(name, " \\") || strings.Contains(u["DropInPaths"]+" ", "/"+name+" ") {
			continue
		}
		if info, err := s.host.Stat(path.Join(dir, name)); err == nil && !info.IsDir() {
			return true
		}
	}
	return false
}

func (u shown) number(property string) int {
	n, _ := strconv.Atoi(u[property]) // absent: 0
	return n
}

// pid is that of etcd; 0 when it does not run, a start that is under way included.
func (u shown) pid() int { return u.number("MainPID") }

// ends tells that the unit is being stopped, or has ended and is being cleared up. Its process may run on for as long as that
// takes.
func (u shown) ends() bool { return u["ActiveState"] == "deactivating" }

// idle tells that nothing runs and nothing is about to.
func (u shown) idle() bool {
	return (u["ActiveState"] == "" || u["ActiveState"] == "inactive" || u["ActiveState"] == "failed") && u.number("Job") == 0
}

// ended is how etcd ended last by itself, or why it was not started; "" when it never did. It ends by itself with any
// status, and by a signal when nobody asked it to stop.
func (s *systemd) ended(u shown) string {
	status, result := u.number("ExecMainStatus"), u["Result"]
	switch code := u.number("ExecMainCode"); {
	case result == "exec-condition":
		return lostData(s.unit.DataDir)
	case result == "oom-kill":
		return "killed, as memory was short"
	case code == cldExited && s.saysRemoved():
		return removedText
	case code == cldExited && status >= 200 && status < 250: // systemd.exec(5): what failed before the program ran
		return "it could not be run: exit status " + strconv.Itoa(status) + " of systemd"
	case code == cldExited:
		return "exit status " + strconv.Itoa(status)
	case (code == cldKilled || code == cldDumped) && syscall.Signal(status) != syscall.SIGTERM:
		return "signal: " + syscall.Signal(status).String()
	case result != "success" && result != "" && code == 0:
		return result
	}
	return ""
}

// saysRemoved tells whether the etcd that was started last told that its cluster has removed it. It ends with status 0, or
// with 1 when that comes before it serves.
func (s *systemd) saysRemoved() bool {
	lines, _ := s.Logs(tellingLines)
	return slices.ContainsFunc(lastStart(lines), func(l string) bool { return strings.Contains(l, removedWords) })
}

// How a process ended, as ExecMainCode tells it (waitid(2)).
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// ours tells whether the unit that systemd knows is, or will be after a reload, one of etcdadm.
func (s *systemd) ours(u shown) (bool, error) {
	if at := u["FragmentPath"]; at != "" && at != constants.UnitFile {
		return false, nil
	}
	text, err := s.unitOnDisk()
	return text == nil || s.wrote(text), err
}

// wrote tells whether a unit is ours to stop and to remove: we wrote it, or the retired etcdadm did.
func (s *systemd) wrote(text []byte) bool { return IsUnit(text) || isRetired(s.host, text) }

// unitOnDisk is the text of the unit; nil when there is none.
func (s *systemd) unitOnDisk() ([]byte, error) {
	text, err := s.host.ReadFile(constants.UnitFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// State tells what runs now.
func (s *systemd) State(ctx context.Context) (State, error) {
	u, err := s.show(ctx)
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return State{}, nil
		}
		return State{}, err
	}
	st := State{PID: u.pid(), Restarts: u.number("NRestarts"), LastExit: s.ended(u)}
	if st.PID == 0 {
		st.Removed = st.LastExit == removedText
		st.Again = !u.idle() && !st.Removed
		return st, nil
	}
	st.Running = true
	if env, err := s.host.Environ(st.PID); err == nil {
		st.Digest = env[constants.DigestVariable]
	}
	st.StartedAt, err = s.host.Started(st.PID)
	if errors.Is(err, fs.ErrNotExist) { // ended meanwhile
		return State{Restarts: st.Restarts, LastExit: st.LastExit, Again: true}, nil
	}
	return st, err
}

// Logs returns the last lines of the journal; none where there is no journal.
func (s *systemd) Logs(n int) ([]string, error) {
	if !s.booted() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), constants.RequestTimeout)
	defer cancel()
	out, err := s.host.Query(ctx, host.Command{Path: "journalctl", Args: []string{
		"--quiet", "--no-pager", "-u", constants.Unit, "-o", "cat", "-n", strconv.Itoa(n),
	}})
	if err != nil || len(out) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimRight(string(out), "\n"), "\n"), nil
}

// changedSince tells whether a drop-in was changed, added or removed since a moment: those are the operator's, and no
// digest knows them. What claims to be of the future says nothing, nor does a directory of drop-ins for other units too. That
// the whole directory is gone is not seen.
func (s *systemd) changedSince(started time.Time, u shown) bool {
	const grain = 100 * time.Millisecond // of the kernel's time of a start
	paths := []string{constants.UnitFile + ".d"}
	for p := range strings.FieldsSeq(u["DropInPaths"]) {
		paths = append(paths, p)
		if dir := path.Dir(p); path.Base(dir) == constants.Unit+".d" {
			paths = append(paths, dir)
		}
	}
	for _, p := range paths {
		info, err := s.host.Stat(p)
		if err == nil && info.ModTime().After(started.Add(grain)) && !info.ModTime().After(time.Now()) {
			return true
		}
	}
	return false
}
