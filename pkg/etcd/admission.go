package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"etcdadm/constants"
)

// admissionLease is the id of the lease that an Admission is: "etcdjoin" in ASCII.
const admissionLease = 0x6574_6364_6a6f_696e

// Admission is the right to add a member and to start it, which one node at a time has. Of two additions at the same moment
// etcd drops one and does not say so; a member that is added between another's configuration and its start keeps that one
// from starting; and two that start at the same moment wait for each other. Like the lock of a node it is no act, as it
// leaves nothing that counts.
type Admission struct{ lease }

// Take waits for the admission until its context ends. A cluster without a quorum or with a full database grants none:
// there nobody can be added either, and who was added before goes without.
func (d *Admission) Take(ctx context.Context, c *Cluster) error {
	return until(ctx, func(ctx context.Context) error {
		if _, err := c.list(ctx, true, anybody); err != nil || d.held() {
			return nil //nolint:nilerr // whoever asks for the members next says why they do not answer
		}
		return d.try(ctx, c)
	})
}

// try asks for the admission once. That another node has it is an error to wait on.
func (d *Admission) try(ctx context.Context, c *Cluster) error {
	switch err := d.take(ctx, c, admissionLease, constants.AdmissionTTL); {
	case err == nil, errors.Is(err, rpctypes.ErrNoSpace):
		return nil
	case errors.Is(err, rpctypes.ErrLeaseExist):
		return waiting{"another node joins the cluster at this moment", soon}
	case errors.As(err, new(rpctypes.EtcdError)):
		return passing(err, "ask to be admitted to the cluster")
	default:
		return waiting{"the cluster does not say whether another node joins at this moment (" + said(err) + ")", soon}
	}
}

// admitting tells whether a node has the admission, as far as etcd says.
func admitting(ctx context.Context, client *clientv3.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, constants.RequestTimeout)
	defer cancel()
	l, err := client.TimeToLive(ctx, admissionLease)
	return err == nil && l.TTL > 0
}
