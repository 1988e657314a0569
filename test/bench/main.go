// Command bench measures the built etcdadm against etcd driven by hand, on this machine and in one run: the two take
// turns, and medians are compared. Where etcd waits for its random election tick, both wait alike.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"etcdadm/test/measure"
	"etcdadm/test/release"
)

func main() {
	var o options
	flag.StringVar(&o.etcdadm, "etcdadm", "bin/etcdadm", "the built etcdadm")
	flag.StringVar(&o.version, "version", "3.6.16", "the version of etcd")
	flag.IntVar(&o.runs, "runs", 30, "how many pairs of runs each median is taken of; init three times as many, join twice, the second join a quarter")
	flag.BoolVar(&o.check, "check", false, "exit with status 1 when a target is missed")
	only := flag.String("only", "", "measure only these, by the first word of their line (comma list)")
	flag.Parse()
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

type options struct {
	etcdadm, version string
	runs             int
	check            bool
	only             []string
}

var errMissed = errors.New("a target is missed")

func run(ctx context.Context, o options) (err error) {
	mirror, err := release.Build(ctx, os.Stderr, o.version)
	if err != nil {
		return err
	}
	if o.etcdadm, err = filepath.Abs(o.etcdadm); err != nil {
		return err
	}
	// Beside the checkout, and not in /tmp, which may be in memory and would flatter everything that syncs.
	dir, err := os.MkdirTemp(filepath.Dir(o.etcdadm), "bench-")
	if err != nil {
		return err
	}
	b := &bench{options: o, mirror: mirror, dir: dir}
	defer func() { err = errors.Join(err, b.end()) }()

	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	var rows []measure.Row
	for _, m := range []struct {
		name string
		run  func(context.Context) ([]measure.Row, error)
	}{
		{"init", b.init}, {"join", b.join}, {"second", b.second}, {"no-op", b.noop}, {"install", b.install},
		{"binary", b.binary}, {"--help", b.help}, {"peak", b.memory},
	} {
		if !o.wants(m.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s\n", m.name)
		r, err := m.run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		rows = append(rows, r...)
	}
	fmt.Printf("etcd %s, %d cores, load %s at the start, medians of %d runs (init %d, join %d, second join %d) with their quartiles\n\n",
		o.version, runtime.NumCPU(), strings.Fields(string(load))[0], o.runs, 3*o.runs, 2*o.runs, max(o.runs/4, 5))
	if measure.Show(os.Stdout, rows) && o.check {
		return errMissed
	}
	return nil
}

func (o options) wants(name string) bool {
	for _, n := range o.only {
		if n == name {
			return true
		}
	}
	return len(o.only) == 0
}
