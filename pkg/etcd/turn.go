package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
)

// turnLease is the id of the lease that is the turn: "etcdadm" in ASCII.
const turnLease = 0x6574636461646d

// Turn is the state that this member may be away for a moment: the others keep their quorum without it, and no other
// member is let go meanwhile, as whoever wants that asks for the turn first. Two members restarted at the same moment
// take the quorum of a cluster of three away, though each was sure of the other.
//
// The turn is kept until Close. A holder that dies loses it after constants.TurnTTL.
type Turn struct {
	Cluster *Cluster // of the other members too: this one is about to leave them
	PeerURL string   // of this member

	alone bool // without the lease: a full database grants none
	lease
}

// Check tells whether the turn is held, or needs not be: a member that votes alone, or one of two, cannot be spared by
// anybody, whoever else is up.
func (t *Turn) Check(ctx context.Context) (converge.Diff, error) {
	if t.held() || t.alone {
		return nil, nil
	}
	m, err := t.Cluster.MembersSerializable(ctx)
	if err != nil {
		return nil, err
	}
	if me, ok := m.ByPeerURL(t.PeerURL); !ok || me.Learner || len(m.Voters()) < 3 {
		return nil, nil
	}
	return converge.Diff{{What: "turn of this member to be away", Have: "not taken", Want: "taken"}}, nil
}

// Apply waits for the turn until ctx ends; then the error is why it could not be had: another member has it, or the others
// have no quorum of their own. A full database is mended by a larger quota, which takes a restart: so where etcd grants no
// lease for that, the quorum of the others has to do, and the user is warned.
func (t *Turn) Apply(ctx context.Context) error {
	announced := false
	var why error // with its hints
	because := func(err error) {
		if why == nil || !ending(ctx) { // otherwise it is but that this look was cut short
			why = err
		}
	}
	err := until(ctx, func(ctx context.Context) error {
		a, err := t.Cluster.list(ctx, true, anybody)
		if err != nil {
			because(err)
			return patient(err)
		}
		if err := t.Cluster.once(&announced, "etcd/turn"); err != nil {
			return err
		}
		err = t.take(ctx)
		full := errors.Is(err, rpctypes.ErrNoSpace)
		if full && t.Cluster.away(ctx, a) {
			err, full = errTaken, false
		}
		if err != nil && !full {
			because(err)
			return waiting{err.Error(), later}
		}
		// Now that nobody else goes, those who are there stay.
		if err := AwayGate(a.Membership, t.Cluster.serving(ctx, a.Membership), t.PeerURL); err != nil {
			because(err)
			t.lease.Close()
			return waiting{err.Error(), later}
		}
		if t.alone = full; full {
			converge.Warnf(ctx, "the database of the cluster is full (alarm NOSPACE), and other nodes cannot be told that this member is away: run this command on one node at a time")
		}
		return nil
	})
	if errors.As(err, new(waiting)) {
		return why
	}
	return err
}

// serving is Health, but those that answer without being a part of the quorum do not count: the leader may not hear them,
// as after a cut of the network before TCP sends again. Of one whose client URLs are out of reach from here that cannot be known.
func (c *Cluster) serving(ctx context.Context, m Membership) Health {
	h := c.Health(ctx, m)
	up := maps.Clone(h)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, v := range m.Voters() {
		if up[v.ID] != nil {
			continue
		}
		wg.Go(func() {
			for _, u := range v.ClientURLs {
				if s, err := c.Status(ctx, u); err != nil || s.MemberID != v.ID {
					continue
				}
				if err := c.LinearizableRead(ctx, u); err != nil {
					mu.Lock()
					h[v.ID] = fmt.Errorf("to a linearizable read: %s", said(err))
					mu.Unlock()
				}
				return
			}
		})
	}
	wg.Wait()
	return h
}

// errTaken is why there is no turn while another member has it.
var errTaken = errors.New("another member of the cluster is being restarted by etcdadm")

// away tells whether a member has the turn to be away.
func (c *Cluster) away(ctx context.Context, a answer) bool {
	return c.granted(ctx, a.client, turnLease)
}

// passes asks a gate. What it refuses because of a member that does not answer is waited for while a member has the turn to
// be away, which is about to be back, or is since.
func (c *Cluster) passes(ctx context.Context, a answer, h Health, gate func(Health) error) error {
	switch {
	case gate(h) == nil:
		return nil
	case c.away(ctx, a):
		return waiting{errTaken.Error(), later}
	}
	h = c.Health(ctx, a.Membership)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return gate(h)
}

// take asks for the lease.
func (t *Turn) take(ctx context.Context) error {
	err := t.lease.take(ctx, t.Cluster, turnLease, constants.TurnTTL)
	switch {
	case errors.Is(err, rpctypes.ErrLeaseExist):
		return errTaken
	case err != nil:
		return fmt.Errorf("the cluster gives nobody the turn to be away: %w", err)
	}
	return nil
}
