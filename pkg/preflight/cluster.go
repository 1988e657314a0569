package preflight

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/version"
)

// Member is a member of the cluster, as its list tells it.
type Member struct {
	ID                   string // hexadecimal
	Name                 string // "" until it has started for the first time
	PeerURLs, ClientURLs []string
	Learner              bool
}

func (m Member) String() string {
	if m.Name == "" {
		return "unstarted member " + m.ID
	}
	return "member " + m.Name
}

// Reachable is a quorum of voting members whose peer and client ports answer from here. Who does not answer beyond
// that is warned of: a cluster that has lost a minority must be joinable, it may be why this node joins.
type Reachable struct {
	PeerURL string // of this node, which need not reach itself
	Member  bool   // this node is a member already: it waits for the others, and they may be waiting for it
	Members func(context.Context) ([]Member, error)
}

// Check connects to all ports at the same time, and closes the connections at once.
func (r Reachable) Check(ctx context.Context) (converge.Diff, error) {
	members, err := r.Members(ctx)
	if err != nil {
		return nil, err
	}
	problems := make([][]string, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		if !slices.Contains(m.PeerURLs, r.PeerURL) {
			all.Go(func() { problems[i] = unreachable(ctx, m) })
		}
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	voters, reached := 0, 0
	var lost []string
	for i, m := range members {
		if !m.Learner {
			voters++
		}
		if len(problems[i]) > 0 {
			lost = append(lost, fmt.Sprintf("%s (%s)", m, strings.Join(problems[i], ", ")))
		} else if !m.Learner {
			reached++
		}
	}
	if quorum := voters/2 + 1; voters > 0 && reached < quorum && !r.Member {
		return nil, refuse("%d of %d voting members can be reached from here, %d are needed: %s", reached, voters, quorum, strings.Join(lost, "; ")).
			Hint("let TCP ports %d and %d through between all members, and see that etcd runs there", constants.ClientPort, constants.PeerPort)
	}
	for _, l := range lost {
		converge.Warnf(ctx, "%s cannot be reached from here", l)
	}
	return nil, nil
}

// unreachable tells which ports of a member do not answer. One URL of a kind is enough: others may be for other networks.
func unreachable(ctx context.Context, m Member) []string {
	var problems []string
	for _, urls := range [][]string{m.PeerURLs, m.ClientURLs} {
		var failed []string
		for _, u := range urls {
			if problem := connect(ctx, u); problem != "" {
				failed = append(failed, problem)
			} else {
				failed = nil
				break
			}
		}
		problems = append(problems, failed...)
	}
	return problems
}

// connect says why a URL takes no connection, or "".
func connect(ctx context.Context, u string) string {
	target, err := hostPort(u)
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, constants.DialTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return target + ": " + dialProblem(err)
	}
	_ = conn.Close()
	return ""
}

// hostPort returns what to dial for the URL of a member, which always has a port.
func hostPort(u string) (string, error) {
	parsed, err := url.Parse(u)
	if err != nil || parsed.Hostname() == "" || parsed.Port() == "" {
		return "", refuse("%q is not the URL of a member", u)
	}
	return net.JoinHostPort(parsed.Hostname(), parsed.Port()), nil
}

// VersionSkew is a version that fits beside those of the cluster.
type VersionSkew struct {
	Mine    version.Etcd
	Members func(context.Context) ([]version.Etcd, error) // of those that answer
	Judge   func(members []version.Etcd, mine version.Etcd) error
}

// Check leaves the verdict to Judge, and warns of a cluster of two minors: it is meant for the time of an upgrade.
func (v VersionSkew) Check(ctx context.Context) (converge.Diff, error) {
	members, err := v.Members(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.Judge(members, v.Mine); err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.CompareMinor(v.Mine) != 0 {
			converge.Warnf(ctx, "etcd %s joins a cluster that runs %s: two minors are for the time of an upgrade; the same one is --version %s", v.Mine, m, m)
			break
		}
	}
	return nil, nil
}
