package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strconv"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/file"
	"etcdadm/pkg/snapshot"
	"etcdadm/service"
)

// alone is the first start of a cluster with this node as its only member.
func (n *Node) alone() service.Bootstrap {
	return service.Bootstrap{InitialCluster: n.Config.Name + "=" + n.Config.PeerURL(), State: "new"}
}

// configure is everything that etcd reads at its start. What it needs only for the first one goes before the
// environment, so that an environment without it and without data tells of data that was lost.
func (n *Node) configure(ctx context.Context, b service.Bootstrap, quota int64, marker bool) ([]converge.Step, error) {
	state, err := n.data()
	if err != nil {
		return nil, err
	}
	backend, err := n.backend()
	if err != nil {
		return nil, err
	}
	steps := n.account(PhaseConfigure)
	unborn := snapshot.Unborn{Host: n.Host, DataDir: n.Config.DataDir}
	if begins, err := n.bootstrapping(); err != nil {
		return nil, err
	} else if begins && b.State == "new" && len(n.Config.JoinEndpoints) == 0 { // one that joins gets its first entry from the others
		if d, err := unborn.Check(ctx); err != nil {
			return nil, err
		} else if len(d) > 0 {
			steps = append(steps, stopped(backend, "etcd of a first start that was cut off is stopped"), once("configure/unborn", "nothing of a first start that was cut off", unborn))
			state.Kind = snapshot.Empty
		}
	}
	for _, f := range backend.Files() {
		steps = append(steps, once("configure/"+path.Base(f.Path), path.Base(f.Path), f))
	}
	if have, err := n.environment(); err != nil {
		return nil, err
	} else if systemd, ok := backend.(interface{ Loaded() converge.Resource }); ok && have["ETCD_DATA_DIR"] != "" { // of the retired etcdadm
		steps = append(steps, once("configure/loaded", "etcd.service as systemd knows it", systemd.Loaded()))
	}
	steps = append(steps, once("configure/data-dir", "data directory", file.Dir{Host: n.Host, Path: n.Config.DataDir, Mode: 0o700, Owner: n.owner()}))
	switch {
	case state.Kind == snapshot.Unreadable:
		steps = append(steps, once("configure/bootstrap", "settings of the first start", converge.CheckFunc(func(context.Context) (converge.Diff, error) {
			return nil, errs.New(errs.Precondition, "%s is not readable for this user: %w", n.Config.DataDir, fs.ErrPermission).Hint("run this command as root")
		})))
	case bootstrapped(state):
		steps = append(steps, once("configure/bootstrap", "nothing of the first start", file.Absent{Host: n.Host, Paths: []string{constants.BootstrapFile}}))
	default:
		steps = append(steps, once("configure/bootstrap", "settings of the first start", service.BootstrapFile{Host: n.Host, Want: b}))
	}
	env, err := n.envFile(quota, marker)
	if err != nil {
		return nil, err
	}
	// What is left goes when all is settled: by it a run that was killed knows that a reset had given the data up.
	return append(steps, once("configure/environment", "settings of etcd", env),
		once("configure/leftovers", "nothing left of runs that were killed", snapshot.Cleared{Host: n.Host, DataDir: n.Config.DataDir})), nil
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
		PeerURL: n.Config.PeerURL(), ClientURL: n.Config.ClientURL(),
		QuotaBytes: n.Config.QuotaBackendBytes, CipherSuites: n.Config.CipherSuites, ExtraEnv: n.Config.ExtraEnv,
	}
	if s.QuotaBytes == 0 {
		s.QuotaBytes = keptQuota(have, quota)
	}
	if marker || have["ETCD_PEER_CERT_ALLOWED_HOSTNAME"] != "" {
		s.PeerCertAllowedHostname, s.MaxLearners = constants.PeerMarker, constants.MaxLearners
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

// keptQuota is the quota that the node has, or the one that the caller found, or none of our own.
func keptQuota(have map[string]string, found int64) int64 {
	if q, err := strconv.ParseInt(have["ETCD_QUOTA_BACKEND_BYTES"], 10, 64); err == nil {
		return q
	}
	return found
}
