package lifecycle

import (
	"context"
	"errors"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/etcd"
	"etcdadm/service"
)

// secondLook is how long an etcd has to be seen to have ended for good: longer than systemd waits before it starts it again.
// The next start may find the cluster that this one did not, and at its beginning the log tells no reason of the last one.
const secondLook = 5 * time.Second

// begun is etcd answering on this node, where it starts for the first time. It begins only with the very members that its
// cluster has. When one came or left since this one was told of them, it is told anew; whoever keeps etcd running starts
// it again.
type begun struct {
	n *Node
	c *etcd.Cluster
}

// Check sees whether etcd has got that far.
func (b begun) Check(ctx context.Context) (converge.Diff, error) { return b.n.metricsUp(ctx) }

// Apply waits, and gives up when etcd ends for another reason.
func (b begun) Apply(ctx context.Context) error {
	answers := b.n.alive(b)
	tick := time.NewTicker(constants.PollInterval)
	defer tick.Stop()
	var failing time.Time
	for {
		d, err := answers.Check(ctx)
		if err == nil && len(d) == 0 {
			return nil
		}
		if err == nil {
			err = b.membersChanged(ctx)
		}
		if errors.Is(err, service.ErrMembersChanged) {
			err = b.tell(ctx, err)
		}
		switch {
		case err == nil:
			failing = time.Time{}
		case failing.IsZero():
			failing = time.Now()
		case time.Since(failing) > secondLook:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// membersChanged is the end of an etcd that was told of other members than there are, and that is about to be started again:
// as often as it likes, in vain, until it is told anew.
func (b begun) membersChanged(ctx context.Context) error {
	backend, err := b.n.backend()
	if err != nil {
		return err
	}
	s, err := backend.State(ctx)
	if err != nil || !s.Again || s.LastExit == "" {
		return nil //nolint:nilerr // who is waited for says why it is not there
	}
	if err := service.NotUp(ctx, backend, s.LastExit); errors.Is(err, service.ErrMembersChanged) {
		return err
	}
	return nil
}

// tell writes down who is a member now. A cluster that cannot be asked for it is asked again; why etcd has ended stays the
// last word when this node is no member of it any more.
func (b begun) tell(ctx context.Context, ended error) error {
	m, err := b.n.members(ctx, b.c)
	if err != nil {
		return nil //nolint:nilerr // etcd cannot begin either, until the limit of the step
	}
	if _, known := m.ByPeerURL(b.n.Config.PeerURL()); !known {
		return ended
	}
	file := service.BootstrapFile{Host: b.n.Host, Want: service.Bootstrap{InitialCluster: b.n.initialCluster(m), State: "existing"}}
	if d, err := file.Check(ctx); err != nil || len(d) == 0 { // the member that etcd asked has not heard yet
		return err
	}
	converge.Notef(ctx, "the members have changed meanwhile: etcd is told anew")
	return file.Apply(ctx)
}
