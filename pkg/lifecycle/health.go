package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path"
	"slices"

	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/etcd"
	"etcdadm/pkg/file"
	"etcdadm/pkg/report"
	"etcdadm/service"
)

// health is the member serving, after which nothing of the first start is of use any more.
func (n *Node) health(context.Context) ([]converge.Step, error) {
	endpoint := n.Config.LocalURL()
	return []converge.Step{
		{Name: "health/serving", Short: "etcd serves", Within: n.startLimit(), Why: n.why, Want: n.alive(n.local(func(c *etcd.Cluster) converge.Checker {
			return etcd.Healthy{Cluster: c, Endpoint: endpoint}
		}))},
		once("health/bootstrapped", "nothing of the first start", file.Absent{Host: n.Host, Paths: []string{constants.BootstrapFile}}),
		once("health/member", "who this member is", converge.CheckFunc(n.identify)),
	}, nil
}

// identify looks up for the report who the member on this node is.
func (n *Node) identify(ctx context.Context) (converge.Diff, error) {
	c, err := n.cluster(n.Config.LocalURL())
	if err != nil || n.Host.ReadOnly() {
		return nil, nil //nolint:nilerr // a dry run on a node that is none yet
	}
	s, err := c.Status(ctx, n.Config.LocalURL())
	if err != nil {
		return nil, err
	}
	n.Member = &report.Member{ID: hexID(s.MemberID), Name: n.Config.Name}
	return nil, nil
}

// local makes a Checker of the cluster as the member on this node serves it. Without a certificate to ask with there
// is no cluster yet.
func (n *Node) local(want func(*etcd.Cluster) converge.Checker) converge.Checker {
	return converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		c, err := n.cluster(n.Config.LocalURL())
		if err != nil {
			if n.Host.ReadOnly() && !errors.Is(err, fs.ErrPermission) {
				return gap("etcd", "not set up", "serving"), nil
			}
			return nil, err
		}
		return want(c).Check(ctx)
	})
}

// alive is a Checker that gives up when etcd does not stay up, and then tells what etcd said last.
func (n *Node) alive(want converge.Checker) converge.Checker {
	ended := n.ended()
	return converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		d, err := want.Check(ctx)
		if err == nil && len(d) == 0 || n.Host.ReadOnly() {
			return d, err
		}
		if err := ended(ctx); err != nil {
			return nil, err
		}
		return d, err
	})
}

// ended tells, from the first time on that it is asked, why etcd does not stay up; nil while it does, or may yet: one that is
// started again may find what the start before did not.
func (n *Node) ended() func(context.Context) error {
	before := -1 // starts that were there when we came: what made etcd end then may be mended
	return func(ctx context.Context) error {
		backend, err := n.backend()
		if err != nil {
			return err
		}
		s, err := backend.State(ctx)
		if before < 0 && err == nil {
			before = s.Restarts
		}
		if err != nil || (s.Running || s.Again) && s.Restarts < before+3 || s.LastExit == "" {
			return nil //nolint:nilerr // who is waited for says why it is not there
		}
		return service.NotUp(ctx, backend, s.LastExit)
	}
}

// standStill is the way on without the others.
const standStill = "or let the cluster stand still for the moment: --accept-risk=" + RiskLoseQuorum

// cannotBeAsked is the error of a member of a quorum that does not tell whether the others can do without it.
func (n *Node) cannotBeAsked(err error) error {
	e := errs.New(errs.StatusOf(err), "etcd has to be restarted, and cannot be asked whether the others can do without it: %w", err)
	switch {
	case etcd.OfCertificates(err):
		e.Status = errs.Precondition
		e = e.Hint("see that this node has the CA of its cluster: sha256sum %s/ca.crt, here and on another member", n.Host.Path(n.Config.CertsDir))
	case e.Status == errs.Failed:
		e.Status = errs.Timeout
		e = e.Hint("run the same command again")
	}
	return e.Hint(standStill)
}

// caUnknown refuses a CA that the etcd on this node does not know, where it has to be restarted for that and mayBeAway would
// not have it: the others may know the pairs of that CA no better, and etcd shows them as soon as they are there.
func (n *Node) caUnknown(ctx context.Context, missingOnly bool) error {
	member, err := n.isMember()
	if err != nil || !member || n.AcceptLoseQuorum {
		return err
	}
	backend, err := n.backend()
	if err != nil {
		return err
	}
	env, err := n.envFile(0, false)
	if err != nil {
		return err
	}
	if d, err := backend.Running(env.Digest).Check(ctx); err != nil || len(d) == 0 || !etcd.HasQuorum(ctx, n.listeners().Metrics) {
		return nil // what cannot be looked at is told by whoever starts it
	}
	leaves, err := n.leaves(nil, missingOnly)
	if err != nil {
		return err
	}
	client := slices.IndexFunc(leaves, func(l certs.Leaf) bool { return l.Name == certs.EtcdctlName })
	t, err := leaves[client].Trial()
	if err != nil {
		return nil // the steps of the certificates say so
	}
	c := etcd.Open(etcd.Options{Host: n.Host, TLS: t, Log: n.Log})
	defer c.Close()
	if _, err := n.ownStatus(ctx, c); errors.Is(err, etcd.ErrCertificateRefused) {
		return n.cannotBeAsked(err)
	}
	return nil
}

// mayBeAway is the turn of this member to be away, so that of the members that are configured anew at the same moment one
// restarts after the other. A member that serves nobody needs none, nor one of a cluster that stands still already.
//
// One that cannot be asked may be a part of a quorum all the same, which its metrics tell: it is left alone then. Where it
// refuses our certificates, it might be a part of none any more after a restart with them.
func (n *Node) mayBeAway(ctx context.Context) []converge.Step {
	if n.AcceptLoseQuorum {
		return nil
	}
	const short = "the others can do without this member"
	turn, err := n.ownTurn(ctx)
	if err != nil && etcd.HasQuorum(ctx, n.listeners().Metrics) {
		return []converge.Step{once("start/turn", short, converge.CheckFunc(func(context.Context) (converge.Diff, error) { return nil, n.cannotBeAsked(err) }))}
	}
	if err != nil || turn == nil {
		return nil
	}
	n.turn = turn
	return []converge.Step{{Name: "start/turn", Short: short, Want: turn, Within: constants.TurnTimeout, Hint: standStill}}
}

// ownStatus is what the member on this node says. It is asked where it listens, on loopback or else at its address: a host may
// know its own name at another one, and the address may be new.
func (n *Node) ownStatus(ctx context.Context, c *etcd.Cluster) (s etcd.Status, err error) {
	for _, u := range slices.Backward(n.listeners().Clients) {
		if s, err = c.Status(ctx, u); err == nil {
			break
		}
	}
	return s, err
}

// ownTurn is the turn of the member on this node; nil where it needs none.
func (n *Node) ownTurn(ctx context.Context) (*etcd.Turn, error) {
	own := n.listeners().Clients
	c, err := n.cluster(own...)
	if err != nil {
		return nil, err
	}
	s, err := n.ownStatus(ctx, c)
	if err != nil || s.Learner {
		return nil, err
	}
	m, err := c.Members(ctx)
	if err != nil {
		return nil, err
	}
	var others []string
	for _, v := range m.Voters() {
		if !slices.Contains(v.PeerURLs, n.Config.PeerURL()) {
			others = append(others, v.ClientURLs...)
		}
	}
	if len(others) == 0 {
		return nil, nil
	}
	all, err := n.cluster(append(others, own...)...)
	return &etcd.Turn{Cluster: all, PeerURL: n.Config.PeerURL()}, err
}

// hasQuorum is a majority of the voters agreeing on who is a member.
func hasQuorum(c *etcd.Cluster) converge.Checker {
	return converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		if _, err := c.Members(ctx); err != nil {
			return gap("cluster", err.Error(), "a quorum"), nil
		}
		return nil, nil
	})
}

// why is what to show of an etcd that is waited for in vain.
func (n *Node) why() []string {
	backend, err := n.backend()
	if err != nil {
		return nil
	}
	return service.Why(backend)
}

// joinHealth is the learner promoted, and then the health of any member.
func (n *Node) joinHealth(ctx context.Context, o JoinOptions) ([]converge.Step, error) {
	c, err := n.joining(o)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return []converge.Step{pending("health/voter", "member votes")}, nil
	}
	state, err := n.data()
	if err != nil {
		return nil, err
	}
	started := n.alive(converge.CheckFunc(n.metricsUp))
	if !bootstrapped(state) {
		started = begun{n, c}
	}
	promoted := etcd.Promoted{Cluster: c, PeerURL: n.Config.PeerURL(), Local: n.Config.LocalURL(), Ended: n.ended(), Before: n.databaseInPlace}
	rest, err := n.health(ctx)
	return append([]converge.Step{
		{Name: "health/started", Short: "etcd answers", Within: n.startLimit(), Why: n.why, Want: started},
		{Name: "health/quorum", Short: "cluster has a quorum", Within: n.startLimit(), Why: n.why, Want: n.alive(hasQuorum(c)),
			Hint: "start the members that are down: a majority of the voters must be up"},
		{Name: "health/voter", Short: "member has caught up and votes", Within: constants.CatchUpTimeout, Why: n.why, Want: promoted},
	}, rest...), err
}

// databaseInPlace has on the disk which database the member goes on with. etcd renames the one that it received over its
// first one, which says by then that it has everything, and does not sync that (applySnapshot in its
// server/v3/etcdserver/server.go, 3.6.16): after a loss of power the member would find the first one, and never start again.
// A learner may be made anew then, a voter is missed.
func (n *Node) databaseInPlace() error {
	return n.Host.SyncDir(path.Join(n.Config.DataDir, "member/snap"))
}

// metricsUp tells whether the process on this node has come up at all. Its metrics answer before it has heard of anybody,
// and after its peer port: so the next node can be added and started.
func (n *Node) metricsUp(ctx context.Context) (converge.Diff, error) {
	if err := listens(ctx, n.listeners().Metrics); err != nil {
		return gap("etcd at "+n.listeners().Metrics, "silent", "answering"), nil //nolint:nilerr // that is the gap
	}
	n.admission.Close()
	return nil, nil
}

// listens is whether somebody takes connections where a URL points.
func listens(ctx context.Context, url string) error {
	conn, err := (&net.Dialer{Timeout: constants.DialTimeout}).DialContext(ctx, "tcp", hostPort(url))
	if err != nil {
		return err
	}
	return conn.Close()
}
