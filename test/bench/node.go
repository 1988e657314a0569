package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// node is a node under a root of its own that etcdadm looks after.
type node struct {
	*bench
	name, address, root string
}

func (b *bench) node(name, address string) *node {
	n := &node{bench: b, name: name, address: address, root: filepath.Join(b.dir, name)}
	b.nodes = append(b.nodes, n)
	return n
}

func (n *node) path(p string) string { return filepath.Join(n.root, p) }

func (n *node) args(command ...string) []string {
	return append([]string{"--root", n.root, "-o", "json"}, command...)
}

func (n *node) settings() []string {
	return []string{
		"--name", n.name, "--bind-address", n.address, "--init-system", "process", "--version", n.version,
		"--release-url", n.mirror.URL(), "--sha256sums", n.mirror.Sums(),
	}
}

func (n *node) initArgs() []string { return append([]string{"init"}, n.settings()...) }

func (n *node) joinArgs(through *node) []string {
	return append([]string{"join", "https://" + through.address + ":2379"}, n.settings()...)
}

// install puts the release in place, and its archive into the cache.
func (n *node) install(ctx context.Context) error {
	_, err := n.run(ctx, append([]string{"init", "phase", "install"}, n.settings()...)...)
	return err
}

// result is what etcdadm says of a run.
type result struct {
	Changed bool
	Steps   []struct {
		Phase   string
		Seconds float64
	}
	wall time.Duration // from exec to exit
}

// waits are the phases whose time is etcd's: it elects, replicates, answers.
var waits = []string{"membership", "health"}

// own is the time that a run took, without its waiting for etcd.
func (r result) own() time.Duration {
	own := r.wall
	for _, s := range r.Steps {
		if slices.Contains(waits, s.Phase) {
			own -= time.Duration(s.Seconds * float64(time.Second))
		}
	}
	return own
}

func (n *node) run(ctx context.Context, command ...string) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var r result
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, n.etcdadm, n.args(command...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	r.wall = time.Since(began)
	if err == nil {
		err = json.Unmarshal(stdout.Bytes(), &r)
	}
	if err != nil {
		err = fmt.Errorf("etcdadm %s: %w\n%s%s", strings.Join(command, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return r, err
}

// giveCA brings the CA to another node, as an operator would.
func (n *node) giveCA(to *node) error {
	if err := os.MkdirAll(to.path("etc/etcd/pki"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"ca.crt", "ca.key"} {
		data, err := os.ReadFile(n.path("etc/etcd/pki/" + name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(to.path("etc/etcd/pki/"+name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// kill ends the supervisor of the node, and etcd with it.
func (n *node) kill() {
	data, err := os.ReadFile(n.path("run/etcdadm/supervisor"))
	var pid int
	if err != nil {
		return
	}
	if _, err := fmt.Sscan(string(data), &pid); err != nil || !n.owns(pid) {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	// etcd ends with its supervisor, but not in the same instant.
	for range 1000 {
		conn, err := net.Dial("tcp", net.JoinHostPort(n.address, "2380"))
		if err != nil && !n.owns(pid) {
			return
		}
		if err == nil {
			_ = conn.Close()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// owns tells whether a process is the supervisor of this node: the file that names it may be old.
func (n *node) owns(pid int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(args, []byte(n.root+"\x00"))
}

// wipe ends the node and leaves it with the installed release alone.
func (n *node) wipe() {
	n.kill()
	for _, p := range []string{"etc", "run", "var/lib", "var/log", "var/backups"} {
		_ = os.RemoveAll(n.path(p))
	}
}
