package faults

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"etcdadm/pkg/errs"
	"etcdadm/test/process"
	"etcdadm/test/syscalls"
)

// disk is how a disk fails: which calls meet that, and what is said of it.
type disk struct {
	name  string
	errno syscall.Errno
	calls []string
	once  bool // the first call meets it, and then no more
	want  failure
}

// writing are the calls that need room, or a file system that may be written to.
var writing = []string{
	"openat", "mkdirat", "symlinkat", "renameat", "renameat2", "linkat", "write", "writev", "pwrite64", "ftruncate", "fallocate", "sendfile", "splice", "copy_file_range",
}

var disks = []disk{
	{"full", syscall.ENOSPC, writing, false, failure{errs.Precondition, `no space left|is full`, `df -h|free some space|make room`}},
	{"read-only", syscall.EROFS, append([]string{"unlinkat", "fchmod", "fchmodat"}, writing...), false, failure{errs.Precondition, `read-only file system`, `findmnt`}},
	{"failing", syscall.EIO, []string{"fsync", "fdatasync", "syncfs"}, true, failure{errs.Failed, `input/output error`, `dmesg`}},
}

// on tells whether a call is one on the disk of a node that meets the fault.
func (d disk) on(n *node, c syscalls.Call) bool {
	return slices.Contains(d.calls, c.Name) && strings.HasPrefix(c.Path, n.root+"/")
}

// chances are the calls that meet the fault, with their numbers among those. Of a file that is written in many pieces there
// are the first two and the last.
func (d disk) chances(n *node, calls []syscalls.Call) (met []syscalls.Call, numbers []int) {
	var all []syscalls.Call
	for _, c := range calls {
		if d.on(n, c) {
			all = append(all, c)
		}
	}
	alike := func(i, j int) bool {
		return 0 <= i && j < len(all) && all[i].Name == all[j].Name && all[i].Path == all[j].Path
	}
	for i, c := range all {
		if alike(i-2, i) && alike(i, i+1) {
			continue
		}
		met, numbers = append(met, c), append(numbers, i+1)
	}
	return met, numbers
}

// story is an operation on a node, from a state that prepare makes.
type story struct {
	name    string
	prepare func(*testing.T) *node
	args    func(*node) []string
	repeats bool // the same command changes nothing when it is run again; otherwise it is refused
	tries   int  // of each fault in a short run
	holds   func(*node)
}

var stories = []story{
	{
		name: "init", repeats: true, tries: 3,
		prepare: func(t *testing.T) *node { return newNode(t, "test") },
		args:    func(*node) []string { return []string{"init"} },
		holds:   func(n *node) { n.voters("test") },
	},
	{
		name: "join", repeats: true, tries: 2,
		prepare: func(t *testing.T) *node {
			first, n := newNode(t, "first"), newNode(t, "test")
			first.install("")
			first.must("init")
			n.install("")
			n.ok(process.GiveCA(first.root, n.root))
			n.other = first
			return n
		},
		args:  func(n *node) []string { return []string{"join", n.other.url()} },
		holds: func(n *node) { n.other.voters("first", "test") },
	},
	{
		name: "snapshot save", tries: 3,
		prepare: func(t *testing.T) *node {
			n := newNode(t, "test")
			n.install("")
			n.must("init")
			return n
		},
		args:  func(n *node) []string { return []string{"snapshot", "save", n.path("backup.db")} },
		holds: func(n *node) { n.must("snapshot", "verify", n.path("backup.db")) },
	},
}

// The disk fails at each call that it may fail at. What etcdadm was doing is told to have failed, with the reason and a
// hint; an fsync that failed is no success. When the disk is well, the same command ends as if it had always been.
func TestDiskFailsAnywhere(t *testing.T) {
	t.Parallel()
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			n := s.prepare(t)
			var calls []syscalls.Call
			if r := s.watched(n, func(c syscalls.Call) syscalls.Answer { calls = append(calls, c); return syscalls.Continue }); r.Status != 0 {
				t.Fatal(r)
			}
			undisturbed := n.files()
			for _, d := range disks {
				met, numbers := d.chances(n, calls)
				if len(met) < 2 {
					t.Fatalf("%d calls of %q meet a disk that is %s", len(met), s.name, d.name)
				}
				for _, i := range draw(t, len(met), s.tries) {
					at := strings.ReplaceAll(strings.TrimPrefix(met[i].Path, n.root), "/", ":")
					t.Run(fmt.Sprintf("%s %03d %s %s", d.name, numbers[i], met[i].Name, at), func(t *testing.T) {
						t.Parallel()
						s.fails(t, d, numbers[i], undisturbed)
					})
				}
			}
		})
	}
}

// watched runs the operation, and asks about each call of the command itself: what it leaves behind works on.
func (s story) watched(n *node, ask func(syscalls.Call) syscalls.Answer) process.Result {
	n.t.Helper()
	w := syscalls.Watch{Exe: filepath.Base(etcdadm(n.t)), Ask: func(call syscalls.Call) syscalls.Answer {
		if slices.Contains(call.Args, "supervise") {
			return syscalls.Continue
		}
		return ask(call)
	}}
	r, err := process.FinishBy(n.command(s.args(n)...), w.Run)
	n.ok(err)
	return r
}

// fails lets the disk fail at the n-th call that it may fail at.
func (s story) fails(t *testing.T, d disk, at int, undisturbed []string) {
	n := s.prepare(t)
	met := 0
	r := s.watched(n, func(c syscalls.Call) syscalls.Answer {
		if !d.on(n, c) {
			return syscalls.Continue
		}
		if met++; met < at || d.once && met > at {
			return syscalls.Continue
		}
		return syscalls.Fail(d.errno)
	})
	switch {
	case met < at:
		t.Skipf("this run made %d such calls only", met) // etcd was faster or slower than before
	case r.Status != 0:
		d.want.tells(t, r)
	case d.errno == syscall.EIO:
		t.Errorf("an fsync that failed was taken for success\n%s", r)
	}
	if s.repeats {
		n.converges(s.args(n)...)
	} else if r.Status != 0 {
		n.must(s.args(n)...)
	}
	s.holds(n)
	n.same(undisturbed)
}
