package lifecycle

import (
	"context"
	"io/fs"
	"path"
	"slices"

	"etcdadm/binary"
	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/api"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/file"
	"etcdadm/pkg/report"
	"etcdadm/pkg/snapshot"
	"etcdadm/service"
)

// InitOptions belong to one call of init.
type InitOptions struct {
	Snapshot      string // file from which the cluster begins; "": an empty one
	SkipHashCheck bool
	BumpRevision  uint64
}

// Init makes this node the first member of a new cluster. On a node that is a member already it converges what is there.
func Init(n *Node, o InitOptions) []converge.Phase {
	phases := []converge.Phase{
		{Name: PhasePreflight, Short: "checks before anything is changed", Gather: true, Steps: func(ctx context.Context) ([]converge.Step, error) { return n.initChecks(ctx, o) }},
		{Name: PhaseConfig, Short: configShort, Steps: func(ctx context.Context) ([]converge.Step, error) {
			if begins, err := n.begins(); err != nil {
				return nil, err
			} else if begins { // and joins nobody: a reset would ask the cluster there whether this member may go
				n.Config.JoinEndpoints = nil
			}
			return n.configPhase().Steps(ctx)
		}},
		n.installPhase(),
		{Name: PhaseCertificates, Short: "CA, and the certificates of this node", Refuses: func(context.Context) ([]converge.Step, error) {
			ca, err := n.ca()
			return n.caChecks(PhaseCertificates, ca, false), err
		}, Steps: func(context.Context) ([]converge.Step, error) {
			ca, err := n.ca()
			if err != nil {
				return nil, err
			}
			return n.certificates(once("certificates/ca", "CA", ca), nil, false)
		}},
	}
	if o.Snapshot != "" {
		phases = append(phases, converge.Phase{Name: PhaseSnapshot, Short: "data directory from the snapshot", Refuses: func(context.Context) ([]converge.Step, error) {
			return []converge.Step{n.dataMounted(PhaseSnapshot), check(PhaseSnapshot, "Snapshot", "snapshot", converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
				_, err := n.verified(ctx, o.Snapshot, o.SkipHashCheck)
				return nil, err
			}))}, nil
		}, Steps: func(ctx context.Context) ([]converge.Step, error) {
			return n.restored(ctx, o.Snapshot, o.SkipHashCheck, o.BumpRevision)
		}})
	}
	return append(phases,
		converge.Phase{Name: PhaseConfigure, Short: "what etcd is told", Refuses: func(ctx context.Context) ([]converge.Step, error) {
			steps, err := n.ofOthers(ctx)
			return append(steps, n.noDataLost(PhaseConfigure, o)), err
		}, Steps: func(ctx context.Context) ([]converge.Step, error) {
			env, err := n.environment()
			if err != nil {
				return nil, err
			}
			// A member that joined others without the marker would shut them out by asking for it now.
			marker := env == nil
			return n.configure(ctx, n.alone(), 0, marker)
		}},
		n.startPhase(),
		n.etcdctlPhase(),
		converge.Phase{Name: PhaseHealth, Short: "the member serves", Steps: n.health},
		converge.Phase{Name: "post-init-instructions", Short: "how other nodes join", Steps: func(context.Context) ([]converge.Step, error) {
			n.Next = append(n.Next, report.Next{
				Description: "join another node: bring it " + n.Host.Path(n.Config.CertsDir) + "/ca.crt and ca.key, then run there",
				Command:     n.joinCommand(),
			})
			return nil, nil
		}},
	)
}

const configShort = "desired state, stored in " + constants.ConfigFile

// configPhase stores the desired state, before anything is made by it.
func (n *Node) configPhase() converge.Phase {
	return converge.Phase{Name: PhaseConfig, Short: configShort, Steps: func(context.Context) ([]converge.Step, error) {
		return append(n.takeover(true), n.stored("config/file")), nil
	}}
}

// Only are the phases of an operation with the given names, as converge.Only returns them, but that those which only check come
// first. What they refuse comes before the desired state is stored: a node that is not to be changed is not to be told another
// one either.
func Only(phases []converge.Phase, names ...string) ([]converge.Phase, error) {
	phases, err := converge.Only(phases, names...)
	checks := slices.DeleteFunc(slices.Clone(phases), func(p converge.Phase) bool { return !p.Gather })
	phases = append(checks, slices.DeleteFunc(phases, func(p converge.Phase) bool { return p.Gather })...)
	config := slices.IndexFunc(phases, func(p converge.Phase) bool { return p.Name == PhaseConfig })
	if err != nil || config < 0 {
		return phases, err
	}
	var all []func(context.Context) ([]converge.Step, error)
	for i := range phases {
		if refuses := phases[i].Refuses; refuses != nil {
			all, phases[i].Refuses = append(all, refuses), nil
		}
	}
	phases[config].Refuses = func(ctx context.Context) ([]converge.Step, error) {
		var steps []converge.Step
		for _, refuses := range all {
			s, err := refuses(ctx)
			if err != nil {
				return nil, err
			}
			steps = append(steps, s...)
		}
		return steps, nil
	}
	return phases, nil
}

// stored is the desired state as it is now, on the node.
func (n *Node) stored(step string) converge.Step {
	return once(step, "stored configuration", file.File{Host: n.Host, Path: constants.ConfigFile, Data: n.Config.Without(n.Transient...).Marshal(), Mode: 0o644})
}

// installPhase brings the release. What is installed needs no archive, and no network. A pod has etcd in its image: what
// the archive brings beside it, etcdctl, is installed where the archive is there, or where somebody says where it is.
func (n *Node) installPhase() converge.Phase {
	return converge.Phase{Name: PhaseInstall, Short: "a verified release of etcd", Steps: func(ctx context.Context) ([]converge.Step, error) {
		release := once("install/release", "release "+n.Config.Version, n.installed())
		if d, err := n.installed().Check(ctx); err == nil && len(d) == 0 {
			return []converge.Step{release}, nil
		}
		if n.Config.InitSystem == api.Kubelet && n.Config.ReleaseURL == "" {
			if there, err := n.Host.Exists(n.source().CachePath()); err != nil || !there {
				converge.Notef(ctx, "etcd is in the image of its pod; for etcdctl: etcdadm download --version %s, and this again", n.Config.Version)
				return nil, err
			}
		}
		return []converge.Step{n.archive(PhaseInstall), release}, nil
	}}
}

// ca is the CA as init has it: made where a cluster begins. A member without one has lost that of its cluster: nobody would
// know another, and etcd would be restarted with it.
func (n *Node) ca() (converge.Checker, error) {
	s, err := n.data()
	if err != nil {
		return nil, err
	}
	a := n.authority(hostOf(n.Config.JoinEndpoints))
	switch {
	case s.Kind == snapshot.Unreadable: // one to be made is not to be told from one that is lost
		return converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
			d, err := a.Created().Check(ctx)
			if len(d) > 0 {
				return nil, errs.New(errs.Precondition, "%s, and %s is not readable for this user: %w", d, n.Config.DataDir, fs.ErrPermission).Hint("run this command as root")
			}
			return nil, err
		}), nil
	case bootstrapped(s):
		a.Otherwise = "if there is no copy of it anywhere, the cluster begins anew with another one: stop etcd on every node, then here etcdadm restore FILE"
		return a.Given(), nil
	}
	return a.Created(), nil
}

// certificates are the CA and the pairs.
func (n *Node) certificates(ca converge.Step, peers []string, missingOnly bool) ([]converge.Step, error) {
	leaves, err := n.leaves(peers, missingOnly)
	if err != nil {
		return nil, err
	}
	directory := once("certificates/directory", "directory of the certificates", certs.Directory{Host: n.Host, Dir: n.Config.CertsDir})
	steps := append(n.account(PhaseCertificates), directory)
	if path.Dir(n.Config.CertsDir) == constants.EtcdDir { // made under a careful umask, it would hide the directory in it
		steps = append(steps, once("certificates/etcd", "directory of etcd", certs.Directory{Host: n.Host, Dir: constants.EtcdDir}))
	}
	steps = append(steps, ca)
	for _, l := range leaves {
		steps = append(steps, once("certificates/"+l.Name, l.Name+" certificate", l))
	}
	return steps, nil
}

// startPhase starts etcd, or restarts it when what runs is not what the environment file describes.
func (n *Node) startPhase() converge.Phase {
	return converge.Phase{Name: PhaseStart, Short: "etcd runs with its settings", Refuses: fixed(once("start/settings", "settings of etcd", converge.CheckFunc(n.settingsThere))), Steps: func(ctx context.Context) ([]converge.Step, error) {
		backend, err := n.backend()
		if err != nil {
			return nil, err
		}
		env, err := n.environment()
		if err != nil {
			return nil, err
		}
		running := backend.Running(env[constants.DigestVariable])
		var steps []converge.Step
		if d, err := running.Check(ctx); err == nil && len(d) > 0 {
			steps = append(steps, n.mayBeAway(ctx)...)
		}
		return append(steps,
			converge.Step{Name: "start/running", Short: "etcd runs", Want: running, Within: constants.StopTimeout + constants.StartTimeout, Why: n.why},
			// Behind, as other nodes may be waiting for this one to start.
			once("start/enabled", "etcd starts at boot", backend.Enabled()),
		), nil
	}}
}

// settingsThere is an environment file of ours. In a dry run it may be yet to come.
func (n *Node) settingsThere(context.Context) (converge.Diff, error) {
	env, err := n.environment()
	if err != nil || env[constants.DigestVariable] != "" || n.Host.ReadOnly() {
		return nil, err
	}
	return nil, errs.New(errs.Precondition, "%s is absent or does not describe a start", constants.EnvFile).
		Hint("run the phase configure first, or the whole command")
}

// etcdctlPhase is what people need to talk to the cluster.
func (n *Node) etcdctlPhase() converge.Phase {
	return converge.Phase{Name: PhaseEtcdctl, Short: "settings and wrapper of etcdctl", Steps: func(context.Context) ([]converge.Step, error) {
		backend, err := n.backend()
		if err != nil {
			return nil, err
		}
		return []converge.Step{
			once("etcdctl/environment", "settings of etcdctl", service.EtcdctlEnv{Host: n.Host, CertsDir: n.Config.CertsDir, BindAddress: n.address(), PathFor: backend.PathFor}),
			once("etcdctl/wrapper", "etcdctl.sh", service.EtcdctlWrapper(n.Host, n.Config.InstallDir, backend.PathFor)),
		}, nil
	}}
}

// archive is the verified archive in the cache.
func (n *Node) archive(phase string) converge.Step {
	return once(phase+"/archive", "archive of etcd "+n.Config.Version, binary.Archive{Source: n.source()})
}

// joinCommand is how another node joins this one, with what has to be the same there and is no default.
func (n *Node) joinCommand() string {
	command := "etcdadm join " + n.Config.ClientURL()
	if n.Config.InitSystem != api.InitSystems[0] {
		command += " --init-system " + n.Config.InitSystem
	}
	if n.Config.InitSystem == api.Kubelet && n.Config.ImageRepository != constants.DefaultImageRepository {
		command += " --image-repository " + n.Config.ImageRepository
	}
	if n.Config.Version != constants.DefaultVersion {
		command += " --version " + n.Config.Version
	}
	return command
}
