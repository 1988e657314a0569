package lifecycle

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net/http/httptrace"
	"slices"
	"sync/atomic"

	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/etcd"
	"etcdadm/pkg/report"
	"etcdadm/pkg/snapshot"
)

// RestoreOptions belong to one call of restore.
type RestoreOptions struct {
	File          string // the snapshot: a path of the caller, not under the root
	SkipHashCheck bool
	BumpRevision  uint64
}

// Restore begins the cluster anew from a snapshot, with this node as its only member. What is here is set aside.
func Restore(n *Node, o RestoreOptions) []converge.Phase {
	return []converge.Phase{
		{Name: PhasePreflight, Short: "checks before anything is changed", Gather: true, Steps: func(ctx context.Context) ([]converge.Step, error) { return n.restoreChecks(ctx, o) }},
		n.configPhase(),
		n.installPhase(),
		{Name: PhaseCertificates, Short: "CA, and the certificates of this node", Steps: func(context.Context) ([]converge.Step, error) {
			return n.certificates(once("certificates/ca", "CA", n.authority("").Created()), nil, false)
		}},
		{Name: PhaseStop, Short: "no etcd runs on the old data", Steps: func(ctx context.Context) ([]converge.Step, error) { return n.stopForRestore(ctx, o) }},
		{Name: "data", Short: "data directory from the snapshot, the old one set aside", Steps: func(ctx context.Context) ([]converge.Step, error) {
			return n.restored(ctx, o.File, o.SkipHashCheck, o.BumpRevision)
		}},
		{Name: PhaseConfigure, Short: "what etcd is told", Refuses: func(context.Context) ([]converge.Step, error) { return n.unitsOfOthers(), nil }, Steps: func(ctx context.Context) ([]converge.Step, error) {
			return n.configure(ctx, n.alone(), 0, true)
		}},
		n.startPhase(),
		n.etcdctlPhase(),
		{Name: PhaseHealth, Short: "the member serves", Steps: n.health},
		{Name: "post-restore-instructions", Short: "how the other nodes come back", Steps: func(context.Context) ([]converge.Step, error) {
			n.Next = append(n.Next, report.Next{
				Description: "on every other node, whose data is of the old cluster: clear it, and join with the name and address that it had",
				Command:     "etcdadm reset --skip-remove-member && " + n.joinCommand(),
			})
			return nil, nil
		}},
	}
}

// fromSnapshot is the data directory made of a verified snapshot.
func (n *Node) fromSnapshot(info snapshot.Info, bump uint64) snapshot.Restored {
	return snapshot.Restored{
		Host: n.Host, File: info.Path, Info: info, DataDir: n.Config.DataDir, Name: n.Config.Name, PeerURL: n.Config.PeerURL(),
		BumpRevision: bump, Now: n.Now, Owner: n.owner(),
	}
}

// verified is a snapshot that is whole, that the etcd to be started can read, and that a run which goes on after a kill
// finds where it is. It is read once in a run; whoever restores from it sees that it has not changed since.
func (n *Node) verified(ctx context.Context, file string, skipHash bool) (snapshot.Info, error) {
	if info, ok := n.snapshots[file]; ok {
		return info, nil
	}
	info, err := snapshot.Verify(ctx, n.Host, file, skipHash)
	if err != nil {
		return info, err
	}
	if err := snapshot.TooNew(info, n.version()); err != nil {
		return info, err
	}
	if err := snapshot.Outside(n.Host, n.Config.DataDir, info); err != nil {
		return info, err
	}
	if n.snapshots == nil {
		n.snapshots = map[string]snapshot.Info{}
	}
	n.snapshots[file] = info
	return info, nil
}

// restored is the data directory made of the snapshot.
func (n *Node) restored(ctx context.Context, file string, skipHash bool, bump uint64) ([]converge.Step, error) {
	info, err := n.verified(ctx, file, skipHash)
	if err != nil {
		return nil, err
	}
	steps := []converge.Step{once("data/restored", "data directory from the snapshot", n.fromSnapshot(info, bump))}
	if len(n.Config.JoinEndpoints) > 0 { // where the old cluster was: a reset would ask it whether this member may go
		n.Config.JoinEndpoints = nil
		steps = append(steps, n.stored("data/endpoints"))
	}
	return steps, nil
}

// stopForRestore stops etcd, unless what it runs on is the restored data already.
func (n *Node) stopForRestore(ctx context.Context, o RestoreOptions) ([]converge.Step, error) {
	info, err := n.verified(ctx, o.File, o.SkipHashCheck)
	if err != nil {
		return nil, err
	}
	d, err := n.fromSnapshot(info, o.BumpRevision).Check(ctx)
	if err != nil {
		return nil, err
	}
	if len(d) == 0 {
		converge.Notef(ctx, "%s was restored from this snapshot already; what was written since stays", n.Config.DataDir)
		return nil, nil
	}
	backend, err := n.backend()
	if err != nil {
		return nil, err
	}
	return []converge.Step{stopped(backend, "etcd is stopped")}, nil
}

// othersSilent refuses to begin the cluster anew while another member of the one that this node belongs to answers: two
// clusters would go on side by side, and clients would read from both.
func (n *Node) othersSilent(ctx context.Context) (converge.Diff, error) {
	known, err := n.others(ctx)
	if err != nil {
		return nil, err
	}
	up, err := known.up(ctx, n)
	if err != nil || len(up) == 0 {
		return nil, err
	}
	return nil, errs.New(errs.Precondition, "another member of this cluster is up: %s", up).
		Hint("while the cluster has its quorum, there is nothing to restore: etcdadm status").
		Hint("if it has begun anew on another node, join it: etcdadm reset --skip-remove-member, then etcdadm join URL").
		Hint("to give the cluster up all the same, stop the other members first: etcdadm reset --skip-remove-member on their nodes, or the power switch of one that hangs")
}

// others are where the other members of this node's cluster would answer.
type others struct {
	cluster uint64   // its id; 0 where it is not known
	peers   []string // their peer URLs
	clients []string // client URLs by which this node found the cluster, where nothing here tells who its members are
}

func (o *others) collect(n *Node, urls []string) {
	if !slices.Contains(urls, n.Config.PeerURL()) {
		o.peers = append(o.peers, urls...)
	}
}

// up asks all of them. Whoever answers is up, whatever it says: one that refuses our certificate, one whose own has expired,
// and one that belongs to another cluster by now, as after a restore on its node. So is one that takes the connection and says
// nothing in time: it may hang, or wait for its disk, and go on. Where the certificates to ask with are lost, whoever takes
// connections may be one.
func (o others) up(ctx context.Context, n *Node) (converge.Diff, error) {
	var d converge.Diff
	found := func(at, how string) {
		d = append(d, converge.Change{What: "member at " + at, Have: how, Want: "stopped before the cluster begins anew"})
	}
	listening := func(urls []string) {
		for _, u := range urls {
			if listens(ctx, u) == nil {
				found(u, "takes connections")
			}
		}
	}
	if len(o.peers) > 0 {
		t, err := certs.ClientTLS(n.Host, n.Config.CertsDir, certs.PeerName)
		if uncertified(err) {
			listening(o.peers)
			return d, ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		for _, u := range o.peers {
			info, stalled, err := ask(ctx, u, t)
			switch {
			case err == nil && o.cluster != 0 && info.ClusterID != o.cluster:
				found(u, "answers for another cluster")
			case err == nil || errors.Is(err, etcd.ErrCertificateRefused) || info.Certificate != nil:
				found(u, "answers")
			case stalled:
				found(u, hangs)
			}
		}
	}
	for _, u := range o.clients {
		c, err := n.cluster(u)
		if uncertified(err) {
			listening(o.clients)
			return d, ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		_, err = c.MembersSerializable(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errs.OfMachine(err):
			return nil, err
		case errs.StatusOf(err) != errs.Timeout:
			found(u, "answers")
		default: // a proxy in front of nobody closes the connection
			if info, stalled, _ := ask(ctx, u, nil); stalled || info.Certificate != nil {
				found(u, hangs)
			}
		}
	}
	return d, ctx.Err()
}

// hangs is what is said of one that is stalled.
const hangs = "takes connections, and does not answer"

// ask asks who answers at a URL. It is stalled when it has taken the connection, and says nothing in time.
func ask(ctx context.Context, u string, t *tls.Config) (info etcd.PeerInfo, stalled bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, constants.DialTimeout)
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{ConnectDone: func(_, _ string, err error) {
		if err == nil {
			connected.Store(true)
		}
	}})
	info, err = etcd.PeerAnswer(ctx, u, t)
	return info, err != nil && ctx.Err() != nil && connected.Load(), err
}

// uncertified tells whether there are no certificates to be a client of etcd with; such that this user may not read are there.
func uncertified(err error) bool {
	return errs.StatusOf(err) == errs.Precondition && !errors.Is(err, fs.ErrPermission)
}

// others are told by the member that runs here, or by the data of one that does not, or else it is only known where this node
// joined.
func (n *Node) others(ctx context.Context) (others, error) {
	var o others
	if c, err := n.cluster(n.Config.LocalURL()); err == nil {
		if m, err := c.MembersSerializable(ctx); err == nil {
			o.cluster = m.ClusterID
			for _, member := range m.Members {
				o.collect(n, member.PeerURLs)
			}
			return o, nil
		}
	}
	s, err := n.data()
	if err != nil || s.Kind == snapshot.Unreadable { // the check of the user says so
		return o, err
	}
	var unread error
	if s.Kind == snapshot.Whole {
		if used, err := snapshot.InUse(n.Host, n.Config.DataDir); err != nil || used {
			return n.learnFromPeerPort(ctx, err)
		}
		var m snapshot.Membership
		if m, unread = snapshot.Members(ctx, n.Host, n.Config.DataDir); unread == nil {
			o.cluster = m.ClusterID
			for _, member := range m.Members {
				o.collect(n, member.PeerURLs)
			}
			return o, nil
		}
	}
	if ctx.Err() != nil {
		return o, ctx.Err()
	}
	for _, u := range n.Config.JoinEndpoints {
		if u != n.Config.LocalURL() {
			o.clients = append(o.clients, u)
		}
	}
	env, err := n.environment()
	if err != nil || len(o.clients) > 0 {
		return o, err
	}
	if unread != nil {
		return o, errs.New(errs.Precondition, "the data in %s does not tell who the other members are: %w", n.Config.DataDir, unread).
			Hint("if no other member is up, set it aside, then run this command again: mv %[1]s %[1]s.old", n.Host.Path(n.Config.DataDir))
	}
	if env != nil {
		converge.Warnf(ctx, "this node was set up as member %s, and its data is gone: nothing here tells who the other members are, so nobody could be asked whether they are up; if some are, there are two clusters now",
			env["ETCD_NAME"])
	}
	return o, nil
}

// learnFromPeerPort asks a running member that answers no client, because it has no quorum, on its peer port.
func (n *Node) learnFromPeerPort(ctx context.Context, err error) (others, error) {
	var o others
	if err != nil {
		return o, err
	}
	const silent = "the etcd on this node runs and does not tell who its peers are: %w"
	t, err := certs.ClientTLS(n.Host, n.Config.CertsDir, certs.PeerName)
	if err != nil {
		return o, errs.New(errs.StatusOf(err), silent, err).Hint("stop it, then run this command again")
	}
	ctx, cancel := context.WithTimeout(ctx, constants.RequestTimeout)
	defer cancel()
	info, err := etcd.PeerAnswer(ctx, n.listeners().Peer, t)
	if err != nil {
		return o, errs.New(errs.Precondition, silent, err).
			Hint("stop it, then run this command again")
	}
	o.cluster = info.ClusterID
	for _, member := range info.Members {
		o.collect(n, member.PeerURLs)
	}
	return o, nil
}
