package lifecycle

import (
	"context"
	"net"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
)

// JoinOptions belong to one call of join.
type JoinOptions struct {
	Endpoints   []string // client URLs of members of the cluster
	Retry       bool     // wait while the cluster cannot take a member
	MissingOnly bool     // make the certificates that are absent, and keep the others whatever they say
}

// patience is how long the cluster is waited for to take a member.
func (o JoinOptions) patience() time.Duration {
	if o.Retry {
		return constants.JoinTimeout
	}
	return constants.MembershipCallTimeout
}

// Join makes this node a member of an existing cluster. All that can fail on this node comes before the first change of
// the cluster; the member begins as a learner, which counts for nothing until it has caught up.
func Join(n *Node, o JoinOptions) []converge.Phase {
	return []converge.Phase{
		{Name: PhasePreflight, Short: "checks before anything is changed", Gather: true, Steps: func(ctx context.Context) ([]converge.Step, error) { return n.joinChecks(ctx, o) }},
		n.configPhase(),
		{Name: PhaseStop, Short: "no etcd without data of this node runs", Steps: n.stopStranded},
		n.installPhase(),
		{Name: PhaseCertificates, Short: "certificates of this node, by the cluster's CA", Refuses: func(context.Context) ([]converge.Step, error) {
			return n.caChecks(PhaseCertificates, n.authority(hostOf(o.Endpoints)).Given(), o.MissingOnly), nil
		}, Steps: func(context.Context) ([]converge.Step, error) {
			return n.certificates(once("certificates/ca", "CA", n.authority(hostOf(o.Endpoints)).Given()), o.Endpoints, o.MissingOnly)
		}},
		{Name: "cluster", Short: "checks of the cluster", Gather: true, Steps: func(ctx context.Context) ([]converge.Step, error) { return n.clusterChecks(ctx, o) }},
		{Name: PhaseMembership, Short: "the cluster knows this member", Refuses: func(context.Context) ([]converge.Step, error) {
			return []converge.Step{n.dataMounted(PhaseMembership)}, nil
		}, Steps: func(ctx context.Context) ([]converge.Step, error) { return n.membership(ctx, o) }},
		{Name: PhaseConfigure, Short: "what etcd is told", Refuses: n.ofOthers, Steps: func(ctx context.Context) ([]converge.Step, error) { return n.configureJoined(ctx, o) }},
		n.startPhase(),
		{Name: PhaseHealth, Short: "the member has caught up, votes and serves", Steps: func(ctx context.Context) ([]converge.Step, error) { return n.joinHealth(ctx, o) }},
		n.etcdctlPhase(),
	}
}

func hostOf(endpoints []string) string {
	if len(endpoints) == 0 {
		return ""
	}
	host, _, _ := net.SplitHostPort(hostPort(endpoints[0]))
	return host
}

// stopStranded stops an etcd whose data is gone. A member of this node is never stopped by a join.
func (n *Node) stopStranded(context.Context) ([]converge.Step, error) {
	s, err := n.data()
	if err != nil || bootstrapped(s) {
		return nil, err
	}
	backend, err := n.backend()
	if err != nil {
		return nil, err
	}
	bootstrapping, err := n.bootstrapping()
	if err != nil || bootstrapping { // it is about to make its data
		return nil, err
	}
	return []converge.Step{stopped(backend, "no etcd without data")}, nil
}
