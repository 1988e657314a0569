package lifecycle

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"etcdadm/binary"
	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/etcd"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
	"etcdadm/pkg/snapshot"
	"etcdadm/service"
)

// ResetOptions belong to one call of reset.
type ResetOptions struct {
	SkipRemoveMember bool // do not ask the cluster
}

// Reset is nothing of etcdadm on this node. The data goes only after the cluster has let go of the member. It is given up
// by one rename, before anything is deleted: a reset that was killed is known by it, and does not ask the cluster again.
// The desired state goes last, as it tells where everything is.
func Reset(n *Node, o ResetOptions) []converge.Phase {
	return []converge.Phase{
		{Name: PhasePreflight, Short: "checks before anything is changed", Gather: true, Steps: n.resetChecks},
		{Name: "leave", Short: "the cluster does not count on this member", Steps: func(ctx context.Context) ([]converge.Step, error) {
			steps, err := n.leave(ctx, o, true)
			return append(n.takeover(false), steps...), err
		}},
		{Name: PhaseStop, Short: "no etcd runs, nor starts at boot", Steps: n.stopForGood},
		{Name: "data", Short: "no data", Steps: func(ctx context.Context) ([]converge.Step, error) { return n.dataGone(ctx, o) }},
		{Name: PhaseCertificates, Short: "no certificates of this node", Steps: fixed(once("certificates/pairs", "no certificates of this node", certs.Removed(n.Host, n.Config.CertsDir)))},
		{Name: PhaseConfigure, Short: "no settings, and no unit", Steps: n.settingsGone},
		{Name: PhaseInstall, Short: "no programs, and no stored configuration", Steps: n.programsGone},
	}
}

// leave is the cluster having let go of this member, or having ended with it. A stopped member may be started for that
// as long as etcd is to be stopped afterwards.
func (n *Node) leave(ctx context.Context, o ResetOptions, mayStart bool) ([]converge.Step, error) {
	found, err := n.selfFound(ctx)
	if err != nil || !found.anything {
		return nil, err
	}
	if found.foreign && !o.SkipRemoveMember {
		return nil, errs.New(errs.Precondition, "the data in %s is of a member that this node was not set up as", n.Config.DataDir).
			Hint("to keep it, set it aside: mv %[1]s %[1]s.old", n.Host.Path(n.Config.DataDir)).
			Hint("to delete it: etcdadm reset --skip-remove-member")
	}
	if found.last && !o.SkipRemoveMember {
		return n.leaveLast(ctx, found.running)
	}
	made, err := certs.CAMadeHere(n.Host, n.Config.CertsDir)
	if err != nil {
		return nil, err
	}
	if made {
		converge.Warnf(ctx, "the CA was made on this node, and the cluster may go on with it: %s/ca.key stays; keep a copy of it", n.Host.Path(n.Config.CertsDir))
	}
	ca := once("leave/ca", "the CA stays", certs.CAKept(n.Host, n.Config.CertsDir))
	if o.SkipRemoveMember {
		converge.Warnf(ctx, "the cluster is not asked: if it still counts on this member, remove it there (etcdctl.sh member list)")
		return []converge.Step{ca}, nil
	}
	if len(found.endpoints) == 0 && !found.removed {
		if found.silent != nil {
			return nil, errs.New(errs.Precondition, "the member on this node cannot be asked for its cluster: %w", found.silent).
				Hint("mend that first: etcdadm status").
				Hint("if the cluster is gone for good: etcdadm reset --skip-remove-member")
		}
		if found.unread != nil {
			return nil, errs.New(errs.Precondition, "the data in %s does not tell who the other members are: %w", n.Config.DataDir, found.unread).
				Hint("if the cluster is gone for good, or has removed this member: etcdadm reset --skip-remove-member")
		}
		return nil, errs.New(errs.Precondition, "no other member of the cluster is known, so nobody can say whether it still counts on this one").
			Hint("if the cluster is gone for good: etcdadm reset --skip-remove-member")
	}
	c, err := n.cluster(found.endpoints...)
	if err != nil {
		return nil, err
	}
	if found.unread != nil {
		converge.Warnf(ctx, "the data of this member is damaged (%s); the cluster is asked whether it can do without it", found.unread)
	}
	removed := etcd.Removed{Cluster: c, ClusterID: found.cluster, ID: found.id, PeerURL: n.Config.PeerURL(), Local: n.Config.LocalURL()}
	if found.removed {
		converge.Notef(ctx, "the cluster has removed this member already")
		if _, err := removed.Check(ctx); err != nil && ctx.Err() == nil { // nobody is left to ask, and etcd itself has said it
			return []converge.Step{ca}, nil
		}
	}
	const lost = "if the cluster is gone for good: etcdadm reset --skip-remove-member"
	var up []converge.Step
	if mayStart && found.stopped && !found.removed && n.lacksQuorum(ctx, c) {
		converge.Notef(ctx, "without this member, which does not run, the cluster has no majority to let it go: it is started once more")
		if up, err = n.startedToLeave(ctx, hasQuorum(c)); err != nil {
			return nil, err
		}
	}
	return append(up,
		ca,
		converge.Step{Name: "leave/member", Short: "no member of this node in the cluster", Within: constants.JoinTimeout, Want: removed, Hint: lost},
		converge.Step{Name: "leave/durable", Short: "the others have that on disk", Within: constants.JoinTimeout, Want: etcd.Durable{Removed: removed}, Hint: lost},
	), nil
}

// lacksQuorum tells whether others answer, and are no majority.
func (n *Node) lacksQuorum(ctx context.Context, c *etcd.Cluster) bool {
	_, err := c.Members(ctx)
	return errs.StatusOf(err) == errs.Precondition
}

// self is what a node knows of its own membership.
type self struct {
	anything  bool // there is something that a cluster may count on
	foreign   bool // and it is the data of a member that etcdadm did not set up
	running   bool
	stopped   bool     // its data is here, and nothing runs with it
	removed   bool     // etcd ended because the cluster had removed it
	silent    error    // why the member on this node does not answer, although it runs
	unread    error    // why its data does not tell who the members are
	last      bool     // the only voter
	cluster   uint64   // 0: not known
	id        uint64   // 0: not known
	endpoints []string // where the cluster may be asked
}

// selfFound asks the member on this node, or its data when it does not run, or else where the node joined.
func (n *Node) selfFound(ctx context.Context) (self, error) {
	var s self
	state, err := n.data()
	if err != nil {
		return s, err
	}
	condemned, err := snapshot.IsCondemned(n.Host, n.Config.DataDir)
	if err != nil || condemned && state.Kind != snapshot.Whole { // a reset got that far
		return s, err
	}
	env, err := n.environment()
	if err != nil {
		return s, err
	}
	own := n.Config.LocalURL()
	runs := false
	if backend, err := n.backend(); err == nil {
		if state, err := backend.State(ctx); err == nil {
			s.removed, runs = state.Removed, state.Running
		}
	}
	// Settings without data are of a member that never started, or whose data is lost. Without settings, a join may have
	// ended right after it had the member added; that takes a certificate, and a reset removes settings before it.
	c, silent := n.cluster(own)
	data := state.Kind == snapshot.Whole || state.Kind == snapshot.Half
	if env == nil && data { // data that was restored and never started is of nobody
		began, err := n.beganRestored(ctx)
		s.anything, s.foreign = began, began
		return s, err
	}
	if state.Kind != snapshot.Whole && len(n.Config.JoinEndpoints) == 0 { // the first member of a cluster that never began
		if unborn, err := n.bootstrapping(); err != nil || unborn {
			return s, err
		}
	}
	s.anything = env != nil || len(n.Config.JoinEndpoints) > 0 && silent == nil
	if !s.anything {
		return s, nil
	}
	if silent == nil {
		var status etcd.Status
		if status, silent = c.Status(ctx, own); silent == nil {
			s.running, s.cluster, s.id = true, status.ClusterID, status.MemberID
			s.endpoints = append(s.endpoints, own)
			if m, err := c.MembersSerializable(ctx); err == nil {
				s.last = m.LastVoter(s.id)
				for _, member := range m.Members {
					s.add(member.ClientURLs)
				}
			}
		}
	}
	if !s.running && state.Kind == snapshot.Whole {
		if used, err := n.inUse(ctx, runs); err == nil && used {
			s.silent = silent
		} else if err == nil {
			m, began, err := n.membersKept(ctx)
			switch {
			case hidden(err) || !began:
				return self{}, err
			case err != nil:
				s.unread = err
				if s.cluster, s.id, err = snapshot.Owner(ctx, n.Host, n.Config.DataDir); hidden(err) {
					return self{}, err
				}
			default:
				s.stopped, s.cluster, s.id = true, m.ClusterID, m.MemberID
				s.last = onlyVoter(m)
			}
			for _, member := range m.Members {
				s.add(member.ClientURLs)
			}
		}
	}
	s.add(n.Config.JoinEndpoints)
	return s, nil
}

// beganRestored tells whether data without settings is of a member: it is, unless it was made of a snapshot, knows nobody
// else, has all that its log has, and nothing runs on it.
func (n *Node) beganRestored(ctx context.Context) (bool, error) {
	restored, err := snapshot.IsRestored(n.Host, n.Config.DataDir)
	if err != nil || !restored {
		return true, err
	}
	if used, err := snapshot.InUse(n.Host, n.Config.DataDir); err != nil || used {
		return true, err
	}
	m, err := snapshot.Members(ctx, n.Host, n.Config.DataDir)
	switch {
	case hidden(err):
		return true, err
	case err != nil:
		return true, nil //nolint:nilerr // damaged, it may have been anybody's
	}
	return !onlyVoter(m) || len(m.Members) > 1 || m.Lag > 0, nil
}

// dying is how long an etcd that was killed may take to be gone: it may have to wait for a disk, or for a processor.
const dying = 10 * time.Second

// inUse tells whether an etcd has the data open. Where none runs any more, the one that dies is waited for.
func (n *Node) inUse(ctx context.Context, runs bool) (bool, error) {
	for late := time.Now().Add(dying); ; {
		used, err := snapshot.InUse(n.Host, n.Config.DataDir)
		if err != nil || !used || runs || time.Now().After(late) {
			return used, err
		}
		select {
		case <-ctx.Done():
			return used, ctx.Err()
		case <-time.After(constants.PollInterval):
		}
	}
}

func (s *self) add(urls []string) {
	for _, u := range urls {
		if !slices.Contains(s.endpoints, u) {
			s.endpoints = append(s.endpoints, u)
		}
	}
}

// stopForGood is etcd stopped, now and at boot.
func (n *Node) stopForGood(context.Context) ([]converge.Step, error) {
	backend, err := n.backend()
	if err != nil {
		if env, enverr := n.environment(); enverr == nil && env == nil { // nothing was ever set up to be stopped
			return nil, nil
		}
		return nil, err
	}
	return []converge.Step{
		once("stop/disabled", "etcd does not start at boot", backend.Disabled()),
		stopped(backend, "etcd is stopped"),
	}, nil
}

// stopped is etcd stopped. It is awaited for longer than etcd is given before it is killed. Some need the kill: a leader of
// etcd 3.5 that asks a member for its version when that one's host dies goes on to wait for the answer (seen with 3.5.35).
func stopped(backend service.Backend, short string) converge.Step {
	const kill = 15 * time.Second
	return converge.Step{Name: "stop/stopped", Short: short, Want: backend.Stopped(), Within: constants.StopTimeout + kill}
}

// settingsGone removes what etcd was told, and what was told of it.
func (n *Node) settingsGone(context.Context) ([]converge.Step, error) {
	steps := []converge.Step{once("configure/files", "no settings of etcd", file.Absent{Host: n.Host, Paths: append(append(
		staged(constants.EtcdctlEnvFile), path.Dir(constants.LogFile), constants.RunDir,
	), n.retiredPrograms()...)})}
	if backend, err := n.backend(); err == nil { // one that is not there has left nothing
		steps = append(steps, once("configure/service", "no service of etcd", backend.Removed()))
	}
	return steps, nil
}

// programsGone removes the programs, and at the very end the stored configuration.
func (n *Node) programsGone(context.Context) ([]converge.Step, error) {
	return []converge.Step{
		once("install/wrapper", "no etcdctl.sh", file.Absent{Host: n.Host, Paths: staged(path.Join(n.Config.InstallDir, "etcdctl.sh"))}),
		once("install/release", "no programs of etcd", binary.Removed{Host: n.Host, InstallDir: n.Config.InstallDir}),
		once("install/config", "no stored configuration", file.Absent{Host: n.Host, Paths: []string{path.Dir(constants.ConfigFile)}}),
	}, nil
}

// staged are the paths, and the names under which a killed run may have left their next contents.
func staged(paths ...string) []string {
	all := slices.Clone(paths)
	for _, p := range paths {
		all = append(all, host.Staging(p))
	}
	return all
}

func hexID(id uint64) string { return fmt.Sprintf("%x", id) }
