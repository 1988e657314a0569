package script

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"etcdadm/pkg/host"
	"etcdadm/test/process"
	"etcdadm/test/release"
)

// TestExitStatuses has the program, as it is built, end with each of its exit statuses.
func TestExitStatuses(t *testing.T) {
	t.Parallel()
	mirror := release.Get(t)
	dir := t.TempDir()
	bin := filepath.Join(dir, "etcdadm")
	if out, err := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", bin, "etcdadm/cmd/etcdadm").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	w := &world{nodes: map[string]*node{}}
	t.Cleanup(w.end)
	add := func(name string) *node {
		w.nodes[name] = newNode(name, filepath.Join(dir, name))
		return w.nodes[name]
	}
	settings := func(n *node) []string {
		return []string{
			"--root", n.root, "--name", n.name, "--bind-address", n.address, "--init-system", "process",
			"--version", current, "--release-url", mirror.URL(), "--sha256sums", mirror.Sums(),
		}
	}
	with := func(args []string, n *node, more ...string) []string {
		return append(append(args, settings(n)...), more...)
	}
	a, blank, foreign, joiner := add("a"), add("blank"), add("foreign"), add("joiner")
	write("foreign/var/lib/etcd/precious", "data")
	wrong := write("wrong.sums", strings.Repeat("0", 64)+"  "+filepath.Base(mirror.Archive(current))+"\n")
	mute := muteMember(t)
	lock := filepath.Join(joiner.root, "run/etcdadm.lock")

	for _, row := range []struct {
		name   string
		args   []string
		before func() func() // what happens before and, if it returns something, after
		during func(*os.Process)
		status int
	}{
		{name: "a member is made", args: with([]string{"init"}, a), status: 0},
		{name: "there is nothing to do", args: with([]string{"init"}, a), status: 0},
		{name: "all is well", args: []string{"status", "--root", a.root}, status: 0},
		{name: "nothing is to be reset", args: []string{"reset", "--root", blank.root}, status: 0},
		{name: "nothing would change", args: with([]string{"init"}, a, "--dry-run", "--detailed-exitcode"), status: 0},
		{name: "something would change", args: with([]string{"init"}, blank, "--dry-run", "--detailed-exitcode"), status: 2},
		{name: "something would change, and nobody asked for details", args: with([]string{"init"}, blank, "--dry-run"), status: 0},
		{name: "there is no such flag", args: []string{"init", "--nonsense"}, status: 2},
		{name: "the configuration is wrong", args: with([]string{"init"}, blank, "--key-algorithm", "dsa"), status: 2},
		{name: "data would be lost", args: with([]string{"init"}, foreign), status: 3},
		{name: "the node was never set up", args: []string{"status", "--root", blank.root}, status: 3},
		{name: "another etcdadm works here", args: with([]string{"init"}, a), status: 4, before: func() func() {
			release, err := host.New(a.root).Lock("/run/etcdadm.lock")
			if err != nil {
				t.Fatal(err)
			}
			return func() { release(true) }
		}},
		{name: "the CA is given", args: with([]string{"init", "phase", "certificates"}, joiner), status: 0},
		{name: "the limit expires", args: with([]string{"join", mute}, joiner, "--timeout", "1500ms"), status: 5},
		{name: "the digest is wrong", args: []string{"download", "--root", blank.root, "--version", current, "--release-url", mirror.URL(), "--sha256sums", wrong}, status: 6},
		{name: "the snapshot is no snapshot", args: []string{"snapshot", "verify", write("text.db", "text")}, status: 6},
		{name: "the user interrupts", args: with([]string{"join", mute}, joiner), status: 130, before: func() func() {
			if err := os.Remove(lock); err != nil {
				t.Fatal(err)
			}
			return nil
		}, during: func(p *os.Process) {
			// It has its lock, so it has begun; what it waits for never comes.
			if err := process.Until("the lock", func() bool { b, err := os.ReadFile(lock); return err == nil && len(b) > 0 }); err != nil {
				t.Error(err)
			}
			_ = p.Signal(os.Interrupt)
		}},
		{name: "etcd does not run", args: []string{"status", "--root", a.root}, status: 10, before: func() func() {
			if err := a.down(); err != nil {
				t.Fatal(err)
			}
			return nil
		}},
		{name: "nothing answers", args: []string{"info", "--root", a.root}, status: 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.before != nil {
				if after := row.before(); after != nil {
					defer after()
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			c := exec.CommandContext(ctx, bin, row.args...)
			var told bytes.Buffer
			c.Stderr = &told
			c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			if row.during != nil {
				row.during(c.Process)
			}
			var exit *exec.ExitError
			if err := c.Wait(); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := c.ProcessState.ExitCode(); got != row.status {
				t.Errorf("etcdadm %s: exit status %d, want %d\n%s", strings.Join(row.args, " "), got, row.status, &told)
			}
		})
	}
}

// muteMember listens where a member would, takes every connection and never says a word. It returns its client URL.
func muteMember(t *testing.T) string {
	t.Helper()
	n := newNode("mute", "")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", n.address+":2379")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return "https://" + n.address + ":2379"
}
