// Command soak lets etcdadm work on many clusters, each a fresh one with operations and faults that its seed decides, and
// lets etcd's model judge each. One line per cluster, and a summary.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"etcdadm/test/lab"
	"etcdadm/test/release"
	"etcdadm/test/robustness"
)

func main() {
	etcdadm := flag.String("etcdadm", "../../bin/etcdadm", "the built etcdadm")
	first := flag.Uint64("seed", uint64(time.Now().Unix()), "the seed of the first cluster; the next ones count on")
	count := flag.Int("n", 10, "the number of clusters")
	rate := flag.Int("rate", 60, "requests per second to each cluster: they cost most of its time")
	beside := flag.Int("parallel", 3*runtime.NumCPU(), "how many clusters live side by side")
	keep := flag.String("keep", filepath.Join(os.TempDir(), "etcdadm-soak"), "where the histories of failures are kept")
	hosts := flag.Bool("lab", false, "play on hosts of the lab, with their faults too; as root")
	limit := flag.Duration("limit", 24*time.Hour, "begin no cluster after that time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, robustness.Setup{Bin: *etcdadm, Keep: *keep, Rate: *rate}, *first, *count, *beside, *hosts, *limit); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, s robustness.Setup, first uint64, count, beside int, hosts bool, limit time.Duration) error {
	var err error
	if s.Bin, err = filepath.Abs(s.Bin); err != nil {
		return err
	}
	if s.Mirror, err = release.Build(ctx, os.Stderr, release.Versions...); err != nil {
		return err
	}
	faults := robustness.Faults
	if hosts {
		faults = slices.Concat(faults, robustness.LabFaults)
	}
	fmt.Printf("soak: %d clusters from seed %d, %d side by side\n", count, first, beside)
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		total = tally{}
		seeds = make(chan uint64)
		end   = time.Now().Add(limit)
	)
	for range beside {
		all.Go(func() {
			for seed := range seeds {
				d := robustness.NewDraw(seed, faults)
				began := time.Now()
				out, err := one(ctx, s, d, hosts)
				mu.Lock()
				if err == nil || ctx.Err() == nil {
					total.add(d, out, err)
					tell(d, out, err, time.Since(began))
				}
				mu.Unlock()
			}
		})
	}
	for i := range count {
		if ctx.Err() != nil || time.Now().After(end) {
			break
		}
		seeds <- first + uint64(i)
	}
	close(seeds)
	all.Wait()
	return total.sum()
}

// one plays one cluster in a directory of its own.
func one(ctx context.Context, s robustness.Setup, d robustness.Draw, hosts bool) (out robustness.Outcome, err error) {
	err = try(fmt.Sprint("seed ", d.Seed), func(t *trial) error {
		dir, err := os.MkdirTemp("", "soak-")
		if err != nil {
			return err
		}
		if hosts {
			s.Lab = func(n int, mounts ...lab.Mount) *lab.Lab { return lab.UpInMemory(t, n, mounts...) }
		}
		out, err = s.Soak(ctx, dir, d)
		return errors.Join(err, os.RemoveAll(dir))
	})
	return out, err
}

func tell(d robustness.Draw, out robustness.Outcome, err error, took time.Duration) {
	word := "ok  "
	if err != nil {
		word = "FAIL"
	}
	fmt.Printf("%s seed %d (%s) %.0fs: %s\n", word, d.Seed, d, took.Seconds(), out)
	if err != nil {
		fmt.Printf("     %v\n", err)
	}
}

// tally counts clusters, operations and faults.
type tally map[string]int

func (c tally) add(d robustness.Draw, out robustness.Outcome, err error) {
	c["clusters"]++
	if err != nil {
		c["clusters that failed"]++
	}
	c["etcd "+d.Version]++
	c["fault: "+d.Fault.Name]++
	for _, o := range d.Operations {
		c["operation: "+o]++
	}
	c["writes acknowledged"] += out.Writes
	c["runs of etcdadm repeated"] += out.Again
	c["faults that struck"] += out.Struck
}

func (c tally) sum() error {
	fmt.Println("soak: summary")
	for _, what := range slices.Sorted(maps.Keys(c)) {
		fmt.Printf("%8d %s\n", c[what], what)
	}
	if n := c["clusters that failed"]; n > 0 {
		return fmt.Errorf("%d of %d clusters failed", n, c["clusters"])
	}
	return nil
}
