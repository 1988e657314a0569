package host_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// lockAndWait takes the lock, says so, and waits to be killed, or for its standard input to end.
func lockAndWait(args []string) error {
	release, err := host.New(args[0]).Lock("/run/lock")
	if err != nil {
		return err
	}
	fmt.Println("locked")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	release(true)
	fmt.Println("released")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return nil
}

// holder starts a process that holds the lock.
func holder(t *testing.T, root string) (c *exec.Cmd, let func(), say func() string) {
	t.Helper()
	c = child(t, "lock", root)
	stdin, err := c.StdinPipe()
	must(t, err)
	stdout, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	out := bufio.NewReader(stdout)
	say = func() string {
		line, err := out.ReadString('\n')
		must(t, err)
		return strings.TrimSpace(line)
	}
	if got := say(); got != "locked" {
		t.Fatalf("the child says %q", got)
	}
	return c, func() { _, _ = stdin.Write([]byte("\n")) }, say
}

func TestLockAcrossProcesses(t *testing.T) {
	root := t.TempDir()
	h := host.New(root)
	expect := func(when string, want int) {
		t.Helper()
		if pid, err := h.LockedBy("/run/lock"); pid != want || err != nil {
			t.Errorf("%s: locked by %d (%v), want %d", when, pid, err, want)
		}
	}
	expect("before anything", 0)

	first, _, _ := holder(t, root)
	expect("while a process holds it", first.Process.Pid)
	_, err := h.Lock("/run/lock")
	if errs.StatusOf(err) != errs.Locked || !strings.Contains(err.Error(), "process "+strconv.Itoa(first.Process.Pid)) || len(errs.HintsOf(err)) == 0 {
		t.Errorf("taking a held lock: %v", err)
	}

	must(t, first.Process.Kill())
	_ = first.Wait()
	expect("after the holder was killed", 0)

	second, let, say := holder(t, root)
	expect("held again", second.Process.Pid)
	let()
	if got := say(); got != "released" {
		t.Fatalf("the child says %q", got)
	}
	expect("released by a living process", 0)

	release, err := h.Lock("/run/lock")
	must(t, err)
	expect("held by ourselves", os.Getpid())
	release(true)
	expect("released by ourselves", 0)
	if b, err := h.ReadFile("/run/lock"); len(b) != 0 || err != nil {
		t.Errorf("a released lock still names %q: %v", b, err)
	}
}

// Whoever can open the file can lock it, and keep every etcdadm from its work.
func TestLocksAreForTheirUserAlone(t *testing.T) {
	h := host.New(t.TempDir())
	must(t, h.WriteFile("/run/old", nil, 0o666))
	for _, path := range []string{"/run/old", "/run/new"} {
		release, err := h.Lock(path)
		must(t, err)
		info, err := h.Stat(path)
		must(t, err)
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%s has mode %o", path, got)
		}
		release(true)
	}
}

// The id of a holder that was killed stays in the file; it must not be taken for the next one's.
func TestLockedByOverlooksTheDead(t *testing.T) {
	root := t.TempDir()
	h := host.New(root)
	dead := exec.Command("true")
	must(t, dead.Run())
	must(t, h.WriteFile("/run/lock", fmt.Appendln(nil, dead.Process.Pid), 0o644))
	hold := func() *os.File {
		t.Helper()
		f, err := os.Open(h.RealPath("/run/lock"))
		must(t, err)
		t.Cleanup(func() { _ = f.Close() })
		must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
		return f
	}
	// A holder of which but a thread is left: it is busy with a disk.
	dying := hold()
	time.AfterFunc(busy, func() { _ = dying.Close() })
	if pid, err := h.LockedBy("/run/lock"); pid != 0 || err != nil {
		t.Errorf("locked by %d, which is dead, %v", pid, err)
	}
	// A holder that has the lock, but has not written its id yet.
	hold()
	time.AfterFunc(busy, func() {
		_ = os.WriteFile(h.RealPath("/run/lock"), fmt.Appendln(nil, os.Getpid()), 0o644)
	})
	if pid, err := h.LockedBy("/run/lock"); pid != os.Getpid() || err != nil {
		t.Errorf("locked by %d, %v", pid, err)
	}
}

// busy is how long a process may stand still on a machine that has too much to do.
const busy = 700 * time.Millisecond

// Who only asks for the holder has the lock for an instant, or longer on a busy machine; nobody may fail for it.
func TestLockWaitsForThoseWhoOnlyAsk(t *testing.T) {
	h := host.New(t.TempDir())
	must(t, h.WriteFile("/run/lock", nil, 0o644))
	f, err := os.Open(h.RealPath("/run/lock"))
	must(t, err)
	must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_SH))
	time.AfterFunc(busy, func() { _ = f.Close() })
	release, err := h.Lock("/run/lock")
	must(t, err)
	release(true)
}

// A process that we start must not keep the lock when we are gone.
func TestChildrenDoNotInheritTheLock(t *testing.T) {
	h := host.New(t.TempDir())
	release, err := h.Lock("/run/lock")
	must(t, err)
	pid, err := h.Detach(host.Command{Path: "sleep", Args: []string{"60"}}, "/var/log/sleep.log")
	must(t, err)
	defer func() { must(t, h.Signal(pid, syscall.SIGKILL)) }()
	// Between fork and exec the child has the descriptor; afterwards it runs under its own name.
	awaitProcess(t, h, pid, "sleep", "60")
	release(true)
	if by, err := h.LockedBy("/run/lock"); by != 0 || err != nil {
		t.Errorf("locked by %d, %v", by, err)
	}
}

// awaitProcess waits until a process has become a program. Its name changes before its arguments do.
func awaitProcess(t *testing.T, h *host.Host, pid int, args ...string) {
	t.Helper()
	for range 12_000 {
		if got, err := h.Args(pid); err == nil && slices.Equal(got, args) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("process %d does not become %q", pid, args)
}

func TestQueryTellsWhatTheProgramSaidLast(t *testing.T) {
	h := host.New(t.TempDir(), host.ReadOnly())
	out, err := h.Query(context.Background(), host.Command{Path: "sh", Args: []string{"-c", "cat; echo $GREETING"},
		Stdin: strings.NewReader("in "), Env: []string{"GREETING=hello"}})
	if string(out) != "in hello\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	var said strings.Builder
	_, err = h.Query(context.Background(), host.Command{Path: "sh", Args: []string{"-c", "seq 9 >&2; exit 3"}, Stderr: &said})
	var ce *host.CommandError
	var exit *exec.ExitError
	if !errors.As(err, &ce) || ce.Stderr != "5; 6; 7; 8; 9" || ce.Name != "sh" || !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("%v", err)
	}
	if !strings.HasPrefix(said.String(), "1\n2\n") {
		t.Errorf("the writer got %q", said.String())
	}
	_, err = h.Query(context.Background(), host.Command{Path: "etcdadm-no-such-program"})
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestCommandEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	heard := writerFunc(func([]byte) { cancel() }) // the command is there: it has written
	_, err := host.New("/").Query(ctx, host.Command{Path: "sh", Args: []string{"-c", "echo here >&2; exec sleep 600"}, Stderr: heard})
	if errs.StatusOf(err) != errs.Interrupted {
		t.Errorf("%v", err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

func TestDetachedProcessIsOnItsOwn(t *testing.T) {
	h := host.New(t.TempDir())
	must(t, h.WriteFile("/log", []byte("before\n"), 0o640))
	pid, err := h.Detach(host.Command{Path: "sh", Args: []string{"-c", "echo $WHO; echo err >&2; exec sleep 60"}, Env: []string{"WHO=me"}}, "/log")
	must(t, err)
	defer func() { must(t, h.Signal(pid, syscall.SIGKILL)) }()
	awaitProcess(t, h, pid, "sleep", "60")
	if b, _ := h.ReadFile("/log"); string(b) != "before\nme\nerr\n" {
		t.Errorf("its output is %q", b)
	}
	if sid, err := syscall.Getpgid(pid); sid != pid || err != nil {
		t.Errorf("its group is %d, %v", sid, err)
	}
	if dir, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); dir != "/" {
		t.Errorf("its directory is %s", dir)
	}
	env, err := h.Environ(pid)
	for tries := 0; err == nil && len(env) == 0 && tries < 12_000; tries++ { // it is there a moment after the arguments
		time.Sleep(5 * time.Millisecond)
		env, err = h.Environ(pid)
	}
	if env["WHO"] != "me" || err != nil {
		t.Errorf("environment: %v, %v", env["WHO"], err)
	}
	all, err := h.Processes()
	must(t, err)
	is := func(p host.Process) bool { return p.PID == pid } // its state may change between two looks
	at := slices.IndexFunc(all, is)
	if at < 0 || all[at].PPID != os.Getpid() || all[at].Name != "sleep" {
		t.Errorf("among the processes: %v", all)
	}
	children, err := h.Children(os.Getpid())
	must(t, err)
	if !slices.ContainsFunc(children, is) || slices.ContainsFunc(children, func(p host.Process) bool { return p.PPID != os.Getpid() }) {
		t.Errorf("the children are %v", children)
	}
	if none, err := h.Children(pid); len(none) > 0 || err != nil {
		t.Errorf("the children of a child: %v, %v", none, err)
	}
}

func TestProcessThatIsGone(t *testing.T) {
	h := host.New("/")
	gone := exec.Command("true")
	must(t, gone.Run())
	if _, err := h.Process(gone.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := h.Signal(gone.Process.Pid, syscall.SIGTERM); err != nil {
		t.Errorf("%v", err)
	}
}

// The name of a program may look like the rest of its line in /proc.
func TestProcessWithAnOddName(t *testing.T) {
	h := host.New(t.TempDir())
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	must(t, os.Symlink(sleep, h.Path("/a) R 1 (")))
	c := exec.Command(h.Path("/a) R 1 ("), "60")
	must(t, c.Start())
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	awaitProcess(t, h, c.Process.Pid, c.Args...)
	if p, _ := h.Process(c.Process.Pid); p.Name != "a) R 1 (" || p.PPID != os.Getpid() {
		t.Errorf("%+v", p)
	}
}

// A root may be named by a way with links in it; the kernel tells of none.
func TestProgramBelowARootThatIsALink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/root/opt/bin", 0o755))
	must(t, os.Symlink("root", dir+"/link"))
	self, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(dir+"/root/opt/bin/etcd", self, 0o755))
	c := exec.Command(dir+"/root/opt/bin/etcd", t.TempDir())
	c.Env = append(os.Environ(), childVariable+"=lock")
	stdin, err := c.StdinPipe()
	must(t, err)
	must(t, c.Start())
	defer func() { _ = stdin.Close(); _ = c.Process.Kill(); _ = c.Wait() }()
	for _, root := range []string{"/root", "/link"} {
		if path, _, err := host.New(dir + root).Program(c.Process.Pid); path != "/opt/bin/etcd" || err != nil {
			t.Errorf("below %s it runs %s, %v", root, path, err)
		}
	}
}

func TestListenersNameTheirProcess(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil && strings.Contains(address, "::") {
			continue // a machine without IPv6
		}
		must(t, err)
		at := netip.MustParseAddrPort(l.Addr().String())
		h := host.New("/")
		found := slices.ContainsFunc(h.Listeners(), func(l host.Listener) bool {
			p, err := h.Holder(l)
			return err == nil && p.PID == os.Getpid() && h.Holds(p.PID, l) && !h.Holds(1, l) && l.UID == os.Getuid() &&
				(l.Address == at || l.Address.Addr().IsUnspecified())
		})
		if !found {
			t.Errorf("%s is not found: %+v", at, h.Listeners())
		}
		must(t, l.Close())
		for _, l := range h.Listeners() {
			if l.Address == at {
				t.Errorf("%s is closed, and listed", at)
			}
		}
	}
}

func TestAHolderThatWasNotDoneIsRemembered(t *testing.T) {
	h := host.New(t.TempDir())
	if h.Unfinished("/run/lock") {
		t.Error("nobody has held the lock yet")
	}
	for _, done := range []bool{false, true} {
		release, err := h.Lock("/run/lock")
		must(t, err)
		if !h.Unfinished("/run/lock") { // as it is while somebody holds it, and after that one has died
			t.Error("the holder is not remembered")
		}
		release(done)
		if got := h.Unfinished("/run/lock"); got == done {
			t.Errorf("given back, done: %t; unfinished: %t", done, got)
		}
	}
}
