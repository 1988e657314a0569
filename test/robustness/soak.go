package robustness

import (
	"context"
	"math/rand/v2"
	"strings"
)

// Versions are what a soak draws from.
var soakVersions = []string{"3.5.35", "3.6.16", "3.7.3"}

// A Draw is what a seed stands for.
type Draw struct {
	Seed       uint64
	Version    string
	Fault      Fault
	Operations []string // names of operations, in their order; "restore" is one of its own kind
}

func (d Draw) String() string {
	return d.Version + ", " + d.Fault.Name + ": " + strings.Join(d.Operations, ", ")
}

// operations are what a soak draws from, with the number of members that they need to begin with.
var operations = []struct {
	name     string
	min, max int // members before it
	grows    int
	play     func(*Play) error
}{
	{"join", 1, 4, 1, func(p *Play) error { return p.join(p.free()[0]) }},
	{"two joins", 1, 3, 2, func(p *Play) error { return p.joinTogether(p.free()[:2]) }},
	{"reset", 2, 5, -1, func(p *Play) error { return p.reset(p.any()) }},
	{"replace", 3, 5, 0, func(p *Play) error { return p.replace(p.any()) }},
	{"reconfigure", 1, 5, 0, func(p *Play) error { return p.reconfigure(p.any()) }},
	{"renew", 1, 5, 0, func(p *Play) error { return p.renew(p.any()) }},
	{"again", 1, 5, 0, func(p *Play) error { return p.again(p.any()) }},
}

// NewDraw draws what happens to the cluster of a seed, with one of the faults: the same for the same seed.
func NewDraw(seed uint64, faults []Fault) Draw {
	random := rand.New(rand.NewPCG(seed, 0))
	d := Draw{Seed: seed, Version: soakVersions[random.IntN(len(soakVersions))], Fault: faults[random.IntN(len(faults))]}
	if random.IntN(6) == 0 {
		d.Operations = []string{"restore"}
		return d
	}
	members := 1
	for len(d.Operations) < 4 {
		o := operations[random.IntN(len(operations))]
		if members < o.min || members > o.max {
			continue
		}
		d.Operations = append(d.Operations, o.name)
		members += o.grows
	}
	return d
}

// nodes is how many there are at most.
func (d Draw) nodes() int {
	members, most := 1, 1
	for _, name := range d.Operations {
		for _, o := range operations {
			if o.name == name {
				members += o.grows
				most = max(most, members)
			}
		}
	}
	return most
}

// free are the nodes that are no members.
func (p *Play) free() (nodes []*Node) {
	for _, n := range p.Nodes {
		if !p.has(n) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func (p *Play) has(n *Node) bool {
	for _, m := range p.current() {
		if m == n {
			return true
		}
	}
	return false
}

// Soak plays what was drawn.
func (s Setup) Soak(ctx context.Context, dir string, d Draw) (Outcome, error) {
	if d.Operations[0] == "restore" {
		return s.RunRestore(ctx, dir, d.Version, d.Fault, d.Seed)
	}
	scenario := Scenario{Name: "soak", Nodes: d.nodes(), Play: func(p *Play) error {
		for _, name := range d.Operations {
			for _, o := range operations {
				if o.name != name {
					continue
				}
				if err := o.play(p); err != nil {
					return err
				}
			}
		}
		return nil
	}}
	return s.Run(ctx, dir, d.Version, scenario, d.Fault, d.Seed)
}
