// Package converge brings a node to a desired state: it checks, applies what has a gap, and checks again.
//
// An operation is a list of phases, a phase a list of steps, and a step names a state that should hold. Run is the
// only loop. It keeps no record that it would read back: what has been done is read from the node and the cluster,
// so that a run that was killed anywhere is simply run again.
package converge

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Checker observes. Check never writes. An empty Diff means that the state holds.
type Checker interface {
	Check(context.Context) (Diff, error)
}

// Resource is a Checker that can close its own gap. Apply may be killed anywhere: it stages its work, then makes it
// count with one last atomic act.
type Resource interface {
	Checker
	Apply(context.Context) error
}

// Change is one difference between what is and what should be: never a secret, never the contents of a file.
type Change struct {
	What string `json:"what" yaml:"what"` // "peer.crt"
	Have string `json:"have" yaml:"have"` // "absent"
	Want string `json:"want" yaml:"want"` // "issued"
}

func (c Change) String() string {
	switch {
	case c.Have == "":
		return c.What + ": " + c.Want
	case c.Want == "":
		return c.What + ": " + c.Have
	}
	return c.What + ": " + c.Have + ", want " + c.Want
}

// Diff is the gap between what is and what should be.
type Diff []Change

func (d Diff) String() string {
	parts := make([]string, len(d))
	for i, c := range d {
		parts[i] = c.String()
	}
	return strings.Join(parts, "; ")
}

// Step is one state that should hold.
type Step struct {
	Name  string  // stable path: "certificates/peer"
	Short string  // for people: "peer certificate"
	Want  Checker // a Resource is applied; a plain Checker is awaited

	// Within is how long a plain Checker may take to hold (0: it must hold now), or how long Apply may run (0: no limit
	// but that of the run).
	Within time.Duration
	// Named tells that the step is a check that the caller may ignore by the last part of its name, as every step of a phase
	// that gathers.
	Named bool
	// Advisory makes a gap of a plain Checker a warning.
	Advisory bool
	// Hint is what the user can do when it does not hold.
	Hint string
	// Why is asked for more hints when the step is given up, at its limit or as its state does not stay: the last lines of a
	// log, say. It may be nil.
	Why func() []string
}

// Phase is a named part of an operation.
type Phase struct {
	Name, Short string
	// Refuses are the checks without which nothing of the phase is begun; nil: there are none. They come before Steps is
	// called, and a run of a part of an operation may have them come before other phases, too.
	Refuses func(context.Context) ([]Step, error)
	// Steps is called when the phase is reached: it sees what earlier phases did.
	Steps func(context.Context) ([]Step, error)
	// Gather has all steps checked before the verdict, so that the user sees every problem at once.
	Gather bool
}

// CheckFunc makes a Checker of a function.
type CheckFunc func(context.Context) (Diff, error)

// Check calls f.
func (f CheckFunc) Check(ctx context.Context) (Diff, error) { return f(ctx) }

// Names returns the names of the phases, in order.
func Names(phases []Phase) []string {
	names := make([]string, len(phases))
	for i, p := range phases {
		names[i] = p.Name
	}
	return names
}

// Only returns the phases with the given names, in the order of the list. An unknown name is an error that tells the known ones.
func Only(phases []Phase, names ...string) ([]Phase, error) {
	return filter(phases, names, true)
}

// Without returns the phases but those with the given names.
func Without(phases []Phase, names ...string) ([]Phase, error) {
	return filter(phases, names, false)
}

func filter(phases []Phase, names []string, keep bool) ([]Phase, error) {
	listed := map[string]bool{}
	for _, n := range names {
		listed[n] = true
	}
	var out []Phase
	for _, p := range phases {
		if listed[p.Name] == keep {
			out = append(out, p)
		}
		delete(listed, p.Name)
	}
	for _, n := range names {
		if listed[n] {
			return nil, fmt.Errorf("there is no phase %q; the phases are %s", n, strings.Join(Names(phases), ", "))
		}
	}
	return out, nil
}
