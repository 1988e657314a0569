// Package process is what tests know of nodes under --init-system process: each is a directory (--root) with an address
// of its own, and etcd runs there below a supervisor.
package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"etcdadm/pkg/host"
)

// Network hands out the addresses of 127.<Second>.0.0/16, each once.
type Network struct {
	Second byte
	last   atomic.Uint32
}

// NewNetwork returns a network for the nodes of one package. A second run on the same machine begins elsewhere in it.
func NewNetwork(second byte) *Network {
	n := &Network{Second: second}
	n.last.Store(uint32(os.Getpid() * 997 % 60_000)) //nolint:gosec // a process id is not negative
	return n
}

// Address returns an address that nobody has got yet.
func (n *Network) Address() string {
	i := n.last.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", n.Second, i/250, i%250+1)
}

// Supervisor returns the process id of the supervisor of the node at root, 0 when there is none. A test may have deleted
// the file that names it.
func Supervisor(root string) int {
	h := host.New("/", host.ReadOnly())
	all, err := h.Processes()
	if err != nil {
		return 0
	}
	for _, p := range all {
		if args, err := h.Args(p.PID); err == nil && len(args) > 3 && args[1] == "supervise" && args[3] == root {
			return p.PID
		}
	}
	return 0
}

// Etcd returns the process id of the etcd of the node at root, 0 when there is none.
func Etcd(root string) int {
	supervisor := Supervisor(root)
	if supervisor == 0 {
		return 0
	}
	all, err := host.New("/", host.ReadOnly()).Processes()
	if err != nil {
		return 0
	}
	for _, p := range all {
		if p.PPID == supervisor && p.State != 'Z' {
			return p.PID
		}
	}
	return 0
}

// Down kills the supervisor of the node at root, with which etcd dies, and waits until nothing works on the node any more: an
// etcdadm that was killed may have begun to start a supervisor that is none yet.
func Down(root string) error {
	h := host.New("/", host.ReadOnly())
	known := map[int]bool{} // a process that ends has no command line any more
	quiet := 0
	var failed error
	err := Until("what works on "+root+" to end", func() bool {
		quiet++ // two looks, as whoever makes a process may be looked at too early, and the process too late
		all, err := h.Processes()
		for _, p := range all {
			args, _ := h.Args(p.PID)
			known[p.PID] = known[p.PID] || known[p.PPID] || slices.Contains(args, root)
			if known[p.PID] || becoming(h, p.PID, args) {
				quiet = 0
			}
			if known[p.PID] && slices.Contains(args, "supervise") {
				if kerr := syscall.Kill(p.PID, syscall.SIGKILL); !errors.Is(kerr, syscall.ESRCH) {
					err = errors.Join(err, kerr)
				}
			}
		}
		failed = err
		return err != nil || quiet == 2
	})
	return errors.Join(failed, err)
}

// becoming tells whether a process becomes another program: it has no arguments while it does.
func becoming(h *host.Host, pid int, args []string) bool {
	if strings.Join(args, "") != "" {
		return false
	}
	if _, _, err := h.Program(pid); err != nil { // it ends, or is of the kernel
		return false
	}
	began, err := h.Started(pid)
	return err == nil && time.Since(began) < time.Minute
}

// GiveCA brings the CA of one node to another, as an operator does.
func GiveCA(from, to string) error {
	if err := os.MkdirAll(filepath.Join(to, "etc/etcd/pki"), 0o755); err != nil {
		return err
	}
	for _, f := range []string{"ca.crt", "ca.key"} {
		data, err := os.ReadFile(filepath.Join(from, "etc/etcd/pki", f))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, "etc/etcd/pki", f), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Etcdctl runs an etcdctl, such as the wrapper of a node, and returns what it prints, without the space around it. The
// error holds what it says. Its own limit of 5 s is short for a busy machine, and for a cluster that elects.
func Etcdctl(program string, args ...string) (string, error) {
	for tries := 1; ; tries++ {
		c := exec.Command(program, append([]string{"--command-timeout=30s"}, args...)...)
		var said strings.Builder
		c.Stderr = &said
		out, err := c.Output()
		if err != nil && tries < 5 && slices.Contains(args, "put") && Unsettled(said.String()) {
			continue
		}
		if err != nil {
			err = fmt.Errorf("etcdctl %s: %w\n%s%s", strings.Join(args, " "), err, out, &said)
		}
		return strings.TrimSpace(string(out)), err
	}
}

// unsettled is what etcd says of a write that has met an election (rpctypes of its api/v3, and raft).
var unsettled = []string{"etcdserver: request timed out", "etcdserver: leader changed", "etcdserver: no leader", "raft proposal dropped"}

// Unsettled tells whether etcdctl says that a write may have been made, and may not: the machine stalled, and the cluster has
// elected anew. Its client reads again by itself, and does not write again; the same value may be written twice.
func Unsettled(said string) bool {
	return slices.ContainsFunc(unsettled, func(u string) bool { return strings.Contains(said, u) })
}

// Lead makes the member of an etcdctl the leader of its cluster, which it is as long as no machine stalls. The other members
// are known by their own.
func Lead(program string, others ...string) error {
	var failed error
	err := Until(program+" to be that of the leader", func() bool {
		var answers []struct {
			Status struct {
				Header struct {
					Member uint64 `json:"member_id"`
				}
				Leader uint64
			}
		}
		said, err := Etcdctl(program, "endpoint", "status", "-w", "json")
		if err == nil {
			err = json.Unmarshal([]byte(said), &answers)
		}
		if err != nil || len(answers) != 1 {
			failed = errors.Join(err, fmt.Errorf("the status is %q", said))
			return true
		}
		own := answers[0].Status
		if own.Leader == own.Header.Member {
			return true
		}
		for _, o := range others { // whoever does not lead refuses
			_, _ = Etcdctl(o, "move-leader", fmt.Sprintf("%x", own.Header.Member))
		}
		return false
	})
	return errors.Join(failed, err)
}

// Until waits for a state that has to come.
func Until(what string, holds func() bool) error {
	for range 6000 {
		if holds() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("waited for %s in vain", what)
}
