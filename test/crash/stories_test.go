package crash

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"etcdadm/test/process"
)

// current and older are the versions of etcd in these stories.
const (
	current = "3.6.16"
	older   = "3.5.35"
)

var stories = []story{
	{
		name:      "init on a blank node",
		prepare:   func(*world) {},
		operation: initCurrent,
		after:     serves,
		every:     3,
	},
	{
		name: "init on a half done node",
		prepare: func(w *world) {
			w.must(w.test.run(append([]string{"init", "phase", "install"}, w.test.settings(current)...)))
			w.must(w.test.run(append([]string{"init", "phase", "certificates"}, w.test.settings(current)...)))
		},
		operation: initCurrent,
		after:     serves,
		every:     3,
	},
	{
		name: "init on a node with older settings",
		prepare: func(w *world) {
			w.must(w.test.run(append([]string{"init"}, w.test.settings(current, "--quota-backend-bytes", "1073741824")...)))
			w.test.etcdctl("put", "kept", "value")
		},
		operation: func(w *world) []string {
			return append([]string{"init"}, w.test.settings(current, "--quota-backend-bytes", "4294967296", "--server-cert-extra-sans", "etcd.example.com")...)
		},
		after: keeps,
		every: 2,
	},
	{
		name: "init on a node with an older version",
		prepare: func(w *world) {
			w.must(w.test.run(append([]string{"init"}, w.test.settings(older)...)))
			w.test.etcdctl("put", "kept", "value")
		},
		operation: initCurrent,
		after:     keeps,
		every:     3,
	},
	{
		name: "init on a half reset node",
		prepare: func(w *world) {
			w.must(w.test.run(append([]string{"init"}, w.test.settings(current)...)))
			for _, phase := range []string{"leave", "stop", "data", "certificates"} {
				w.must(w.test.run([]string{"reset", "phase", phase}))
			}
		},
		operation: initCurrent,
		after:     serves,
		every:     4,
	},
	{
		name:    "init from a snapshot",
		prepare: otherSaves,
		operation: func(w *world) []string {
			return append([]string{"init", "--snapshot", w.snapshot}, w.test.settings(current)...)
		},
		after: keeps,
		every: 3,
	},
	{
		name:      "join on a blank node",
		prepare:   otherServes,
		operation: joinCurrent,
		after:     twoVoters,
		every:     3,
	},
	{
		name: "join on a node that lost its data",
		prepare: func(w *world) {
			otherServes(w)
			third := w.node("third")
			w.t.Cleanup(third.stop)
			w.other.giveCA(third)
			w.must(third.run(append([]string{"join", "https://" + w.other.address + ":2379"}, third.settings(current)...)))
			w.must(w.test.run(joinCurrent(w)))
			w.test.stop()
			removeAll(w, filepath.Join(w.test.root, "var/lib/etcd"))
		},
		operation: joinCurrent,
		after:     serves,
		every:     4,
	},
	{
		name: "join on a node whose first start was cut off",
		prepare: func(w *world) {
			otherServes(w)
			for _, phase := range []string{"install", "certificates", "membership", "configure", "start"} {
				w.must(w.test.run(append([]string{"join", "phase", phase}, joinCurrent(w)[1:]...)))
			}
			w.tear(w.test)
		},
		operation: joinCurrent,
		after:     twoVoters,
		every:     6,
	},
	{
		name: "reset of the only member",
		prepare: func(w *world) {
			w.must(w.test.run(append([]string{"init"}, w.test.settings(current)...)))
			w.test.etcdctl("put", "kept", "value")
		},
		operation: func(*world) []string { return []string{"reset"} },
		after: func(w *world) {
			if found, _ := filepath.Glob(filepath.Join(w.test.root, "var/backups/etcd/final-*.db")); len(found) == 0 {
				w.t.Error("there is no final snapshot")
			}
		},
		every: 1,
	},
	{
		name: "reset of one of two members",
		prepare: func(w *world) {
			otherServes(w)
			w.must(w.test.run(joinCurrent(w)))
		},
		operation: func(*world) []string { return []string{"reset"} },
		after: func(w *world) {
			left(w)
			w.other.etcdctl("put", "after", "reset")
		},
		every: 3,
	},
	{
		name: "restore on a member",
		prepare: func(w *world) {
			w.must(w.test.run(append([]string{"init"}, w.test.settings(current)...)))
			w.test.etcdctl("put", "kept", "value")
			w.snapshot = filepath.Join(w.dir, "snapshot.db")
			w.must(w.test.run([]string{"snapshot", "save", w.snapshot}))
			w.test.etcdctl("put", "kept", "later")
		},
		operation: func(w *world) []string { return []string{"restore", w.snapshot} },
		after: func(w *world) {
			keeps(w)
			aside, _ := filepath.Glob(filepath.Join(w.test.root, "var/lib/etcd.*"))
			if len(aside) != 1 {
				w.t.Errorf("the old data is set aside %d times: %q", len(aside), aside)
			}
		},
		every: 2,
	},
	{
		name: "restore on a node that joined a cluster which is gone",
		prepare: func(w *world) {
			otherServes(w)
			w.must(w.test.run(joinCurrent(w)))
			w.test.etcdctl("put", "kept", "value")
			w.snapshot = filepath.Join(w.dir, "snapshot.db")
			w.must(w.test.run([]string{"snapshot", "save", w.snapshot}))
			w.other.stop()
			w.test.stop()
			removeAll(w, filepath.Join(w.test.root, "var/lib/etcd/member/wal"))
		},
		operation: func(w *world) []string { return []string{"restore", w.snapshot} },
		after: func(w *world) {
			keeps(w)
			if config, err := os.ReadFile(filepath.Join(w.test.root, "etc/etcdadm/config.yaml")); err != nil || strings.Contains(string(config), w.other.address) {
				w.t.Errorf("the configuration names the cluster that is gone: %v\n%s", err, config)
			}
		},
		every: 3,
	},
	{
		name: "join on a half reset node",
		prepare: func(w *world) {
			otherServes(w)
			w.must(w.test.run(joinCurrent(w)))
			for _, phase := range []string{"leave", "stop"} {
				w.must(w.test.run([]string{"reset", "phase", phase}))
			}
			data := filepath.Join(w.test.root, "var/lib/etcd")
			if err := os.Rename(filepath.Join(data, "member"), filepath.Join(data, ".member.removed")); err != nil {
				w.t.Fatal(err)
			}
		},
		operation: joinCurrent,
		after:     twoVoters,
		every:     3,
	},
	{
		name:      "join on a half done node",
		prepare:   halfJoined,
		operation: joinCurrent,
		after:     twoVoters,
		every:     5,
	},
	{
		name: "join on a node with older settings",
		prepare: func(w *world) {
			otherServes(w)
			w.must(w.test.run(joinCurrent(w)))
		},
		operation: func(w *world) []string {
			return append(joinCurrent(w), "--quota-backend-bytes", "4294967296", "--server-cert-extra-sans", "etcd.example.com")
		},
		after: twoVoters,
		every: 7,
	},
	{
		name:      "reset of a half joined node",
		prepare:   halfJoined,
		operation: func(*world) []string { return []string{"reset"} },
		after:     left,
		every:     9,
	},
	{
		name: "reset of a half reset node",
		prepare: func(w *world) {
			w.must(w.test.run(initCurrent(w)))
			for _, phase := range []string{"leave", "stop", "data"} {
				w.must(w.test.run([]string{"reset", "phase", phase}))
			}
		},
		operation: func(*world) []string { return []string{"reset"} },
		every:     9,
	},
	{
		name: "restore on a half done node",
		prepare: func(w *world) {
			otherSaves(w)
			for _, phase := range []string{"install", "certificates"} {
				w.must(w.test.run(append([]string{"init", "phase", phase}, w.test.settings(current)...)))
			}
		},
		operation: func(w *world) []string { return []string{"restore", w.snapshot} },
		after:     keeps,
		every:     4,
	},
	{
		name:    "phases of init, each a process",
		prepare: func(*world) {},
		phases: func(w *world) [][]string {
			return phasesOf(initCurrent(w), "preflight", "install", "certificates", "snapshot", "configure", "start", "health", "etcdctl", "post-init-instructions")
		},
		after: serves,
		every: 31,
	},
	{
		name:    "phases of join, each a process",
		prepare: otherServes,
		phases: func(w *world) [][]string {
			return phasesOf(joinCurrent(w), "preflight", "stop", "certificates", "cluster", "membership", "install", "configure", "start", "health", "etcdctl")
		},
		after: twoVoters,
		every: 31,
	},
	{
		name:    "phases of init from a snapshot, each a process",
		prepare: otherSaves,
		phases: func(w *world) [][]string {
			return phasesOf(append(initCurrent(w), "--snapshot", w.snapshot), "install", "certificates", "snapshot", "configure", "start", "health", "etcdctl")
		},
		after: keeps,
		every: 31,
	},
	{
		name: "phases of reset, each a process",
		prepare: func(w *world) {
			otherServes(w)
			w.must(w.test.run(joinCurrent(w)))
		},
		phases: func(*world) [][]string {
			return phasesOf([]string{"reset"}, "preflight", "leave", "stop", "data", "certificates", "configure", "install")
		},
		after: left,
		every: 31,
	},
	{
		name: "certificates made anew by a phase",
		prepare: func(w *world) {
			w.must(w.test.run(initCurrent(w)))
			w.test.etcdctl("put", "kept", "value")
			pki, err := os.ReadDir(filepath.Join(w.test.root, "etc/etcd/pki"))
			if err != nil {
				w.t.Fatal(err)
			}
			for _, e := range pki { // as callers do who renew
				if !strings.HasPrefix(e.Name(), "ca.") && !strings.HasPrefix(e.Name(), ".") {
					removeAll(w, filepath.Join(w.test.root, "etc/etcd/pki", e.Name()))
				}
			}
		},
		operation: func(w *world) []string {
			return append([]string{"join", "phase", "certificates", "https://" + w.test.address + ":2379"}, w.test.settings(current)...)
		},
		after: keeps,
		every: 9,
	},
}

// phasesOf are the command lines of single phases, with the flags of the whole operation each time.
func phasesOf(operation []string, names ...string) [][]string {
	var calls [][]string
	for _, name := range names {
		calls = append(calls, slices.Concat(operation[:1], []string{"phase", name}, operation[1:]))
	}
	return calls
}

func initCurrent(w *world) []string { return append([]string{"init"}, w.test.settings(current)...) }

func joinCurrent(w *world) []string {
	return append([]string{"join", "https://" + w.other.address + ":2379"}, w.test.settings(current)...)
}

// halfJoined is the node under test as a learner that has not started.
func halfJoined(w *world) {
	otherServes(w)
	for _, phase := range []string{"install", "certificates", "membership"} {
		w.must(w.test.run(append([]string{"join", "phase", phase}, joinCurrent(w)[1:]...)))
	}
}

// tear stops etcd and leaves the data as a loss of power may, right after etcd has received a database: the first one is back
// in its place, and says that it has everything.
func (w *world) tear(n *node) {
	w.t.Helper()
	data := filepath.Join(n.root, "var/lib/etcd/member")
	if err := process.Until("etcd to begin", func() bool {
		_, err := os.Stat(filepath.Join(data, "wal", "0000000000000000-0000000000000000.wal"))
		return err == nil
	}); err != nil {
		w.t.Fatal(err)
	}
	n.stop()
	removeAll(w, filepath.Join(data, "snap/db"))
	db, err := bbolt.Open(filepath.Join(data, "snap/db"), 0o600, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"key", "members", "meta"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return errors.Join(
			tx.Bucket([]byte("meta")).Put([]byte("consistent_index"), binary.BigEndian.AppendUint64(nil, 1000)),
			tx.Bucket([]byte("meta")).Put([]byte("term"), binary.BigEndian.AppendUint64(nil, 2)),
		)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		w.t.Fatal(err)
	}
}

// otherSaves makes a snapshot on a node that is gone then.
func otherSaves(w *world) {
	w.must(w.other.run(append([]string{"init"}, w.other.settings(current)...)))
	w.other.etcdctl("put", "kept", "value")
	w.snapshot = filepath.Join(w.dir, "snapshot.db")
	w.must(w.other.run([]string{"snapshot", "save", w.snapshot}))
	w.other.stop()
}

// left wants the other node to be alone in its cluster.
func left(w *world) {
	if list := w.other.etcdctl("member", "list"); strings.Count(list, "\n") != 0 {
		w.t.Errorf("the cluster still counts on the member:\n%s", list)
	}
}

// otherServes makes the cluster that the node under test joins.
func otherServes(w *world) {
	w.must(w.other.run(append([]string{"init"}, w.other.settings(current)...)))
	w.other.giveCA(w.test)
}

// serves wants the member to take a write and give it back.
func serves(w *world) {
	w.test.etcdctl("put", "probe", "written")
	if got := w.test.etcdctl("get", "--print-value-only", "probe"); got != "written" {
		w.t.Errorf("the probe reads %q", got)
	}
}

// keeps wants what was acknowledged before to be there.
func keeps(w *world) {
	if got := w.test.etcdctl("get", "--print-value-only", "kept"); got != "value" {
		w.t.Errorf("what was acknowledged reads %q", got)
	}
	serves(w)
}

// twoVoters wants both nodes to agree on two started voters.
func twoVoters(w *world) {
	for _, n := range []*node{w.test, w.other} {
		list := n.etcdctl("member", "list")
		if strings.Count(list, ", started, ") != 2 || strings.Count(list, ", false") != 2 {
			w.t.Errorf("%s sees not two voters:\n%s", n.name, list)
		}
	}
	serves(w)
}
