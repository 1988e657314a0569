package etcd

import (
	"errors"
	"strings"
	"testing"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/version"
)

var errDown = errors.New("connection refused")

// members makes a membership of a line: one letter per member. U: voter that is up, d: voter that is down, n: voter that
// never started, s: voter that has just started, and told no name yet, l: learner that is up, x: learner that never started.
func members(line string) (Membership, Health) {
	m, h := Membership{ClusterID: 1}, Health{}
	for i, letter := range line {
		id := uint64(i + 1)
		member := Member{ID: id, Name: "m" + hexID(id), PeerURLs: []string{"https://10.0.0." + hexID(id) + ":2380"}}
		h[id] = nil
		switch letter {
		case 'd':
			h[id] = errDown
		case 'n':
			member.Name, h[id] = "", errDown
		case 's':
			member.Name = ""
		case 'l':
			member.Learner = true
		case 'x':
			member.Name, member.Learner, h[id] = "", true, errDown
		}
		m.Members = append(m.Members, member)
	}
	return m, h
}

func TestQuorumOf(t *testing.T) {
	for voters, want := range map[int]int{1: 1, 2: 2, 3: 2, 4: 3, 5: 3, 6: 4, 7: 4} {
		if got := QuorumOf(voters); got != want {
			t.Errorf("QuorumOf(%d) = %d, want %d", voters, got, want)
		}
	}
}

func TestJoinGateKeepsTheQuorum(t *testing.T) {
	const newcomer = "https://10.0.0.99:2380"
	for _, row := range []struct {
		line, self string
		refused    string // part of the reason; "": allowed
	}{
		{"U", newcomer, ""},
		{"UU", newcomer, ""},
		{"UUU", newcomer, ""},
		{"Ul", newcomer, ""}, // somebody else joins
		{"Ux", newcomer, ""}, // a learner does not count, not even one that never started
		{"UUUxx", newcomer, ""},
		{"d", newcomer, "m1 (1) does not answer (connection refused)"},
		{"Ud", newcomer, "m2 (2) does not answer"},
		{"Un", newcomer, "https://10.0.0.2:2380 (2) was added but has never started"},
		{"UUd", newcomer, "with 2 of 3 voters up, another one could cost the cluster its quorum: 4 voters need 3"},
		{"UUn", newcomer, "has never started"},
		{"UUs", newcomer, ""},
		{"UUUd", newcomer, ""}, // 5 need 3, and 3 are up
		{"UUdn", newcomer, "m3 (3) does not answer (connection refused), member https://10.0.0.4:2380 (4) was added"},
		{"UUUUd", newcomer, ""}, // 6 need 4
		{"UUUdd", newcomer, "6 voters need 4"},
		{"UUd", "https://10.0.0.3:2380/", ""}, // it votes already: nothing changes
	} {
		m, h := members(row.line)
		check(t, row.line, JoinGate(m, h, row.self), row.refused)
	}
	m, _ := members("UU")
	check(t, "nobody was asked", JoinGate(m, nil, newcomer), "was not asked")
}

// A list that a majority has agreed on, and fewer who answer: the network went away in between.
func TestNodeThatIsCutOffRefusesNothing(t *testing.T) {
	for line, want := range map[string]bool{"U": false, "UUd": false, "UUs": false, "UUUdd": false, "d": true, "Ud": true, "Udd": true, "ddd": true} {
		m, h := members(line)
		if got := errors.As(cutOff(m, h), new(waiting)); got != want {
			t.Errorf("%s: cut off: %t, want %t", line, got, want)
		}
	}
}

func TestRemoveGateKeepsTheQuorum(t *testing.T) {
	for _, row := range []struct {
		line    string
		id      uint64
		refused string
	}{
		{"U", 1, "is the last voter"},
		{"Ul", 1, "is the last voter"}, // a learner cannot carry the cluster on
		{"Ul", 2, ""},
		{"UU", 1, ""},
		{"UUU", 1, ""},
		{"UUd", 3, ""}, // the dead one goes
		{"UUd", 1, "without member 1 the cluster would lose its quorum: 1 of 2 voters would be up, and 2 must be"},
		{"UUn", 1, "has never started"},
		{"UUUd", 1, ""},
		{"UUUdd", 1, "2 of 4"},
		{"UUUdd", 5, ""},
		{"UUU", 9, ""}, // no member
	} {
		m, h := members(row.line)
		check(t, row.line, RemoveGate(m, h, row.id), row.refused)
	}
}

func check(t *testing.T, name string, err error, refused string) {
	t.Helper()
	switch {
	case refused == "" && err != nil:
		t.Errorf("%s: refused: %v", name, err)
	case refused != "" && (err == nil || !strings.Contains(err.Error(), refused) || errs.StatusOf(err) != errs.Precondition):
		t.Errorf("%s: got %v (status %d), want status 3 and %q", name, err, errs.StatusOf(err), refused)
	}
}

func TestGateNamesTheWayOut(t *testing.T) {
	m, h := members("UUd")
	hints := errs.HintsOf(JoinGate(m, h, "https://10.0.0.9:2380"))
	if len(hints) != 1 || !strings.Contains(hints[0], "member remove 3") {
		t.Errorf("hints %q do not say how to remove member 3", hints)
	}
}

func TestVersionSkew(t *testing.T) {
	for _, row := range []struct {
		members, mine, refused string
	}{
		{"", "3.6.14", ""},
		{"3.6.14", "3.6.14", ""},
		{"3.6.16 3.6.14", "3.6.9", ""}, // the patch does not matter
		{"3.6.14-eks-1", "3.6.14", ""},
		{"3.5.26 3.6.14", "3.6.14", ""},         // half-way through an upgrade
		{"3.5.26 3.6.14", "3.5.35", ""},         // the cluster is 3.5 until the last member is not
		{"3.5.26 3.6.14", "3.7.3", "one minor"}, // two above the lowest
		{"3.5.35", "3.6.14", ""},
		{"3.5.35 3.5.16", "3.6.14", "3.5 members must be at least 3.5.26 first"},
		{"3.6.11", "3.7.3", ""},
		{"3.6.10", "3.7.3", "at least 3.6.11"},
		{"3.6.14", "3.5.35", "older than every member"},
		{"3.5.35", "3.7.3", "one minor apart"},
		{"3.6.14", "4.6.14", "another major"},
	} {
		var versions []version.Etcd
		for _, s := range strings.Fields(row.members) {
			v, err := version.ParseEtcd(s)
			if err != nil {
				t.Fatal(err)
			}
			versions = append(versions, v)
		}
		mine, err := version.ParseEtcd(row.mine)
		if err != nil {
			t.Fatal(err)
		}
		check(t, row.mine+" beside "+row.members, VersionSkew(versions, mine), row.refused)
	}
}
