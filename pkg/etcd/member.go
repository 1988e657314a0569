package etcd

import (
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Member is one entry of a cluster's member list.
type Member struct {
	ID                   uint64
	Name                 string // empty until the member has started once
	PeerURLs, ClientURLs []string
	Learner              bool
}

// Started tells whether the member has ever run: it publishes its name when it does.
func (m Member) Started() bool { return m.Name != "" }

// HexID returns the id as etcd's own tools write it.
func (m Member) HexID() string { return hexID(m.ID) }

// String names the member for people: "etcd-2 (8e9e05c52164694d)", or its peer URL while it has no name.
func (m Member) String() string {
	name := m.Name
	if name == "" {
		name = strings.Join(m.PeerURLs, ",")
	}
	return name + " (" + m.HexID() + ")"
}

func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

// Membership is the member list of a cluster.
type Membership struct {
	ClusterID uint64
	Members   []Member
}

// ByPeerURL returns the member that has the peer URL.
func (m Membership) ByPeerURL(url string) (Member, bool) {
	for _, member := range m.Members {
		for _, u := range member.PeerURLs {
			if sameURL(u, url) {
				return member, true
			}
		}
	}
	return Member{}, false
}

// ByID returns the member that has the id.
func (m Membership) ByID(id uint64) (Member, bool) {
	for _, member := range m.Members {
		if member.ID == id {
			return member, true
		}
	}
	return Member{}, false
}

// Voters returns the members that count for the quorum, started or not.
func (m Membership) Voters() []Member { return m.learners(false) }

// Learners returns the members that do not count for the quorum yet.
func (m Membership) Learners() []Member { return m.learners(true) }

func (m Membership) learners(want bool) []Member {
	var out []Member
	for _, member := range m.Members {
		if member.Learner == want {
			out = append(out, member)
		}
	}
	return out
}

// started is the member list without those that have never run.
func (m Membership) started() Membership {
	m.Members = slices.DeleteFunc(slices.Clone(m.Members), func(member Member) bool { return !member.Started() })
	return m
}

// LastVoter tells whether the member is the only one that counts for the quorum: the cluster ends with it.
func (m Membership) LastVoter(id uint64) bool {
	v := m.Voters()
	return len(v) == 1 && v[0].ID == id
}

func sameURL(a, b string) bool {
	return strings.EqualFold(strings.TrimRight(a, "/"), strings.TrimRight(b, "/"))
}

func membershipOf(clusterID uint64, members []*etcdserverpb.Member) Membership {
	m := Membership{ClusterID: clusterID, Members: make([]Member, len(members))}
	for i, p := range members {
		m.Members[i] = Member{ID: p.GetID(), Name: p.GetName(), PeerURLs: p.GetPeerURLs(), ClientURLs: p.GetClientURLs(), Learner: p.GetIsLearner()}
	}
	return m
}
