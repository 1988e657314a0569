package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"etcdadm/pkg/converge"
)

// Durable is the state that the voters which remain have on disk that the member has left.
//
// etcd syncs the entries of its log, but not the mark up to which they are agreed on, until the next entry is written. A
// voter that is killed before that comes back without the mark. Of two voters, the one that stayed would then wait for
// ever for the vote of the one that left. To list the alarms takes an entry, which takes the mark to the disk with it,
// and changes nothing.
type Durable struct{ Removed Removed }

// Check lists the alarms by a voter that stays. On a host that is only looked at it does not: nothing was changed then.
func (r Durable) Check(ctx context.Context) (converge.Diff, error) {
	c := r.Removed.Cluster
	if c.o.Host.ReadOnly() {
		return nil, nil
	}
	a, err := r.Removed.list(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	_, err = a.client.AlarmList(ctx)
	if err == nil || errors.Is(err, rpctypes.ErrPermissionDenied) { // a cluster that does not let us is taken at its word
		return nil, nil
	}
	return converge.Diff{{What: "departure of the member", Have: "not confirmed (" + said(c.rpcProblem(ctx, a.endpoint, err)) + ")", Want: "on the disks of a majority"}}, nil
}
