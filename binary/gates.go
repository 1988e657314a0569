package binary

import (
	"fmt"

	"etcdadm/pkg/version"
)

// Verdict is what a Gate says of the versions that it affects.
type Verdict int

// The verdicts.
const (
	Warned       Verdict = iota // may be installed; the user is told why not to
	RefusedFresh                // refused for a new installation, a warning where it runs already
	Refused                     // never installed
)

// Gate is a known fault of some releases of etcd.
type Gate struct {
	Verdict  Verdict
	Affected []Range
	Reason   string // in the words of the announcement, with the cure when there is one
}

// Range is the patch releases From to To, both included, of one minor 3.x.
type Range struct{ Minor, From, To int }

// Releases that etcdadm knows. Nothing is known of what comes after newest, so it is refused.
var (
	oldest = version.Etcd{Major: 3, Minor: 5}
	newest = version.Etcd{Major: 3, Minor: 7}
)

// gates is the table of known faults. Sources: etcd's changelogs, security advisories and the announcements of its
// maintainers (etcd-io/etcd CHANGELOG, issue 13766 for 3.5.0 to 3.5.2, "two possible data inconsistency issues" of
// November 2022 for 3.5.3 to 3.5.5).
var gates = []Gate{
	{Refused, []Range{{5, 0, 2}}, "silently corrupts data when it is killed under load; fixed in 3.5.3"},
	{RefusedFresh, []Range{{5, 3, 5}}, "members can disagree after a crash while defragmenting, or when a member is added with authentication on; fixed in 3.5.6"},
	{Warned, []Range{{6, 0, 3}}, "may not start again after a learner was promoted; fixed in 3.6.4"},
	{Warned, []Range{{5, 0, 27}, {6, 0, 8}}, "has the vulnerabilities CVE-2026-33413 and CVE-2026-33343; fixed in 3.5.28 and 3.6.9"},
	{Warned, []Range{{5, 0, 29}, {6, 0, 10}}, "takes no new member while one voter is down; fixed in 3.5.30 and 3.6.11"},
	{Warned, []Range{{5, 0, 30}, {6, 0, 11}}, "turns a learner into a voter when its peer URL is updated; fixed in 3.5.31 and 3.6.12"},
	{Warned, []Range{{5, 0, 32}, {6, 0, 13}, {7, 0, 0}}, "can be exhausted by TLS handshakes, and leaks watch events past RBAC; fixed in 3.5.33, 3.6.14 and 3.7.1"},
	{Warned, []Range{{5, 0, 34}, {6, 0, 14}, {7, 0, 1}}, "can lose a snapshot received from the leader when power fails; fixed in 3.5.35, 3.6.15 and 3.7.2"},
	{Warned, []Range{{7, 0, 2}}, "may reorder raft messages; fixed in 3.7.3"},
}

// Gates judges a version of etcd. refused is the reason why it is not installed, or "". fresh tells that no etcd of
// this version runs on the node yet. A rebuild, which has a suffix, is judged as the release that it names.
func Gates(v version.Etcd, fresh bool) (refused string, warnings []string) {
	switch {
	case v.Prerelease():
		return fmt.Sprintf("etcd %s is a pre-release", v), nil
	case v.CompareMinor(oldest) < 0:
		return fmt.Sprintf("etcd %s is out of support; the oldest supported minor is %d.%d", v, oldest.Major, oldest.Minor), nil
	case v.CompareMinor(newest) > 0:
		return fmt.Sprintf("etcd %s is not known to this etcdadm; the newest minor that it knows is %d.%d", v, newest.Major, newest.Minor), nil
	}
	for _, g := range gates {
		if !g.affects(v) {
			continue
		}
		text := fmt.Sprintf("etcd %s %s", v, g.Reason)
		if g.Verdict == Refused || (g.Verdict == RefusedFresh && fresh) {
			return text, nil
		}
		warnings = append(warnings, text)
	}
	return "", warnings
}

func (g Gate) affects(v version.Etcd) bool {
	for _, r := range g.Affected {
		if v.Minor == r.Minor && r.From <= v.Patch && v.Patch <= r.To {
			return true
		}
	}
	return false
}
