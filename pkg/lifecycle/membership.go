package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/etcd"
	"etcdadm/pkg/snapshot"
	"etcdadm/pkg/version"
	"etcdadm/service"
)

// peersOf are the ways to the cluster: those that the caller named, and the member on this node if it is one.
func (n *Node) peersOf(o JoinOptions) ([]string, error) {
	member, err := n.isMember()
	if err != nil {
		return nil, err
	}
	endpoints := slices.Clone(o.Endpoints)
	if own := n.Config.LocalURL(); member && !slices.Contains(endpoints, own) {
		endpoints = append(endpoints, own)
	}
	return endpoints, nil
}

// joining returns the cluster to join; nil in a dry run on a node that has nothing to ask with yet.
func (n *Node) joining(o JoinOptions) (*etcd.Cluster, error) {
	endpoints, err := n.peersOf(o)
	if err != nil {
		return nil, err
	}
	c, err := n.cluster(endpoints...)
	if err != nil && n.Host.ReadOnly() && !errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return c, err
}

// membership is a member with the peer URL of this node: added as a learner, or there already. One that has run
// before and whose data is gone cannot come back: it would have forgotten what it voted for. It makes room for a new one.
func (n *Node) membership(ctx context.Context, o JoinOptions) ([]converge.Step, error) {
	c, err := n.joining(o)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return []converge.Step{pending("membership/member", "member of the cluster")}, nil
	}
	s, err := n.data()
	if err != nil {
		return nil, err
	}
	blank, lost, torn := !bootstrapped(s), uint64(0), false
	var m etcd.Membership
	if !blank {
		m, err = n.members(ctx, c)
		if waits, werr := n.waits(ctx, err); werr != nil || waits {
			converge.Notef(ctx, "nobody tells who is a member; the one on this node stays what it is")
			return nil, werr
		}
		if err != nil {
			return nil, err
		}
		self, known := m.ByPeerURL(n.Config.PeerURL())
		if lost, torn = n.torn(ctx, self); !known && !torn {
			return nil, errs.New(errs.Precondition, "the data in %s is of a member that the cluster does not have (any more)", n.Config.DataDir).
				Hint("if the data is of no use: etcdadm reset --skip-remove-member, then join again")
		}
	}
	// Where the cluster is comes first: a reset of a member that never started has nothing else to ask, and one that has
	// not even that knows that nobody was asked to add it.
	n.Config.JoinEndpoints = stillThere(o.Endpoints, n.Config.JoinEndpoints, m)
	steps := []converge.Step{n.stored("membership/endpoints")}
	if blank { // by what a reset left, the next one would know that there is nobody to ask
		steps = append(steps, once("membership/leftovers", "nothing left of runs that were killed", snapshot.Cleared{Host: n.Host, DataDir: n.Config.DataDir}))
	}
	if torn {
		backend, err := n.backend()
		if err != nil {
			return nil, err
		}
		steps = append(steps, stopped(backend, "no etcd whose first start was cut off"))
	}
	steps = append(steps, converge.Step{
		Name: "membership/member", Short: "member of the cluster", Within: o.patience(),
		Want: etcd.Added{
			Cluster: c, PeerURL: n.Config.PeerURL(), Blank: blank, Lost: lost, Once: !o.Retry, Admission: &n.admission,
			Several: func(ctx context.Context, m etcd.Membership) bool { return n.severalLearners(ctx, c, m) },
		},
	})
	if torn { // last: a run that was killed before knows by it what to do
		steps = append(steps, once("membership/torn", "no data of a first start that was cut off", snapshot.SetAside{Host: n.Host, DataDir: n.Config.DataDir}))
	}
	return steps, nil
}

// stillThere are the endpoints, and those of an earlier join that are of a member still: the peer certificate covers the way
// to them, and does so when it is issued anew.
func stillThere(endpoints, before []string, m etcd.Membership) []string {
	all := slices.Clone(endpoints)
	for _, e := range before {
		if !slices.Contains(all, e) && slices.ContainsFunc(m.Members, func(v etcd.Member) bool { return slices.Contains(v.ClientURLs, e) }) {
			all = append(all, e)
		}
	}
	return all
}

// torn tells whether the data on this node is of a first start that was cut off and cannot go on, and of which member it is. A
// learner begins anew then, as it was never asked for anything; a voter is left alone, as its log tells what it voted for.
func (n *Node) torn(ctx context.Context, self etcd.Member) (lost uint64, torn bool) {
	if self.ID != 0 && !self.Learner {
		return 0, false
	}
	return snapshot.Torn(ctx, n.Host, n.Config.DataDir)
}

// admitted has the member list stay as it is until the member on this node, which has yet to start, has started.
func (n *Node) admitted(ctx context.Context, c *etcd.Cluster, o JoinOptions) error {
	s, err := n.data()
	if err != nil || bootstrapped(s) || n.Host.ReadOnly() {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.patience())
	defer cancel()
	return n.admission.Take(ctx, c)
}

// severalLearners tells whether members of a cluster were started with room for several learners. etcd does not tell with
// what it was started; but one that keeps to its peers is etcdadm's, which sets the limit from etcd 3.6 on together with
// that (see envFile). An operator who sets the limit knows it of all members.
func (n *Node) severalLearners(ctx context.Context, c *etcd.Cluster, m etcd.Membership) bool {
	if n.Config.ExtraEnv["ETCD_MAX_LEARNERS"] != "" {
		return true
	}
	var versions []version.Etcd
	for _, member := range m.Members {
		for _, u := range member.ClientURLs { // one that has told none is of a version that was let in by those of the others
			s, err := c.Status(ctx, u)
			if err != nil {
				return false
			}
			v, err := version.ParseEtcd(s.Version)
			if err != nil {
				return false
			}
			versions = append(versions, v)
		}
	}
	if !service.LimitsLearners(append(versions, n.version())...) {
		return false
	}
	peer, err := certs.ClientTLS(n.Host, n.Config.CertsDir, certs.PeerName)
	return err == nil && c.PeersOnly(ctx, m, peer)
}

// members asks for the member list. A cluster that is short of its quorum because this very member has not started
// yet answers too.
func (n *Node) members(ctx context.Context, c *etcd.Cluster) (etcd.Membership, error) {
	m, err := c.MembersSerializable(ctx)
	if err == nil {
		for _, p := range c.Unreachable() {
			converge.Notef(ctx, "%s is given up: %s", p.Endpoint, p.Problem)
		}
	}
	return m, err
}

// down tells whether there is a member on this node whose etcd does not run. The cluster may be waiting for it to have a
// quorum, or to be there at all: it starts, whoever answers.
func (n *Node) down(ctx context.Context) (bool, error) {
	member, err := n.isMember()
	if err != nil || !member {
		return false, err
	}
	backend, err := n.backend()
	if err != nil {
		return false, err
	}
	s, err := backend.State(ctx)
	return err == nil && !s.Running, err
}

// waits tells whether this node is a member already, and its cluster cannot be asked (err is why) before it has a quorum
// again. Nothing is changed in the cluster then, and the health phase waits for that.
func (n *Node) waits(ctx context.Context, err error) (bool, error) {
	if err == nil {
		return false, nil
	}
	if etcd.Unheard(err) {
		return n.isMember()
	}
	return n.down(ctx)
}

// pending is a state that a dry run cannot look at before earlier steps are done.
func pending(name, short string) converge.Step {
	return converge.Step{Name: name, Short: short, Within: time.Minute, Want: converge.CheckFunc(func(context.Context) (converge.Diff, error) {
		return gap(short, "not yet", "so"), nil
	})}
}

// configureJoined is configure with the initial cluster, the quota and the marker that the members agree on.
func (n *Node) configureJoined(ctx context.Context, o JoinOptions) ([]converge.Step, error) {
	c, err := n.joining(o)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return []converge.Step{pending("configure/environment", "settings of etcd")}, nil
	}
	if err := n.admitted(ctx, c, o); err != nil {
		return nil, err
	}
	m, err := n.members(ctx, c)
	if waits, werr := n.waits(ctx, err); werr != nil || waits { // it keeps what was agreed on before
		steps, err := n.configure(ctx, service.Bootstrap{}, 0, false)
		return steps, errors.Join(werr, err)
	}
	if err != nil {
		return nil, err
	}
	env, err := n.environment()
	if err != nil {
		return nil, err
	}
	quota, marker := int64(0), true
	if env == nil || env["ETCD_PEER_CERT_ALLOWED_HOSTNAME"] == "" {
		if marker, err = n.markerAgreed(ctx, m); err != nil {
			return nil, err
		}
	}
	if env == nil && n.Config.QuotaBackendBytes == 0 {
		if quota, err = n.quotaOf(ctx, c, m); err != nil {
			return nil, err
		}
	}
	return n.configure(ctx, service.Bootstrap{InitialCluster: n.initialCluster(m), State: "existing"}, quota, marker)
}

// initialCluster lists the members as etcd wants it of a joiner: as many as there are, with their URLs. Names are not
// compared, but tell members apart: those that have none yet, or that of another one, get a placeholder.
func (n *Node) initialCluster(m etcd.Membership) string {
	var list []string
	taken := map[string]bool{"": true, n.Config.Name: true}
	for _, member := range m.Members {
		name := member.Name
		switch {
		case slices.Contains(member.PeerURLs, n.Config.PeerURL()):
			name = n.Config.Name
		case taken[name] || strings.ContainsAny(name, ",="):
			name = "member-" + member.HexID()
		}
		taken[name] = true
		for _, u := range member.PeerURLs {
			list = append(list, name+"="+u)
		}
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

// quotaOf is the size limit of the database that the voters have: the smallest one, as that is where writes stop.
func (n *Node) quotaOf(ctx context.Context, c *etcd.Cluster, m etcd.Membership) (int64, error) {
	least := int64(0)
	var problem error
	for _, v := range m.Voters() {
		for _, u := range v.ClientURLs {
			q, err := c.Quota(ctx, u)
			if err != nil {
				problem = err
				continue
			}
			if least == 0 || q < least {
				least = q
			}
		}
	}
	const unread = "the size limit of the cluster's databases cannot be read: %w"
	switch {
	case errs.StatusOf(problem) == errs.Timeout && least == 0:
		return 0, errs.New(errs.Timeout, unread, problem).Hint("check that the members run, and that their client port can be reached from here")
	case least == 0:
		return 0, errs.New(errs.Precondition, unread, problem).
			Hint("give the limit that the other members have: --quota-backend-bytes N")
	}
	return least, nil
}

// markerAgreed tells whether the certificates of all running members carry the marker. If not, this member cannot ask
// for it: it would refuse the others.
func (n *Node) markerAgreed(ctx context.Context, m etcd.Membership) (bool, error) {
	without, err := n.unmarked(ctx, m)
	if len(without) > 0 {
		converge.Warnf(ctx, "the peer certificate of %s is not known to carry %s: this member accepts any certificate of the CA on its peer port; when theirs do, run this command again",
			strings.Join(without, ", "), constants.PeerMarker)
	}
	return len(without) == 0, err
}

// unmarked names the other running members whose peer certificates are not known to carry the marker.
func (n *Node) unmarked(ctx context.Context, m etcd.Membership) ([]string, error) {
	t, err := certs.ClientTLS(n.Host, n.Config.CertsDir, certs.PeerName)
	if err != nil {
		return nil, err
	}
	var without []string
	for _, member := range m.Members {
		if slices.Contains(member.PeerURLs, n.Config.PeerURL()) || !member.Started() {
			continue
		}
		carries := false
		for _, u := range member.PeerURLs {
			ctx, cancel := context.WithTimeout(ctx, constants.RequestTimeout)
			info, _ := etcd.PeerAnswer(ctx, u, t)
			cancel()
			carries = carries || info.Certificate != nil && info.Certificate.VerifyHostname(constants.PeerMarker) == nil
		}
		if !carries {
			without = append(without, member.String())
		}
	}
	return without, nil
}
