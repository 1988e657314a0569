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
	"text/tabwriter"
	"time"

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

// A row is one line of the table. Value and Bare are as people read them.
type row struct {
	what, value, bare, ratio, target string
	missed                           bool
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
	var rows []row
	for _, m := range []struct {
		name string
		run  func(context.Context) ([]row, error)
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
	if show(rows) && o.check {
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

// show prints the table and tells whether a target is missed.
func show(rows []row) (missed bool) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tETCDADM\tBARE\tRATIO\tTARGET\t")
	for _, r := range rows {
		verdict := ""
		switch {
		case r.missed:
			verdict, missed = "not reached", true
		case r.target != "":
			verdict = "reached"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.what, r.value, r.bare, r.ratio, r.target, verdict)
	}
	_ = w.Flush()
	return missed
}

// against is a row that compares two medians; limit is the ratio to keep.
func against(what string, ours, bare []time.Duration, limit float64) row {
	a, b := median(ours), median(bare)
	ratio := a.Seconds() / b.Seconds()
	return row{
		what: what, value: spread(ours), bare: spread(bare), ratio: fmt.Sprintf("%.2f", ratio),
		target: fmt.Sprintf("ratio <= %.2f", limit), missed: ratio > limit,
	}
}

// within is a row that compares a median with a limit of its own; 0: there is none.
func within(what string, times []time.Duration, limit time.Duration) row {
	r := row{what: what, value: spread(times)}
	if limit > 0 {
		r.target, r.missed = "<= "+limit.String(), median(times) > limit
	}
	return r
}
