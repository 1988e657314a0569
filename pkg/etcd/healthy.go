package etcd

import (
	"context"
	"errors"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// unasked is the gap when there is no cluster to ask: see the resources.
func unasked(what, want string) (converge.Diff, error) {
	return converge.Diff{{What: what, Have: "not known before this node has certificates", Want: want}}, nil
}

// Answering is the state that an etcd answers at a client endpoint, in whatever condition.
type Answering struct {
	Cluster  *Cluster // nil: there is nothing to ask with yet, which is a gap
	Endpoint string
}

// Check asks for the status. Only when the port is open is a client connected to it.
func (r Answering) Check(ctx context.Context) (converge.Diff, error) {
	if r.Cluster == nil {
		return unasked("etcd at "+r.Endpoint, "answering")
	}
	if _, err := r.Cluster.Status(ctx, r.Endpoint); err != nil {
		return silent(r.Endpoint, err)
	}
	return nil, nil
}

// silent is the gap of an endpoint that does not answer; or an error, where waiting does not help.
func silent(endpoint string, err error) (converge.Diff, error) {
	if errors.Is(err, errClocks) {
		return nil, unequalClocks("%s: %w", endpoint, err)
	}
	if errors.As(err, new(tlsError)) {
		return nil, errs.New(errs.Verification, "%s: %w", endpoint, err)
	}
	if Forbidden(err) {
		return nil, NotAllowed("%s: %s", endpoint, said(err))
	}
	if errs.OfMachine(err) {
		return nil, errs.New(errs.StatusOf(err), "%s cannot be asked: %w", endpoint, err)
	}
	if errors.As(err, new(*errs.Error)) {
		return nil, err
	}
	return converge.Diff{{What: "etcd at " + endpoint, Have: said(err), Want: "answering"}}, nil
}

// Healthy is the state that the member at a client endpoint serves linearizable reads, and that the cluster has no alarm of a
// corrupt database. The alarm of a full one is a warning: reading works, and only people can make room.
type Healthy struct {
	Cluster  *Cluster // nil: there is nothing to ask with yet, which is a gap
	Endpoint string
}

// Check asks that very endpoint.
func (r Healthy) Check(ctx context.Context) (converge.Diff, error) {
	if r.Cluster == nil {
		return unasked("member at "+r.Endpoint, "healthy")
	}
	s, err := r.Cluster.Status(ctx, r.Endpoint)
	if err != nil {
		return silent(r.Endpoint, err)
	}
	gap := func(have, want string) (converge.Diff, error) {
		return converge.Diff{{What: "member " + hexID(s.MemberID), Have: have, Want: want}}, nil
	}
	if s.Learner {
		return gap("a learner", "a voter")
	}
	if s.Leader == 0 {
		return gap("knows no leader", "one of a majority")
	}
	if err := r.Cluster.LinearizableRead(ctx, r.Endpoint); err != nil {
		return gap("no linearizable read ("+said(err)+")", "served")
	}
	for _, a := range s.Alarms() {
		switch a.Kind {
		case "CORRUPT":
			return converge.Diff{{What: "member " + hexID(a.MemberID), Have: "alarm CORRUPT", Want: "an intact database"}}, nil
		case "NOSPACE":
			converge.Warnf(ctx, "member %s has the alarm NOSPACE, so the cluster takes no writes: compact, defragment, then etcdctl.sh alarm disarm", hexID(a.MemberID))
		default:
			converge.Warnf(ctx, "member %s has the alarm %s", hexID(a.MemberID), a.Kind)
		}
	}
	return nil, nil
}
