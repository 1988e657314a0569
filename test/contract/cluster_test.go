package contract

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"etcdadm/pkg/errs"
	"etcdadm/test/process"
)

// upToStart runs the phases of join on a node by which its etcd runs, as a learner.
func (n *node) upToStart(url string) {
	n.t.Helper()
	for _, phase := range []string{"stop", "certificates", "membership", "install", "configure", "start"} {
		n.must("join", "phase", phase, url)
	}
}

// TestContract01EndpointsMayBeDead: one argument names a closed port, a port that takes connections and says nothing, a
// host that drops what it is sent, a learner, and a voter.
func TestContract01EndpointsMayBeDead(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, "voter", "learner", "joiner")
	voter, learner, joiner := nodes[0], nodes[1], nodes[2]
	learner.upToStart(voter.url())
	closed := "https://" + network.Address() + ":2379"
	mute := "https://" + listen(t) + ":2379"
	hole := "https://" + blackHole(t) + ":2379"

	// While there is a learner no other one is taken, so the joiner waits; it has found its voter by then.
	var r process.Result
	var joined sync.WaitGroup
	joined.Go(func() {
		r = joiner.run("join", strings.Join([]string{closed, mute, hole, learner.url(), voter.url()}, ","))
	})
	joiner.check(process.Until("the joiner to have its certificates", func() bool { return joiner.exists("/etc/etcd/pki/peer.crt") }))
	learner.must("join", "phase", "health", voter.url())
	joined.Wait()
	succeeded(t, r)
	said(t, r, closed+" is given up: connection refused")
	said(t, r, mute+" is given up: ", hole+" is given up: ")
	joiner.voters(3)

	// When nobody answers, each of them is named with its reason.
	lost := newNode(t)
	lost.check(process.GiveCA(voter.root, lost.root))
	failed(t, lost.run("join", closed+","+hole), errs.Timeout, closed+": connection refused", hole+": no connection within the time limit")
	if lost.exists("/var/lib/etcd/member") {
		t.Error("there is data of a member that never joined")
	}
}

// listen takes connections at an address of its own, and never says a word.
func listen(t *testing.T) string {
	t.Helper()
	address := network.Address()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address+":2379")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return address
}

// blackHole is an address whose client port answers no attempt to connect: the queue of a listener that accepts nobody
// is full.
func blackHole(t *testing.T) string {
	t.Helper()
	address := network.Address()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	at := &syscall.SockaddrInet4{Port: 2379, Addr: [4]byte(net.ParseIP(address).To4())}
	if err := syscall.Bind(fd, at); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		conn, err := net.DialTimeout("tcp", address+":2379", 3*time.Second) // one that is taken may be heard of late
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("the port still takes connections")
	return ""
}

// TestContract07SerializableMemberList: the second voter was added by hand, so that the cluster has no quorum until it is
// up. The phases that start it ask for a list that needs none.
func TestContract07SerializableMemberList(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, "a", "b")
	a, b := nodes[0], nodes[1]
	for _, phase := range []string{"stop", "certificates", "install"} {
		b.must("join", "phase", phase, a.url())
	}
	a.etcdctl("member", "add", "b", "--peer-urls", "https://"+b.address+":2380")
	if out, err := exec.Command(a.path("/opt/bin/etcdctl.sh"), "--command-timeout=2s", "get", "probe").CombinedOutput(); err == nil {
		t.Fatalf("the cluster has a quorum without its second voter: %s", out)
	}
	for _, phase := range []string{"membership", "configure", "start", "health"} {
		b.must("join", "phase", phase, a.url())
	}
	a.voters(2)
	a.serves()
}

// TestContract08JoinsAtOnce: joins that begin together wait for each other, and tell so once.
func TestContract08JoinsAtOnce(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, "a", "b", "c", "d")
	results := make([]process.Result, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes[1:] {
		all.Go(func() { results[i+1] = n.run("join", nodes[0].url()) })
	}
	all.Wait()
	for _, r := range results[1:] {
		succeeded(t, r)
		lines := map[string]int{}
		for line := range strings.Lines(r.Stderr) {
			lines[line]++
			if lines[line] > 1 {
				t.Errorf("said %d times: %s", lines[line], line)
			}
		}
	}
	nodes[0].voters(4)
	nodes[3].serves()
}

// TestContract13DataDirectoryStaysALink: what a link leads to is used, emptied and filled; the link stays.
func TestContract13DataDirectoryStaysALink(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.check(os.MkdirAll(n.path("/mnt/disk"), 0o700))
	n.check(os.MkdirAll(n.path("/var/lib"), 0o755))
	n.check(os.Symlink("../../mnt/disk", n.path("/var/lib/etcd")))
	n.must("init")
	n.serves()
	if !n.exists("/mnt/disk/member") {
		t.Error("the data is not where the link leads")
	}
	n.must("reset")
	if text, err := os.Readlink(n.path("/var/lib/etcd")); err != nil || text != "../../mnt/disk" {
		t.Errorf("the link became %q (%v)", text, err)
	}
	if left, err := os.ReadDir(n.path("/mnt/disk")); err != nil || len(left) != 0 {
		t.Errorf("the disk holds %v (%v)", left, err)
	}
}

// TestContract13DataDirectoryStaysAMount: the data directory is a file system of its own, on which init, restore and
// reset leave the mount as it is.
func TestContract13DataDirectoryStaysAMount(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root mounts file systems")
	}
	n := newNode(t)
	n.check(os.MkdirAll(n.path("/var/lib/etcd"), 0o700))
	script := `
		set -e
		mount -t tmpfs -o size=1100m tmpfs "$ROOT/var/lib/etcd"
		mkdir "$ROOT/var/lib/etcd/lost+found"
		etcdadm() { sub=$1; shift; "$PROGRAM" --root "$ROOT" "$sub" "$@"; }
		etcdadm init ` + strings.Join(n.settings(), " ") + `
		etcdctl() { "$ROOT/opt/bin/etcdctl.sh" --command-timeout=30s "$@"; }
		etcdctl put color blue
		etcdadm snapshot save "$ROOT/backup.db"
		etcdctl put color green
		etcdadm restore "$ROOT/backup.db"
		test "$(etcdctl get --print-value-only color)" = blue
		mountpoint -q "$ROOT/var/lib/etcd"
		etcdadm reset
		mountpoint -q "$ROOT/var/lib/etcd"
		test ! -e "$ROOT/var/lib/etcd/member"
	`
	// The mount is seen by the programs of the script alone, and goes with them.
	c := exec.Command("unshare", "--mount", "--propagation=slave", "sh", "-c", script)
	c.Env = append(os.Environ(), process.AsEtcdadm, "PROGRAM="+os.Args[0], "ROOT="+n.root)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
}
