package converge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
)

// Options change how Run works.
type Options struct {
	DryRun bool        // stop before every Apply
	Ignore []string    // checks, by the last part of their name, whose errors become warnings; "all"
	Events func(Event) // told of everything that happens, in order; nil: nobody listens
}

// Run brings the node to the state that the phases describe, and returns what it found and did. The result is
// complete on failure too: Result.Err is the failure.
func Run(ctx context.Context, phases []Phase, o Options) *Result {
	r := &runner{Options: o, result: &Result{DryRun: o.DryRun}}
	ctx = context.WithValue(ctx, sinkKey{}, r)
	for _, p := range phases {
		if err := r.phase(ctx, p); err != nil {
			r.result.Err = err
			break
		}
	}
	return r.result
}

type runner struct {
	Options
	result  *Result
	current Step
	phaseOf string
}

func (r *runner) emit(e Event) {
	e.Phase, e.Step, e.Short = r.phaseOf, r.current.Name, r.current.Short
	if r.Events != nil {
		r.Events(e)
	}
}

func (r *runner) phase(ctx context.Context, p Phase) error {
	r.phaseOf, r.current = p.Name, Step{Short: p.Short}
	if err := ctx.Err(); err != nil {
		return interrupted(ctx, "before the phase "+p.Name)
	}
	r.emit(Event{Kind: PhaseStarted, Text: p.Short})
	if p.Refuses != nil {
		if err := r.steps(ctx, p, p.Refuses); err != nil {
			return err
		}
		r.current = Step{Short: p.Short}
	}
	return r.steps(ctx, p, p.Steps)
}

func (r *runner) steps(ctx context.Context, p Phase, list func(context.Context) ([]Step, error)) error {
	steps, err := list(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return interrupted(ctx, "the phase "+p.Name)
	case r.hidden(err):
		out := r.unknown(err)
		out.Phase, out.Step = p.Name, p.Name
		r.result.Steps = append(r.result.Steps, out)
		return nil
	case err != nil:
		return err
	}
	var gathered []error
	for _, s := range steps {
		r.current = s
		began := time.Now()
		out, err := r.step(ctx, s)
		switch {
		case err == nil || ctx.Err() != nil:
		case (p.Gather || s.Named) && r.ignored(s.Name):
			r.warn(fmt.Sprintf("%s (ignored)", err))
			out.Status, err = Warned, nil
		case p.Gather:
			if !slices.ContainsFunc(gathered, func(p error) bool { return p.Error() == err.Error() }) {
				r.emit(Event{Kind: Problem, Text: err.Error()})
			}
			gathered = append(gathered, err)
		}
		out.Phase, out.Step, out.Seconds = p.Name, s.Name, time.Since(began).Seconds()
		r.result.Steps = append(r.result.Steps, out)
		r.emit(Event{Kind: StepDone, Status: out.Status, Diff: out.Diff})
		if err != nil && !(p.Gather && ctx.Err() == nil) {
			r.result.FailedStep = s.Name
			return err
		}
		if err != nil && r.result.FailedStep == "" {
			r.result.FailedStep = s.Name
		}
	}
	return verdict(gathered)
}

// verdict makes one error of the problems of a gathered phase. One problem speaks for itself, also when several checks
// met it; several are listed.
func verdict(problems []error) error {
	var lines, hints []string
	for _, p := range problems {
		if !slices.Contains(lines, p.Error()) {
			lines = append(lines, p.Error())
		}
		for _, h := range errs.HintsOf(p) {
			if !slices.Contains(hints, h) {
				hints = append(hints, h)
			}
		}
	}
	switch len(lines) {
	case 0:
		return nil
	case 1:
		return problems[0]
	}
	all := errs.New(errs.StatusOf(problems[0]), "%d problems: %s", len(lines), strings.Join(lines, "; "))
	all.Hints = hints
	return all
}

func (r *runner) ignored(step string) bool {
	name := step[strings.LastIndexByte(step, '/')+1:]
	for _, i := range r.Ignore {
		if strings.EqualFold(i, "all") || strings.EqualFold(i, name) {
			return true
		}
	}
	return false
}

// step is the loop's body: check, apply, check again.
func (r *runner) step(ctx context.Context, s Step) (StepResult, error) {
	whole := ctx
	if s.Within > 0 && !r.DryRun {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Within)
		defer cancel()
	}
	diff, err := s.Want.Check(ctx)
	if r.hidden(err) {
		return r.unknown(err), nil
	}
	if err != nil {
		if resource(s.Want) || s.Within == 0 || r.DryRun || errors.As(err, new(*errs.Error)) {
			return StepResult{Status: Failed}, explain(whole, ctx, s, diff, err)
		}
	}
	if err == nil && len(diff) == 0 {
		return StepResult{Status: InSync}, nil
	}
	if !resource(s.Want) {
		return r.await(whole, ctx, s, diff, err)
	}
	if r.DryRun {
		r.result.Changed = true
		return StepResult{Status: Pending, Diff: diff}, nil
	}
	r.emit(Event{Kind: Applying, Diff: diff})
	if err := s.Want.(Resource).Apply(ctx); err != nil {
		return StepResult{Status: Failed, Diff: diff}, explain(whole, ctx, s, diff, err)
	}
	left, err := s.Want.Check(ctx)
	if err != nil {
		return StepResult{Status: Failed, Diff: diff}, explain(whole, ctx, s, left, err)
	}
	if len(left) > 0 {
		e := errs.New(errs.Failed, "%s: still %s after it was applied", s.Short, left)
		e.Hints = reasons(s, nil)
		return StepResult{Status: Failed, Diff: left}, e
	}
	r.result.Changed = true
	return StepResult{Status: Changed, Diff: diff}, nil
}

// hidden tells whether an error is of something that this user may not look at. A dry run needs no root: it says so, and
// goes on.
func (r *runner) hidden(err error) bool { return r.DryRun && errors.Is(err, fs.ErrPermission) }

func (r *runner) unknown(err error) StepResult {
	r.warn(fmt.Sprintf("%v; run as root to see it", err))
	return StepResult{Status: Unknown, Reason: err.Error()}
}

// await waits for a plain Checker to hold.
func (r *runner) await(whole, ctx context.Context, s Step, diff Diff, err error) (StepResult, error) {
	if s.Advisory && s.Within == 0 {
		for _, c := range diff {
			r.warn(c.String())
		}
		return StepResult{Status: Warned, Diff: diff}, nil
	}
	if s.Within == 0 {
		e := errs.New(errs.Precondition, "%s", diff)
		if s.Hint != "" {
			e = e.Hint("%s", s.Hint)
		}
		return StepResult{Status: Failed, Diff: diff}, e
	}
	if r.DryRun { // what earlier steps would do has not been done
		return StepResult{Status: Pending, Diff: diff}, nil
	}
	r.emit(Event{Kind: Waiting, Diff: diff})
	tick := time.NewTicker(constants.PollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return StepResult{Status: Failed, Diff: diff}, explain(whole, ctx, s, diff, err)
		case <-tick.C:
		}
		var d Diff
		if d, err = s.Want.Check(ctx); err == nil && len(d) == 0 {
			return StepResult{Status: InSync}, nil
		}
		if errors.As(err, new(*errs.Error)) { // a verdict, not a passing fault
			return StepResult{Status: Failed, Diff: diff}, explain(whole, ctx, s, diff, err)
		}
		if len(d) > 0 {
			diff = d
		}
	}
}

// explain turns the error of a step into what the user reads: an expired limit says what it waited for.
func explain(whole, ctx context.Context, s Step, diff Diff, err error) error {
	left := strings.Trim(diff.String()+"; "+cause(err), "; ")
	switch {
	case whole.Err() != nil:
		what := s.Short
		if left != "" {
			what += " (" + left + ")"
		}
		e := interrupted(whole, what)
		if e.Status == errs.Timeout {
			e.Hints = append(e.Hints, reasons(s, err)...)
		}
		return e
	case ctx.Err() != nil:
		if left == "" {
			left = "no answer"
		}
		e := errs.New(errs.Timeout, "%s: still not so after %s: %s", s.Short, s.Within, left)
		e.Hints = reasons(s, err)
		return e
	}
	e := errs.New(errs.StatusOf(err), "%s: %w", s.Short, err)
	if !resource(s.Want) && errors.As(err, new(*errs.Error)) { // a verdict names its object itself
		e = errs.New(e.Status, "%w", err)
	}
	if s.Hint != "" && len(errs.HintsOf(err)) == 0 {
		e = e.Hint("%s", s.Hint)
	}
	return e
}

// cause is what an error says beside that a limit expired, or that the run was interrupted: that is told anyway.
func cause(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for _, end := range []error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, end) {
			text = strings.TrimSuffix(strings.TrimSuffix(text, end.Error()), ": ")
		}
	}
	return text
}

// reasons are what to show of a step that was waited for in vain.
func reasons(s Step, err error) []string {
	hints := errs.HintsOf(err)
	if s.Why != nil {
		hints = append(hints, s.Why()...)
	}
	if s.Hint != "" {
		hints = append(hints, s.Hint)
	}
	return hints
}

// interrupted says what was going on when the whole run was ended: by a signal, or by the limit of --timeout.
func interrupted(ctx context.Context, what string) *errs.Error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errs.New(errs.Timeout, "the limit of this run expired while waiting: %s", what).
			Hint("run the same command again; what is done stays done")
	}
	return errs.New(errs.Interrupted, "interrupted: %s", what).
		Hint("run the same command again; what is done stays done")
}

func resource(c Checker) bool { _, ok := c.(Resource); return ok }

func (r *runner) warn(text string) {
	if !slices.Contains(r.result.Warnings, text) {
		r.result.Warnings = append(r.result.Warnings, text)
		r.emit(Event{Kind: Warning, Text: text})
	}
}

func sprintf(format string, args []any) string { return fmt.Sprintf(format, args...) }
