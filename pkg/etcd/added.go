package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// Added is the state that the cluster has a member with a peer URL, learner or voter: the peer URL is the natural key of
// a member that has not started yet. Apply adds it as a learner, and waits for its turn until its context ends.
type Added struct {
	Cluster *Cluster // nil: there is nothing to ask with yet (a dry run before there are certificates), which is a gap
	PeerURL string
	// Blank says that this node has no data of a member. A member with the peer URL that has run before has lost its memory
	// then, of votes and of entries that it acknowledged: it is removed, and a new one takes its place.
	Blank bool
	// Lost is the id of a member whose data is of no use, if there is one: it is removed too, before a new one takes its place.
	Lost uint64
	// Once says that a cluster which does not take the member now is an error with status 5, and nothing to wait for.
	Once bool
	// Admission is taken for the addition, and kept if that succeeds; nil: no other node joins.
	Admission *Admission
	// Several tells whether all of some members allow as many learners as constants.MaxLearners says; nil: they do not. It
	// is asked when there is a learner already. See there why that is not left to etcd.
	Several func(context.Context, Membership) bool
}

// Check looks for the peer URL. Without a quorum the word of one voter will do: the quorum may be waiting for just this member.
func (r Added) Check(ctx context.Context) (converge.Diff, error) {
	if r.Cluster == nil {
		return unasked("member "+r.PeerURL, "a learner")
	}
	a, err := r.Cluster.list(ctx, true, anybody)
	m, found := a.ByPeerURL(r.PeerURL)
	if err != nil && !found {
		return nil, err
	}
	switch {
	case !found:
		return converge.Diff{{What: "member " + r.PeerURL, Have: "absent", Want: "a learner"}}, nil
	case r.lost(m):
		return converge.Diff{{What: "member " + m.String(), Have: "without its data", Want: "a new learner"}}, nil
	}
	return nil, nil
}

func (r Added) lost(m Member) bool { return r.Blank && m.Started() || r.Lost != 0 && m.ID == r.Lost }

// Apply adds the member. It refuses with status 3 where another voter would endanger the quorum.
func (r Added) Apply(ctx context.Context) error {
	c := r.Cluster
	var announced, forgetting, warned bool
	var add func(context.Context) error
	add = func(ctx context.Context) error {
		a, err := c.list(ctx, true, anybody)
		if err != nil {
			return patient(err)
		}
		m, found := a.ByPeerURL(r.PeerURL)
		if found && !r.lost(m) {
			return nil
		}
		health := c.Health(ctx, a.Membership)
		if ctx.Err() != nil {
			return ctx.Err() // what has not answered by now was not given the time to
		}
		if found {
			return r.forget(ctx, a, m, health, &forgetting)
		}
		if err := cutOff(a.Membership, health); err != nil {
			return err
		}
		if err := c.passes(ctx, a, health, func(h Health) error { return JoinGate(a.Membership, h, r.PeerURL) }); err != nil {
			return err
		}
		for _, v := range Silent(a.Voters(), health) {
			if !warned {
				converge.Warnf(ctx, "member %s %s; if it is gone for good, remove it: etcdctl.sh member remove %s", v, silence(v, health), v.HexID())
			}
		}
		warned = true
		if r.Admission != nil && !r.Admission.held() {
			// Who has the admission may be starting: how it was started can be asked when the admission is ours.
			if err := r.room(ctx, a.Membership, a.started(), soon); err != nil {
				return err
			}
			if err := r.Admission.try(ctx, c); err != nil {
				return err
			}
			if r.Admission.held() {
				return add(ctx) // others may have been added until now
			}
		}
		if err := r.room(ctx, a.Membership, a.Membership, later); err != nil {
			if r.Admission != nil {
				r.Admission.Close() // the learner may need it to start
			}
			return err
		}
		if err := c.once(&announced, "add %s to the cluster as a learner", r.PeerURL); err != nil {
			return err
		}
		err = c.change(ctx, a.endpoint, func(ctx context.Context) error {
			_, err := a.client.MemberAddAsLearner(ctx, []string{r.PeerURL})
			return err
		})
		if err != nil && r.Admission != nil {
			r.Admission.Close() // nobody waits for one who waits
		}
		return r.answered(err, a.Membership)
	}
	return until(ctx, add)
}

// room tells whether the cluster may have another learner, as far as the given members decide that.
func (r Added) room(ctx context.Context, m, asked Membership, pause time.Duration) error {
	if len(m.Learners()) == 0 || r.Several != nil && r.Several(ctx, asked) {
		return nil
	}
	return r.refused("the cluster has a learner, and is not known to allow another one: "+holders(m), pause)
}

// answered says what the answer to an addition means.
func (r Added) answered(err error, m Membership) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrPeerURLExist): // perhaps ours, from a reply that was lost; the list tells
		return waiting{"the peer URL " + r.PeerURL + " is in the cluster already", soon}
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return r.refused("the cluster has as many learners as it allows: "+holders(m), soon)
	case errors.Is(err, rpctypes.ErrUnhealthy):
		return r.refused("the cluster takes a new member when its leader has been connected to a majority for 5s", later)
	case errors.Is(err, rpctypes.ErrMemberNotFound):
		// An id is made of the peer URL and the time in seconds, and never given out again when its member was removed.
		return r.refused("a member with the same peer URL left the cluster less than a second after it had come", later)
	case errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return r.refused("the cluster takes a new member when those before it have started", soon)
	}
	return passing(err, "add member %s", r.PeerURL)
}

// refused is what the cluster says when it does not take a member now.
func (r Added) refused(reason string, pause time.Duration) error {
	if r.Once {
		return errs.New(errs.Timeout, "%s", reason).Hint("run the same command again later, or have it wait: --retry")
	}
	return waiting{reason, pause}
}

// holders names the members that are learners now, by what does not change while they start.
func holders(m Membership) string {
	var names []string
	for _, l := range m.Learners() {
		l.Name = ""
		names = append(names, l.String())
	}
	if len(names) == 0 {
		return "another one has just been promoted"
	}
	return strings.Join(names, ", ")
}

// forget removes a member that lost its data.
func (r Added) forget(ctx context.Context, a answer, m Member, h Health, announced *bool) error {
	if h[m.ID] == nil {
		return errs.New(errs.Precondition, "member %s runs somewhere, and has the peer URL of this node, which has no data", m).
			Hint("give this node another address, or stop the etcd that has it")
	}
	if err := r.Cluster.passes(ctx, a, h, func(h Health) error { return RemoveGate(a.Membership, h, m.ID) }); err != nil {
		return err
	}
	if err := r.Cluster.once(announced, "remove member %s, which lost its data, from the cluster", m.HexID()); err != nil {
		return err
	}
	err := r.Cluster.change(ctx, a.endpoint, func(ctx context.Context) error {
		_, err := a.client.MemberRemove(ctx, m.ID)
		return err
	})
	switch {
	case err == nil, errors.Is(err, rpctypes.ErrMemberNotFound):
		return waiting{"the member that lost its data leaves the cluster", soon}
	case errors.Is(err, rpctypes.ErrUnhealthy):
		return waiting{"the cluster lets a member go when its leader has been connected to a majority for 5s", later}
	}
	return passing(err, "remove member %s", m)
}

// passing makes those errors of etcd ones to wait on that say how the cluster is right now, not that the request is wrong.
func passing(err error, format string, args ...any) error {
	if transient(err) {
		return waiting{"the cluster is not ready (" + said(err) + ")", soon}
	}
	var w waiting
	if errors.As(err, &w) {
		return w
	}
	what := fmt.Sprintf(format, args...)
	if Forbidden(err) {
		return NotAllowed("%s: %s", what, said(err))
	}
	return errs.New(errs.Failed, "%s: %s", what, said(err)).Hint("see how the cluster is: etcdctl.sh endpoint status --cluster; etcdctl.sh alarm list")
}

// transient tells whether an error says how the cluster is right now, as while it elects a leader.
func transient(err error) bool {
	return slices.ContainsFunc([]error{
		rpctypes.ErrNoLeader, rpctypes.ErrLeaderChanged, rpctypes.ErrNotLeader, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail,
		rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrTimeoutWaitAppliedIndex, rpctypes.ErrTooManyRequests, rpctypes.ErrStopped, rpctypes.ErrNotCapable,
	}, func(now error) bool { return errors.Is(err, now) })
}
