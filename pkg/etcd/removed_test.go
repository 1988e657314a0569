package etcd

import "testing"

func TestAnotherMemberAtOurAddressIsNotOurs(t *testing.T) {
	const url = "https://10.0.0.7:2380"
	for name, c := range map[string]struct {
		id     uint64 // of the member on this node; 0: not known
		member Member
		want   bool
	}{
		"ours by id":                             {1, Member{ID: 1, Name: "a", PeerURLs: []string{"https://10.0.0.9:2380"}}, true},
		"ours by address, id not known":          {0, Member{ID: 2, Name: "a", PeerURLs: []string{url}}, true},
		"left behind by an earlier join":         {1, Member{ID: 2, PeerURLs: []string{url}}, true},
		"runs on a machine with our old address": {1, Member{ID: 2, Name: "b", PeerURLs: []string{url}}, false},
		"somebody else":                          {1, Member{ID: 2, Name: "b", PeerURLs: []string{"https://10.0.0.8:2380"}}, false},
	} {
		r := Removed{ID: c.id, PeerURL: url}
		if got := len(r.mine(Membership{Members: []Member{c.member}})) == 1; got != c.want {
			t.Errorf("%s: ours: %t, want %t", name, got, c.want)
		}
	}
}
