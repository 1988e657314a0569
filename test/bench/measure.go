package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/test/measure"
	"etcdadm/test/release"
)

type bench struct {
	options
	mirror release.Mirror
	dir    string
	nodes  []*node
	bares  []*bare
}

// end kills what still runs and removes what was measured.
func (b *bench) end() error {
	for _, n := range b.nodes {
		n.kill()
	}
	for _, n := range b.bares {
		n.kill()
	}
	return os.RemoveAll(b.dir)
}

// turns runs both sides n times, in turns, and changes who begins.
func turns(ctx context.Context, n int, sides ...func() error) error {
	for i := range n {
		for j := range sides {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := sides[(i+j)%len(sides)](); err != nil {
				return err
			}
		}
	}
	return nil
}

// init: from exec to the first linearizable read over mTLS. etcdadm makes its certificates within that time, the bare
// etcd has them already.
func (b *bench) init(ctx context.Context) ([]measure.Row, error) {
	n := b.node("init", "127.81.0.1")
	if err := n.install(ctx); err != nil {
		return nil, err
	}
	p, err := newPKI(filepath.Join(b.dir, "bare-init-pki"), "127.81.1.1")
	if err != nil {
		return nil, err
	}
	one := b.bare("bare-init", "127.81.1.1", p)
	var ours, bare, own []time.Duration
	// The election tick is drawn from 0.1 to 1.1 s: its median takes more runs to settle than anything else here.
	err = turns(ctx, 3*b.runs,
		func() error {
			defer n.wipe()
			r, err := n.run(ctx, n.initArgs()...)
			ours, own = append(ours, r.wall), append(own, r.own())
			return err
		},
		func() error {
			defer one.wipe()
			began := time.Now()
			err := one.begins(ctx)
			bare = append(bare, time.Since(began))
			return err
		})
	return []measure.Row{measure.Against("init", ours, bare, 1.15), measure.Within("init, without waiting for etcd", own, 250*time.Millisecond)}, err
}

// join: from exec to the first linearizable read through the new voter, which began as a learner. Each run has a new
// cluster of one: a member that has just joined cannot leave for the next five seconds.
func (b *bench) join(ctx context.Context) ([]measure.Row, error) {
	return b.growth(ctx, "join", 1, 2*b.runs, 1.15)
}

// second: join of a third member right after the second, where etcd has its leader be connected for five seconds first.
func (b *bench) second(ctx context.Context) ([]measure.Row, error) {
	return b.growth(ctx, "second join", 2, max(b.runs/4, 5), 1.1)
}

// growth measures the join to a cluster of so many members, which are as new as can be.
func (b *bench) growth(ctx context.Context, what string, members, runs int, limit float64) ([]measure.Row, error) {
	var nodes []*node
	var bares []*bare
	var addresses []string
	for i := range members + 1 {
		n := b.node(fmt.Sprintf("join-%d", i+1), fmt.Sprintf("127.81.0.%d", i+1))
		if err := n.install(ctx); err != nil {
			return nil, err
		}
		nodes, addresses = append(nodes, n), append(addresses, fmt.Sprintf("127.81.1.%d", i+1))
	}
	p, err := newPKI(filepath.Join(b.dir, "bare-join-pki"), addresses...)
	if err != nil {
		return nil, err
	}
	for i, a := range addresses {
		bares = append(bares, b.bare(fmt.Sprintf("bare-join-%d", i+1), a, p))
	}
	var ours, byHand, byClient, own []time.Duration
	grow := func(last *[]time.Duration, drive func() (driver, error)) error {
		for i, n := range bares {
			defer n.wipe()
			if i == 0 {
				if err := n.begins(ctx); err != nil {
					return err
				}
				continue
			}
			anyBeat()
			began := time.Now()
			d, err := drive()
			if err != nil {
				return err
			}
			if err := errors.Join(n.joins(ctx, d, bares[:i]...), d.Close()); err != nil {
				return err
			}
			if i == members {
				*last = append(*last, time.Since(began))
			}
		}
		return nil
	}
	err = turns(ctx, runs,
		func() error {
			for i, n := range nodes {
				defer n.wipe()
				if i == 0 {
					if _, err := n.run(ctx, n.initArgs()...); err != nil {
						return err
					}
					continue
				}
				if err := nodes[0].giveCA(n); err != nil {
					return err
				}
				anyBeat()
				r, err := n.run(ctx, n.joinArgs(nodes[0])...)
				if err != nil {
					return err
				}
				if i == members {
					ours, own = append(ours, r.wall), append(own, r.own())
				}
			}
			return nil
		},
		func() error { return grow(&byHand, func() (driver, error) { return hand{bares[0]}, nil }) },
		func() error {
			return grow(&byClient, func() (driver, error) {
				c, err := dial(ctx, bares[0].address, p)
				return client{c, p}, err
			})
		})
	return []measure.Row{
		measure.Against(what+", against etcdctl", ours, byHand, limit),
		measure.Against(what+", against a client that needs no start", ours, byClient, 0),
		measure.Within(what+", without waiting for etcd", own, 250*time.Millisecond),
	}, err
}

// anyBeat waits for any moment between two heartbeats of a leader: a learner gets its first entries at one, 100 ms
// after the last. A join that always began at the same moment would be measured in whole heartbeats.
func anyBeat() { time.Sleep(rand.N(100 * time.Millisecond)) }

// noop: init on a node that is as it should be.
func (b *bench) noop(ctx context.Context) ([]measure.Row, error) {
	n := b.node("no-op", "127.81.0.1")
	defer n.wipe()
	if _, err := n.run(ctx, n.initArgs()...); err != nil {
		return nil, err
	}
	var times []time.Duration
	err := turns(ctx, b.runs, func() error {
		r, err := n.run(ctx, n.initArgs()...)
		if err == nil && r.Changed {
			err = errors.New("the second init changed something")
		}
		times = append(times, r.wall)
		return err
	})
	return []measure.Row{measure.Within("no-op init", times, 150*time.Millisecond)}, err
}

// install: from the archive in the cache to the programs in place.
func (b *bench) install(ctx context.Context) ([]measure.Row, error) {
	n := b.node("install", "127.81.0.1")
	if err := n.install(ctx); err != nil {
		return nil, err
	}
	target := filepath.Join(b.dir, "tar")
	var ours, bare []time.Duration
	err := turns(ctx, b.runs,
		func() error {
			if err := os.RemoveAll(n.path("opt")); err != nil {
				return err
			}
			unix.Sync() // nobody pays for the pages that another one left
			began := time.Now()
			err := n.install(ctx)
			ours = append(ours, time.Since(began))
			return err
		},
		func() error {
			if err := errors.Join(os.RemoveAll(target), os.Mkdir(target, 0o755)); err != nil {
				return err
			}
			unix.Sync()
			began := time.Now()
			out, err := exec.CommandContext(ctx, "tar", "xzf", b.mirror.Archive(b.version), "-C", target).CombinedOutput()
			bare = append(bare, time.Since(began))
			if err != nil {
				return fmt.Errorf("tar: %w: %s", err, out)
			}
			return nil
		})
	return []measure.Row{measure.Against("install from the cache, against tar xzf", ours, bare, 1.2)}, err
}

func (b *bench) binary(context.Context) ([]measure.Row, error) {
	info, err := os.Stat(b.etcdadm)
	if err != nil {
		return nil, err
	}
	size := float64(info.Size()) / 1e6
	return []measure.Row{{What: "binary size", Value: fmt.Sprintf("%.1f MB", size), Target: "<= 26 MB", Missed: size > 26}}, nil
}

func (b *bench) help(ctx context.Context) ([]measure.Row, error) {
	var times []time.Duration
	err := turns(ctx, max(b.runs, 50), func() error {
		began := time.Now()
		err := exec.CommandContext(ctx, b.etcdadm, "--help").Run()
		times = append(times, time.Since(began))
		return err
	})
	return []measure.Row{measure.Within("--help", times, 30*time.Millisecond)}, err
}

// memory: the peak of init, with the download from the mirror. The kernel's ru_maxrss of a child counts its parent's
// memory too; the high-water mark of the process itself is read while it lives.
func (b *bench) memory(ctx context.Context) ([]measure.Row, error) {
	n := b.node("memory", "127.81.0.1")
	defer n.wipe()
	cmd := exec.CommandContext(ctx, b.etcdadm, n.args(n.initArgs()...)...)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	peak := 0
	for {
		select {
		case err := <-ended:
			return []measure.Row{{What: "peak RSS of init", Value: fmt.Sprintf("%.1f MB", float64(peak)*1024/1e6)}}, err
		case <-time.After(time.Millisecond):
			peak = max(peak, highWater(cmd.Process.Pid))
		}
	}
}

// highWater returns the greatest resident size of a process so far, in KiB; 0 when it has ended.
func highWater(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(status) {
		var kib int
		if _, err := fmt.Sscanf(string(line), "VmHWM: %d kB", &kib); err == nil {
			return kib
		}
	}
	return 0
}
