package converge

import (
	"context"
	"slices"
)

// Status is the outcome of a step.
type Status string

// The outcomes of a step.
const (
	InSync  Status = "ok"      // it held already, or came to hold
	Changed Status = "changed" // there was a gap, and it is closed
	Pending Status = "pending" // a dry run: there is a gap
	Unknown Status = "unknown" // a dry run: this user may not look at it
	Warned  Status = "warning" // it does not hold, and that is not fatal
	Failed  Status = "failed"
)

// StepResult is what became of one step. A phase whose steps nobody can tell has one, which bears its name.
type StepResult struct {
	Phase   string  `json:"phase" yaml:"phase"`
	Step    string  `json:"step" yaml:"step"`
	Status  Status  `json:"status" yaml:"status"`
	Diff    Diff    `json:"diff,omitempty" yaml:"diff,omitempty"`
	Reason  string  `json:"reason,omitempty" yaml:"reason,omitempty"` // why it is unknown
	Seconds float64 `json:"seconds" yaml:"seconds"`
}

// Result is what a run found and did.
type Result struct {
	Changed    bool // some step had a gap and closed it, or would in a dry run
	DryRun     bool
	Steps      []StepResult
	Warnings   []string
	FailedStep string // the name of the step that failed first
	Err        error  // nil: every step holds
}

// Unknown tells whether a dry run could not look at something.
func (r *Result) Unknown() bool {
	return slices.ContainsFunc(r.Steps, func(s StepResult) bool { return s.Status == Unknown })
}

// Kind tells what an Event is about.
type Kind string

// The kinds of events.
const (
	PhaseStarted Kind = "phase"    // Text: what the phase is for
	Applying     Kind = "apply"    // Diff: the gap that is being closed
	Waiting      Kind = "wait"     // Diff: what is not so yet
	StepDone     Kind = "done"     // Status, Diff
	Note         Kind = "note"     // Text: one sentence
	Warning      Kind = "warning"  // Text: one sentence
	Problem      Kind = "problem"  // Text: a preflight check that failed; the verdict follows
	Bytes        Kind = "progress" // Done of Total bytes
)

// Event is something that happened in a run, in the order in which it did.
type Event struct {
	Kind               Kind
	Phase, Step, Short string
	Status             Status
	Diff               Diff
	Text               string
	Done, Total        int64 // bytes; Total is 0 when it is not known
}

type sinkKey struct{}

func sink(ctx context.Context) *runner {
	r, _ := ctx.Value(sinkKey{}).(*runner)
	return r
}

// Notef tells the user one sentence about what the running step does. Outside of Run it goes nowhere.
func Notef(ctx context.Context, format string, args ...any) {
	if r := sink(ctx); r != nil {
		r.emit(Event{Kind: Note, Text: sprintf(format, args)})
	}
}

// Warnf tells the user one sentence that they should act on. It is part of the result, once.
func Warnf(ctx context.Context, format string, args ...any) {
	if r := sink(ctx); r != nil {
		r.warn(sprintf(format, args))
	}
}

// Progress tells how many bytes of a transfer are done. Total is 0 when it is not known.
func Progress(ctx context.Context, done, total int64) {
	if r := sink(ctx); r != nil {
		r.emit(Event{Kind: Bytes, Done: done, Total: total})
	}
}
