package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"etcdadm/binary"
	"etcdadm/constants"
	"etcdadm/pkg/api"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/etcd"
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
		n.configPhase(),
		n.installPhase(),
		{Name: PhaseCertificates, Short: "CA, and the certificates of this node", Steps: func(context.Context) ([]converge.Step, error) {
			return n.certificates(once("certificates/ca", "CA", n.authority("").Created()), nil, false)
		}},
	}
	if o.Snapshot != "" {
		phases = append(phases, converge.Phase{Name: PhaseSnapshot, Short: "data directory from the snapshot", Steps: func(ctx context.Context) ([]converge.Step, error) {
			return n.restored(ctx, o.Snapshot, o.SkipHashCheck, o.BumpRevision)
		}})
	}
	return append(phases,
		converge.Phase{Name: PhaseConfigure, Short: "what etcd is told", Steps: func(context.Context) ([]converge.Step, error) {
			env, err := n.environment()
			if err != nil {
				return nil, err
			}
			// A member that joined others without the marker would shut them out by asking for it now.
			marker := env == nil
			return n.configure(n.alone(), 0, marker)
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

// alone is the first start of a cluster with this node as its only member.
func (n *Node) alone() service.Bootstrap {
	return service.Bootstrap{InitialCluster: n.Config.Name + "=" + n.Config.PeerURL(), State: "new"}
}

// configPhase stores the desired state, before anything is made by it.
func (n *Node) configPhase() converge.Phase {
	return converge.Phase{Name: PhaseConfig, Short: "desired state, stored in " + constants.ConfigFile, Steps: func(context.Context) ([]converge.Step, error) {
		return []converge.Step{once("config/file", "stored configuration",
			file.File{Host: n.Host, Path: constants.ConfigFile, Data: n.Config.Marshal(), Mode: 0o644})}, nil
	}}
}

// installPhase brings the release. What is installed needs no archive, and no network.
func (n *Node) installPhase() converge.Phase {
	return converge.Phase{Name: PhaseInstall, Short: "a verified release of etcd", Steps: func(ctx context.Context) ([]converge.Step, error) {
		release := once("install/release", "release "+n.Config.Version, n.installed())
		if d, err := n.installed().Check(ctx); err == nil && len(d) == 0 {
			return []converge.Step{release}, nil
		}
		return []converge.Step{n.archive(PhaseInstall), release}, nil
	}}
}

// certificates are the CA and the pairs.
func (n *Node) certificates(ca converge.Step, peers []string, missingOnly bool) ([]converge.Step, error) {
	leaves, err := n.leaves(peers, missingOnly)
	if err != nil {
		return nil, err
	}
	steps := []converge.Step{ca}
	for _, l := range leaves {
		steps = append(steps, once("certificates/"+l.Name, l.Name+" certificate", l))
	}
	return steps, nil
}

// configure is everything that etcd reads at its start. What it needs only for the first one goes before the
// environment, so that an environment without it and without data tells of data that was lost.
func (n *Node) configure(b service.Bootstrap, quota int64, marker bool) ([]converge.Step, error) {
	state, err := n.data()
	if err != nil {
		return nil, err
	}
	steps := []converge.Step{once("configure/data-dir", "data directory", file.Dir{Host: n.Host, Path: n.Config.DataDir, Mode: 0o700})}
	if bootstrapped(state) {
		steps = append(steps, once("configure/bootstrap", "nothing of the first start", file.Absent{Host: n.Host, Paths: []string{constants.BootstrapFile}}))
	} else {
		steps = append(steps, once("configure/bootstrap", "settings of the first start", service.BootstrapFile{Host: n.Host, Want: b}))
	}
	env, err := n.envFile(quota, marker)
	if err != nil {
		return nil, err
	}
	return append(steps, once("configure/environment", "settings of etcd", env)), nil
}

// bootstrapped tells whether etcd started here before: a directory that cannot be read is one that etcd keeps to itself.
func bootstrapped(s snapshot.State) bool {
	return s.Kind == snapshot.Whole || s.Kind == snapshot.Unreadable
}

// envFile is the environment of etcd, with the digest of all that a running etcd does not read again. A quota or
// marker that the node has stays, as other members agreed to it; the caller's are for a node that has none.
func (n *Node) envFile(quota int64, marker bool) (service.EnvFile, error) {
	backend, err := n.backend()
	if err != nil {
		return service.EnvFile{}, err
	}
	have, err := n.environment()
	if err != nil {
		return service.EnvFile{}, err
	}
	s := service.Settings{
		Name: n.Config.Name, CertsDir: n.Config.CertsDir, Version: n.version(), BindAddress: n.address(),
		QuotaBytes: n.Config.QuotaBackendBytes, CipherSuites: n.Config.CipherSuites, ExtraEnv: n.Config.ExtraEnv,
	}
	if s.QuotaBytes == 0 {
		s.QuotaBytes = keptQuota(have, quota)
	}
	if marker || have["ETCD_PEER_CERT_ALLOWED_HOSTNAME"] != "" {
		s.PeerCertAllowedHostname = constants.PeerMarker
	}
	kvs, err := s.Environment(backend.PathFor)
	if err != nil {
		return service.EnvFile{}, err
	}
	ca, err := n.Host.ReadFile(n.Config.CertsDir + "/ca.crt")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return service.EnvFile{}, err
	}
	digest := service.Definition{Service: backend.Definition(), Environment: kvs, CA: ca, Binary: n.etcdBinary()}.Digest()
	return service.EnvFile{Host: n.Host, Environment: kvs, Digest: digest}, nil
}

// startPhase starts etcd, or restarts it when what runs is not what the environment file describes.
func (n *Node) startPhase() converge.Phase {
	return converge.Phase{Name: PhaseStart, Short: "etcd runs with its settings", Steps: func(context.Context) ([]converge.Step, error) {
		backend, err := n.backend()
		if err != nil {
			return nil, err
		}
		env, err := n.environment()
		if err != nil {
			return nil, err
		}
		digest := env[constants.DigestVariable]
		if digest == "" && !n.Host.ReadOnly() {
			return nil, errs.New(errs.Precondition, "%s is absent or does not describe a start", constants.EnvFile).
				Hint("run the phase configure first, or the whole command")
		}
		return []converge.Step{
			once("start/enabled", "etcd starts at boot", backend.Enabled()),
			{Name: "start/running", Short: "etcd runs", Want: backend.Running(digest), Within: constants.StopTimeout + constants.StartTimeout},
		}, nil
	}}
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

// health is the member serving, after which nothing of the first start is of use any more.
func (n *Node) health(context.Context) ([]converge.Step, error) {
	endpoint := n.Config.ClientURL()
	return []converge.Step{
		{Name: "health/serving", Short: "etcd serves", Within: constants.StartTimeout, Want: n.alive(n.local(func(c *etcd.Cluster) converge.Checker {
			return etcd.Healthy{Cluster: c, Endpoint: endpoint}
		}))},
		once("health/bootstrapped", "nothing of the first start", file.Absent{Host: n.Host, Paths: []string{constants.BootstrapFile}}),
		once("health/member", "who this member is", converge.CheckFunc(n.identify)),
	}, nil
}

// identify looks up for the report who the member on this node is.
func (n *Node) identify(ctx context.Context) (converge.Diff, error) {
	c, err := n.cluster(n.Config.ClientURL())
	if err != nil || n.Host.ReadOnly() {
		return nil, nil //nolint:nilerr // a dry run on a node that is none yet
	}
	s, err := c.Status(ctx, n.Config.ClientURL())
	if err != nil {
		return nil, err
	}
	n.Member = &report.Member{ID: hexID(s.MemberID), Name: n.Config.Name}
	return nil, nil
}

// local makes a Checker of the cluster as the member on this node serves it. Without a certificate to ask with there
// is no cluster yet.
func (n *Node) local(want func(*etcd.Cluster) converge.Checker) converge.Checker {
	return converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		c, err := n.cluster(n.Config.ClientURL())
		if err != nil {
			if n.Host.ReadOnly() {
				return gap("etcd", "not set up", "serving"), nil
			}
			return nil, err
		}
		return want(c).Check(ctx)
	})
}

// alive is a Checker that gives up when etcd does not stay up, and then tells what etcd said last.
func (n *Node) alive(want converge.Checker) converge.Checker {
	return converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		d, err := want.Check(ctx)
		if err == nil && len(d) == 0 || n.Host.ReadOnly() {
			return d, err
		}
		backend, berr := n.backend()
		if berr != nil {
			return nil, berr
		}
		s, serr := backend.State(ctx)
		if serr != nil || s.Running && s.Restarts < 3 || s.LastExit == "" {
			return d, err
		}
		lines, _ := backend.Logs(200)
		e := errs.New(errs.Failed, "etcd does not stay up: %s", s.LastExit)
		for _, l := range telling(lines) {
			e = e.Hint("etcd said: %s", l)
		}
		return nil, e.Hint("the whole log: %s", n.Host.Path(constants.LogFile))
	})
}

// telling picks the last lines that say why a program ended.
func telling(lines []string) []string {
	var picked []string
	for _, l := range slices.Backward(lines) {
		low := strings.ToLower(l)
		if strings.Contains(low, `"level":"fatal"`) || strings.Contains(low, `"level":"error"`) || strings.Contains(low, "panic:") || !strings.HasPrefix(l, "{") && l != "" {
			picked = append(picked, l)
		}
		if len(picked) == 3 {
			break
		}
	}
	slices.Reverse(picked)
	return picked
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
	if n.Config.Version != constants.DefaultVersion {
		command += " --version " + n.Config.Version
	}
	return command
}

// keptQuota is the quota that the node has, or the one that the caller found, or none of our own.
func keptQuota(have map[string]string, found int64) int64 {
	if q, err := strconv.ParseInt(have["ETCD_QUOTA_BACKEND_BYTES"], 10, 64); err == nil {
		return q
	}
	return found
}
