package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// The test binary plays several parts: the tests, the supervisor that the backend starts, etcd, and the programs of systemd.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case name == "etcd":
		os.Exit(fakeEtcd())
	case name == "systemctl":
		os.Exit(fakeSystemctl(os.Args[1:]))
	case name == "journalctl":
		os.Exit(fakeJournalctl())
	case name == "systemd":
		os.Exit(fakeSystemd())
	case len(os.Args) > 6 && os.Args[1] == superviseCommand:
		os.Exit(supervise(os.Args[3], os.Args[5], os.Args[7]))
	}
	os.Exit(m.Run())
}

func supervise(root, installDir, dataDir string) int {
	n, _ := strconv.Atoi(os.Getenv("TEST_DIE_AT")) // 0: never
	h := host.New(root, host.Observe(func(string) {
		if n--; n == 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {} // no further act until the signal has arrived
		}
	}))
	if err := Supervise(context.Background(), h, installDir, dataDir); err != nil {
		return int(errs.StatusOf(err))
	}
	return 0
}

// fakeEtcd makes a data directory and runs until SIGTERM. Its etcd.env says how it fails.
func fakeEtcd() int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	data := os.Args[2]
	fmt.Println("etcd", os.Args[1:])
	wal := filepath.Join(data, "member", "wal")
	if err := os.MkdirAll(wal, 0o700); err != nil {
		return 3
	}
	if err := os.WriteFile(filepath.Join(wal, "0.wal"), nil, 0o600); err != nil {
		return 3
	}
	switch os.Getenv("FAKE") {
	case "fail":
		return 7
	case "removed":
		fmt.Println(`{"level":"warn","msg":"server error","error":"the member has been permanently removed from the cluster"}`)
		return 0
	case "settle": // fails twice
		marks, _ := filepath.Glob(filepath.Join(data, "mark*"))
		if len(marks) < 2 {
			_ = os.WriteFile(filepath.Join(data, "mark"+strconv.Itoa(len(marks))), nil, 0o600)
			return 7
		}
	}
	<-term
	_ = os.WriteFile(filepath.Join(data, "stopped-in-order"), nil, 0o600)
	return 0
}

// node is a node under a root of its own with a fake etcd.
type node struct {
	*testing.T
	root string
	*process
}

func newNode(t *testing.T) node {
	t.Helper()
	n := node{T: t, root: t.TempDir()}
	n.process = NewProcess(host.New(n.root), "/opt/bin/", "/var/lib/etcd").(*process)
	bin := filepath.Join(n.root, "opt/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(os.Args[0], filepath.Join(bin, "etcd")); err != nil {
		b, rerr := os.ReadFile(os.Args[0])
		if rerr != nil || os.WriteFile(filepath.Join(bin, "etcd"), b, 0o755) != nil {
			t.Fatal(err, rerr)
		}
	}
	n.bootstrap()
	t.Cleanup(func() { // t.Context has ended by now
		if err := n.Stopped().Apply(context.Background()); err != nil {
			t.Error(err)
		}
		n.await("the end of all processes", func(State) bool { return len(n.leftovers()) == 0 })
	})
	return n
}

func (n node) bootstrap() {
	n.Helper()
	write(n.T, n.host, constants.BootstrapFile, "ETCD_INITIAL_CLUSTER=a=https://127.0.0.1:2380\nETCD_INITIAL_CLUSTER_STATE=new\nETCD_INITIAL_CLUSTER_TOKEN=t\n")
}

func (n node) unbootstrap() {
	n.Helper()
	if err := n.host.Remove(constants.BootstrapFile); err != nil {
		n.Fatal(err)
	}
}

// leftovers are the processes that were started for this node.
func (n node) leftovers() []host.Process {
	all, err := n.host.Processes()
	if err != nil {
		n.Fatal(err)
	}
	return slices.DeleteFunc(all, func(p host.Process) bool {
		args, err := n.host.Args(p.PID)
		return err != nil || p.PID == os.Getpid() || !strings.Contains(strings.Join(args, " "), n.root)
	})
}

func (n node) env(digest string, more ...KV) {
	n.Helper()
	kvs := append([]KV{{"ETCD_NAME", "a"}, {"ETCD_INITIAL_CLUSTER_STATE", "existing"}}, more...)
	if err := (EnvFile{n.host, kvs, digest}).Apply(context.Background()); err != nil {
		n.Fatal(err)
	}
}

// running brings etcd about, and waits until it has its data.
func (n node) running(digest string) State {
	n.Helper()
	hold(n.T, n.Running(digest))
	return n.await("data of etcd", func(s State) bool {
		there, err := n.host.Exists("/var/lib/etcd/member/wal/0.wal")
		return err == nil && there && s.Running && s.Digest == digest
	})
}

func (n node) state() State {
	n.Helper()
	s, err := n.State(context.Background()) // t.Context has ended in a cleanup
	if err != nil {
		n.Fatal(err)
	}
	return s
}

// await waits for a state that is on its way.
func (n node) await(what string, holds func(State) bool) State {
	n.Helper()
	for range 4000 {
		if s := n.state(); holds(s) {
			return s
		}
		time.Sleep(lookAgain)
	}
	n.Fatalf("never came about: %s; now %+v", what, n.state())
	return State{}
}

func (n node) log() string {
	lines, err := n.Logs(100)
	if err != nil {
		n.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func TestRunningCarriesItsDigest(t *testing.T) {
	n := newNode(t)
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	n.env("one")
	if got := gapOf(t, n.Running("one")); got != "etcd: not running, want running" {
		t.Errorf("gap %q", got)
	}
	before := time.Now()
	s := n.running("one")
	if !s.Running || s.Digest != "one" || s.Restarts != 0 || s.LastExit != "" {
		t.Errorf("state %+v", s)
	}
	if age := s.StartedAt.Sub(before); age < -time.Second || age > time.Minute {
		t.Errorf("started at %s, now is %s", s.StartedAt, before)
	}
	env, err := n.host.Environ(s.PID)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for k := range env {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	want := []string{"ETCDADM_DIGEST", "ETCD_INITIAL_CLUSTER", "ETCD_INITIAL_CLUSTER_STATE", "ETCD_INITIAL_CLUSTER_TOKEN", "ETCD_NAME", "HOME", "PATH"}
	if !slices.Equal(keys, want) {
		t.Errorf("environment has %q, want %q", keys, want)
	}
	if env["ETCD_INITIAL_CLUSTER_STATE"] != "new" {
		t.Errorf("the bootstrap file does not override the state: %q", env["ETCD_INITIAL_CLUSTER_STATE"])
	}
	args, err := n.host.Args(s.PID)
	if err != nil || !slices.Equal(args[1:], []string{"--data-dir", filepath.Join(n.root, "var/lib/etcd")}) {
		t.Errorf("arguments %q, %v", args, err)
	}
	if !strings.Contains(n.log(), "etcd [--data-dir") {
		t.Errorf("the log lacks etcd's output: %q", n.log())
	}
}

func TestRestartExactlyWhenDue(t *testing.T) {
	n := newNode(t)
	n.env("one")
	first := n.running("one")
	if again := n.running("one"); again.PID != first.PID {
		t.Error("restarted although nothing changed")
	}
	n.unbootstrap()
	// Killed between the writing and the restart: the file is new, the process old, and only the digest tells.
	n.env("two")
	if got := gapOf(t, n.Running("two")); got != "etcd: running with other settings, want restarted" {
		t.Errorf("gap %q", got)
	}
	second := n.running("two")
	if second.PID == first.PID || second.Digest != "two" {
		t.Errorf("not restarted: %+v, %+v", first, second)
	}
	if _, err := os.Stat(filepath.Join(n.root, "var/lib/etcd/stopped-in-order")); err != nil {
		t.Error("etcd was not asked to stop")
	}
	// A crash after the writing brings the new settings by itself: no restart is due then.
	n.env("three")
	if err := unix.Kill(second.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	third := n.await("a start after the crash", func(s State) bool { return s.Running && s.PID != second.PID && s.Digest != "" })
	if third.Digest != "three" || third.Restarts != 1 || third.LastExit != "signal: killed" {
		t.Errorf("after the crash: %+v", third)
	}
	if fourth := n.running("three"); fourth.PID != third.PID {
		t.Error("restarted although the crash had done it")
	}
	hold(t, n.Stopped())
	if s := n.state(); s.Running || s.LastExit != "" {
		t.Errorf("stopped: %+v", s)
	}
	n.await("the end of all processes", func(State) bool { return len(n.leftovers()) == 0 })
}

func TestRunningSaysWhenTheFileHasOtherSettings(t *testing.T) {
	n := newNode(t)
	n.env("one")
	err := n.Running("two").Apply(t.Context())
	if !strings.Contains(text(err), "/etc/etcd/etcd.env was not written for them") {
		t.Errorf("error %v", err)
	}
}

func TestEtcdDiesWithItsSupervisor(t *testing.T) {
	n := newNode(t)
	n.env("one")
	n.running("one")
	v, err := n.look(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(v.supervisor, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if ended, err := n.ended(t.Context(), v, startLimit); err != nil || !ended {
		t.Fatalf("etcd outlived its supervisor: %v", err)
	}
	if got := gapOf(t, n.Running("one")); got != "etcd: not running, want running" {
		t.Errorf("gap %q", got)
	}
	n.running("one")
}

// One that was killed has no command line any more, and its lock until the last of its threads is gone.
func TestADyingSupervisorIsAwaited(t *testing.T) {
	n := newNode(t)
	write(t, n.host, constants.SupervisorFile, strconv.Itoa(os.Getpid())+"\n") // which is no supervisor's command line either
	f, err := os.Open(n.host.RealPath(constants.SupervisorFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(500*time.Millisecond, func() { _ = f.Close() })
	if got := gapOf(t, n.Running("one")); got != "etcd: not running, want running" {
		t.Errorf("gap %q", got)
	}
}

// Somebody clears /run: no second etcd is started on the same data, and the first one can be stopped.
func TestASupervisorWhoseFilesAreLostIsFound(t *testing.T) {
	n := newNode(t)
	n.env("one")
	before := n.running("one")
	v, err := n.look(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.host.RemoveAll(constants.RunDir); err != nil {
		t.Fatal(err)
	}
	if got := n.state(); got.PID != before.PID || !got.Running {
		t.Fatalf("etcd is process %d (%t), and was %d", got.PID, got.Running, before.PID)
	}
	if got := gapOf(t, n.Running("one")); got != "" {
		t.Errorf("gap %s", got)
	}
	if got := gapOf(t, newNode(t).Stopped()); got != "" {
		t.Errorf("a node of another root takes it for its own: %s", got)
	}
	hold(t, n.Stopped())
	if !n.gone(v.supervisor) || !n.gone(v.etcd) {
		t.Error("etcd was not stopped")
	}
}

func TestCrashesAreSurvived(t *testing.T) {
	n := newNode(t)
	n.env("one", KV{"FAKE", "settle"})
	if err := n.Running("one").Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := n.await("a run after two crashes", func(s State) bool { return s.Running && s.Restarts == 2 })
	if s.LastExit != "exit status 7" {
		t.Errorf("state %+v", s)
	}
	if !strings.Contains(n.log(), "etcd ended: exit status 7; it is started again in 200ms") {
		t.Errorf("the log does not tell the growing pause: %s", n.log())
	}
}

func TestACrashLoopIsAGapThatASettingCloses(t *testing.T) {
	n := newNode(t)
	n.env("one", KV{"FAKE", "fail"})
	_ = n.Running("one").Apply(t.Context()) // it may, or may not, be seen alive
	n.await("a pause between two starts", func(s State) bool { return !s.Running && s.Restarts > 1 })
	n.env("two")
	n.running("two")
}

func TestARemovedMemberIsNotStartedAgain(t *testing.T) {
	n := newNode(t)
	n.env("one", KV{"FAKE", "removed"})
	_ = n.Running("one").Apply(t.Context())
	const reason = "this member has been permanently removed from its cluster"
	n.await("the end of the supervisor", func(s State) bool {
		v, err := n.look(context.Background())
		return err == nil && v.supervisor == 0 && s.LastExit == reason
	})
	if got := gapOf(t, n.Running("one")); got != "etcd: not running ("+reason+"), want running" {
		t.Errorf("gap %q", got)
	}
	if c := strings.Count(n.log(), "permanently removed from the cluster"); c != 1 {
		t.Errorf("etcd was started %d times", c)
	}
}

func TestAnEmptyDataDirectoryIsNotStartedAfterBootstrap(t *testing.T) {
	n := newNode(t)
	n.env("one")
	s := n.running("one")
	n.unbootstrap()
	if err := os.RemoveAll(filepath.Join(n.root, "var/lib/etcd/member")); err != nil {
		t.Fatal(err)
	}
	// The supervisor refuses after a crash ...
	if err := unix.Kill(s.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.await("the end of the supervisor", func(State) bool { return len(n.leftovers()) == 0 })
	const reason = "the data directory /var/lib/etcd has no write-ahead log"
	if last := n.state().LastExit; !strings.Contains(last, reason) || !strings.Contains(n.log(), reason) {
		t.Errorf("the reason is missing: %q, log %s", last, n.log())
	}
	// ... and so does a start.
	err := n.Running("one").Apply(t.Context())
	if errs.StatusOf(err) != errs.Precondition || !strings.Contains(text(err), reason) || len(errs.HintsOf(err)) == 0 {
		t.Errorf("error %v (%d)", err, errs.StatusOf(err))
	}
	if left := n.leftovers(); len(left) > 0 {
		t.Errorf("started all the same: %+v", left)
	}
}

func TestTheReasonOfAFailedStartIsTold(t *testing.T) {
	n := newNode(t)
	err := n.Running("one").Apply(t.Context())
	if !strings.Contains(text(err), "etcd was not started: ") || !strings.Contains(text(err), "etcd.env: no such file") {
		t.Errorf("without etcd.env: %v", err)
	}
	n.env("one")
	if err := os.Remove(filepath.Join(n.root, "opt/bin/etcd")); err != nil {
		t.Fatal(err)
	}
	if err := n.Running("one").Apply(t.Context()); !strings.Contains(text(err), "opt/bin/etcd: no such file") {
		t.Errorf("without the program: %v", err)
	}
}

func TestTwoStartsAtOnceMakeOneEtcd(t *testing.T) {
	n := newNode(t)
	n.env("one")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := n.Running("one").Apply(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := gapOf(t, n.Running("one")); got != "" {
		t.Errorf("gap %s", got)
	}
	n.await("one supervisor and one etcd", func(State) bool { return len(n.leftovers()) == 2 })
}

func TestTheSupervisorIsADaemon(t *testing.T) {
	n := newNode(t)
	n.env("one")
	// A descriptor that a script around us left open, such as its lock.
	var ends [2]int
	if err := unix.Pipe(ends[:]); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	s := n.running("one")
	v, err := n.look(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(ends[1]); err != nil {
		t.Fatal(err)
	}
	fds := []unix.PollFd{{Fd: int32(ends[0])}}
	if got, err := unix.Poll(fds, int(startLimit.Milliseconds())); err != nil || got != 1 || fds[0].Revents&unix.POLLHUP == 0 {
		t.Errorf("somebody holds our descriptor open: %d, %v", got, err)
	}
	log, err := filepath.EvalSymlinks(filepath.Join(n.root, constants.LogFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{v.supervisor, s.PID} {
		if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || dir != "/" {
			t.Errorf("process %d works in %s, %v", pid, dir, err)
		}
		for fd, want := range map[int]string{0: "/dev/null", 1: log, 2: log} {
			if got, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); err != nil || got != want {
				t.Errorf("descriptor %d of process %d is %s, %v", fd, pid, got, err)
			}
		}
		if sid, err := unix.Getsid(pid); err != nil || sid != v.supervisor {
			t.Errorf("process %d is in session %d, %v", pid, sid, err)
		}
	}
	// The end of the terminal is not its end: it ignores the signal that tells of it.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.supervisor))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "SigIgn:\t")
	mask, _, _ := strings.Cut(rest, "\n")
	if ignored, err := strconv.ParseUint(mask, 16, 64); err != nil || ignored&(1<<(unix.SIGHUP-1)) == 0 {
		t.Errorf("signals ignored: %s, %v", mask, err)
	}
}

func TestRunningSurvivesDeathAtEveryAct(t *testing.T) {
	for act := 1; ; act++ {
		n := newNode(t)
		n.env("one")
		n.running("one")
		n.env("two")
		dying := NewProcess(dyingHost(n.root, act), n.installDir, n.dataDir)
		died := diesIn(func() { _ = dying.Running("two").Apply(context.Background()) })
		if !died {
			if act < 3 {
				t.Errorf("only %d acts were seen", act-1)
			}
			return
		}
		s := n.running("two")
		if again := n.running("two"); again.PID != s.PID {
			t.Errorf("killed before act %d: the third run restarted etcd", act)
		}
	}
}

func TestASupervisorThatDiesAtAnyActIsReplaced(t *testing.T) {
	n := newNode(t)
	n.env("one")
	for act := 1; act <= 3; act++ {
		t.Setenv("TEST_DIE_AT", strconv.Itoa(act))
		if err := n.Running("one").Apply(t.Context()); err != nil && !strings.Contains(err.Error(), "etcd was not started") {
			t.Errorf("act %d: %v", act, err)
		}
		t.Setenv("TEST_DIE_AT", "")
		n.running("one")
		hold(t, n.Stopped())
	}
}

func TestDryRunsAndStopsWithNothingThere(t *testing.T) {
	p := NewProcess(host.New(t.TempDir(), host.ReadOnly()), "/opt/bin", "/var/lib/etcd")
	if got := gapOf(t, p.Running("x")); got != "etcd: not running, want running" {
		t.Errorf("gap %q", got)
	}
	for what, r := range map[string]converge.Resource{"stopped": p.Stopped(), "enabled": p.Enabled(), "disabled": p.Disabled()} {
		if got := gapOf(t, r); got != "" {
			t.Errorf("%s: gap %q", what, got)
		}
	}
	if lines, err := p.Logs(5); err != nil || lines != nil {
		t.Errorf("logs %q, %v", lines, err)
	}
	if s, err := p.State(t.Context()); err != nil || s != (State{}) {
		t.Errorf("state %+v, %v", s, err)
	}
}

func TestLogsAreTheLastLines(t *testing.T) {
	n := newNode(t)
	write(t, n.host, constants.LogFile, strings.Repeat("x", tailSize)+"\n"+"one\ntwo\nthree\n")
	got, err := n.Logs(2)
	if err != nil || !slices.Equal(got, []string{"two", "three"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestALargeLogIsSetAside(t *testing.T) {
	n := newNode(t)
	n.env("one")
	write(t, n.host, constants.LogFile, "old\n")
	if err := os.Truncate(filepath.Join(n.root, constants.LogFile), maxLogSize); err != nil {
		t.Fatal(err)
	}
	n.running("one")
	n.await("a new log", func(State) bool { return strings.Contains(n.log(), "etcd [--data-dir") })
	for name, small := range map[string]bool{constants.LogFile: true, constants.LogFile + ".1": false} {
		info, err := n.host.Stat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (info.Size() < maxLogSize) != small {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}
