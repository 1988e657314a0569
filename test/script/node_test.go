package script

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/host"
	"etcdadm/test/process"
)

// world is the machines of one story.
type world struct {
	nodes map[string]*node
}

type worldKey struct{}

type node struct {
	name, address, root string
	remembered          *picture
}

var network = process.NewNetwork(83)

// newNode returns a node with an address of its own.
func newNode(name, root string) *node {
	return &node{name: name, address: network.Address(), root: root}
}

// end stops whatever still runs of a story.
func (w *world) end() {
	for _, n := range w.nodes {
		_ = n.down()
	}
}

// named returns the nodes that the arguments of a command name.
func named(ts *testscript.TestScript, neg bool, args []string) []*node {
	if neg {
		ts.Fatalf("this command has no opposite")
	}
	if len(args) == 0 {
		ts.Fatalf("name a node")
	}
	var list []*node
	for _, name := range args {
		n := ts.Value(worldKey{}).(*world).nodes[name]
		if n == nil {
			ts.Fatalf("there is no node %s", name)
		}
		list = append(list, n)
	}
	return list
}

func addNodes(ts *testscript.TestScript, neg bool, names []string) {
	for _, name := range names {
		n := newNode(name, ts.MkAbs(name))
		ts.Value(worldKey{}).(*world).nodes[name] = n
		ts.Setenv(name, "https://"+n.address+":2379")
		ts.Setenv(name+"_ADDR", n.address)
		ts.Setenv(name+"_ROOT", n.root)
	}
}

func giveCA(ts *testscript.TestScript, neg bool, args []string) {
	nodes := named(ts, neg, args)
	for _, to := range nodes[1:] {
		ts.Check(process.GiveCA(nodes[0].root, to.root))
	}
}

// lead makes a node that of the leader: on a busy machine others may have been elected since.
func lead(ts *testscript.TestScript, neg bool, args []string) {
	var programs []string
	for _, n := range named(ts, neg, args) {
		programs = append(programs, filepath.Join(n.root, "opt/bin/etcdctl.sh"))
	}
	ts.Check(process.Lead(programs[0], programs[1:]...))
}

// leaderless waits until a member knows that it has no leader: for a while it takes one that has died for its own still. What
// the log says of it may be of an earlier election.
func leaderless(ts *testscript.TestScript, neg bool, args []string) {
	for _, n := range named(ts, neg, args) {
		ts.Check(process.Until(n.name+" to know of no leader", func() bool {
			answer, err := http.Get("http://" + n.address + ":2381/health")
			ts.Check(err)
			defer answer.Body.Close()
			said, err := io.ReadAll(answer.Body)
			return err == nil && strings.Contains(string(said), "RAFT NO LEADER")
		}))
	}
}

// crash kills etcd, and waits for its supervisor to start it again.
func crash(ts *testscript.TestScript, neg bool, args []string) {
	for _, n := range named(ts, neg, args) {
		pid := n.etcd()
		if pid == 0 {
			ts.Fatalf("no etcd runs on %s", n.name)
		}
		ts.Check(syscall.Kill(pid, syscall.SIGKILL))
		ts.Check(process.Until("etcd to be another process", func() bool {
			now := n.etcd()
			return now != 0 && now != pid
		}))
	}
}

func down(ts *testscript.TestScript, neg bool, args []string) {
	for _, n := range named(ts, neg, args) {
		ts.Check(n.down())
	}
}

func lose(ts *testscript.TestScript, neg bool, args []string) {
	for _, n := range named(ts, neg, args) {
		ts.Check(n.down())
		ts.Check(os.RemoveAll(n.root))
	}
}

func (n *node) down() error { return process.Down(n.root) }
func (n *node) etcd() int   { return process.Etcd(n.root) }

var started = regexp.MustCompile(`"msg":"starting an etcd server"`)

func starts(ts *testscript.TestScript, neg bool, args []string) {
	n := named(ts, neg, args[:1])[0]
	log, err := os.ReadFile(filepath.Join(n.root, "var/log/etcd/etcd.log"))
	ts.Check(err)
	if got := strconv.Itoa(len(started.FindAll(log, -1))); got != args[1] {
		ts.Fatalf("etcd was started %s times on %s, want %s", got, n.name, args[1])
	}
}

// said waits until a file holds text.
func said(ts *testscript.TestScript, neg bool, args []string) {
	re := regexp.MustCompile(args[1])
	ts.Check(process.Until(args[1], func() bool {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && re.Match(data)
	}))
}

// admission is another node that is being added to the cluster of a node, until the story ends: the lease of etcd.Admission,
// but one that nobody has to keep alive.
func admission(ts *testscript.TestScript, neg bool, args []string) {
	n := named(ts, neg, args)[0]
	t, err := certs.ClientTLS(host.New(n.root), constants.DefaultCertsDir, certs.EtcdctlName)
	ts.Check(err)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + n.address + ":2379"}, TLS: t, DialTimeout: time.Minute, Logger: zap.NewNop()})
	ts.Check(err)
	defer c.Close()
	const etcdjoin = 0x6574_6364_6a6f_696e // its id, in ASCII
	_, err = etcdserverpb.NewLeaseClient(c.ActiveConnection()).LeaseGrant(context.Background(), &etcdserverpb.LeaseGrantRequest{ID: etcdjoin, TTL: 600})
	ts.Check(err)
}

// peerPort asks on the peer port of a node, with a pair of its certificates, what an etcd asks that joins.
func peerPort(ts *testscript.TestScript, neg bool, args []string) {
	n := named(ts, false, args[:1])[0]
	pki := filepath.Join(n.root, "etc/etcd/pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, args[1]+".crt"), filepath.Join(pki, args[1]+".key"))
	ts.Check(err)
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	ts.Check(err)
	pool.AppendCertsFromPEM(ca)
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}}
	answer, err := client.Get("https://" + n.address + ":2380/members")
	if err == nil {
		_ = answer.Body.Close()
	}
	if answered := err == nil && answer.StatusCode == http.StatusOK; answered == neg {
		ts.Fatalf("the peer port answers to %s: %t (%v)", args[1], answered, err)
	}
}

// condition knows [ipv6]: whether the machine has the address ::1.
func condition(name string) (bool, error) {
	if name != "ipv6" {
		return false, fmt.Errorf("unknown condition %s", name)
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "[::1]:0")
	if err != nil {
		return false, nil //nolint:nilerr // that is the answer
	}
	return true, l.Close()
}

// damage ruins a file: damage (truncate|corrupt) FILE.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	file := ts.MkAbs(args[1])
	data, err := os.ReadFile(file)
	ts.Check(err)
	switch args[0] {
	case "truncate":
		data = data[:len(data)/2]
	case "corrupt":
		data[len(data)/2] ^= 0xff
	default:
		ts.Fatalf("%q is no kind of damage", args[0])
	}
	ts.Check(os.WriteFile(file, data, 0o600))
}
