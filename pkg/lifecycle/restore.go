package lifecycle

import (
	"context"
	"errors"
	"slices"

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
		{Name: PhaseConfigure, Short: "what etcd is told", Steps: func(ctx context.Context) ([]converge.Step, error) {
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
	return []converge.Step{once("data/restored", "data directory from the snapshot", n.fromSnapshot(info, bump))}, nil
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

// othersSilent refuses a restore while another member of the cluster that this node belongs to answers: two clusters
// would go on side by side, and clients would read from both.
func (n *Node) othersSilent(ctx context.Context) (converge.Diff, error) {
	id, others, err := n.others(ctx)
	if err != nil || len(others) == 0 {
		return nil, err
	}
	t, err := certs.ClientTLS(n.Host, n.Config.CertsDir, certs.PeerName)
	if err != nil {
		return nil, err
	}
	var d converge.Diff
	for _, u := range others {
		ctx, cancel := context.WithTimeout(ctx, constants.DialTimeout)
		info, err := etcd.PeerAnswer(ctx, u, t)
		cancel()
		if err == nil && (id == 0 || info.ClusterID == id) || errors.Is(err, etcd.ErrCertificateRefused) {
			d = append(d, converge.Change{What: "member at " + u, Have: "answers", Want: "stopped before the cluster begins anew"})
		}
	}
	if len(d) == 0 {
		return nil, nil
	}
	return nil, errs.New(errs.Precondition, "another member of this cluster is up: %s", d).
		Hint("while the cluster has its quorum, there is nothing to restore: etcdadm status").
		Hint("to give the cluster up all the same, stop the other members first: etcdadm reset --skip-remove-member on their nodes")
}

// others are the peer URLs of the other members that this node knows of: from the member that runs here, or from the data
// of one that does not. The cluster's id is 0 where it is not known.
func (n *Node) others(ctx context.Context) (cluster uint64, peers []string, err error) {
	collect := func(urls []string) {
		if !slices.Contains(urls, n.Config.PeerURL()) {
			peers = append(peers, urls...)
		}
	}
	if c, err := n.cluster(n.Config.LocalURL()); err == nil {
		if m, err := c.MembersSerializable(ctx); err == nil {
			for _, member := range m.Members {
				collect(member.PeerURLs)
			}
			return m.ClusterID, peers, nil
		}
	}
	s, err := n.data()
	if err != nil || s.Kind != snapshot.Whole {
		return 0, nil, err
	}
	used, err := snapshot.InUse(n.Host, n.Config.DataDir)
	if err != nil || used {
		return n.learnFromPeerPort(ctx, err)
	}
	m, err := snapshot.Members(ctx, n.Host, n.Config.DataDir)
	for _, member := range m.Members {
		collect(member.PeerURLs)
	}
	return m.ClusterID, peers, err
}

// learnFromPeerPort asks a running member that answers no client, because it has no quorum, on its peer port.
func (n *Node) learnFromPeerPort(ctx context.Context, err error) (uint64, []string, error) {
	if err != nil {
		return 0, nil, err
	}
	t, err := certs.ClientTLS(n.Host, n.Config.CertsDir, certs.PeerName)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, constants.RequestTimeout)
	defer cancel()
	info, err := etcd.PeerAnswer(ctx, n.listeners().Peer, t)
	if err != nil {
		return 0, nil, errs.New(errs.Precondition, "the etcd on this node runs and does not tell who its peers are: %w", err).
			Hint("stop it, then run this command again")
	}
	var peers []string
	for _, member := range info.Members {
		if !slices.Contains(member.PeerURLs, n.Config.PeerURL()) {
			peers = append(peers, member.PeerURLs...)
		}
	}
	return info.ClusterID, peers, nil
}
