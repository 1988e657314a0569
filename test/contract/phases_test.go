package contract

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"etcdadm/test/process"
)

// phase runs one phase as a caller's bootstrap does: the common flags each time, the log level at the end.
func (n *node) phase(of, name string, argument ...string) process.Result {
	n.t.Helper()
	return succeeded(n.t, n.bare(slices.Concat([]string{of, "phase", name}, argument, n.settings(), []string{"-l", "debug"})...))
}

// TestContractPhasesOfBottlerocket: the order in which Bottlerocket's bootstrap runs the phases of init and join, each a
// process of its own. The member of a join is a learner until the phase health has ended.
func TestContractPhasesOfBottlerocket(t *testing.T) {
	t.Parallel()
	nodes := newNodes(t, "a", "b")
	a, b := nodes[0], nodes[1]
	for _, phase := range []string{"install", "certificates", "snapshot", "configure", "start", "health"} {
		a.phase("init", phase)
	}
	a.check(process.GiveCA(a.root, b.root))
	a.phase("init", "etcdctl")
	for _, phase := range []string{"stop", "certificates", "membership", "install", "configure", "start"} {
		b.phase("join", phase, a.url())
		// Whatever has run so far, the cluster goes on, and counts on nobody else.
		a.serves()
	}
	a.check(process.Until("b to be a learner that started", func() bool { return a.members()["b"] }))
	b.phase("join", "health", a.url())
	a.voters(2)
	for _, r := range []process.Result{a.must("init", "--skip-phases", "etcdctl", "-o", "json"), b.must("join", a.url(), "--skip-phases", "etcdctl", "-o", "json")} {
		if r.Changed {
			t.Errorf("a whole run changes something afterwards: %q", r.Changes())
		}
	}
}

// members tells for each name whether the member is a learner. One that has not started has no name.
func (n *node) members() map[string]bool {
	n.t.Helper()
	var list struct {
		Members []struct {
			Name      string
			IsLearner bool
		}
	}
	n.check(json.Unmarshal([]byte(n.etcdctl("member", "list", "-w", "json")), &list))
	members := map[string]bool{}
	for _, m := range list.Members {
		members[m.Name] = m.IsLearner
	}
	return members
}

// TestContractPhasesFromASnapshot: the phase snapshot is told of the file; the others need not know.
func TestContractPhasesFromASnapshot(t *testing.T) {
	t.Parallel()
	nodes := newNodes(t, "a", "b")
	a, b := nodes[0], nodes[1]
	a.must("init")
	a.etcdctl("put", "color", "blue")
	backup := filepath.Join(t.TempDir(), "backup.db")
	succeeded(t, a.bare("snapshot", "save", backup))
	data, err := os.ReadFile(backup)
	a.check(err)
	copied := filepath.Join(t.TempDir(), "db") // the file of a stopped member has no digest at its end
	a.check(os.WriteFile(copied, data[:len(data)-32], 0o600))
	for _, phase := range []string{"install", "certificates", "snapshot", "configure", "start", "etcdctl", "health"} {
		args := []string{"init", "phase", phase}
		if phase == "snapshot" {
			args = append(args, "--snapshot", copied, "--skip-hash-check")
		}
		b.must(args...)
	}
	if got := b.etcdctl("get", "--print-value-only", "color"); got != "blue" {
		t.Errorf("color is %q", got)
	}
	b.serves()
}

// TestContractOurs: what every command takes beside the flags of old.
func TestContractOurs(t *testing.T) {
	t.Parallel()
	for _, of := range []string{"init", "join", "reset", "restore"} {
		c := command(t, of)
		c.InheritedFlags()
		for _, flag := range []string{"root", "config", "skip-phases", "dry-run", "detailed-exitcode", "output", "timeout", "ignore-preflight-errors", "log-level", "log-format"} {
			if c.Flags().Lookup(flag) == nil {
				t.Errorf("%s has no --%s", of, flag)
			}
		}
		if of == "reset" {
			continue
		}
		for _, flag := range []string{"sha256sums", "accept-risk"} {
			if c.Flags().Lookup(flag) == nil {
				t.Errorf("%s has no --%s", of, flag)
			}
		}
	}

	// Files that an argument names are the caller's: neither below the root nor anywhere but where the caller stands.
	n := newNode(t)
	here := t.TempDir()
	sums, err := os.ReadFile(n.mirror.Sums())
	n.check(err)
	n.check(os.WriteFile(filepath.Join(here, "sums"), sums, 0o600))
	n.check(os.WriteFile(filepath.Join(here, "node.yaml"), []byte("apiVersion: etcdadm/v1\nkind: Config\nname: "+n.name+"\nbindAddress: "+n.address+
		"\ninitSystem: process\nversion: "+current+"\nreleaseURL: "+n.mirror.URL()+"\n"), 0o600))
	for _, args := range [][]string{
		{"init", "--config", "node.yaml", "--sha256sums", "sums"}, {"snapshot", "save", "backup.db"}, {"snapshot", "verify", "backup.db"}, {"restore", "backup.db"}, {"status"},
	} {
		r, err := process.RunIn(here, append([]string{"--root", n.root, "--timeout", "5m"}, args...))
		n.check(err)
		succeeded(t, r)
	}
	if _, err := os.Stat(filepath.Join(here, "backup.db")); err != nil || n.exists("/backup.db") {
		t.Errorf("the snapshot is not where its name says (%v)", err)
	}
	// Everything else lies below the root, and its programs work from outside.
	n.installed(current, current)
	n.serves()
	for _, tool := range []string{"etcd", "etcdctl", "etcdutl"} {
		if text, err := os.Readlink(n.path("/opt/bin/" + tool)); err != nil || filepath.IsAbs(text) {
			t.Errorf("%s leads to %s (%v)", tool, text, err)
		}
	}
	if entries, err := os.ReadDir(here); err != nil || len(entries) != 3 {
		t.Errorf("the caller's directory holds %v (%v)", entries, err)
	}
	if r := n.bare("init", "--config", filepath.Join(here, "node.yaml"), "--dry-run", "--detailed-exitcode", "--install-dir", "/opt/etcd"); r.Status != 2 {
		t.Errorf("want drift: %s", r)
	}
	if strings.Contains(n.read("/etc/etcdadm/config.yaml"), "/opt/etcd") {
		t.Error("the dry run stored its settings")
	}
}
