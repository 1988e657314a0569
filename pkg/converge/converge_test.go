package converge_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// switchable is a resource that holds when on, and counts its calls.
type switchable struct {
	on, stuck       bool
	checks, applies int
	applyErr        error
}

func (s *switchable) Check(context.Context) (converge.Diff, error) {
	s.checks++
	if s.on {
		return nil, nil
	}
	return converge.Diff{{What: "switch", Have: "off", Want: "on"}}, nil
}

func (s *switchable) Apply(context.Context) error {
	s.applies++
	s.on = !s.stuck
	return s.applyErr
}

func phases(steps ...converge.Step) []converge.Phase {
	return []converge.Phase{{Name: "p", Short: "the phase", Steps: func(context.Context) ([]converge.Step, error) { return steps, nil }}}
}

func gapAlways() converge.Checker {
	return converge.CheckFunc(func(context.Context) (converge.Diff, error) {
		return converge.Diff{{What: "port 2380", Have: "taken", Want: "free"}}, nil
	})
}

func TestAppliesOnlyWhatHasAGap(t *testing.T) {
	off, on := &switchable{}, &switchable{on: true}
	r := converge.Run(context.Background(), phases(converge.Step{Name: "p/a", Want: off}, converge.Step{Name: "p/b", Want: on}), converge.Options{})
	if r.Err != nil || !r.Changed {
		t.Fatalf("err %v, changed %v", r.Err, r.Changed)
	}
	if off.applies != 1 || on.applies != 0 {
		t.Errorf("applied %d and %d times, want 1 and 0", off.applies, on.applies)
	}
	if r.Steps[0].Status != converge.Changed || r.Steps[1].Status != converge.InSync {
		t.Errorf("statuses %s, %s", r.Steps[0].Status, r.Steps[1].Status)
	}
	again := converge.Run(context.Background(), phases(converge.Step{Name: "p/a", Want: off}), converge.Options{})
	if again.Changed || again.Err != nil {
		t.Errorf("the second run changed %v, err %v", again.Changed, again.Err)
	}
}

func TestDryRunActsOnNothing(t *testing.T) {
	off := &switchable{}
	r := converge.Run(context.Background(), phases(
		converge.Step{Name: "p/a", Want: off},
		converge.Step{Name: "p/waits", Want: gapAlways(), Within: time.Hour},
	), converge.Options{DryRun: true})
	if r.Err != nil || !r.Changed || off.applies != 0 {
		t.Errorf("err %v, changed %v, applied %d times", r.Err, r.Changed, off.applies)
	}
	for _, s := range r.Steps {
		if s.Status != converge.Pending {
			t.Errorf("%s is %s, want pending", s.Step, s.Status)
		}
	}
}

// Whoever may not look at everything is told so, and what else there is to do. Nobody's guess is in it.
func TestDryRunSaysWhatItMayNotLookAt(t *testing.T) {
	secret := converge.CheckFunc(func(context.Context) (converge.Diff, error) {
		return nil, fmt.Errorf("open peer.key: %w", fs.ErrPermission)
	})
	list := []converge.Phase{
		{Name: "hidden", Steps: func(ctx context.Context) ([]converge.Step, error) { _, err := secret.Check(ctx); return nil, err }},
		{Name: "p", Steps: func(context.Context) ([]converge.Step, error) {
			return []converge.Step{{Name: "p/hidden", Want: secret}, {Name: "p/a", Want: &switchable{}}}, nil
		}},
	}
	r := converge.Run(context.Background(), list, converge.Options{DryRun: true})
	var got []string
	for _, s := range r.Steps {
		got = append(got, s.Step+" "+string(s.Status)+" "+s.Reason)
	}
	want := []string{
		"hidden unknown open peer.key: permission denied",
		"p/hidden unknown open peer.key: permission denied",
		"p/a pending ",
	}
	if !slices.Equal(got, want) || r.Err != nil || !r.Unknown() || len(r.Warnings) != 1 {
		t.Errorf("steps %q, err %v, unknown %t, warnings %q", got, r.Err, r.Unknown(), r.Warnings)
	}
	if r := converge.Run(context.Background(), list, converge.Options{}); !errors.Is(r.Err, fs.ErrPermission) || r.Unknown() {
		t.Errorf("not a dry run: err %v, unknown %t", r.Err, r.Unknown())
	}
}

func TestStillWrongAfterApplyIsAnError(t *testing.T) {
	r := converge.Run(context.Background(), phases(converge.Step{Name: "p/a", Short: "switch", Want: &switchable{stuck: true}, Hint: "press harder", Why: func() []string { return []string{"it jams"} }}), converge.Options{})
	if r.Err == nil || !strings.Contains(r.Err.Error(), "still") || r.FailedStep != "p/a" || r.Changed {
		t.Errorf("err %v, step %q, changed %v", r.Err, r.FailedStep, r.Changed)
	}
	if hints := errs.HintsOf(r.Err); !slices.Equal(hints, []string{"it jams", "press harder"}) {
		t.Errorf("hints %q", hints)
	}
}

func TestWhatAPhaseRefusesComesBeforeItsSteps(t *testing.T) {
	asked := false
	p := converge.Phase{Name: "p", Steps: func(context.Context) ([]converge.Step, error) {
		asked = true
		return nil, nil
	}, Refuses: func(context.Context) ([]converge.Step, error) {
		return []converge.Step{{Name: "p/Port", Want: gapAlways(), Named: true}}, nil
	}}
	if r := converge.Run(context.Background(), []converge.Phase{p}, converge.Options{}); errs.StatusOf(r.Err) != errs.Precondition || r.FailedStep != "p/Port" || asked {
		t.Errorf("err %v of %q, steps were made: %t", r.Err, r.FailedStep, asked)
	}
	if r := converge.Run(context.Background(), []converge.Phase{p}, converge.Options{Ignore: []string{"port"}}); r.Err != nil || len(r.Warnings) != 1 || !asked {
		t.Errorf("ignored: err %v, warnings %q, steps were made: %t", r.Err, r.Warnings, asked)
	}
}

func TestAFailureStopsTheList(t *testing.T) {
	later := &switchable{}
	boom := &switchable{applyErr: errs.New(errs.Verification, "digest differs").Hint("fetch it again")}
	r := converge.Run(context.Background(), phases(converge.Step{Name: "p/a", Short: "release", Want: boom}, converge.Step{Name: "p/b", Want: later}), converge.Options{})
	if errs.StatusOf(r.Err) != errs.Verification || errs.HintsOf(r.Err)[0] != "fetch it again" {
		t.Errorf("status %d, hints %q", errs.StatusOf(r.Err), errs.HintsOf(r.Err))
	}
	if later.checks != 0 {
		t.Error("a later step was looked at after the failure")
	}
}

func TestPreconditionHoldsNowOrFailsWithStatus3(t *testing.T) {
	r := converge.Run(context.Background(), phases(converge.Step{Name: "p/port", Want: gapAlways(), Hint: "stop it"}), converge.Options{})
	if errs.StatusOf(r.Err) != errs.Precondition || errs.HintsOf(r.Err)[0] != "stop it" {
		t.Errorf("status %d, hints %q", errs.StatusOf(r.Err), errs.HintsOf(r.Err))
	}
}

func TestAwaitsUntilItHolds(t *testing.T) {
	n := 0
	third := converge.CheckFunc(func(context.Context) (converge.Diff, error) {
		if n++; n < 3 {
			return converge.Diff{{What: "etcd", Have: "silent", Want: "answering"}}, nil
		}
		return nil, nil
	})
	r := converge.Run(context.Background(), phases(converge.Step{Name: "p/up", Want: third, Within: time.Minute}), converge.Options{})
	if r.Err != nil || r.Changed || n != 3 {
		t.Errorf("err %v, changed %v, checks %d", r.Err, r.Changed, n)
	}
}

func TestAnExpiredLimitSaysWhatItWaitedFor(t *testing.T) {
	r := converge.Run(context.Background(), phases(converge.Step{Name: "p/up", Short: "etcd answers", Want: gapAlways(), Within: 30 * time.Millisecond}), converge.Options{})
	if errs.StatusOf(r.Err) != errs.Timeout || !strings.Contains(r.Err.Error(), "port 2380: taken") {
		t.Errorf("status %d: %v", errs.StatusOf(r.Err), r.Err)
	}
}

func TestAnEndedRunTellsInterruptionFromTimeout(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	step := converge.Step{Name: "p/up", Short: "etcd answers", Within: time.Hour, Want: converge.CheckFunc(func(context.Context) (converge.Diff, error) {
		cancel()
		return converge.Diff{{What: "etcd", Have: "silent", Want: "answering"}}, nil
	})}
	if r := converge.Run(ctx, phases(step), converge.Options{}); errs.StatusOf(r.Err) != errs.Interrupted {
		t.Errorf("cancelled: status %d: %v", errs.StatusOf(r.Err), r.Err)
	}
	dying, end := context.WithCancel(context.Background())
	whatever := converge.Phase{Name: "p", Steps: func(context.Context) ([]converge.Step, error) {
		end() // what fails then fails because of it
		return nil, errs.New(errs.Precondition, "nobody answers")
	}}
	if r := converge.Run(dying, []converge.Phase{whatever}, converge.Options{}); errs.StatusOf(r.Err) != errs.Interrupted {
		t.Errorf("cancelled while a phase is made: status %d: %v", errs.StatusOf(r.Err), r.Err)
	}
	late, cancelLate := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancelLate()
	waits := converge.Step{Name: "p/up", Short: "etcd answers", Within: time.Hour, Want: gapAlways()}
	if r := converge.Run(late, phases(waits), converge.Options{}); errs.StatusOf(r.Err) != errs.Timeout {
		t.Errorf("late: status %d: %v", errs.StatusOf(r.Err), r.Err)
	}
}

func TestGatheredPhaseTellsEveryProblem(t *testing.T) {
	other := converge.CheckFunc(func(context.Context) (converge.Diff, error) { return nil, errs.New(errs.Failed, "no such interface") })
	later := &switchable{}
	list := []converge.Phase{
		{Name: "preflight", Gather: true, Steps: func(context.Context) ([]converge.Step, error) {
			return []converge.Step{{Name: "preflight/Ports", Short: "ports", Want: gapAlways()}, {Name: "preflight/Address", Short: "address", Want: other}, {Name: "preflight/Route", Short: "route", Want: other}}, nil
		}},
		phases(converge.Step{Name: "p/a", Want: later})[0],
	}
	told := map[string]int{}
	r := converge.Run(context.Background(), list, converge.Options{Events: func(e converge.Event) {
		if e.Kind == converge.Problem {
			told[e.Text]++
		}
	}})
	for _, want := range []string{"port 2380: taken", "no such interface"} {
		if r.Err == nil || !strings.Contains(r.Err.Error(), want) {
			t.Errorf("%v lacks %q", r.Err, want)
		}
	}
	if len(told) != 2 || told["no such interface"] != 1 {
		t.Errorf("two problems, of which two checks met one, were told as %v", told)
	}
	if later.checks != 0 {
		t.Error("the next phase ran after a failed preflight")
	}
	for _, ignore := range [][]string{{"all"}, {"ports", "address", "route"}} {
		r := converge.Run(context.Background(), list, converge.Options{Ignore: ignore})
		if r.Err != nil || len(r.Warnings) != 2 {
			t.Errorf("ignoring %v: err %v, warnings %q", ignore, r.Err, r.Warnings)
		}
	}
	if r := converge.Run(context.Background(), list, converge.Options{Ignore: []string{"Ports"}}); r.Err == nil {
		t.Error("ignoring one of two problems ignored both")
	}
}

func TestAdvisoryGapIsAWarningOnce(t *testing.T) {
	s := converge.Step{Name: "preflight/Disk", Want: gapAlways(), Advisory: true}
	r := converge.Run(context.Background(), phases(s, s), converge.Options{})
	if r.Err != nil || len(r.Warnings) != 1 {
		t.Errorf("err %v, warnings %q", r.Err, r.Warnings)
	}
}

func TestStepsOfAPhaseSeeWhatEarlierPhasesDid(t *testing.T) {
	first := &switchable{}
	seen := false
	list := append(phases(converge.Step{Name: "p/a", Want: first}), converge.Phase{Name: "q", Steps: func(context.Context) ([]converge.Step, error) {
		seen = first.on
		return nil, nil
	}})
	if r := converge.Run(context.Background(), list, converge.Options{}); r.Err != nil || !seen {
		t.Errorf("err %v, seen %v", r.Err, seen)
	}
}

func TestPhasesAreChosenByName(t *testing.T) {
	var list []converge.Phase
	for _, n := range []string{"install", "start", "health"} {
		list = append(list, converge.Phase{Name: n})
	}
	only, err := converge.Only(list, "health", "install")
	if err != nil || fmt.Sprint(converge.Names(only)) != "[install health]" {
		t.Errorf("%v, %v", converge.Names(only), err)
	}
	rest, err := converge.Without(list, "start")
	if err != nil || fmt.Sprint(converge.Names(rest)) != "[install health]" {
		t.Errorf("%v, %v", converge.Names(rest), err)
	}
	if _, err := converge.Without(list, "strat"); err == nil || !strings.Contains(err.Error(), `"strat"`) {
		t.Errorf("an unknown phase: %v", err)
	}
}

func TestEventsComeInOrder(t *testing.T) {
	var got []string
	step := converge.Step{Name: "p/a", Want: noting{&switchable{}}}
	converge.Run(context.Background(), phases(step), converge.Options{Events: func(e converge.Event) {
		got = append(got, string(e.Kind)+" "+e.Text)
	}})
	want := "phase the phase|apply |note halfway|progress |done "
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("events %q, want %q", s, want)
	}
}

type noting struct{ *switchable }

func (n noting) Apply(ctx context.Context) error {
	converge.Notef(ctx, "%s", "halfway")
	converge.Progress(ctx, 1, 2)
	return n.switchable.Apply(ctx)
}

func TestAStepThatIsGivenUpSaysWhy(t *testing.T) {
	for _, limit := range []string{"of the step", "of the run"} {
		looked := make(chan struct{})
		never := converge.CheckFunc(func(context.Context) (converge.Diff, error) {
			select {
			case <-looked:
			default:
				close(looked)
			}
			return converge.Diff{{What: "etcd", Have: "silent"}}, fmt.Errorf("port 2379 is closed: %w", context.DeadlineExceeded)
		})
		ctx, asked := t.Context(), 0
		step := converge.Step{Name: "health/serving", Short: "etcd serves", Want: never, Within: 20 * time.Millisecond, Hint: "last", Why: func() []string { asked++; return []string{"first"} }}
		if limit == "of the run" {
			step.Within = time.Hour
			ctx = expiring{ctx, looked}
		}
		r := converge.Run(ctx, phases(step), converge.Options{})
		got := errs.HintsOf(r.Err)
		if asked != 1 || errs.StatusOf(r.Err) != errs.Timeout || !slices.Equal(got[max(0, len(got)-2):], []string{"first", "last"}) {
			t.Errorf("the limit %s: %v (%d), hints %q, asked %d times", limit, r.Err, errs.StatusOf(r.Err), got, asked)
		}
		if !strings.Contains(r.Err.Error(), "etcd: silent; port 2379 is closed") || strings.Contains(r.Err.Error(), "deadline") {
			t.Errorf("the limit %s: %v does not tell the reason alone", limit, r.Err)
		}
	}
}

// expiring is a context whose limit is over at a moment that no clock decides.
type expiring struct {
	context.Context
	over <-chan struct{}
}

func (e expiring) Done() <-chan struct{} { return e.over }

func (e expiring) Err() error {
	select {
	case <-e.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}
