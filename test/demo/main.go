// Command demo plays the life of a small cluster with the built etcdadm and real etcd, all on this machine: three
// members come up, take a snapshot, lose a member, replace it, lose the cluster, and restore it.
//
// Each node is a directory of its own (--root) with an address of its own in 127.0.0.0/8, so nothing outside of the
// demo's directory is touched. Every result is checked; the first one that is wrong ends the demo.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"etcdadm/test/process"
	"etcdadm/test/release"
)

func main() {
	etcdadm := flag.String("etcdadm", "bin/etcdadm", "the built etcdadm")
	version := flag.String("version", "3.6.16", "the version of etcd")
	dir := flag.String("dir", "demo", "the directory of the demo; it is removed before and after")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *etcdadm, *version, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
	fmt.Println("demo: ok")
}

func run(ctx context.Context, etcdadm, version, dir string) (err error) {
	mirror, err := release.Build(ctx, os.Stderr, version)
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(etcdadm)
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	s := &story{bin: bin, mirror: mirror, version: version, dir: dir, began: time.Now()}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	network := process.NewNetwork(82) // another demo may be played at the same time
	for i := range 3 {
		n := &node{story: s, name: fmt.Sprintf("etcd-%d", i+1), address: network.Address()}
		n.root = filepath.Join(dir, n.name)
		s.nodes = append(s.nodes, n)
	}
	return s.play(ctx)
}

// play is the story. Each line either holds or ends it.
func (s *story) play(ctx context.Context) error {
	one, two, three := s.nodes[0], s.nodes[1], s.nodes[2]
	snapshot := filepath.Join(s.dir, "backup.db")
	steps := []func() error{
		s.say("three members, from nothing"),
		one.init(ctx),
		one.giveCA(two), two.join(ctx, one),
		one.giveCA(three), three.join(ctx, one, two),
		s.members(ctx, 3),
		one.init(ctx, "nothing to do"),

		s.say("a write through one is read through all"),
		one.put(ctx, "color", "blue"),
		one.reads(ctx, "color", "blue"), two.reads(ctx, "color", "blue"), three.reads(ctx, "color", "blue"),

		s.say("a snapshot"),
		one.etcdadm(ctx, 0, "snapshot", "save", snapshot),
		one.etcdadm(ctx, 0, "snapshot", "verify", snapshot),
		one.put(ctx, "color", "green"),

		s.say("etcd-3 loses its disk, and is replaced under the same name and address"),
		three.lose(ctx),
		one.reads(ctx, "color", "green"),
		one.giveCA(three), three.join(ctx, one, two),
		s.members(ctx, 3),
		three.reads(ctx, "color", "green"),

		s.say("a restore is refused while other members answer"),
		one.etcdadm(ctx, 3, "restore", snapshot),
		one.reads(ctx, "color", "green"),

		s.say("etcd-2 and etcd-3 are lost: no quorum, the cluster comes back from the snapshot"),
		two.lose(ctx), three.lose(ctx),
		one.etcdadm(ctx, 0, "restore", snapshot),
		one.reads(ctx, "color", "blue"),
		one.giveCA(two), two.join(ctx, one),
		one.giveCA(three), three.join(ctx, one),
		s.members(ctx, 3),
		three.put(ctx, "color", "red"),
		one.reads(ctx, "color", "red"), two.reads(ctx, "color", "red"),

		s.say("the end: every node leaves; the last one keeps a final snapshot"),
		three.etcdadm(ctx, 0, "reset"),
		s.members(ctx, 2, one, two),
		two.etcdadm(ctx, 0, "reset"),
		one.etcdadm(ctx, 0, "reset"),
		one.keeps("var/backups/etcd/*.db"),
		one.etcdadm(ctx, 0, "reset"),
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

type story struct {
	bin, version, dir string
	mirror            release.Mirror
	nodes             []*node
	began             time.Time
}

func (s *story) say(text string) func() error {
	return func() error {
		fmt.Printf("\n%5.1fs  %s\n", time.Since(s.began).Seconds(), text)
		return nil
	}
}

// members checks that every one of the nodes (all of them when none is named) knows of that many voters.
func (s *story) members(ctx context.Context, want int, nodes ...*node) func() error {
	return func() error {
		if len(nodes) == 0 {
			nodes = s.nodes
		}
		for _, n := range nodes {
			out, err := n.etcdctl(ctx, "member", "list", "-w", "json")
			if err != nil {
				return err
			}
			var list struct {
				Members []struct {
					Name      string `json:"name"`
					IsLearner bool   `json:"isLearner"`
				} `json:"members"`
			}
			if err := json.Unmarshal([]byte(out), &list); err != nil {
				return err
			}
			voters := 0
			for _, m := range list.Members {
				if !m.IsLearner && m.Name != "" {
					voters++
				}
			}
			if voters != want || len(list.Members) != want {
				return fmt.Errorf("%s sees %d members, %d of them voters; want %d", n.name, len(list.Members), voters, want)
			}
		}
		return nil
	}
}

// end stops what still runs and removes the directory.
func (s *story) end() error {
	var problems []error
	for _, n := range s.nodes {
		problems = append(problems, n.lose(context.Background())())
	}
	return errors.Join(append(problems, os.RemoveAll(s.dir))...)
}

type node struct {
	*story
	name, address, root string
}

func (n *node) path(p string) string { return filepath.Join(n.root, p) }

func (n *node) settings() []string {
	return []string{
		"--name", n.name, "--bind-address", n.address, "--init-system", "process", "--version", n.version,
		"--release-url", n.mirror.URL(), "--sha256sums", n.mirror.Sums(),
	}
}

func (n *node) init(ctx context.Context, message ...string) func() error {
	return n.etcdadm(ctx, 0, append([]string{"init"}, n.settings()...), message)
}

func (n *node) join(ctx context.Context, through ...*node) func() error {
	urls := make([]string, len(through))
	for i, t := range through {
		urls[i] = "https://" + t.address + ":2379"
	}
	return n.etcdadm(ctx, 0, append([]string{"join", strings.Join(urls, ",")}, n.settings()...))
}

// etcdadm runs a command on the node and wants an exit status; args are strings and lists of them. A list behind the
// first is text that the output must hold.
func (n *node) etcdadm(ctx context.Context, status int, args ...any) func() error {
	return func() error {
		var argv, texts []string
		lists := 0
		for _, a := range args {
			switch a := a.(type) {
			case string:
				argv = append(argv, a)
			case []string:
				if lists++; lists == 1 {
					argv = append(argv, a...)
				} else {
					texts = append(texts, a...)
				}
			}
		}
		shown := argv[0]
		if len(argv) > 1 && !strings.HasPrefix(argv[1], "-") {
			shown += " " + argv[1]
		}
		fmt.Printf("%5.1fs    %s: etcdadm %s\n", time.Since(n.began).Seconds(), n.name, shown)
		out, err := n.run(ctx, status, n.bin, append([]string{"--root", n.root}, argv...)...)
		if err != nil {
			return err
		}
		for _, t := range texts {
			if !strings.Contains(out, t) {
				return fmt.Errorf("%s: etcdadm %s did not say %q but %q", n.name, shown, t, out)
			}
		}
		return nil
	}
}

// run runs a program, wants an exit status, and returns its standard output.
func (n *node) run(ctx context.Context, status int, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var out, problems strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		return "", fmt.Errorf("%s: %s %s: exit status %d, want %d\n%s%s", n.name, filepath.Base(program), strings.Join(args, " "), got, status, out.String(), problems.String())
	}
	return out.String(), nil
}

// etcdctl runs that of the node. Its own limit of 5 s is short for a busy machine, and for a cluster that elects.
func (n *node) etcdctl(ctx context.Context, args ...string) (string, error) {
	return n.run(ctx, 0, n.path("opt/bin/etcdctl.sh"), append([]string{"--command-timeout=30s"}, args...)...)
}

// giveCA brings the CA to another node, as an operator would with scp.
func (n *node) giveCA(to *node) func() error {
	return func() error {
		if err := os.MkdirAll(to.path("etc/etcd/pki"), 0o755); err != nil {
			return err
		}
		for _, f := range []string{"ca.crt", "ca.key"} {
			data, err := os.ReadFile(n.path("etc/etcd/pki/" + f))
			if err != nil {
				return err
			}
			if err := os.WriteFile(to.path("etc/etcd/pki/"+f), data, 0o600); err != nil {
				return err
			}
		}
		return nil
	}
}

func (n *node) put(ctx context.Context, key, value string) func() error {
	return func() error {
		fmt.Printf("%5.1fs    %s: put %s %s\n", time.Since(n.began).Seconds(), n.name, key, value)
		_, err := n.etcdctl(ctx, "put", key, value)
		for tries := 1; err != nil && tries < 5 && process.Unsettled(err.Error()); tries++ {
			_, err = n.etcdctl(ctx, "put", key, value)
		}
		return err
	}
}

func (n *node) reads(ctx context.Context, key, want string) func() error {
	return func() error {
		got, err := n.etcdctl(ctx, "get", "--print-value-only", key)
		if err != nil {
			return err
		}
		if strings.TrimSpace(got) != want {
			return fmt.Errorf("%s reads %q for %s, want %q", n.name, strings.TrimSpace(got), key, want)
		}
		fmt.Printf("%5.1fs    %s: get %s -> %s\n", time.Since(n.began).Seconds(), n.name, key, want)
		return nil
	}
}

func (n *node) keeps(pattern string) func() error {
	return func() error {
		found, err := filepath.Glob(n.path(pattern))
		if err == nil && len(found) == 0 {
			err = fmt.Errorf("%s keeps no %s", n.name, pattern)
		}
		return err
	}
}

// lose ends the node as a dead machine would: its processes are killed, its disk is gone.
func (n *node) lose(context.Context) func() error {
	return func() error {
		if err := process.Down(n.root); err != nil {
			return err
		}
		return os.RemoveAll(n.root)
	}
}
