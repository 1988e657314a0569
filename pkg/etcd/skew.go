package etcd

import (
	"fmt"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/version"
)

// upgradable holds, by minor, the lowest patch from which every member must start before one of the next minor joins.
// An older 3.5 leaves a membership behind that 3.6 does not boot from ("too many learner members"); 3.6 is
// https://etcd.io/docs/v3.7/upgrades/upgrade_3_7/.
var upgradable = map[int]int{5: 26, 6: 11}

// VersionSkew tells whether a member of version mine fits beside members of the given versions; an error with status 3
// says why not. The lowest minor among the members is the version of the cluster: etcd of a lower one refuses to
// join, and two minors apart do not understand each other. The patch does not matter, but see upgradable.
func VersionSkew(members []version.Etcd, mine version.Etcd) error {
	if len(members) == 0 {
		return nil
	}
	low, high := members[0], members[0]
	for _, v := range members[1:] {
		if v.Compare(low) < 0 {
			low = v
		}
		if v.Compare(high) > 0 {
			high = v
		}
	}
	refuse := func(format string, args ...any) error {
		return errs.New(errs.Precondition, "etcd %s does not fit into a cluster of %s: %s", mine, span(low, high), fmt.Sprintf(format, args...)).
			Hint("use the version of the cluster: --version %s", high)
	}
	switch {
	case mine.Major != low.Major || mine.Major != high.Major:
		return refuse("another major version")
	case mine.CompareMinor(low) < 0:
		return refuse("it is older than every member")
	case mine.Minor-low.Minor > 1:
		return refuse("members are one minor apart at most")
	case mine.Minor > low.Minor && low.Patch < upgradable[low.Minor]:
		return refuse("%d.%d members must be at least %d.%d.%d first", low.Major, low.Minor, low.Major, low.Minor, upgradable[low.Minor])
	}
	return nil
}

func span(low, high version.Etcd) string {
	if low.Compare(high) == 0 {
		return low.String()
	}
	return low.String() + " to " + high.String()
}
