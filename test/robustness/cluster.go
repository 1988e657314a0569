package robustness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"etcdadm/test/process"
	"etcdadm/test/release"
)

// patience is how long a command of etcdadm may take, and how long it is run again until it succeeds.
const patience = 2 * time.Minute

// A Cluster is a number of nodes on this machine that are administered with the built etcdadm alone. Each is a root of
// its own with an address of its own. Not all of them need to be members.
type Cluster struct {
	Nodes []*Node

	bin, version string
	mirror       release.Mirror
	hold         net.Listener
	env          []string // more variables of etcdadm
}

// A Node is one machine, and may be a member.
type Node struct {
	Name, Address string

	root    string
	cluster *Cluster
	door    *door
}

// NewCluster makes n nodes below a directory, none of them a member yet.
func NewCluster(dir, bin, version string, mirror release.Mirror, n int) (*Cluster, error) {
	network, hold, err := reserve()
	if err != nil {
		return nil, err
	}
	c := &Cluster{bin: bin, version: version, mirror: mirror, hold: hold}
	for i := range n {
		node := &Node{Name: fmt.Sprintf("n%d", i+1), Address: fmt.Sprintf("%s.%d", network, i+1), cluster: c}
		node.root = filepath.Join(dir, node.Name)
		node.door, err = openDoor(network+".250", net.JoinHostPort(node.Address, "2379"), node.path("etc/etcd/pki"))
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.Nodes = append(c.Nodes, node)
	}
	return c, nil
}

// Close ends everything that the cluster has started.
func (c *Cluster) Close() error {
	problems := []error{c.hold.Close()}
	for _, n := range c.Nodes {
		problems = append(problems, n.door.Close(), process.Down(n.root))
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

func (n *Node) path(p string) string { return filepath.Join(n.root, p) }

func (n *Node) url() string { return "https://" + net.JoinHostPort(n.Address, "2379") }

// settings are the flags of init and join.
func (n *Node) settings() []string {
	c := n.cluster
	return []string{
		"--name", n.Name, "--bind-address", n.Address, "--init-system", "process", "--version", c.version,
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

// etcdadm prepares a run of etcdadm on the node, which says everything to the returned buffer.
func (n *Node) etcdadm(ctx context.Context, args ...string) (*exec.Cmd, *bytes.Buffer) {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, n.cluster.bin, append([]string{"--root", n.root}, args...)...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), n.cluster.env...)
	// What it starts and leaves behind holds its streams: nobody waits for those.
	cmd.WaitDelay = time.Second
	return cmd, &said
}

// must runs etcdadm, which has to succeed.
func (n *Node) must(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd, said := n.etcdadm(ctx, args...)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: etcdadm %s: %w\n%s", n.Name, strings.Join(args, " "), err, said)
	}
	return nil
}

// signalEtcd sends a signal to the member's process, if it runs.
func (n *Node) signalEtcd(s syscall.Signal) {
	if p := process.Etcd(n.root); p != 0 {
		_ = syscall.Kill(p, s)
	}
}

// lose ends the node and takes its disk away.
func (n *Node) lose() error {
	return errors.Join(process.Down(n.root), os.RemoveAll(n.root))
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
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
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
		if err := n.must(ctx, "status"); err != nil {
			return err
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
	cmd := exec.CommandContext(ctx, n.cluster.bin, append([]string{"--root", n.root, "-o", "json"}, args...)...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: etcdadm %s again: %w\n%s", n.Name, args[0], err, problems.String())
	}
	var result struct {
		Changed bool `json:"changed"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return err
	}
	if result.Changed {
		return fmt.Errorf("%s: etcdadm %s again has changed something:\n%s", n.Name, args[0], out)
	}
	return nil
}
