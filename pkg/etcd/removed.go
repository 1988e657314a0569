package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// Removed is the state that the cluster has no member of this node: neither one with its id, nor one with its peer URL, which
// may be what an earlier try left behind. Whether it holds is asked of the other voters. The last voter is never
// removed: Membership.LastVoter tells the caller beforehand.
//
// Every error of reading the list has status 3: as long as the cluster may count on the member, its data stays.
type Removed struct {
	Cluster   *Cluster
	ClusterID uint64 // the one that has to say it; 0: not known
	ID        uint64 // 0: not known
	PeerURL   string // "": not known
	Local     string // client URL of the member itself, asked to hand over when it leads; may be dead
}

// Check looks for the id and for the peer URL.
func (r Removed) Check(ctx context.Context) (converge.Diff, error) {
	a, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	var d converge.Diff
	for _, m := range r.mine(a.Membership) {
		d = append(d, converge.Change{What: "member " + m.String(), Have: "in the cluster", Want: "removed"})
	}
	return d, nil
}

func (r Removed) mine(m Membership) []Member {
	var out []Member
	for _, member := range m.Members {
		one := Membership{Members: []Member{member}}
		_, url := one.ByPeerURL(r.PeerURL)
		// A member that runs under our peer URL and another id is one that has this node's address now.
		if r.ID != 0 && member.ID == r.ID || url && (r.ID == 0 || !member.Started()) {
			out = append(out, member)
		}
	}
	return out
}

// list asks any voter but the one that goes, unless there is no other. What another cluster says is of no use: it does not
// know this member, and the one that does may still count on it.
func (r Removed) list(ctx context.Context) (answer, error) {
	a, err := r.Cluster.list(ctx, true, func(a answer) bool {
		if r.ClusterID != 0 && a.ClusterID != r.ClusterID {
			return false
		}
		for _, m := range r.mine(a.Membership) {
			if m.ID == a.member {
				return a.LastVoter(m.ID)
			}
		}
		return a.member != r.ID || r.ID == 0
	})
	if err != nil && ctx.Err() == nil {
		e := errs.New(errs.Precondition, "it is not known whether this member has left: %w", err)
		for _, h := range errs.HintsOf(err) {
			e = e.Hint("%s", h)
		}
		return a, e.Hint("if the cluster is gone for good: etcdadm reset --skip-remove-member")
	}
	return a, err
}

// Apply hands leadership over if the member has it, and removes the member through another one.
func (r Removed) Apply(ctx context.Context) error {
	c := r.Cluster
	announced := map[uint64]*bool{}
	handed := false
	return until(ctx, func(ctx context.Context) error {
		a, err := r.list(ctx)
		if err != nil {
			return err
		}
		mine := r.mine(a.Membership)
		if len(mine) == 0 {
			return nil
		}
		m := mine[0]
		if a.LastVoter(m.ID) { // since the caller looked
			return errs.New(errs.Precondition, "member %s is the last voter now: the cluster ends with it", m).
				Hint("run the same command again, which keeps a final snapshot")
		}
		health := c.Health(ctx, a.Membership)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := c.passes(ctx, a, health, func(h Health) error { return RemoveGate(a.Membership, h, m.ID) }); err != nil {
			return err
		}
		if !handed {
			handed = true
			if err := r.handOver(ctx, a, m, health); err != nil {
				return err
			}
		}
		if announced[m.ID] == nil {
			announced[m.ID] = new(bool)
		}
		if err := c.once(announced[m.ID], "remove member %s from the cluster", m.HexID()); err != nil {
			return err
		}
		err = c.change(ctx, a.endpoint, func(ctx context.Context) error {
			_, err := a.client.MemberRemove(ctx, m.ID)
			return err
		})
		switch {
		case err == nil && len(mine) == 1:
			return nil // Check verifies it
		case err == nil, errors.Is(err, rpctypes.ErrMemberNotFound): // by a request whose reply was lost; the list tells
			return waiting{"the member leaves the cluster", soon}
		case errors.Is(err, rpctypes.ErrUnhealthy):
			return waiting{"the cluster lets a member go when its leader has been connected to a majority for 5s", later}
		case errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
			return errs.New(errs.Precondition, "without member %s too few members of the cluster would have started", m)
		}
		return passing(err, "remove member %s", m)
	})
}

// handOver moves leadership away from a member that is about to go. Without it the cluster has no leader for an election
// timeout; so a handover that fails is told, and no reason to stay.
func (r Removed) handOver(ctx context.Context, a answer, m Member, h Health) error {
	c := r.Cluster
	s, err := c.Status(ctx, a.endpoint)
	if err != nil || s.Leader != m.ID {
		return nil //nolint:nilerr // who leads is of no matter then
	}
	var heir Member
	for _, v := range a.Voters() {
		if v.ID != m.ID && v.Started() && h[v.ID] == nil {
			heir = v
		}
	}
	if heir.ID == 0 {
		return nil
	}
	if err := c.o.Host.Act("move leadership to member %s", heir.HexID()); err != nil {
		return err
	}
	for _, endpoint := range append([]string{r.Local}, m.ClientURLs...) {
		cl, cerr := c.client(ctx, endpoint)
		if err = cerr; err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, constants.MembershipCallTimeout)
		_, err = cl.MoveLeader(ctx, heir.ID)
		cancel()
		if err == nil {
			converge.Notef(ctx, "member %s leads the cluster now", heir)
			return nil
		}
	}
	converge.Notef(ctx, "leadership was not handed over (%s): the cluster elects a leader when the member is gone", said(err))
	return nil
}
