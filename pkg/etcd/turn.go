package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
)

// turnLease is the id of the lease that is the turn: "etcdadm" in ASCII. etcd grants an id to one only, and a lease is
// not seen among the keys of the cluster's users.
const turnLease = 0x6574636461646d

// Turn is the state that this member may be away for a moment: the others keep their quorum without it, and no other
// member is let go meanwhile, as whoever wants that asks for the turn first. Two members restarted at the same moment
// take the quorum of a cluster of three away, though each was sure of the other.
//
// The turn is kept until Close. A holder that dies loses it after constants.TurnTTL.
type Turn struct {
	Cluster *Cluster // of the other members too: this one is about to leave them
	PeerURL string   // of this member

	stop context.CancelFunc // nil: not held
	kept sync.WaitGroup
}

// Check tells whether the turn is held, or needs not be: a member that votes alone, or one of two, cannot be spared by
// anybody, whoever else is up.
func (t *Turn) Check(ctx context.Context) (converge.Diff, error) {
	if t.stop != nil {
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
// have no quorum of their own.
func (t *Turn) Apply(ctx context.Context) error {
	announced := false
	var why error // with its hints
	err := until(ctx, func(ctx context.Context) error {
		m, err := t.Cluster.Members(ctx)
		if err != nil {
			why = err
			return patient(err)
		}
		if err := t.Cluster.once(&announced, "etcd/turn"); err != nil {
			return err
		}
		if why = t.take(ctx); why != nil {
			return waiting{why.Error(), later}
		}
		// Now that nobody else goes, those who are there stay.
		if why = AwayGate(m, t.Cluster.Health(ctx, m), t.PeerURL); why != nil {
			t.Close()
			return waiting{why.Error(), later}
		}
		return nil
	})
	if errors.As(err, new(waiting)) {
		return why
	}
	return err
}

// take asks for the lease.
func (t *Turn) take(ctx context.Context) error {
	err := t.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
		request := &etcdserverpb.LeaseGrantRequest{ID: turnLease, TTL: int64(constants.TurnTTL / time.Second)}
		_, err := etcdserverpb.NewLeaseClient(c.ActiveConnection()).LeaseGrant(ctx, request)
		return clientv3.ContextError(ctx, err)
	})
	switch {
	case errors.Is(err, rpctypes.ErrLeaseExist):
		return errors.New("another member of the cluster is being restarted by etcdadm")
	case err != nil:
		return fmt.Errorf("the cluster gives nobody the turn to be away: %w", err)
	}
	t.hold()
	return nil
}

// hold keeps the turn until Close, through whichever member answers.
func (t *Turn) hold() {
	ctx, stop := context.WithCancel(context.Background())
	t.stop = stop
	t.kept.Go(func() {
		for pause(ctx, constants.TurnTTL/5) == nil {
			_ = t.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
				_, err := c.KeepAliveOnce(ctx, turnLease)
				return err
			})
		}
	})
}

// Close gives the turn back. Where the cluster cannot be told, the turn ends by itself.
func (t *Turn) Close() {
	if t.stop == nil {
		return
	}
	t.stop()
	t.kept.Wait()
	t.stop = nil
	_ = t.call(context.Background(), func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Revoke(ctx, turnLease)
		return err
	})
}

// call makes a call through a member that answers.
func (t *Turn) call(ctx context.Context, f func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, t.Cluster.o.RequestTimeout)
	defer cancel()
	a, err := t.Cluster.list(ctx, true, anybody)
	if err != nil {
		return err
	}
	return f(ctx, a.client)
}
