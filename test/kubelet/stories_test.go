package kubelet_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/test/process"
)

// A member that has lost its data under a running pod, or under one that is made anew, does not come back as a blank one:
// its manifest still tells how its cluster began.
func TestAPodThatLostItsDataDoesNotStart(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "m", current).up()
	m.must(m.run("init"))
	m.etcdctl("put", "color", "blue")
	if !strings.Contains(m.manifest(), "- name: ETCD_INITIAL_CLUSTER_TOKEN\n") {
		t.Error("the manifest does not tell of the first start: there is nothing to be guarded")
	}
	pid := m.PID()
	member := filepath.Join(m.root, "var/lib/etcd/member")
	lost := filepath.Join(m.root, "lost")
	if err := os.Rename(member, lost); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	starts := m.Starts()
	m.await("more starts of the container", func() bool { return m.Starts() > starts+2 })
	wals := func() []string {
		found, _ := filepath.Glob(filepath.Join(member, "wal/*.wal"))
		return found
	}
	if found := wals(); len(found) > 0 {
		t.Fatalf("a blank member has begun: %q", found)
	}

	// The machine boots: the pod is made anew.
	m.Stop()
	m.Start()
	m.await("the type of the volume to be refused", func() bool {
		return slices.ContainsFunc(m.Problems(), func(p string) bool {
			return strings.Contains(p, "hostPath type check failed: /var/lib/etcd/member/.etcdadm-guard")
		})
	})
	if r := m.run("init"); r.Status != 3 || !strings.Contains(r.Error.Reason, "is empty") {
		t.Errorf("init on lost data: %s", r)
	}
	if found := wals(); len(found) > 0 {
		t.Errorf("a blank member has begun: %q", found)
	}

	// The data comes back, and with it the guard.
	for _, err := range []error{os.RemoveAll(member), os.Rename(lost, member)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m.must(m.run("init"))
	if got := m.etcdctl("get", "--print-value-only", "color"); got != "blue" {
		t.Errorf("reads %q", got)
	}
}

// hidden runs etcdadm where it sees no process but its own, as in a container.
func (m *machine) hidden(args ...string) process.Result {
	m.Helper()
	c := process.Command(m.arguments(args))
	unshare := exec.Command("unshare", append([]string{"--pid", "--fork", "--mount-proc", "--kill-child", c.Path}, c.Args[1:]...)...)
	unshare.Env = c.Env
	r, err := process.Finish(unshare)
	if err != nil {
		m.Fatal(err)
	}
	return r
}

func TestAPodWhoseProcessIsHiddenIsToldByItsPorts(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "m", current)
	m.Every = 2 * time.Second // what etcdadm does not wait for has not come about when it ends
	m.up()
	m.must(m.hidden("init"))
	m.sound(1)
	if r := m.must(m.hidden("init")); r.Changed {
		t.Errorf("the second init changed something: %q", r.Changes())
	}
	m.sound(1)
	r := m.hidden("status")
	if !strings.Contains(r.Stdout, `"running":true`) || strings.Contains(r.Stdout, `"pid"`) || r.Status != 0 {
		t.Errorf("status: %s", r)
	}
	// A clock that was set back after the manifest was written is not waited for.
	before := m.PID()
	ahead := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(m.Manifests, "etcd.manifest"), ahead, ahead); err != nil {
		t.Fatal(err)
	}
	if r := m.must(m.hidden("init", "--timeout", "2m")); r.Changed || !strings.Contains(r.Stderr, "unless the clock was set back") {
		t.Errorf("with a manifest of the future: %s", r)
	}
	if now := m.PID(); now != before {
		t.Errorf("the pod was process %d and is %d", before, now)
	}
	// Etcd tells when it was started in whole seconds.
	m.await("the clock", func() bool { return exec.Command("sleep", "3").Run() == nil })
	if r := m.must(m.hidden("init", "--quota-backend-bytes", "1073741824")); r.Step("start/running") != "changed" {
		t.Errorf("the quota did not get to the pod: %q", r.Changes())
	}
	if now := m.PID(); now == before || now == 0 {
		t.Errorf("the pod was process %d and is %d", before, now)
	}
	m.sound(2)
	m.must(m.hidden("reset"))
	// Its peer port is the last thing that etcd closes before it ends.
	if c, err := net.Dial("tcp", m.address+":2380"); err == nil {
		_ = c.Close()
		t.Error("the pod outlives the reset")
	}
	m.await("the pod to end", func() bool { return m.PID() == 0 })
}

// A failed init is undone by a reset that is told nothing, twice.
func TestResetAfterAFailedInitFindsTheManifest(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "m", current)
	m.Manifests = filepath.Join(m.root, "srv/static-pods")
	m.up()
	if err := os.MkdirAll(m.Manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(m.Manifests, ".keep")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := m.run("init", "--kubelet-pod-manifest-path", "/srv/static-pods", "--data-dir", "/srv/etcd", "--certs-dir", "/srv/pki", "--image-repository", "registry.example/nothing", "--timeout", "60s")
	if r.Status != 5 || r.Error.Step != "health/serving" || !strings.Contains(r.Error.Hint, "journalctl -u kubelet") {
		t.Errorf("init without an image: %s", r)
	}
	if _, err := os.Stat(filepath.Join(m.Manifests, "etcd.manifest")); err != nil {
		t.Error(err)
	}
	m.must(m.run("reset"))
	if r := m.must(m.run("reset")); r.Changed {
		t.Errorf("the second reset changed something: %q", r.Changes())
	}
	for _, gone := range []string{"srv/static-pods/etcd.manifest", "srv/etcd", "srv/pki/server.crt", "etc/etcd/etcd.env", "etc/etcdadm"} {
		if _, err := os.Lstat(filepath.Join(m.root, gone)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
	// And an init after it begins anew.
	m.must(m.run("init", "--kubelet-pod-manifest-path", "/srv/static-pods"))
	m.etcdctl("put", "color", "blue")
}

// What another init system left belongs to its user; root without capabilities may not read it.
func TestDataOfAnotherUserIsGivenToThePod(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	m := newMachine(t, "m", current).up()
	m.must(m.run("init"))
	m.etcdctl("put", "color", "blue")
	manifest := filepath.Join(m.root, "etc/kubernetes/manifests/etcd.manifest")
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	m.await("the pod to end", func() bool { return m.PID() == 0 })
	for _, dir := range []string{"var/lib/etcd", "etc/etcd/pki"} {
		err := filepath.WalkDir(filepath.Join(m.root, dir), func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return unix.Lchown(path, 999, 999)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	m.must(m.run("init"))
	if got := m.etcdctl("get", "--print-value-only", "color"); got != "blue" {
		t.Errorf("reads %q", got)
	}
	m.sound(2)
}

// A pod that keeps ending is given up early, with its own words.
func TestAPodThatDoesNotStayUpIsTold(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "m", current).up()
	m.must(m.run("init"))
	if err := os.WriteFile(filepath.Join(m.root, "etc/etcd/pki/.pairs/server/server.key"), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Stop()
	m.Start()
	m.await("several ends", func() bool { return m.Starts() > 3 })
	r := m.run("init", "--skip-phases", "certificates,preflight,etcdctl")
	if r.Status != 1 || !strings.Contains(r.Error.Reason, "etcd does not stay up") || !strings.Contains(r.Error.Hint, "tls: failed to find any PEM data") {
		t.Errorf("%s", r)
	}
}

func TestADryRunOfAPodActsOnNothing(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "m", current).up()
	if err := os.MkdirAll(m.root, 0o755); err != nil {
		t.Fatal(err)
	}
	if r := m.must(m.run("init", "--dry-run")); !r.Changed || r.Step("start/running") != "pending" {
		t.Errorf("on a blank machine: %s", r)
	}
	if entries, err := os.ReadDir(m.root); err != nil || len(entries) > 0 {
		t.Errorf("the dry run made %v, %v", entries, err)
	}
	m.must(m.run("init"))
	before := m.manifest()
	if r := m.run("init", "--dry-run", "--detailed-exitcode"); r.Status != 0 {
		t.Errorf("in sync: %s", r)
	}
	if r := m.run("init", "--dry-run", "--detailed-exitcode", "--image-repository", "registry.example/other"); r.Status != 2 {
		t.Errorf("drift: %s", r)
	}
	if m.manifest() != before {
		t.Error("the dry run wrote a manifest")
	}
	m.sound(1)
}
