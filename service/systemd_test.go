package service

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// machine is a node whose init system is the fake one.
type machine struct {
	*testing.T
	root, state string
	*systemd
}

func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine{T: t, root: t.TempDir(), state: t.TempDir()}
	bin := t.TempDir()
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(bin, "systemctl")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	etcd := filepath.Join(m.root, "opt/bin/etcd")
	for _, dir := range []string{filepath.Dir(etcd), filepath.Join(m.root, "run/systemd/system")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{filepath.Join(bin, "journalctl"), etcd} {
		if err := os.Symlink(program, link); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("FAKE_SYSTEMD", m.state)
	t.Setenv("FAKE_ROOT", m.root)
	m.systemd = m.on(host.New(m.root))
	write(t, m.host, constants.BootstrapFile, "ETCD_INITIAL_CLUSTER=a=https://127.0.0.1:2380\nETCD_INITIAL_CLUSTER_STATE=new\nETCD_INITIAL_CLUSTER_TOKEN=t\n")
	t.Cleanup(func() {
		if err := m.Stopped().Apply(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// on is the backend on a host of this machine.
func (m machine) on(h *host.Host) *systemd {
	s := NewSystemd(h, plainUnit).(*systemd)
	s.live = true
	return s
}

// configure writes what etcd is told.
func (m machine) configure(digest string, more ...KV) {
	m.Helper()
	for _, f := range m.Files() {
		if err := f.Apply(m.Context()); err != nil {
			m.Fatal(err)
		}
	}
	if err := (EnvFile{m.host, append([]KV{{"ETCD_NAME", "a"}}, more...), digest}).Apply(m.Context()); err != nil {
		m.Fatal(err)
	}
}

func (m machine) await(what string, holds func(State) bool) State {
	m.Helper()
	var s State
	for range 1000 {
		var err error
		if s, err = m.State(context.Background()); err != nil {
			m.Fatal(err)
		}
		if holds(s) {
			return s
		}
		time.Sleep(askAgain)
	}
	m.Fatalf("never came about: %s; now %+v", what, s)
	return State{}
}

// running brings etcd about, and waits until it has its data.
func (m machine) running(digest string) State {
	m.Helper()
	hold(m.T, m.Running(digest))
	return m.await("data of etcd", func(s State) bool {
		there, err := m.host.Exists("/var/lib/etcd/member/wal/0.wal")
		return err == nil && there && s.Running && s.Digest == digest
	})
}

// calls counts how often systemctl was called with a verb.
func (m machine) calls(verb string) int {
	b, _ := os.ReadFile(filepath.Join(m.state, "calls"))
	return strings.Count("\n"+string(b), "\n"+verb+"\n")
}

// starting waits for a start as long as systemd has not been asked three times, and returns why the wait has ended:
// context.Canceled if it would have gone on.
func (m machine) starting(digest string, starts int) error {
	m.Helper()
	ctx, enough := context.WithCancel(m.Context())
	defer enough()
	before, ended := m.calls("show"), make(chan error, 1)
	go func() { ended <- (&unitRunning{systemd: m.systemd, digest: digest}).started(ctx, 0, starts) }()
	for {
		select {
		case err := <-ended:
			return err
		case <-time.After(lookAgain):
			if m.calls("show") >= before+3 {
				enough()
			}
		}
	}
}

func TestAUnitIsRestartedExactlyWhenDue(t *testing.T) {
	m := newMachine(t)
	if got := gapOf(t, m.Running("one")); got != "etcd: not running, want running" {
		t.Errorf("gap %q", got)
	}
	m.configure("one")
	first := m.running("one")
	if again := m.running("one"); again.PID != first.PID {
		t.Error("restarted although nothing changed")
	}

	m.configure("two") // killed between the writing and the restart: only the process tells
	if got := gapOf(t, m.Running("two")); got != "etcd: running with other settings, want restarted" {
		t.Errorf("other settings: gap %q", got)
	}
	second := m.running("two")
	if second.PID == first.PID || second.Restarts != 0 || m.calls("daemon-reload") != 0 {
		t.Errorf("other settings: %+v, %d reloads", second, m.calls("daemon-reload"))
	}

	m.unit.DiskPriorities = []string{"Nice=-5"}
	m.configure("two")
	if got := gapOf(t, m.Running("two")); got == "" {
		t.Error("no gap although the unit has changed")
	}
	third := m.running("two")
	if third.PID == second.PID || m.calls("daemon-reload") != 1 {
		t.Errorf("another unit: %+v, %d reloads", third, m.calls("daemon-reload"))
	}

	hold(t, m.Stopped())
	if s := m.await("no etcd", func(s State) bool { return !s.Running }); s.LastExit != "" {
		t.Errorf("stopped: %+v", s)
	}
}

// systemd starts an etcd that crashed from the unit that it knows, with the settings that are on the disk. These then
// look as wanted; the unit is not.
func TestARestartFromAnOldUnitIsSeen(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	first := m.running("one")
	m.unit.DiskPriorities = nil
	m.configure("two")
	if err := unix.Kill(first.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.await("a start after the crash", func(s State) bool { return s.Running && s.PID != first.PID && s.Digest == "two" })
	if err := m.run(t.Context(), "daemon-reload"); err != nil { // somebody else's
		t.Fatal(err)
	}
	if got := gapOf(t, m.Running("two")); got != "etcd: running from another unit, want restarted" {
		t.Errorf("gap %q", got)
	}
	m.running("two")
}

func TestChangedDropInsAreAReasonToRestart(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	first := m.running("one")
	dir := filepath.Join(m.root, constants.UnitFile+".d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	started, err := m.host.Started(first.PID)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		changed time.Time
		due     bool
	}{
		"before the start": {started.Add(-time.Hour), false},
		"after the start":  {started.Add(500 * time.Millisecond), true},
		"in the future":    {time.Now().Add(time.Hour), false},
	} {
		for !time.Now().After(started.Add(500 * time.Millisecond)) {
			time.Sleep(askAgain)
		}
		if err := os.Chtimes(dir, c.changed, c.changed); err != nil {
			t.Fatal(err)
		}
		if got := gapOf(t, m.Running("one")); (got != "") != c.due {
			t.Errorf("changed %s: gap %q", name, got)
		}
	}

	// Of the directories, those of this unit count: others hold drop-ins of other units too.
	if err := os.Chtimes(dir, time.Time{}, started.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	for at, due := range map[string]bool{"/run/systemd/system/etcd.service.d": true, "/usr/lib/systemd/system/service.d": false} {
		dropIn := filepath.Join(m.root, at, "10-x.conf")
		write(t, m.host, path.Join(at, "10-x.conf"), "[Service]\n")
		if err := errors.Join(os.Chtimes(dropIn, time.Time{}, started.Add(-time.Hour)), os.WriteFile(filepath.Join(m.state, "dropins"), []byte(path.Join(at, "10-x.conf")), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got := gapOf(t, m.Running("one")); (got != "") != due {
			t.Errorf("%s has changed: gap %q", at, got)
		}
	}
}

// systemd 252 does not tell of a drop-in in a directory that is new; it would start etcd without it.
func TestNewDropInsAreRead(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	m.running("one")
	dir := filepath.Join(m.root, constants.UnitFile+".d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dropIn := range []struct {
		name string
		read int
	}{{"10-first.conf", 1}, {"20-second.conf", 1}, {".hidden.conf", 0}, {"notes.txt", 0}} {
		if err := os.WriteFile(filepath.Join(dir, dropIn.name), []byte("[Service]\nNice=1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		before := m.calls("daemon-reload")
		hold(t, m.Running("one"))
		if got := m.calls("daemon-reload") - before; got != dropIn.read {
			t.Errorf("%s is new: systemd has read its units %d times, want %d", dropIn.name, got, dropIn.read)
		}
	}
}

func TestTheEndOfAUnitIsTold(t *testing.T) {
	m := newMachine(t)
	m.configure("one", KV{"FAKE", "fail"})
	err := m.Running("one").Apply(t.Context()) // it may be seen alive
	if err != nil && (errs.StatusOf(err) != errs.Failed || !strings.Contains(err.Error(), "exit status 7") || len(errs.HintsOf(err)) == 0) {
		t.Errorf("error %v (%d), hints %q", err, errs.StatusOf(err), errs.HintsOf(err))
	}
	// At the moment of a start systemd knows of no exit status.
	s := m.await("a pause between two starts", func(s State) bool { return !s.Running && s.Restarts > 1 && s.LastExit == "exit status 7" })
	if s.Removed {
		t.Errorf("state %+v", s)
	}
	m.configure("two")
	m.running("two")
}

func TestAUnitBetweenTwoStartsIsLeftToSystemd(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	if err := m.run(t.Context(), "daemon-reload"); err != nil {
		t.Fatal(err)
	}
	defer writeState(fakeState{ActiveState: "inactive", SubState: "dead"})
	for _, c := range []struct {
		restarts     int
		digest, want string
	}{
		{0, "one", "etcd: between two starts (exit status 7), want running"}, // once, of an etcd that others have started
		{0, "two", "etcd: between two starts (exit status 7), want running"},
		{1, "one", "etcd: between two starts (exit status 7), want running"},
	} {
		writeState(fakeState{ActiveState: "activating", SubState: "auto-restart", NRestarts: c.restarts, ExecMainCode: cldExited, ExecMainStatus: 7, Result: "exit-code"})
		if got := gapOf(t, m.Running(c.digest)); got != c.want {
			t.Errorf("started again %d times, and %s is wanted: gap %q, want %q", c.restarts, c.digest, got, c.want)
		}
		// Once it was seen to run, whether it stays up is for others to await, however often it has ended since.
		if got, begun := gapOf(t, &unitRunning{systemd: m.systemd, digest: c.digest, begun: true}), c.digest == "one"; (got == "") != begun {
			t.Errorf("started by us, and again %d times since, and %s is wanted: gap %q", c.restarts, c.digest, got)
		}
	}
}

// Who waits for etcd waits while systemd is about to start it, and for nothing when systemd has given it up.
func TestAStartThatIsToComeIsToldFromOneThatIsNot(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	if err := m.run(t.Context(), "daemon-reload"); err != nil {
		t.Fatal(err)
	}
	defer writeState(fakeState{ActiveState: "inactive", SubState: "dead"})
	for _, c := range []struct {
		active, sub, result string
		job                 int
		journal             string
		again               bool
	}{
		{"activating", "auto-restart", "exit-code", 0, "", true},
		{"activating", "start-pre", "exit-code", 0, "", true},
		{"deactivating", "stop-post", "exit-code", 0, "", true}, // for an instant, at every end
		{"failed", "failed", "exit-code", 9, "", true},          // somebody else has asked for a start
		{"failed", "failed", "exit-code", 0, "", false},
		{"failed", "failed", "start-limit-hit", 0, "", false},
		{"inactive", "dead", "success", 0, "", false},
		{"activating", "auto-restart", "exit-code", 0, removedWords, false},
	} {
		writeState(fakeState{ActiveState: c.active, SubState: c.sub, Result: c.result, Job: c.job, NRestarts: 4, ExecMainCode: cldExited, ExecMainStatus: 7})
		if err := os.WriteFile(filepath.Join(m.state, "journal"), []byte(c.journal+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := m.State(t.Context()); err != nil || s.Running || s.Again != c.again || s.LastExit == "" || s.Restarts != 4 {
			t.Errorf("%+v: state %+v, %v", c, s, err)
		}
	}
}

// Right after it was asked to start etcd, systemd still tells how often it had started the one before.
func TestStartsOfBeforeAreNotCounted(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	if err := m.run(t.Context(), "daemon-reload"); err != nil {
		t.Fatal(err)
	}
	defer writeState(fakeState{ActiveState: "inactive", SubState: "dead"})
	writeState(fakeState{ActiveState: "activating", SubState: "auto-restart", NRestarts: 4, Result: "exit-code"})
	const cause = "no space left on device" // one that is known: others would be looked for in the journal for a while
	if err := os.WriteFile(filepath.Join(m.state, "journal"), []byte("Starting etcd.service - etcd...\n"+cause+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, before := range []int{1, 4} {
		waits := before == 4
		if err := m.starting("one", before); err == nil || errors.Is(err, context.Canceled) != waits {
			t.Errorf("with 4 starts told, %d of them from before: %v", before, err)
		}
	}
}

// Whoever asked systemd to stop etcd may have gone: the stop goes on.
func TestAnEtcdThatIsBeingStoppedIsNotOneThatRuns(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	first := m.running("one")
	runs := readState()
	stopping := runs
	stopping.ActiveState, stopping.SubState, stopping.Job = "deactivating", "stop-sigterm", 7
	writeState(stopping)
	for _, begun := range []bool{false, true} {
		if got := gapOf(t, &unitRunning{systemd: m.systemd, digest: "one", begun: begun}); got != "etcd: being stopped, want running" {
			t.Errorf("begun: %t, gap %q", begun, got)
		}
	}
	if err := m.starting("one", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("taken for started: %v", err)
	}
	if s := m.running("one"); s.PID == first.PID {
		t.Error("it was not started again")
	}

	// One that ended by itself is cleared up for an instant. After a start of ours, what comes of it is awaited.
	runs = readState()
	ended := runs
	ended.ActiveState, ended.SubState = "deactivating", "stop-post"
	writeState(ended)
	again := time.AfterFunc(200*time.Millisecond, func() { writeState(runs) })
	defer again.Stop()
	if got := gapOf(t, &unitRunning{systemd: m.systemd, digest: "one", begun: true}); got != "" {
		t.Errorf("started by us, and started again: gap %q", got)
	}
}

// systemd may have to bring up the network first, which may take minutes.
func TestAStartThatWaitsForOthersIsAwaited(t *testing.T) {
	defer func(d time.Duration) { slowStart = d }(slowStart)
	slowStart = askAgain
	m := newMachine(t)
	m.configure("one")
	defer writeState(fakeState{ActiveState: "inactive", SubState: "dead"})
	writeState(fakeState{ActiveState: "inactive", SubState: "dead", Job: 7})
	err := m.starting("one", 0)
	if !errors.Is(err, context.Canceled) || !strings.HasPrefix(text(err), "the unit is inactive (dead), and waits for networking-wait.service: ") || len(errs.HintsOf(err)) != 1 {
		t.Errorf("given up: %v, hints %q", err, errs.HintsOf(err))
	}
}

func TestAUnitOfARemovedMemberIsLeftAlone(t *testing.T) {
	m := newMachine(t)
	m.configure("one", KV{"FAKE", "removed"})
	_ = m.Running("one").Apply(t.Context())
	s := m.await("the end of etcd", func(s State) bool { return s.LastExit != "" })
	if !s.Removed || s.LastExit != removedText || s.Restarts != 0 {
		t.Errorf("state %+v", s)
	}
	if got := gapOf(t, m.Running("one")); got != "etcd: not running ("+removedText+"), want running" {
		t.Errorf("gap %q", got)
	}
}

func TestAUnitDoesNotStartOnLostData(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	if err := m.host.Remove(constants.BootstrapFile); err != nil {
		t.Fatal(err)
	}
	err := m.Running("one").Apply(t.Context())
	if errs.StatusOf(err) != errs.Precondition || !strings.Contains(text(err), "has no write-ahead log") {
		t.Errorf("error %v", err)
	}
	if m.calls("start")+m.calls("restart") > 0 {
		t.Error("started all the same")
	}
	// The unit itself refuses too.
	_, condition, _ := strings.Cut(plainUnit.Render(), "ExecCondition=+/bin/sh -c '")
	condition, _, _ = strings.Cut(condition, "'\n")
	for name, there := range map[string]bool{"": false, "/var/lib/etcd/member/wal/0.wal": true, constants.BootstrapFile: true} {
		root := t.TempDir()
		if name != "" {
			write(t, host.New(root), name, "")
		}
		here := strings.NewReplacer("/var/lib/etcd", root+"/var/lib/etcd", "/etc/etcd", root+"/etc/etcd").Replace(condition)
		if err := exec.CommandContext(t.Context(), "/bin/sh", "-c", here).Run(); (err == nil) != there {
			t.Errorf("with %q: %v", name, err)
		}
	}
}

func TestEnabledAndDisabled(t *testing.T) {
	m := newMachine(t)
	if got := gapOf(t, m.Disabled()); got != "" {
		t.Errorf("nothing there: gap %q", got)
	}
	m.configure("one")
	if got := gapOf(t, m.Enabled()); got != "etcd.service: disabled, want enabled" {
		t.Errorf("gap %q", got)
	}
	hold(t, m.Enabled())
	if got := gapOf(t, m.Disabled()); got != "etcd.service: enabled, want disabled" {
		t.Errorf("gap %q", got)
	}
	hold(t, m.Disabled())
}

func TestAForeignUnitIsLeftAlone(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	s := m.running("one")
	write(t, m.host, constants.UnitFile, "[Service]\nExecStart=/usr/bin/etcd\n")
	if got := gapOf(t, m.Stopped()) + gapOf(t, m.Disabled()) + gapOf(t, m.Removed()); got != "" {
		t.Errorf("gap %q", got)
	}
	m.configure("two")
	if err := os.WriteFile(filepath.Join(m.state, "fragment"), []byte("/usr/lib/systemd/system/etcd.service"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Running("two").Apply(t.Context()); errs.StatusOf(err) != errs.Precondition || !strings.Contains(text(err), "an etcd runs as the unit /usr/lib/systemd/system/etcd.service") {
		t.Errorf("started in place of an etcd of a package: %v", err)
	}
	if now := m.await("etcd", func(s State) bool { return s.Running }); now.PID != s.PID {
		t.Error("a foreign etcd was stopped")
	}
}

// The unit of the retired etcdadm is ours to stop and to remove, with an environment that says so; and systemd knows a new
// unit in its place before anything is restarted.
func TestAUnitOfTheRetiredEtcdadmIsTakenOver(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	s := m.running("one")
	write(t, m.host, constants.UnitFile, "[Unit]\n"+retiredConflict+"\n[Service]\nEnvironmentFile=/etc/etcd/etcd.env\nExecStart=/opt/bin/etcd\n")
	write(t, m.host, constants.EnvFile, "ETCD_NAME=etcd-1\n")
	if got := gapOf(t, m.Stopped()); got != "" {
		t.Errorf("an etcd of somebody is to be stopped: %q", got)
	}
	pki := "/etc/etcd/pki/"
	write(t, m.host, constants.EnvFile, strings.Join([]string{
		"ETCD_NAME=etcd-1", "ETCD_DATA_DIR=/var/lib/etcd", "ETCD_INITIAL_ADVERTISE_PEER_URLS=https://10.0.0.7:2380", "ETCD_ADVERTISE_CLIENT_URLS=https://10.0.0.7:2379",
		"ETCD_TRUSTED_CA_FILE=" + pki + "ca.crt", "ETCD_PEER_TRUSTED_CA_FILE=" + pki + "ca.crt", "ETCD_CERT_FILE=" + pki + "server.crt", "ETCD_KEY_FILE=" + pki + "server.key",
		"ETCD_PEER_CERT_FILE=" + pki + "peer.crt", "ETCD_PEER_KEY_FILE=" + pki + "peer.key", "",
	}, "\n"))
	if got := gapOf(t, m.Stopped()); got != "etcd: running, want stopped" {
		t.Errorf("gap %q", got)
	}
	hold(t, m.systemd.Loaded())
	if now := m.await("etcd", func(s State) bool { return s.Running }); now.PID != s.PID {
		t.Error("etcd was restarted")
	}
	hold(t, m.Stopped())
	hold(t, m.Removed())
}

func TestRemovedLeavesDropIns(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	m.running("one")
	hold(t, m.Stopped())
	dropIn := constants.UnitFile + ".d/mine.conf"
	write(t, m.host, dropIn, "[Service]\n")
	hold(t, m.Removed())
	if there, err := m.host.Exists(dropIn); err != nil || !there {
		t.Errorf("the drop-in is gone: %v", err)
	}
	if there, err := m.host.Exists(constants.UnitFile); err != nil || there {
		t.Errorf("the unit is there: %v", err)
	}
}

func TestRunningAUnitSurvivesDeathAtEveryAct(t *testing.T) {
	m := newMachine(t)
	for act := 1; ; act++ {
		digest := strings.Repeat("x", act)
		m.unit.DiskPriorities = []string{"Nice=-" + digest}
		m.configure(digest)
		dying := m.on(dyingHost(m.root, act))
		dying.unit = m.unit
		died := diesIn(func() { _ = dying.Running(digest).Apply(context.Background()) })
		s := m.running(digest)
		if again := m.running(digest); again.PID != s.PID {
			t.Errorf("killed before act %d: the third run restarted etcd", act)
		}
		if !died {
			if act < 3 {
				t.Errorf("only %d acts were seen", act-1)
			}
			return
		}
	}
}

func TestUnderARootThereAreOnlyFiles(t *testing.T) {
	h := host.New(t.TempDir())
	s := NewSystemd(h, plainUnit)
	for _, f := range s.Files() {
		hold(t, f)
	}
	if _, err := s.Running("x").Check(t.Context()); errs.StatusOf(err) != errs.Precondition || len(errs.HintsOf(err)) == 0 {
		t.Errorf("running: %v", err)
	}
	if got := gapOf(t, s.Stopped()); got != "" {
		t.Errorf("stopped: gap %q", got)
	}
	if st, err := s.State(t.Context()); err != nil || st != (State{}) {
		t.Errorf("state %+v, %v", st, err)
	}
	if lines, err := s.Logs(5); err != nil || lines != nil {
		t.Errorf("logs %q, %v", lines, err)
	}
	if _, err := exec.LookPath("systemctl"); err != nil {
		return
	}
	hold(t, s.Enabled())
	if text, err := h.Readlink("/etc/systemd/system/multi-user.target.wants/etcd.service"); err != nil || text != constants.UnitFile {
		t.Errorf("link to %q, %v", text, err)
	}
	hold(t, s.Disabled())
	hold(t, s.Removed())
}

func TestWithoutSystemdNothingIsStarted(t *testing.T) {
	m := newMachine(t)
	m.configure("one")
	if err := os.RemoveAll(filepath.Join(m.root, "run/systemd")); err != nil {
		t.Fatal(err)
	}
	if got := gapOf(t, m.Running("one")); got != "etcd: not running, want running" {
		t.Errorf("gap %q", got)
	}
	if err := m.Running("one").Apply(t.Context()); errs.StatusOf(err) != errs.Precondition || !strings.Contains(text(err), "systemd is not the init system here") {
		t.Errorf("error %v", err)
	}
}

func TestAccount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("accounts are made by root")
	}
	for name, sysusers := range map[string]bool{"systemd-sysusers": true, "useradd": false} {
		t.Run(name, func(t *testing.T) {
			program, err := exec.LookPath(name)
			if err != nil {
				t.Skipf("%s is not installed", name)
			}
			if !sysusers { // a PATH without the other one
				bin := t.TempDir()
				for _, p := range []string{program, filepath.Join(filepath.Dir(program), "groupadd")} {
					if err := os.Symlink(p, filepath.Join(bin, filepath.Base(p))); err != nil {
						t.Fatal(err)
					}
				}
				t.Setenv("PATH", bin)
			}
			h := host.New(t.TempDir())
			write(t, h, "/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
			write(t, h, "/etc/group", "root:x:0:\n")
			a := Account{Host: h, Owner: host.Owner{Name: "etcd"}}
			if got := gapOf(t, a); got != "user etcd: absent, want made; group etcd: absent, want made" {
				t.Errorf("gap %q", got)
			}
			hold(t, a)
			dir := filepath.Join(h.Root(), "data")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := h.Give("/data", a.Owner); err != nil {
				t.Fatal(err)
			}
			info, err := h.Stat("/data")
			if err != nil || !h.Owns(a.Owner, info) {
				t.Errorf("%v does not belong to etcd: %v", info, err)
			}
		})
	}
}
