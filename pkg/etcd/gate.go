package etcd

import (
	"fmt"
	"slices"
	"strings"

	"etcdadm/pkg/errs"
)

// Health tells for each member id why the member does not answer; nil means that it does. A member that is not in
// the map counts as one that does not answer: unknown is not dead, and it is not alive either.
type Health map[uint64]error

// QuorumOf returns how many of so many voters must agree.
func QuorumOf(voters int) int { return voters/2 + 1 }

// JoinGate tells whether the cluster can take the member with the peer URL self as another voter; an error with
// status 3 says why not, and which member is in the way.
//
// A learner does not count for the quorum; its promotion does. With n voters of which a answer, the cluster has n+1
// afterwards and needs QuorumOf(n+1) of them. The newcomer is the member most likely to fail (nobody has seen it run
// yet), so it is not counted on: a >= QuorumOf(n+1) must hold without it. etcd asks for the same, with the connections
// of the leader in place of a, and answers "unhealthy cluster" for as long as that is not so, which for a dead member is
// for ever. A single voter is the exception: from one to two there is no other way.
//
//	n  needs a >=    n  needs a >=
//	1      1         4      3
//	2      2         5      4
//	3      3         6      4
func JoinGate(m Membership, h Health, self string) error {
	voters := m.Voters()
	for _, v := range voters {
		for _, u := range v.PeerURLs {
			if sameURL(u, self) {
				return nil
			}
		}
	}
	n, silent := len(voters), Silent(voters, h)
	a := n - len(silent)
	if len(silent) == 0 || n > 1 && a >= QuorumOf(n+1) {
		return nil
	}
	return blocked(silent, h, "with %d of %d voters up, another one could cost the cluster its quorum: %d voters need %d of them, and the new one may fail",
		a, n, n+1, QuorumOf(n+1))
}

// RemoveGate tells whether the cluster keeps its quorum without the member; an error with status 3 says why not.
//
// With n voters of which a answer, n-1 remain, and a-1 of them answer if the member itself does (a if it does not):
// they must be at least QuorumOf(n-1). A learner does not count. The last voter is never let go: the cluster would end.
func RemoveGate(m Membership, h Health, id uint64) error {
	var others []Member
	found := false
	for _, v := range m.Voters() {
		if v.ID == id {
			found = true
			continue
		}
		others = append(others, v)
	}
	if !found {
		return nil
	}
	if len(others) == 0 {
		return errs.New(errs.Precondition, "member %s is the last voter: the cluster ends with it", hexID(id))
	}
	n, silent := len(others), Silent(others, h)
	if n-len(silent) >= QuorumOf(n) {
		return nil
	}
	return blocked(silent, h, "without member %s the cluster would lose its quorum: %d of %d voters would be up, and %d must be",
		hexID(id), n-len(silent), n, QuorumOf(n))
}

// AwayGate tells whether the cluster keeps its quorum while the member with the peer URL self is away for a moment, as for
// a restart: with n voters, QuorumOf(n) others must answer. An error with status 3 says why that is not so.
func AwayGate(m Membership, h Health, self string) error {
	var others []Member
	voters := m.Voters()
	for _, v := range voters {
		if !slices.ContainsFunc(v.PeerURLs, func(u string) bool { return sameURL(u, self) }) {
			others = append(others, v)
		}
	}
	silent := Silent(others, h)
	if len(others)-len(silent) >= QuorumOf(len(voters)) {
		return nil
	}
	return blocked(silent, h, "without this member the cluster would have no quorum: %d of %d voters would be up, and %d must be",
		len(others)-len(silent), len(voters), QuorumOf(len(voters)))
}

// Silent returns those of the members that do not answer. One without a name may be up: it has yet to tell it.
func Silent(members []Member, h Health) []Member {
	var out []Member
	for _, m := range members {
		if err, asked := h[m.ID]; !asked || err != nil {
			out = append(out, m)
		}
	}
	return out
}

// cutOff tells whether fewer voters answer than are a majority, which has just agreed on the member list: then it is this
// node that hears nobody, and nothing to refuse.
func cutOff(m Membership, h Health) error {
	voters := m.Voters()
	if len(voters)-len(Silent(voters, h)) >= QuorumOf(len(voters)) {
		return nil
	}
	return waiting{"the members do not answer any more", soon}
}

// blocked is the refusal of a change because of members that do not answer.
func blocked(silent []Member, h Health, format string, args ...any) error {
	names := make([]string, len(silent))
	for i, m := range silent {
		names[i] = fmt.Sprintf("member %s %s", m, silence(m, h))
	}
	e := errs.New(errs.Precondition, "%s; %s", strings.Join(names, ", "), fmt.Sprintf(format, args...))
	for _, m := range silent {
		e = e.Hint("start member %s, or on a member that is up remove it for good: etcdctl.sh member remove %s", m, m.HexID())
	}
	return e
}

func silence(m Member, h Health) string {
	switch err := h[m.ID]; {
	case !m.Started():
		return "was added but has never started"
	case err != nil:
		return "does not answer (" + err.Error() + ")"
	}
	return "was not asked"
}
