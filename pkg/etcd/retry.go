package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// The pauses before a change is tried again.
const (
	soon  = 10 * time.Millisecond  // what ends it may be over at any moment
	later = 250 * time.Millisecond // a leader is not "healthy" before it has been connected to a quorum for 5 s
)

// waiting is an error that time may heal.
type waiting struct {
	reason string        // in words that stay the same while the reason does
	pause  time.Duration // before it is worth looking again
}

func (w waiting) Error() string { return w.reason }

// until calls f until it succeeds, or fails with an error that is not waiting, or ctx ends: then the error is the last
// reason to wait. Each reason is told once. f reads the state of the cluster anew each time.
func until(ctx context.Context, f func(context.Context) error) error {
	told := map[string]bool{}
	var last error
	for {
		err := f(ctx)
		var w waiting
		switch {
		case err == nil:
			return nil
		case last != nil && ending(ctx):
			<-ctx.Done()
			return last // what f says now is but that it was cut short
		case !errors.As(err, &w):
			return err
		}
		last = w
		if !told[w.reason] {
			told[w.reason] = true
			converge.Notef(ctx, "waiting: %s", w.reason)
		}
		if pause(ctx, w.pause) != nil {
			return last
		}
	}
}

// ending tells whether a context has ended, or is about to: a server that was told of its deadline may be ahead of it.
func ending(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && time.Until(deadline) < soon
}

// once announces an act before its first try. A try that was refused changed nothing, and the next is still the same act.
func (c *Cluster) once(announced *bool, format string, args ...any) error {
	if *announced {
		return nil
	}
	*announced = true
	return c.o.Host.Act(format, args...)
}

// callLimit is how long one call that changes the membership may take. Tests give more, as they keep the machine busy.
var callLimit = constants.MembershipCallTimeout

// change makes one call that changes the membership, with a limit of its own: of two concurrent changes etcd drops one and
// never says so.
func (c *Cluster) change(ctx context.Context, endpoint string, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	err := call(ctx)
	if err == nil || errors.As(err, new(rpctypes.EtcdError)) {
		return err
	}
	if p := c.rpcProblem(ctx, endpoint, err); ctx.Err() == nil {
		return waiting{"the reply to a membership change was lost (" + p.Error() + ")", soon}
	}
	return waiting{"a membership change got no reply: another one may have been under way", soon}
}

// patient makes an error of reading the member list one to wait on, unless waiting does not help.
func patient(err error) error {
	if s := errs.StatusOf(err); err != nil && (s == errs.Timeout || s == errs.Precondition) {
		return waiting{err.Error(), soon}
	}
	return err
}
