package contract

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"

	"etcdadm/pkg/errs"
	"etcdadm/test/process"
)

// blank wants nothing of etcdadm on the node but what a reset keeps: the cache, the final snapshot, and the files given.
// A second reset finds nothing to do.
func (n *node) blank(keeps ...string) {
	n.t.Helper()
	var left []string
	err := filepath.WalkDir(n.root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		logical := strings.TrimPrefix(path, n.root)
		if strings.HasPrefix(logical, "/var/cache/etcdadm") || strings.HasPrefix(logical, "/var/backups/etcd") || strings.HasPrefix(logical, "/run/etcdadm.lock") {
			return nil
		}
		if !d.IsDir() && !slices.Contains(keeps, logical) || d.IsDir() && strings.HasSuffix(logical, "/etcdadm") && !strings.HasPrefix(logical, "/var/cache") {
			left = append(left, logical)
		}
		return nil
	})
	n.check(err)
	for _, k := range keeps {
		if !n.exists(k) {
			n.t.Errorf("%s is gone", k)
		}
	}
	if len(left) > 0 {
		n.t.Errorf("the reset left %q", left)
	}
	if pid := process.Supervisor(n.root); pid != 0 {
		n.t.Errorf("the supervisor still runs as %d", pid)
	}
	if r := succeeded(n.t, n.bare("reset", "-o", "json")); r.Changed {
		n.t.Errorf("the second reset changed something: %q", r.Changes())
	}
}

// occupied takes an address of a node away from its etcd.
func (n *node) occupied(port string) {
	n.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(n.t.Context(), "tcp", n.address+":"+port)
	n.check(err)
	n.t.Cleanup(func() { _ = l.Close() })
}

func TestContractResetAfterAFailedInit(t *testing.T) {
	t.Parallel()
	t.Run("that found no release", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		failed(t, n.run("init", "--release-url", nowhere), errs.Failed, "connection refused")
		succeeded(t, n.bare("reset"))
		n.blank()
	})
	t.Run("whose etcd did not start", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.occupied("2380")
		if r := n.run("init", "--ignore-preflight-errors", "Ports"); r.Status == 0 || !strings.Contains(r.Stderr, "is taken by another process") {
			t.Errorf("want etcd not to start: %s", r)
		}
		succeeded(t, n.bare("reset"))
		n.blank()
		n.must("init", "phase", "certificates") // it may begin anew
	})
	t.Run("that was killed when etcd ran", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		for _, phase := range []string{"install", "certificates", "configure", "start"} {
			n.must("init", "phase", phase)
		}
		succeeded(t, n.bare("reset"))
		n.blank()
	})
	t.Run("whose etcd was cut off before it served anybody", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		for _, phase := range []string{"install", "certificates", "configure"} {
			n.must("init", "phase", phase)
		}
		n.begun()
		succeeded(t, n.bare("reset"))
		n.blank()
	})
}

// begun leaves the data of a first start of which nothing is on the disk but its beginning.
func (n *node) begun() {
	n.t.Helper()
	dir := filepath.Join(n.root, "var/lib/etcd/member")
	n.check(os.MkdirAll(filepath.Join(dir, "snap"), 0o700))
	log, err := wal.Create(zap.NewNop(), filepath.Join(dir, "wal"), []byte{8, 1, 16, 1}) // member 1 of cluster 1
	n.check(err)
	n.check(log.Close())
	db, err := bbolt.Open(filepath.Join(dir, "snap/db"), 0o600, nil)
	n.check(err)
	n.check(db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"key", "members", "meta"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	}))
	n.check(db.Close())
}

func TestContractResetAfterAFailedJoin(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, "a", "b", "c", "d")
	a, b, c, d := nodes[0], nodes[1], nodes[2], nodes[3]
	// The CA was brought by the operator.
	ca := []string{"/etc/etcd/pki/ca.crt", "/etc/etcd/pki/ca.key"}

	// The cluster was never reached.
	failed(t, b.run("join", "https://"+network.Address()+":2379"), errs.Timeout, "no endpoint of the cluster answers")
	succeeded(t, b.bare("reset"))
	b.blank(ca...)

	// It had the member added, whose etcd did not start.
	c.occupied("2380")
	if r := c.run("join", a.url(), "--ignore-preflight-errors", "Ports"); r.Status == 0 || !strings.Contains(r.Stderr, "is taken by another process") {
		t.Errorf("want etcd not to start: %s", r)
	}
	if len(a.members()) != 2 {
		t.Errorf("the cluster has the members %v", a.members())
	}
	succeeded(t, c.bare("reset"))
	c.blank(ca...)
	a.voters(1)

	// Its etcd had started, and was not promoted.
	d.upToStart(a.url())
	succeeded(t, d.bare("reset"))
	d.blank(ca...)
	a.voters(1)
	a.serves()
}

func TestContractResetWithAStoppedService(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, "a", "b", "c")
	a, b, c := nodes[0], nodes[1], nodes[2]
	b.must("join", a.url())
	c.must("join", a.url())
	a.check(process.Down(b.root))
	succeeded(t, b.bare("reset"))
	b.blank("/etc/etcd/pki/ca.crt", "/etc/etcd/pki/ca.key")
	a.voters(2)
	// A supervisor that was killed alone has left its etcd no time to end.
	supervisor := process.Supervisor(c.root)
	if supervisor == 0 {
		t.Fatal("there is no supervisor")
	}
	a.check(syscall.Kill(supervisor, syscall.SIGKILL))
	c.diesSlowly(2 * time.Second)
	succeeded(t, c.bare("reset"))
	c.blank("/etc/etcd/pki/ca.crt", "/etc/etcd/pki/ca.key")
	a.voters(1)
	// The last one is started once more, for its final snapshot.
	a.check(process.Down(a.root))
	succeeded(t, a.bare("reset"))
	a.blank()
	if found, err := filepath.Glob(a.path("/var/backups/etcd/final-*.db")); err != nil || len(found) != 1 {
		t.Errorf("final snapshots: %q (%v)", found, err)
	}
}

// diesSlowly has the etcd of a node, which was killed, be gone no sooner than after some time. A disk may keep it for as long.
func (n *node) diesSlowly(after time.Duration) {
	n.t.Helper()
	db, err := os.Open(n.path("/var/lib/etcd/member/snap/db"))
	n.check(err)
	n.check(process.Until("etcd to give its lock back", func() bool {
		return syscall.Flock(int(db.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
	}))
	time.AfterFunc(after, func() { _ = db.Close() })
}

// TestContractResetFindsDirectories: what init was told by flags, reset knows.
func TestContractResetFindsDirectories(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.must("init", "--data-dir", "/srv/etcd/data", "--certs-dir", "/srv/etcd/pki", "--install-dir", "/usr/local/etcd/")
	for _, path := range []string{"/srv/etcd/data/member", "/srv/etcd/pki/peer.key", "/usr/local/etcd/etcdctl.sh"} {
		if !n.exists(path) {
			t.Errorf("%s is absent", path)
		}
	}
	before := time.Now()
	if r := n.bare("reset", "--dry-run", "-o", "json"); r.Status != 0 || !r.Changed || !n.exists("/srv/etcd/data/member") {
		t.Errorf("a dry run at %s: %s", before, r)
	}
	succeeded(t, n.bare("reset"))
	n.blank()
}

// TestContractResetOfAnImage: where single phases ran, and nothing else.
func TestContractResetOfAnImage(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.must("init", "phase", "install")
	n.must("init", "phase", "configure")
	n.write("/opt/bin/mine", []byte("x"), 0o755)
	succeeded(t, n.bare("reset"))
	n.blank("/opt/bin/mine")
	if _, err := os.Stat(n.path(cachePath(current))); err != nil {
		t.Errorf("the cache: %v", err)
	}
}

// TestContractChanges: what is another thing on purpose than with the retired etcdadm.
func TestContractChanges(t *testing.T) {
	t.Parallel()
	t.Run("init deletes nothing", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.must("init")
		n.serves()
		pid := process.Etcd(n.root)
		if r := n.must("init", "-o", "json"); r.Changed || process.Etcd(n.root) != pid {
			t.Errorf("a healthy member is not left alone: %s", r)
		}
		if got := n.etcdctl("get", "--print-value-only", "probe"); got != "written" {
			t.Errorf("the probe reads %q", got)
		}
		other := newNode(t)
		other.write("/var/lib/etcd/precious", []byte("x"), 0o600)
		failed(t, other.run("init"), errs.Precondition, "/var/lib/etcd", "mv "+other.path("/var/lib/etcd"))
		if other.read("/var/lib/etcd/precious") != "x" || other.exists("/opt/bin") {
			t.Error("something was changed")
		}
		for _, clean := range []string{"/var/lib/etcd", "/var/lib/etcd/lost+found"} {
			empty := newNode(t)
			empty.check(os.MkdirAll(empty.path(clean), 0o700))
			empty.must("init", "phase", "preflight")
		}
	})
	t.Run("client certificates rule no Kubernetes cluster", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.must("init", "phase", "certificates")
		for pair, cn := range map[string]string{"etcdctl-etcd-client": "etcd-1-etcdctl", "apiserver-etcd-client": "etcd-1-kube-apiserver-etcd-client", "server": "etcd-1", "peer": "etcd-1"} {
			if s := n.certificate(pair).Subject; s.CommonName != cn || len(s.Organization) > 0 {
				t.Errorf("%s.crt is for %s, want CN=%s alone", pair, s, cn)
			}
		}
	})
	t.Run("versions that lose data, or are unknown, are refused", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		for _, version := range []string{"3.3.27", "3.4.37", "3.5.0", "3.5.1", "v3.5.2", "3.5.2-eks-1", "3.5.3", "3.5.5", "3.6.0-rc.1", "3.8.0", "4.0.0"} {
			failed(t, n.run("init", "--version", version), errs.Precondition, strings.TrimPrefix(version, "v"), "--version")
		}
		if n.exists("/var/cache") || n.exists("/opt") {
			t.Error("something was installed")
		}
	})
}
