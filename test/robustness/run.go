package robustness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"etcdadm/test/lab"
	"etcdadm/test/process"
	"etcdadm/test/release"
)

// A Setup is what all runs have in common.
type Setup struct {
	Bin    string // the built etcdadm
	Mirror release.Mirror
	Keep   string // where the evidence of runs goes that failed
	Rate   int    // requests per second to a cluster; upstream's lowest is 100 at most, and 50 at least
	// Within is how long watchers may take to see the last write; 0: two minutes.
	Within time.Duration
	// Lab brings up hosts for one run, which are its nodes; nil: the nodes are directories of this machine.
	Lab func(hosts int, mounts ...lab.Mount) *lab.Lab
}

// Outcome is what a run of a scenario has shown.
type Outcome struct {
	Acknowledged
	Again  int // runs of etcdadm that had to be repeated
	Struck int // faults that struck
}

func (o Outcome) String() string {
	return fmt.Sprintf("%d writes acknowledged, %d failed, longest time without one %.1fs, %d faults, %d repetitions", o.Writes, o.Failed, o.Gap.Seconds(), o.Struck, o.Again)
}

// begin makes a cluster of one member, and a play on it. The seed decides at which moments faults strike, and whom.
func (s Setup) begin(ctx context.Context, dir, version string, nodes int, fault Fault, seed uint64) (*Play, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	c, err := s.newCluster(dir, version, nodes)
	if err != nil {
		return nil, err
	}
	first := c.Nodes[0]
	if err := first.must(ctx, first.initArgs()...); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := process.GiveCA(first.root(), c.safe); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &Play{Cluster: c, ctx: ctx, random: rand.New(rand.NewPCG(seed, seed)), fault: fault, members: c.Nodes[:1:1], logs: map[string]string{}}, nil
}

// keep is where the evidence of a run goes.
func (s Setup) keep(version string, seed uint64) string {
	return filepath.Join(s.Keep, fmt.Sprintf("%s-%d", version, seed))
}

func (s Setup) within() time.Duration { return cmp.Or(s.Within, watchersEnd) }

// Run plays a scenario with a fault on a fresh cluster below a directory, and lets the model judge what its clients saw.
func (s Setup) Run(ctx context.Context, dir, version string, scenario Scenario, fault Fault, seed uint64) (out Outcome, err error) {
	play, err := s.begin(ctx, dir, version, scenario.Nodes, fault, seed)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, play.Close()) }()
	r, err := Record(ctx, doors(play.Nodes), true, s.Rate)
	if err != nil {
		return out, err
	}
	quorum := play.guardQuorum()
	played := scenario.Play(play)
	guarded := quorum()
	if played != nil {
		r.Abandon()
		return out, played
	}
	final := play.current()
	finished := r.Finish(ctx, doors(final), s.within())
	out = Outcome{r.Acknowledged(), play.Again, play.Struck}
	keep := s.keep(version, seed)
	if err := r.Check(play.witnesses(), keep); err != nil {
		return out, errors.Join(fmt.Errorf("%w (the history is kept in %s)", err, keep), finished)
	}
	if finished == nil { // one that takes no write has nothing to say
		finished = whole(ctx, final)
	}
	if finished != nil {
		return out, finished
	}
	if !fault.disturbs {
		return out, guarded
	}
	return out, nil
}
