package robustness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"etcdadm/test/lab"
	"etcdadm/test/release"
)

// patience is how long a command of etcdadm may take, and how long it is run again until it succeeds.
const patience = 4 * time.Minute

// A Cluster is a number of nodes that are administered with the built etcdadm alone. Each has a root and an address of
// its own. Not all of them need to be members.
type Cluster struct {
	Nodes []*Node

	bin, version string
	mirror       release.Mirror
	initSystem   string
	hosts        *site  // nil: the nodes are directories
	safe         string // where the operator keeps the CA, as below a root
	hold         net.Listener
	env          []string // more variables of etcdadm
}

// A Node is one machine, and may be a member.
type Node struct {
	Name, Address string
	home

	cluster *Cluster
	door    *door
}

// newCluster makes n nodes, none of them a member yet: below a directory, or in a lab if the setup has one.
func (s Setup) newCluster(dir, version string, n int) (*Cluster, error) {
	c := &Cluster{bin: s.Bin, version: version, mirror: s.Mirror, initSystem: "process", safe: filepath.Join(dir, "safe")}
	dial := new(net.Dialer).DialContext
	if s.Lab != nil {
		const bin = "/opt/etcdadm"
		c.hosts = &site{Lab: s.Lab(n, lab.Mount{From: string(s.Mirror), To: string(s.Mirror)}, lab.Mount{From: filepath.Dir(s.Bin), To: bin})}
		c.bin, c.initSystem, dial = filepath.Join(bin, filepath.Base(s.Bin)), "systemd", c.hosts.Dial
	}
	network, hold, err := reserve()
	if err != nil {
		return nil, err
	}
	c.hold = hold
	for i := range n {
		node := &Node{Name: fmt.Sprintf("n%d", i+1), cluster: c}
		c.Nodes = append(c.Nodes, node)
		if c.hosts != nil {
			h := c.hosts.Hosts[i]
			node.home, node.Address = &hosted{Host: h, exe: c.bin}, h.IPv4
		} else {
			r := &rooted{dir: filepath.Join(dir, node.Name), cluster: c}
			node.home, node.Address = r, fmt.Sprintf("%s.%d", network, i+1)
			if i > 0 {
				err = r.image()
			}
		}
		if err == nil {
			node.door, err = openDoor(network+".250", dial, net.JoinHostPort(node.Address, "2379"), node.path("etc/etcd/pki"))
		}
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Close ends everything that the cluster has started. Hosts end with their lab.
func (c *Cluster) Close() error {
	problems := []error{c.hold.Close()}
	for _, n := range c.Nodes {
		if n.door != nil {
			problems = append(problems, n.door.Close())
		}
		if c.hosts == nil {
			problems = append(problems, n.down())
		}
	}
	return errors.Join(problems...)
}

// doors are the addresses at which clients reach nodes.
func doors(nodes []*Node) (addresses []string) {
	for _, n := range nodes {
		addresses = append(addresses, n.door.Addr().String())
	}
	return addresses
}

// dataDirs are the data directories of nodes, by name.
func dataDirs(nodes []*Node) map[string]string {
	dirs := map[string]string{}
	for _, n := range nodes {
		dirs[n.Name] = n.dataDir()
	}
	return dirs
}

func (n *Node) dataDir() string { return n.path("var/lib/etcd") }

func (n *Node) path(p string) string { return filepath.Join(n.root(), p) }

func (n *Node) url() string { return "https://" + net.JoinHostPort(n.Address, "2379") }

// settings are the flags of init and join.
func (n *Node) settings() []string {
	c := n.cluster
	return []string{
		"--name", n.Name, "--bind-address", n.Address, "--init-system", c.initSystem, "--version", c.version,
		"--release-url", c.mirror.URL(), "--sha256sums", c.mirror.Sums(),
	}
}

func (n *Node) initArgs() []string { return append([]string{"init"}, n.settings()...) }

func (n *Node) joinArgs(through ...*Node) []string {
	var urls []string
	for _, t := range through {
		urls = append(urls, t.url())
	}
	return append([]string{"join", strings.Join(urls, ",")}, n.settings()...)
}

// must runs etcdadm, which has to succeed.
func (n *Node) must(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var said bytes.Buffer
	if err := n.run(ctx, &said, &said, args...); err != nil {
		return fmt.Errorf("%s: etcdadm %s: %w\n%s", n.Name, strings.Join(args, " "), err, said.Bytes())
	}
	return nil
}

// signalEtcd sends a signal to the member's process, and tells whether one runs.
func (n *Node) signalEtcd(s syscall.Signal) bool {
	p := n.etcd()
	return p != 0 && syscall.Kill(p, s) == nil
}

// talk returns a client that talks to the members behind some doors.
func talk(nodes ...*Node) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: doors(nodes), Logger: zap.NewNop(), DialTimeout: 5 * time.Second})
}

// leader returns which of the nodes leads the cluster, nil when none says so.
func leader(ctx context.Context, nodes []*Node) *Node {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, n := range nodes {
		c, err := talk(n)
		if err != nil {
			continue
		}
		s, err := c.Status(ctx, n.door.Addr().String())
		_ = c.Close()
		if err == nil && s.Leader != 0 && s.Leader == s.Header.MemberId {
			return n
		}
	}
	return nil
}

// whole checks that the cluster consists of these nodes: all of them voters, with the same data, and etcdadm says of
// each that it is well.
func whole(ctx context.Context, nodes []*Node) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := talk(nodes...)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	list, err := c.MemberList(ctx)
	if err != nil {
		return err
	}
	var got, want []string
	for _, m := range list.Members {
		name := m.Name
		if m.IsLearner {
			name += " (learner)"
		}
		got = append(got, name)
	}
	for _, n := range nodes {
		want = append(want, n.Name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("the members are %q, want %q", got, want)
	}
	if err := sameHash(ctx, c, nodes); err != nil {
		return err
	}
	for _, n := range nodes {
		for { // an election, which may come at any moment of a busy machine, is none of that
			err := n.must(ctx, "status")
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return err
			}
			time.Sleep(time.Second)
		}
	}
	return nil
}

// sameHash compares the data of all members at one revision.
func sameHash(ctx context.Context, c *clientv3.Client, nodes []*Node) error {
	first, err := c.Get(ctx, "tombstone") // linearizable: its revision is the last one of all
	if err != nil {
		return err
	}
	revision := first.Header.Revision
	hashes := map[uint32][]string{}
	for _, n := range nodes {
		for { // until the member has applied that revision, or the time is over
			h, err := c.HashKV(ctx, n.door.Addr().String(), revision)
			if err == nil {
				hashes[h.Hash] = append(hashes[h.Hash], n.Name)
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%s has no hash of revision %d: %w", n.Name, revision, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	if len(hashes) != 1 {
		return fmt.Errorf("the data of the members differ at revision %d: %v", revision, hashes)
	}
	return nil
}

// unchanged runs etcdadm, which must find nothing to do.
func (n *Node) unchanged(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out, problems bytes.Buffer
	if err := n.run(ctx, &out, &problems, append([]string{"-o", "json"}, args...)...); err != nil {
		return fmt.Errorf("%s: etcdadm %s again: %w\n%s", n.Name, args[0], err, problems.Bytes())
	}
	var result struct {
		Changed bool `json:"changed"`
	}
	if err := json.Unmarshal(out.Bytes(), &result); err != nil {
		return err
	}
	if result.Changed {
		return fmt.Errorf("%s: etcdadm %s again has changed something:\n%s", n.Name, args[0], out.Bytes())
	}
	return nil
}
