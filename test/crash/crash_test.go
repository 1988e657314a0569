// Package crash proves the first promise of etcdadm: whatever is killed, wherever, is simply run again.
//
// An operation is a sequence of acts: each change of the host or of the cluster announces itself. The tests run an
// operation as a process of its own that dies by SIGKILL before its n-th act, for every n, run it again, and compare
// the end with that of a run that nobody disturbed. A third run must find nothing to do.
//
// Acts are where etcdadm knows that it changes something. The sharper test kills the program that users run, before its
// n-th system call that changes a file or talks to the network, whatever it knows.
package crash

import (
	"bufio"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"etcdadm/pkg/host"
	"etcdadm/test/process"
	"etcdadm/test/release"
	"etcdadm/test/syscalls"
)

// The environment of an etcdadm that is watched.
const (
	killAt = "CRASH_AT"   // die before this act, counted from 1
	actsTo = "CRASH_ACTS" // append the name of every act to this file
)

func TestMain(m *testing.M) {
	syscalls.Main()
	syscall.Umask(0o077) // what etcdadm makes has its mode all the same
	process.Etcdadm(func() []host.Option { return []host.Option{host.Observe(watch())} })
	process.Contain(nil)
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given { // the tries wait for elections most of the time: more of them than processors go on side by side
		_ = flag.Set("test.parallel", "4")
	}
	os.Exit(m.Run())
}

// watch returns an observer that counts acts, writes them down, and dies before the one that it was told.
func watch() func(string) {
	at, _ := strconv.Atoi(os.Getenv(killAt))
	list := os.Getenv(actsTo)
	_ = os.Unsetenv(killAt)
	_ = os.Unsetenv(actsTo)
	var mu sync.Mutex
	n := 0
	return func(act string) {
		mu.Lock()
		defer mu.Unlock()
		n++
		if list != "" {
			f, err := os.OpenFile(list, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err == nil {
				_, _ = fmt.Fprintln(f, act)
				_ = f.Close()
			}
		}
		if n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

// story is an operation from a starting state.
type story struct {
	name    string
	prepare func(*world)
	// operation is what is killed and run again, on the node that is under test.
	operation func(*world) []string
	// phases are the same as processes of their own, one behind the other: all of them are run again.
	phases func(*world) [][]string
	after  func(*world) // what must hold at the end, beside the files
	every  int          // in a short sweep: every so many acts are tried; 1: each
}

func TestCrashAnywhere(t *testing.T) {
	mirror := release.Get(t)
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.sweep(t, mirror)
		})
	}
}

// full asks for every act of every story.
func full() bool { return os.Getenv("CRASH_FULL") != "" }

func (s story) sweep(t *testing.T, mirror release.Mirror) {
	// The undisturbed run: its acts, and the end to reach.
	w := newWorld(t, mirror)
	s.prepare(w)
	list := filepath.Join(t.TempDir(), "acts")
	var calls []int // the call that does the act
	for i, args := range s.calls(w) {
		w.must(w.test.run(args, actsTo+"="+list))
		for range len(readLines(t, list)) - len(calls) {
			calls = append(calls, i)
		}
	}
	want := s.reached(w)
	acts := readLines(t, list)
	if len(acts) < 5 {
		t.Fatalf("the operation announces %d acts only: %q", len(acts), acts)
	}
	w.end()

	step := max(1, s.every)
	if full() {
		step = 1
	}
	tried := 0
	for n := 1; n <= len(acts); n++ {
		between := s.phases != nil && slices.Index(calls, calls[n-1]) == n-1
		if (n-1)%step != 0 && !between {
			continue
		}
		tried++
		t.Run(fmt.Sprintf("%03d %s", n, strings.ReplaceAll(acts[n-1], "/", ":")), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, mirror)
			s.prepare(w)
			killed := false
			for i, args := range s.calls(w) {
				if i != calls[n-1] {
					w.must(w.test.run(args))
					continue
				}
				r := w.test.run(args, killAt+"="+strconv.Itoa(n-slices.Index(calls, i)))
				if killed = r.Killed; killed {
					break
				}
				w.must(r) // a shorter way than the undisturbed run took
			}
			s.converges(w, killed, want)
			w.end()
		})
	}
	t.Logf("%d acts, %d of them tried", len(acts), tried)
}

// reached is the state in which the operation leaves the world, after it has looked at what the story wants.
func (s story) reached(w *world) map[string]string {
	w.t.Helper()
	if s.after != nil {
		s.after(w)
	}
	return w.state()
}

// converges runs the operation again if it was killed, wants the end of an undisturbed run, and then nothing more to do.
func (s story) converges(w *world, killed bool, want map[string]string) {
	w.t.Helper()
	if killed {
		w.runAll(s.calls(w))
	}
	if d := cmp.Diff(want, s.reached(w)); d != "" {
		w.t.Errorf("the end differs from that of an undisturbed run (-undisturbed +killed):\n%s", d)
	}
	for _, third := range w.runAll(s.calls(w)) {
		if third.Changed {
			w.t.Errorf("the third run changed something: %+v", third.Changes())
		}
	}
}

// calls are the command lines of the operation.
func (s story) calls(w *world) [][]string {
	if s.phases != nil {
		return s.phases(w)
	}
	return [][]string{s.operation(w)}
}

// runAll runs the command lines, which have to succeed.
func (w *world) runAll(calls [][]string) []process.Result {
	w.t.Helper()
	var results []process.Result
	for _, args := range calls {
		results = append(results, w.must(w.test.run(args)))
	}
	return results
}

// world is the machines of one try: the node under test, and for some stories another one.
type world struct {
	t        *testing.T
	mirror   release.Mirror
	bin      string // the built etcdadm; "": the program of this test plays it
	test     *node
	other    *node
	snapshot string
	dir      string
}

var network = process.NewNetwork(84)

func newWorld(t *testing.T, mirror release.Mirror) *world {
	t.Helper()
	w := &world{t: t, mirror: mirror, dir: t.TempDir()}
	w.test, w.other = w.node("test"), w.node("other")
	t.Cleanup(func() { w.end() })
	return w
}

func (w *world) node(name string) *node {
	return &node{w: w, name: name, root: filepath.Join(w.dir, name), address: network.Address()}
}

func (w *world) end() {
	if w.dir == "" {
		return
	}
	for _, n := range []*node{w.test, w.other} {
		n.stop()
	}
	w.dir = ""
}

// must wants a run to have succeeded.
func (w *world) must(r process.Result) process.Result {
	w.t.Helper()
	if r.Killed || r.Status != 0 || r.Failed {
		w.t.Fatal(r)
	}
	return r
}

type node struct {
	w                   *world
	name, root, address string
}

func (n *node) run(args []string, env ...string) process.Result {
	n.w.t.Helper()
	return n.runBy((*exec.Cmd).Run, args, env...)
}

// runBy is run with another way to run the process.
func (n *node) runBy(run func(*exec.Cmd) error, args []string, env ...string) process.Result {
	n.w.t.Helper()
	if err := os.MkdirAll(n.temporary(), 0o700); err != nil {
		n.w.t.Fatal(err)
	}
	c := process.Command(append(slices.Clone(args), "--root", n.root, "-o", "json", "--timeout", "10m"), append(env, "TMPDIR="+n.temporary())...)
	if n.w.bin != "" {
		c.Path, c.Args[0] = n.w.bin, n.w.bin
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // whoever interrupts the test does not interrupt it
	r, err := process.FinishBy(c, run)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return r
}

// temporary is the directory of temporary files of the node's etcdadm. It is beside the root: all that has to do with a
// node has the root in its arguments or in its environment.
func (n *node) temporary() string { return n.root + ".tmp" }

// settings are the flags of a node at a version.
func (n *node) settings(version string, more ...string) []string {
	return append([]string{
		"--name", n.name, "--bind-address", n.address, "--init-system", "process", "--version", version,
		"--release-url", n.w.mirror.URL(), "--sha256sums", n.w.mirror.Sums(),
	}, more...)
}

func (n *node) etcdctl(args ...string) string {
	n.w.t.Helper()
	out, err := process.Etcdctl(filepath.Join(n.root, "opt/bin/etcdctl.sh"), args...)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return out
}

// giveCA brings the CA to another node, as an operator does.
func (n *node) giveCA(to *node) {
	n.w.t.Helper()
	if err := process.GiveCA(n.root, to.root); err != nil {
		n.w.t.Fatal(err)
	}
}

// stop ends the processes of the node, and waits until they are gone.
func (n *node) stop() { _ = process.Down(n.root) }

// random is what differs from try to try, and what stands in its place.
var random = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`final-[0-9a-f]+-\d+`), "final"},
	{regexp.MustCompile(`-[0-9a-f]{16,}`), "-FINGERPRINT"},
	{regexp.MustCompile(`\.\d{8}T\d{6}Z(-\d+)?`), ".DATE"},
	{regexp.MustCompile(`(?m)^(ETCDADM_DIGEST|ETCD_INITIAL_CLUSTER_TOKEN)=.*$`), "$1=DRAWN"},
	{regexp.MustCompile(`(?m)^[0-9a-f]{1,16}, `), "ID, "},
	{regexp.MustCompile(`127\.84\.\d+\.\d+`), "ADDRESS"},
	{regexp.MustCompile(`socket:\[\d+\]`), "socket"},
}

// same is a text without what differs from try to try.
func (w *world) same(text string) string {
	text = strings.ReplaceAll(text, w.dir, "DIR")
	for _, r := range random {
		text = r.what.ReplaceAllString(text, r.as)
	}
	return text
}

// state describes what should be the same in every try: the files of the node under test, what runs there, and the members
// of the cluster as each node sees them.
func (w *world) state() map[string]string {
	w.t.Helper()
	state := w.test.files()
	state["PROCESSES"] = strings.Join(w.test.processes(), ", ")
	for _, n := range []*node{w.test, w.other} {
		if process.Etcd(n.root) != 0 {
			members := strings.Split(w.same(n.etcdctl("member", "list")), "\n")
			slices.Sort(members)
			state["MEMBERS as seen by "+n.name] = strings.Join(members, "\n")
		}
	}
	return state
}

// processes are those that have to do with the node, by name.
func (n *node) processes() []string {
	n.w.t.Helper()
	h := host.New("/", host.ReadOnly())
	all, err := h.Processes()
	if err != nil {
		n.w.t.Fatal(err)
	}
	var names []string
	for _, p := range all {
		args, err := h.Args(p.PID)
		if err != nil || len(args) == 0 || args[0] == "" {
			continue // it has ended
		}
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
		if !strings.Contains(strings.Join(args, " "), n.root) && !strings.Contains(string(env), n.root) {
			continue
		}
		name := filepath.Base(args[0])
		if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
			name = args[1] // what etcdadm is there for
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// files describes everything under the root that should be the same in every try, and the temporary files: names, modes,
// links, and contents but for keys, certificates, data and logs. What is drawn at random or dated is left out of names
// and contents.
func (n *node) files() map[string]string {
	n.w.t.Helper()
	list := map[string]string{}
	describe := func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(n.w.dir, path)
		in, _ := filepath.Rel(n.root, path)
		name := n.w.same(rel)
		for list[name] != "" { // one more of the same kind
			name += "+"
		}
		switch {
		case strings.HasPrefix(in, "run/"), strings.HasPrefix(in, "var/log/"):
			return nil // what runs is judged by asking it
		case d.IsDir() && (d.Name() == "member" || strings.HasPrefix(d.Name(), "member.")): // or set aside
			list[name] = "data" // how far a killed etcd had come in its files is chance
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		entry := info.Mode().String()
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			text, _ := os.Readlink(path)
			entry += " " + n.w.same(text)
		case info.Mode().IsRegular() && info.Size() < 64<<10 && !strings.Contains(in, "pki/") && !strings.HasSuffix(in, ".db"):
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			entry += "\n" + n.w.same(string(data))
		}
		list[name] = entry
		return nil
	}
	for _, dir := range []string{n.root, n.temporary()} {
		if err := filepath.WalkDir(dir, describe); err != nil && !os.IsNotExist(err) {
			n.w.t.Fatal(err)
		}
	}
	return list
}

// readLines returns the lines of a file, none when it is not there.
func readLines(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}

func removeAll(w *world, path string) {
	w.t.Helper()
	if err := os.RemoveAll(path); err != nil {
		w.t.Fatal(err)
	}
}
