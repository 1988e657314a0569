// Package script is the behaviour of etcdadm as a book: each file in testdata is a short story that real etcd plays, and
// that says one thing which etcdadm does.
//
// The stories in testdata/every are played with each supported minor of etcd, those in testdata/story with one. A node
// of a story is a directory (--root) with an address of its own in 127.83.0.0/16. Beside the commands of testscript
// there are
//
//	node NAME...            makes nodes; $NAME is the client URL, $NAME_ADDR the address, $NAME_ROOT the root
//	on NAME ARGS...         etcdadm on the node, with the flags that make it what it is
//	etcdctl NAME ARGS...    the node's etcdctl.sh
//	status N PROGRAM...     a program that has to end with exit status N
//	nobody PROGRAM...       a program without privileges
//	giveca FROM TO...       brings the CA to other nodes, as an operator does
//	lead NAME OTHERS...     makes the member on a node the leader of its cluster
//	leaderless NAME         waits until the member on a node knows of no leader
//	crash NAME              kills etcd on the node; its supervisor starts it again
//	down NAME, lose NAME    kills etcd and its supervisor; lose also removes the node's root
//	starts NAME N           etcd was started that many times on the node
//	remember NAME           takes down every file of the node, and its etcd
//	unchanged NAME          all of that is as it was: contents, modes, times, and the process
//	json PATH [REGEXP]      the standard output is one document, in which PATH matches; yaml likewise
//	said FILE REGEXP        waits for text in a file
//	admission NAME          another node is being added to the cluster of the node from now on
//	peerport NAME PAIR      a client with that pair of certificates gets an answer on the peer port
//	damage KIND FILE        truncates a file, or corrupts a byte of it
package script

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"etcdadm/cmd"
	"etcdadm/test/process"
	"etcdadm/test/release"
)

// current is the version of etcd where a story does not depend on it.
const current = "3.6.16"

func TestMain(m *testing.M) {
	process.Etcdadm(nil)
	// Commands that are called in this process start this program as etcdadm.
	if len(os.Args) > 1 && (os.Args[1] == "snapshot-worker" || os.Args[1] == "supervise") {
		etcdadm()
	}
	// A story mostly waits for elections: more of them fit at the same time than there are processors.
	if f := flag.Lookup("test.parallel"); f != nil {
		_ = f.Value.Set("6")
	}
	commands := map[string]func(){
		"etcdadm": etcdadm,
		"on":      on,
		"etcdctl": etcdctl,
		"status":  status,
		"nobody":  nobody,
	}
	if commands[filepath.Base(os.Args[0])] == nil {
		process.Contain(nil)
	}
	testscript.Main(m, commands)
}

func etcdadm() {
	os.Exit(int(cmd.Main(os.Args[1:], cmd.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})))
}

func TestStories(t *testing.T) {
	mirror := release.Get(t)
	t.Run("story", func(t *testing.T) { play(t, mirror, current, "testdata/story") })
	for _, version := range release.Versions {
		t.Run(version, func(t *testing.T) { play(t, mirror, version, "testdata/every") })
	}
}

func play(t *testing.T, mirror release.Mirror, version, dir string) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                dir,
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("VERSION", version)
			e.Setenv("GOARCH", runtime.GOARCH)
			e.Setenv("MIRROR", mirror.URL())
			e.Setenv("MIRROR_DIR", string(mirror))
			e.Setenv("SUMS", filepath.Join(e.WorkDir, "SHA256SUMS"))
			w := &world{nodes: map[string]*node{}}
			e.Values[worldKey{}] = w
			e.Defer(w.end)
			if err := open(e.WorkDir); err != nil {
				return err
			}
			sums, err := os.ReadFile(mirror.Sums())
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "SHA256SUMS"), sums, 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"node":       addNodes,
			"giveca":     giveCA,
			"lead":       lead,
			"leaderless": leaderless,
			"crash":      crash,
			"down":       down,
			"lose":       lose,
			"starts":     starts,
			"remember":   remember,
			"unchanged":  unchanged,
			"json":       func(ts *testscript.TestScript, neg bool, args []string) { document(ts, neg, args, parseJSON) },
			"yaml":       func(ts *testscript.TestScript, neg bool, args []string) { document(ts, neg, args, parseYAML) },
			"said":       said,
			"damage":     damage,
			"peerport":   peerPort,
			"admission":  admission,
		},
		Condition: condition,
	})
}

// open lets users without privileges reach a story's directory, and the programs that it runs.
func open(dir string) error {
	for _, d := range append([]string{dir, filepath.Dir(dir)}, filepath.SplitList(os.Getenv("PATH"))[0]) {
		if err := os.Chmod(d, 0o755); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Dir(filepath.SplitList(os.Getenv("PATH"))[0]), 0o755)
}
