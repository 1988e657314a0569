package etcd

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// lease is a lock that all nodes see: a lease with an id of our own, which etcd grants to one only. It is not seen among the
// keys of the cluster's users, changes no revision, and ends by itself when its holder has died. The zero value is not held.
type lease struct {
	cluster *Cluster
	id      clientv3.LeaseID
	ttl     time.Duration      // how long it lives when nobody renews it; 0: as long as who takes it says
	stop    context.CancelFunc // nil: not held
	kept    sync.WaitGroup
}

func (l *lease) held() bool { return l.stop != nil }

// take asks for the lease, and keeps it until Close, through whichever member answers. rpctypes.ErrLeaseExist: somebody
// has it.
func (l *lease) take(ctx context.Context, c *Cluster, id clientv3.LeaseID, ttl time.Duration) error {
	l.cluster, l.id = c, id
	ttl = cmp.Or(l.ttl, ttl)
	err := l.call(ctx, func(ctx context.Context, c *clientv3.Client) error { return grant(ctx, c, id, ttl) })
	if err != nil {
		return err
	}
	ctx, l.stop = context.WithCancel(context.Background())
	l.kept.Go(func() {
		for pause(ctx, ttl/5) == nil {
			_ = l.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
				_, err := c.KeepAliveOnce(ctx, id)
				return err
			})
		}
	})
	return nil
}

// Close gives the lease back. Where the cluster cannot be told, it ends by itself.
func (l *lease) Close() {
	if l.stop == nil {
		return
	}
	l.stop()
	l.kept.Wait()
	l.stop = nil
	l.revoke(l.id)
}

// revoke ends a lease. Where the cluster cannot be told, it ends by itself.
func (l *lease) revoke(id clientv3.LeaseID) {
	_ = l.call(context.Background(), func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Revoke(ctx, id)
		return err
	})
}

// grant asks for a lease with an id of our own.
func grant(ctx context.Context, c *clientv3.Client, id clientv3.LeaseID, ttl time.Duration) error {
	request := &etcdserverpb.LeaseGrantRequest{ID: int64(id), TTL: int64(ttl / time.Second)}
	_, err := etcdserverpb.NewLeaseClient(c.ActiveConnection()).LeaseGrant(ctx, request)
	return clientv3.ContextError(ctx, err)
}

// granted tells whether somebody has one of the leases, as far as etcd says. A cluster that elects a leader just now is given
// the time to.
func (c *Cluster) granted(ctx context.Context, cl *clientv3.Client, ids ...clientv3.LeaseID) bool {
	ctx, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	return slices.ContainsFunc(ids, func(id clientv3.LeaseID) bool {
		for {
			l, err := cl.TimeToLive(ctx, id)
			if err == nil {
				return l.TTL > 0
			}
			if !transient(err) || pause(ctx, soon) != nil {
				return false
			}
		}
	})
}

// call makes a call through a member that answers.
func (l *lease) call(ctx context.Context, f func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, l.cluster.o.RequestTimeout)
	defer cancel()
	a, err := l.cluster.list(ctx, true, anybody)
	if err != nil {
		return err
	}
	if err := f(ctx, a.client); err != nil {
		return l.cluster.rpcProblem(ctx, a.endpoint, err)
	}
	return nil
}
