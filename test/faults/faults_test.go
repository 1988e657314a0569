// Package faults turns the world against the built etcdadm: release servers, members of the cluster, disks, limits and
// clocks fail while it works. Whatever fails, it says which thing is wrong, with the documented exit status and a hint;
// nothing is lost, nothing is left behind; and when the fault is gone, the same command ends as if there had been none.
//
// FAULTS_FULL=1 tries every row and every call, and not a selection that is drawn anew each time.
package faults

import (
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
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
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"etcdadm/pkg/errs"
	"etcdadm/test/process"
	"etcdadm/test/release"
	"etcdadm/test/syscalls"
)

// current is the version of etcd here.
const current = "3.6.16"

func TestMain(m *testing.M) {
	syscalls.Main()
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // nobody else sees the disks that are mounted for these tests, and none outlives them
		attr.Cloneflags = syscall.CLONE_NEWNS
	}
	process.Contain(attr)
	if os.Getuid() == 0 {
		// What others unmount is unmounted here too: nobody keeps a disk of theirs busy.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	// Tries wait most of the time: for elections, pauses, limits.
	if f := flag.Lookup("test.parallel"); f != nil {
		_ = f.Value.Set("10")
	}
	status := m.Run()
	if build.dir != "" {
		_ = os.RemoveAll(build.dir)
	}
	os.Exit(status)
}

// full asks for everything.
func full() bool { return os.Getenv("FAULTS_FULL") != "" }

// draw picks n of the numbers from 0 to size-1, in order, and says by which seed; with FAULTS_FULL all of them.
func draw(t *testing.T, size, n int) []int {
	t.Helper()
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	if s := os.Getenv("FAULTS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	name := fnv.New64()
	_, _ = name.Write([]byte(t.Name()))
	all := rand.New(rand.NewPCG(seed, name.Sum64())).Perm(size) //nolint:gosec // not for secrets
	if !full() && n < size {
		all = all[:n]
		t.Logf("%d of %d, drawn with FAULTS_SEED=%d", n, size, seed)
	}
	slices.Sort(all)
	return all
}

// build is the etcdadm that is shipped.
var build struct {
	sync.Once
	dir string
	err error
}

// etcdadm is the path of the built program. Its name is its own: so is that of the processes of other tests.
func etcdadm(t *testing.T) string {
	t.Helper()
	build.Do(func() {
		if build.dir, build.err = os.MkdirTemp("", "faults-"); build.err != nil {
			return
		}
		c := exec.Command("go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", build.dir, "etcdadm/cmd/etcdadm")
		if out, err := c.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return filepath.Join(build.dir, "etcdadm")
}

// programs are those of a release, installed once for all nodes: to unpack them takes longer than to start them.
var programs struct {
	sync.Once
	dir string
}

// install gives the node the release as etcdadm would. With a script, etcd is started by that, as "$0.real".
func (n *node) install(script string) {
	n.t.Helper()
	programs.Do(func() {
		bin := etcdadm(n.t)
		root := filepath.Join(filepath.Dir(bin), "programs")
		c := exec.Command(bin, (&node{name: "programs", root: root, address: n.address, mirror: n.mirror}).argv("init", "phase", "install")...)
		if out, err := c.CombinedOutput(); err != nil {
			n.t.Errorf("%v\n%s", err, out)
			return
		}
		programs.dir = filepath.Join(root, "opt/bin/.etcdadm/v"+current)
	})
	dir := n.path("opt/bin/.etcdadm/v" + current)
	n.ok(os.MkdirAll(dir, 0o755))
	for _, tool := range []string{"etcd", "etcdctl", "etcdutl"} {
		as := filepath.Join(dir, tool)
		if tool == "etcd" && script != "" {
			// A process that another test starts just now would hold the file open for a moment, and it could not be run.
			syscall.ForkLock.RLock()
			err := os.WriteFile(as, []byte("#!/bin/sh\n"+script+"\n"), 0o755)
			syscall.ForkLock.RUnlock()
			n.ok(err)
			as += ".real"
		}
		n.ok(os.Link(filepath.Join(programs.dir, tool), as))
		n.ok(os.Symlink(".etcdadm/v"+current+"/"+tool, n.path("opt/bin/"+tool)))
	}
}

func (n *node) ok(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

var network = process.NewNetwork(89)

// node is a machine under --init-system process.
type node struct {
	t                   *testing.T
	name, root, address string
	mirror              release.Mirror
	more                []string // settings of this one alone
	other               *node    // of the same cluster
}

// newNode returns a blank node. What runs on it ends with the test.
func newNode(t *testing.T, name string) *node {
	t.Helper()
	n := &node{t: t, name: name, root: filepath.Join(t.TempDir(), name), address: network.Address(), mirror: release.Get(t)}
	t.Cleanup(func() { _ = process.Down(n.root) })
	return n
}

func (n *node) url() string                { return "https://" + n.address + ":2379" }
func (n *node) path(logical string) string { return filepath.Join(n.root, logical) }

// argv is a call of etcdadm, with the settings of the node where the command takes them. The flags of the call are stronger.
func (n *node) argv(args ...string) []string {
	words := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") })
	if words < 0 {
		words = len(args)
	}
	all := append(slices.Clone(args[:words]), "--root", n.root, "-o", "json", "--timeout", "5m")
	if args[0] == "init" || args[0] == "join" {
		all = append(all, "--name", n.name, "--bind-address", n.address, "--init-system", "process", "--version", current,
			"--release-url", n.mirror.URL(), "--sha256sums", n.mirror.Sums())
		all = append(all, n.more...)
	}
	return append(all, args[words:]...)
}

// command is such a call, for a test that wants it otherwise: under a filter, with limits.
func (n *node) command(args ...string) *exec.Cmd {
	return exec.Command(etcdadm(n.t), n.argv(args...)...)
}

func (n *node) run(args ...string) process.Result {
	n.t.Helper()
	return n.finish(n.command(args...))
}

func (n *node) finish(c *exec.Cmd) process.Result {
	n.t.Helper()
	r, err := process.Finish(c)
	if err != nil {
		n.t.Fatal(err)
	}
	return r
}

// must wants a run to succeed.
func (n *node) must(args ...string) process.Result {
	n.t.Helper()
	r := n.run(args...)
	if r.Status != 0 {
		n.t.Fatal(r)
	}
	return r
}

// converges runs a command after the fault is gone: it succeeds, and once more it changes nothing.
func (n *node) converges(args ...string) {
	n.t.Helper()
	n.must(args...)
	if r := n.must(args...); r.Changed {
		n.t.Errorf("a run after the one that succeeded changed %s", r.Changes())
	}
}

// etcdctl asks the cluster through the member on the node.
func (n *node) etcdctl(args ...string) string {
	n.t.Helper()
	out, err := process.Etcdctl(n.path("opt/bin/etcdctl.sh"), args...)
	n.ok(err)
	return out
}

// lines of standard error, by how they begin.
func lines(r process.Result, prefix string) (found []string) {
	for l := range strings.Lines(r.Stderr) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(l), prefix); ok {
			found = append(found, text)
		}
	}
	return found
}

// failure is what a caller is told.
type failure struct {
	status errs.Status
	reason string // a part of the error, as a regular expression
	hint   string // of one of the hints; "": any
}

// tells wants a run to have failed so: with one error, a hint to act on, and the same in the document.
func (f failure) tells(t *testing.T, r process.Result) {
	t.Helper()
	if problem := f.problem(r); problem != "" {
		t.Errorf("%s\n%s", problem, r)
	}
}

func (f failure) problem(r process.Result) string {
	said, hints := lines(r, "etcdadm: error: "), lines(r, "etcdadm: hint: ")
	switch {
	case r.Status != int(f.status):
		return fmt.Sprintf("exit status %d, want %d", r.Status, f.status)
	case len(said) != 1:
		return fmt.Sprintf("%d errors, want one", len(said))
	case !regexp.MustCompile(f.reason).MatchString(said[0]):
		return fmt.Sprintf("the error does not say %q", f.reason)
	case len(hints) == 0 || !regexp.MustCompile(f.hint).MatchString(strings.Join(hints, "\n")):
		return fmt.Sprintf("no hint says %q", f.hint)
	case strings.HasPrefix(r.Stdout, "{") && (!r.Failed || r.Error.Reason != said[0] || r.Error.Hint == ""):
		return "the document does not say so"
	}
	return ""
}

// drawn is what differs from node to node in names.
var drawn = regexp.MustCompile(`-[0-9a-f]{16}(/|$)|final-[0-9a-f]+-\d+`)

// files lists what is on the node, but for what etcd makes and what runs. Two nodes that were set up alike have the same.
func (n *node) files() (found []string) {
	n.t.Helper()
	err := filepath.WalkDir(n.root, func(path string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(path, n.root)
		switch {
		case err != nil:
			return nil //nolint:nilerr // etcd has removed it meanwhile, or nothing is there yet
		case strings.HasPrefix(rel, "/run/"), strings.HasPrefix(rel, "/var/log/"), strings.HasPrefix(rel, "/lost+found"):
			return nil
		case d.Name() == "member":
			found = append(found, rel)
			return fs.SkipDir
		}
		if target, err := os.Readlink(path); err == nil {
			rel += " -> " + target
		}
		found = append(found, drawn.ReplaceAllString(rel, "-DRAWN$1"))
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return found
}

// below keeps the files at and below some directories.
func below(files []string, dirs ...string) (kept []string) {
	for _, f := range files {
		if slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(f, d+"/") }) {
			kept = append(kept, f)
		}
	}
	return kept
}

// same wants a node to have the files of another one that nobody disturbed.
func (n *node) same(undisturbed []string) {
	n.t.Helper()
	if d := cmp.Diff(undisturbed, n.files()); d != "" {
		n.t.Errorf("the files differ from those of a run that nobody disturbed (-undisturbed +this):\n%s", d)
	}
}

// voters wants the cluster to consist of these members, all of which vote.
func (n *node) voters(want ...string) {
	n.t.Helper()
	var names []string
	for line := range strings.Lines(n.etcdctl("member", "list", "-w", "simple")) {
		f := strings.Split(strings.TrimSpace(line), ", ")
		if len(f) < 6 || f[1] != "started" || f[5] != "false" {
			n.t.Errorf("a member is %q", line)
			continue
		}
		names = append(names, f[2])
	}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		n.t.Errorf("the members are %q, want %q", names, want)
	}
}
