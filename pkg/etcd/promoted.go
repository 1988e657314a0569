package etcd

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// yieldLimit is how long a promotion waits for who is being added. Tests give more, as they keep the machine busy.
var yieldLimit = constants.YieldLimit

// Promoted is the state that the member with a peer URL is a voter. Apply waits until its context ends for the member to
// catch up. etcd would promote at 90 % of the leader's log; on a large one that may be a million entries short.
type Promoted struct {
	Cluster *Cluster // through other members: a learner is not asked about its cluster. nil is a gap, as in Added
	PeerURL string
	Local   string // client URL of the member itself
	// Ended tells why the member will not answer any more, if that is so; its error ends Apply. nil: nobody knows.
	Ended func(context.Context) error
	// Before is called when the member has caught up, right before each request to promote it; its error ends Apply.
	// nil: nothing is to be done before.
	Before func() error
}

// Check looks at the member list.
func (r Promoted) Check(ctx context.Context) (converge.Diff, error) {
	if r.Cluster == nil {
		return unasked("member "+r.PeerURL, "a voter")
	}
	m, err := r.Cluster.Members(ctx)
	if err != nil {
		return nil, err
	}
	member, found := m.ByPeerURL(r.PeerURL)
	switch {
	case !found:
		return converge.Diff{{What: "member " + r.PeerURL, Have: "absent", Want: "a voter"}}, nil
	case member.Learner:
		return converge.Diff{{What: "member " + member.String(), Have: "a learner", Want: "a voter"}}, nil
	}
	return nil, nil
}

// Apply promotes the member when it has applied what was committed when Apply began. It refuses with status 3 where another
// voter would endanger the quorum, and when the member is not in the cluster.
func (r Promoted) Apply(ctx context.Context) error {
	c := r.Cluster
	var goal uint64
	var announced bool
	began := time.Now()
	return until(ctx, func(ctx context.Context) error {
		a, err := c.list(ctx, true, anybody)
		if err != nil {
			return patient(err)
		}
		m, found := a.ByPeerURL(r.PeerURL)
		switch {
		case !found:
			return errs.New(errs.Precondition, "the cluster has no member with the peer URL %s any more", r.PeerURL).
				Hint("remove what is left of it on this node (etcdadm reset), then join again")
		case !m.Learner:
			return nil
		}
		if goal == 0 {
			// A member that has just served a linearizable read has committed no less than the leader had when the read began.
			s, err := c.Status(ctx, a.endpoint)
			if err != nil {
				return waiting{a.endpoint + ": " + said(err), soon}
			}
			goal = s.RaftIndex
		}
		if err := r.caughtUp(ctx, goal); err != nil {
			return err
		}
		// With one voter, etcd takes new members at once; from the second one on it lets each wait for five seconds.
		if len(a.Voters()) == 1 && time.Since(began) < yieldLimit && c.admitting(ctx, a) {
			return waiting{"another node is being added", soon}
		}
		health := c.Health(ctx, a.Membership)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := cutOff(a.Membership, health); err != nil {
			return err
		}
		if err := c.passes(ctx, a, health, func(h Health) error { return JoinGate(a.Membership, h, r.PeerURL) }); err != nil {
			return err
		}
		if err := r.linked(ctx, a, m.ID); err != nil {
			return err
		}
		if r.Before != nil {
			if err := r.Before(); err != nil {
				return err
			}
		}
		if err := c.once(&announced, "promote member %s to a voter", m.HexID()); err != nil {
			return err
		}
		err = c.change(ctx, a.endpoint, func(ctx context.Context) error {
			_, err := a.client.MemberPromote(ctx, m.ID)
			return err
		})
		switch {
		case err == nil: // from now on its word is needed too
			_, err = c.list(ctx, true, anybody)
			return patient(err)
		case errors.Is(err, rpctypes.ErrMemberNotLearner): // by a request whose reply was lost; the list tells
			return waiting{"the member is a voter already", soon}
		case errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
			return waiting{"the leader does not know yet that the member has caught up", soon}
		case errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
			return waiting{"the cluster takes another voter when those before it have started", soon}
		case errors.Is(err, rpctypes.ErrUnhealthy):
			return waiting{"the cluster takes another voter when its leader is connected to a majority", soon}
		}
		return passing(err, "promote member %s", m)
	})
}

// caughtUp asks the member itself.
func (r Promoted) caughtUp(ctx context.Context, goal uint64) error {
	s, err := r.Cluster.Status(ctx, r.Local)
	if err != nil && r.Ended != nil {
		if err := r.Ended(ctx); err != nil {
			return err
		}
	}
	if err != nil {
		return waiting{"the member does not answer at " + r.Local + " (" + said(err) + ")", soon}
	}
	if s.AppliedIndex < goal {
		return waiting{"the member receives the database", soon}
	}
	return nil
}

// linkLimit is how long the leader and a learner have to answer each other: a pause of a connection, not its end.
const linkLimit = time.Second

// linked finds out whether the leader and the learner hear each other: the learner applies an entry that is written just for
// that (see Durable), and the leader receives something from it meanwhile. etcd promotes a learner too whose connections
// stand still, such as those that TCP has yet to take up again after the network was cut, and nobody could write until they do:
// isLearnerReady in its server/v3/etcdserver/server.go (3.7.3) looks at what the learner once confirmed.
func (r Promoted) linked(ctx context.Context, a answer, learner uint64) error {
	c := r.Cluster
	s, err := c.Status(ctx, a.endpoint)
	if err != nil {
		return waiting{a.endpoint + ": " + said(err), soon}
	}
	pages := httpClient(c.o.TLS)
	defer pages.CloseIdleConnections()
	leader := slices.IndexFunc(a.Members, func(m Member) bool { return m.ID == s.Leader })
	heard := func() (float64, error) {
		if leader < 0 || len(a.Members[leader].ClientURLs) == 0 {
			return 0, errors.New("nobody knows where the leader is")
		}
		return c.metric(ctx, pages, a.Members[leader].ClientURLs[0], `etcd_network_peer_received_bytes_total{From="`+hexID(learner)+`"}`)
	}
	before, missing := heard()
	writing, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	_, err = a.client.AlarmList(writing)
	if errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty) { // whoever may not ask may not promote either
		return nil
	}
	if err == nil {
		s, err = c.Status(ctx, a.endpoint)
	}
	if err != nil {
		return waiting{"the cluster does not answer any more (" + said(err) + ")", soon}
	}
	for end := time.Now().Add(linkLimit); time.Now().Before(end); {
		if err = r.caughtUp(ctx, s.RaftIndex); err == nil {
			if missing != nil { // the leader cannot be asked from here: what the learner says has to do
				return nil
			}
			if now, err := heard(); err == nil && now > before {
				return nil
			}
		}
		if err := pause(ctx, soon); err != nil {
			return err
		}
	}
	return waiting{"the leader and the member do not hear each other", soon}
}
