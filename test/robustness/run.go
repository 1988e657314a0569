package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"etcdadm/test/release"
)

// A Setup is what all runs have in common.
type Setup struct {
	Bin    string // the built etcdadm
	Mirror release.Mirror
	Keep   string // where the evidence of runs goes that failed
}

// Outcome is what a run of a scenario has shown.
type Outcome struct {
	Acknowledged
	Again int // runs of etcdadm that had to be repeated
}

// Run plays a scenario with a fault on a fresh cluster below a directory, and lets the model judge what its clients saw.
// The seed decides at which moments faults strike, and whom.
func (s Setup) Run(ctx context.Context, dir, version string, scenario Scenario, fault Fault, seed uint64) (out Outcome, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return out, err
	}
	c, err := NewCluster(dir, s.Bin, version, s.Mirror, scenario.Nodes)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	first := c.Nodes[0]
	if err := first.must(ctx, first.initArgs()...); err != nil {
		return out, err
	}
	r, err := Record(ctx, doors(c.Nodes), true)
	if err != nil {
		return out, err
	}
	play := &Play{Cluster: c, ctx: ctx, random: rand.New(rand.NewPCG(seed, seed)), fault: fault, members: c.Nodes[:1:1]}
	if err := scenario.Play(play); err != nil {
		r.Abandon()
		return out, err
	}
	final := play.current()
	if err := r.Finish(ctx, doors(final)); err != nil {
		return out, err
	}
	out = Outcome{r.Acknowledged(), play.Again}
	if err := whole(ctx, final); err != nil {
		return out, err
	}
	if out.Writes == 0 {
		return out, errors.New("no write was acknowledged: the run shows nothing")
	}
	keep := filepath.Join(s.Keep, fmt.Sprintf("%s-%d", version, seed))
	if err := r.Check(dataDirs(final), keep); err != nil {
		return out, fmt.Errorf("%w (the history is kept in %s)", err, keep)
	}
	return out, nil
}
