package lifecycle

import (
	"context"
	"errors"
	"io/fs"

	clientv3 "go.etcd.io/etcd/client/v3"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/etcd"
	"etcdadm/pkg/file"
	"etcdadm/pkg/snapshot"
)

// leaveLast is the last voter of a cluster, which nobody can let go: the cluster ends with it. A member that does not run
// is started, as its database may lack what it acknowledged before it was killed.
func (n *Node) leaveLast(ctx context.Context, running bool) ([]converge.Step, error) {
	converge.Notef(ctx, "this is the last voter: the cluster ends here, with a final snapshot in %s", n.Host.Path(constants.BackupDir))
	var steps []converge.Step
	if !running {
		var err error
		if steps, err = n.startedToLeave(ctx, n.local(func(c *etcd.Cluster) converge.Checker {
			return etcd.Healthy{Cluster: c, Endpoint: n.Config.LocalURL()}
		})); err != nil {
			return nil, err
		}
	}
	return append(steps, once("leave/last", "last voter", n.local(func(c *etcd.Cluster) converge.Checker {
		return converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
			s, err := c.Status(ctx, n.Config.LocalURL())
			if err != nil {
				return nil, err
			}
			m, err := c.Members(ctx)
			if err != nil {
				return nil, err
			}
			if !m.LastVoter(s.MemberID) {
				return nil, errs.New(errs.Precondition, "the cluster has another voter after all").Hint("run this command again: etcdadm reset")
			}
			return nil, nil
		})
	}))), nil
}

// startedToLeave is the member of a stopped service up once more.
func (n *Node) startedToLeave(ctx context.Context, up converge.Checker) ([]converge.Step, error) {
	start, err := n.startPhase().Steps(ctx)
	return append(start, converge.Step{Name: "leave/answers", Short: "etcd answers", Within: n.startLimit(), Why: n.why, Want: n.alive(up)}), err
}

// dataGone gives the data up, and keeps a final snapshot of a cluster that ends with it.
func (n *Node) dataGone(ctx context.Context, o ResetOptions) ([]converge.Step, error) {
	var steps []converge.Step
	state, err := n.data()
	if err != nil {
		return nil, err
	}
	if used, err := snapshot.InUse(n.Host, n.Config.DataDir); err == nil && !used && state.Kind == snapshot.Whole && !o.SkipRemoveMember {
		m, began, err := n.membersKept(ctx)
		switch {
		case hidden(err):
			return nil, err
		case !began:
		case err == nil && onlyVoter(m):
			steps = append(steps, once("data/final-snapshot", "final snapshot",
				snapshot.Final{Host: n.Host, DataDir: n.Config.DataDir, Dir: constants.BackupDir}))
		case !m.Removed: // a phase that was run alone, a voter that came after the cluster was asked, or a database that does not tell
			if steps, err = n.leave(ctx, o, false); err != nil {
				return nil, err
			}
		}
	}
	return append(steps,
		once("data/given-up", "data given up", snapshot.Condemned{Host: n.Host, DataDir: n.Config.DataDir}),
		once("data/environment", "no settings to start with", file.Absent{Host: n.Host, Paths: staged(constants.EnvFile, constants.BootstrapFile)}),
		once("data/member", "no data of the member", snapshot.Removed{Host: n.Host, DataDir: n.Config.DataDir}),
	), nil
}

// membersKept is what the data of a stopped etcd knows of its cluster. Of a first member that was cut off before it served
// anybody there is nothing to keep, and nobody to leave: it has not begun.
func (n *Node) membersKept(ctx context.Context) (m snapshot.Membership, began bool, err error) {
	m, err = snapshot.Members(ctx, n.Host, n.Config.DataDir)
	if err == nil && len(m.Members) > 0 {
		return m, true, nil
	}
	if served, _ := snapshot.Served(ctx, n.Host, n.Config.DataDir); served {
		return m, true, err
	}
	return m, len(n.Config.JoinEndpoints) > 0, nil
}

// hidden tells whether an error is not of the data itself: somebody may not look at it, or has no time to.
func hidden(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// onlyVoter tells whether nobody but the member whose data it is votes in its cluster.
func onlyVoter(m snapshot.Membership) bool {
	voters := 0
	for _, member := range m.Members {
		if !member.IsLearner {
			voters++
		}
	}
	me, ok := m.Self()
	return ok && voters == 1 && !me.IsLearner
}

// SaveSnapshot saves a verified snapshot from the member on this node into a file of the caller.
func SaveSnapshot(ctx context.Context, n *Node, file string) (snapshot.Info, error) {
	c, err := n.cluster(n.Config.LocalURL())
	if err != nil {
		return snapshot.Info{}, err
	}
	return saveFrom(ctx, n, c, file)
}

func saveFrom(ctx context.Context, n *Node, c *etcd.Cluster, file string) (snapshot.Info, error) {
	if _, err := c.Status(ctx, n.Config.LocalURL()); err != nil {
		status := errs.StatusOf(err)
		if errors.Is(err, etcd.ErrNoAnswer) {
			status = errs.Timeout
		}
		return snapshot.Info{}, errs.New(status, "etcd at %s does not answer: %w", n.Config.LocalURL(), err).
			Hint("look at this node: etcdadm status")
	}
	client, err := clientv3.New(c.ClientConfig(n.Config.LocalURL()))
	if err != nil {
		return snapshot.Info{}, err
	}
	defer client.Close()
	info, err := snapshot.Save(ctx, n.Host, client, file)
	if etcd.Forbidden(err) {
		return info, etcd.NotAllowed("%s", err)
	}
	return info, err
}
