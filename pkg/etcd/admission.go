package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
)

const (
	// admissionLease is the id of the lease that an Admission is: "etcdjoin" in ASCII.
	admissionLease = 0x6574_6364_6a6f_696e
	// queueLease is the id of the lease that is there while somebody waits for the admission: "etcdwait".
	queueLease = 0x6574_6364_7761_6974
)

// Admission is the right to add a member and to start it, which one node at a time has. Of two additions at the same moment
// etcd drops one and does not say so; a member that is added between another's configuration and its start keeps that one
// from starting; and two that start at the same moment wait for each other. Like the lock of a node it is no act, as it
// leaves nothing that counts.
type Admission struct {
	lease
	queued time.Time // when it last said that it waits; zero: it has not
}

// Take waits for the admission until its context ends, which is an error with status 5. A cluster without a quorum or with a
// full database grants none: there nobody can be added either, and who was added before goes without.
func (d *Admission) Take(ctx context.Context, c *Cluster) error {
	err := until(ctx, func(ctx context.Context) error {
		switch _, err := c.list(ctx, true, anybody); {
		case err != nil && ending(ctx):
			return err
		case err != nil, d.held():
			return nil //nolint:nilerr // whoever asks for the members next says why they do not answer
		}
		return d.try(ctx, c)
	})
	if errors.As(err, new(waiting)) {
		return errs.New(errs.Timeout, "this node was not admitted to the cluster in time: %s", err).Hint("run the same command again")
	}
	return err
}

// try asks for the admission once. That another node has it is an error to wait on.
func (d *Admission) try(ctx context.Context, c *Cluster) error {
	switch err := d.take(ctx, c, admissionLease, constants.AdmissionTTL); {
	case err == nil, errors.Is(err, rpctypes.ErrNoSpace):
		d.leaveQueue()
		return nil
	case errors.Is(err, rpctypes.ErrLeaseExist):
		d.queue(ctx)
		return waiting{"another node joins the cluster at this moment", soon}
	case errors.As(err, new(rpctypes.EtcdError)):
		return passing(err, "ask to be admitted to the cluster")
	default:
		return waiting{"the cluster does not say whether another node joins at this moment (" + said(err) + ")", soon}
	}
}

// queue says that somebody waits: between one who has the admission and the next there is a moment without either, in
// which a promotion would make the next one wait. Who goes on waiting says it again and again, as the one whose turn has come
// takes the notice away.
func (d *Admission) queue(ctx context.Context) {
	if time.Since(d.queued) < constants.AdmissionTTL/30 {
		return
	}
	d.queued = time.Now()
	_ = d.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
		if _, err := c.KeepAliveOnce(ctx, queueLease); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
		return grant(ctx, c, queueLease, constants.AdmissionTTL)
	})
}

// leaveQueue takes the notice away. Others who wait put it up again.
func (d *Admission) leaveQueue() {
	if d.queued.IsZero() {
		return
	}
	d.queued = time.Time{}
	d.revoke(queueLease)
}

// Close gives the admission back, and waits for it no longer.
func (d *Admission) Close() {
	d.leaveQueue()
	d.lease.Close()
}

// admitting tells whether a node has the admission or waits for it, as far as etcd says.
func (c *Cluster) admitting(ctx context.Context, a answer) bool {
	return c.granted(ctx, a.client, admissionLease, queueLease)
}
