package lifecycle

import (
	"context"
	"strings"

	"etcdadm/binary"
	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/api"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/preflight"
	"etcdadm/pkg/version"
	"etcdadm/service"
)

// A node of the retired etcdadm is taken over where it stands: its files are read as a configuration, as long as there is
// none of ours, and from there on every operation does what it always does. The unit says whose the node is. It is
// replaced after all that has to be known has been written down.

// Found is what a node of the retired etcdadm says about itself, as the weakest layer of its configuration; nil where
// there is no such node, or one that cannot be taken over.
func Found(ctx context.Context, h *host.Host) (*api.Layer, error) {
	r := found(h)
	if r == nil {
		return nil, nil
	}
	l := &api.Layer{Origin: api.FromRetired, Set: map[string]bool{"installDir": true}}
	l.Config.InstallDir = r.InstallDir
	runs, err := programVersion(ctx, h, r.InstallDir)
	if err == nil {
		l.Config.Version, l.Set["version"] = runs.String(), true
	}
	if r.Name == "" {
		return l, nil
	}
	set := func(key string, there bool) {
		if there {
			l.Set[key] = true
		}
	}
	extra, err := certs.ExtraNames(h, r.CertsDir, r.Name, r.Address)
	if err != nil {
		return nil, err
	}
	l.Config.Name, l.Config.BindAddress, l.Config.CertsDir, l.Config.DataDir = r.Name, r.Address.String(), r.CertsDir, r.DataDir
	for _, key := range []string{"name", "bindAddress", "certsDir", "dataDir"} {
		set(key, true)
	}
	l.Config.ServerCertExtraSANs, l.Config.CipherSuites, l.Config.DiskPriorities = extra, r.CipherSuites, r.DiskPriorities
	set("serverCertExtraSANs", len(extra) > 0)
	set("cipherSuites", len(r.CipherSuites) > 0)
	set("diskPriorities", true)
	if l.Config.DiskPriorities == nil { // its callers had an empty list, too
		l.Config.DiskPriorities = []string{}
	}
	l.Config.QuotaBackendBytes = r.QuotaBytes
	set("quotaBackendBytes", r.QuotaBytes > 0)
	l.Config.ExtraEnv, _ = r.ExtraFor(runs)
	set("extraEnv", len(l.Config.ExtraEnv) > 0)
	return l, nil
}

// programVersion asks the etcd of an install directory for its version.
func programVersion(ctx context.Context, h *host.Host, installDir string) (version.Etcd, error) {
	ctx, cancel := context.WithTimeout(ctx, constants.RequestTimeout)
	defer cancel()
	program := h.RealPath(installDir + "/etcd")
	out, err := h.Query(ctx, host.Command{Path: program, Args: []string{"--version"}})
	if err != nil {
		return version.Etcd{}, err
	}
	line, _, _ := strings.Cut(string(out), "\n")
	v, ok := strings.CutPrefix(line, "etcd Version: ")
	if !ok {
		return version.Etcd{}, errs.New(errs.Failed, "%s --version says %.80q", program, line)
	}
	return version.ParseEtcd(strings.TrimSpace(v))
}

// found is the node as the retired etcdadm set it up; nil when it is none, or not any more, or when its etcd is somebody's
// own: the check of foreign units says why.
func found(h *host.Host) *service.Retired {
	r, err := service.FindRetired(h)
	if err != nil {
		return nil
	}
	return r
}

func (n *Node) retired() *service.Retired {
	if n.Config.InitSystem != api.Systemd {
		return nil
	}
	return found(n.Host)
}

// foreignUnit is no etcd.service that cannot be taken over.
func (n *Node) foreignUnit(ctx context.Context) (converge.Diff, error) {
	if _, err := service.FindRetired(n.Host); err != nil {
		return nil, err
	}
	return preflight.ForeignUnit{Host: n.Host, Ours: func(text []byte) bool {
		return service.IsUnit(text) || service.IsRetiredUnit(text)
	}}.Check(ctx)
}

// installedVersion is the version of the etcd that is installed; false when none is. That of the retired etcdadm is asked.
func (n *Node) installedVersion(ctx context.Context) (version.Etcd, bool, error) {
	if n.Config.InitSystem == api.Kubelet {
		return n.podVersion()
	}
	have, installed, err := binary.InstalledVersion(n.Host, n.Config.InstallDir)
	if err != nil || installed {
		return have, installed, err
	}
	r := n.retired()
	if r == nil {
		return version.Etcd{}, false, nil
	}
	if have, err = programVersion(ctx, n.Host, r.InstallDir); err != nil {
		return version.Etcd{}, false, errs.New(errs.Precondition, "the version of the etcd that the retired etcdadm installed cannot be told: %w", err).
			Hint("see what it says: %s/etcd --version", r.InstallDir)
	}
	return have, true, nil
}

// takeover are the steps by which what the retired etcdadm made becomes ours; none on any other node.
func (n *Node) takeover() []converge.Step {
	r := n.retired()
	if r == nil {
		return nil
	}
	adopted := certs.Adopted(n.Host, n.Config.CertsDir, true)
	return []converge.Step{once(PhaseConfig+"/takeover", "node of the retired etcdadm", noted{adopted, func(ctx context.Context) {
		converge.Notef(ctx, "this node was set up by the retired etcdadm: it is taken over with its data, its certificates and its place in the cluster")
		if _, dropped := r.ExtraFor(n.version()); len(dropped) > 0 {
			converge.Warnf(ctx, "%s: %s is not kept: etcd %s does not read it, or etcdadm sets it", constants.EnvFile, strings.Join(dropped, ", "), n.version())
		}
	}})}
}

// noted is a resource that tells something when there is a gap.
type noted struct {
	converge.Resource
	note func(context.Context)
}

func (r noted) Check(ctx context.Context) (converge.Diff, error) {
	d, err := r.Resource.Check(ctx)
	if err == nil && len(d) > 0 {
		r.note(ctx)
	}
	return d, err
}

// retiredPrograms are the programs that the retired etcdadm left in the install directory. They are told by its unit, and
// so they go before it. Where a takeover came before, links have taken their place.
func (n *Node) retiredPrograms() []string {
	r := n.retired()
	if r == nil {
		return nil
	}
	var paths []string
	for _, tool := range []string{"etcd", "etcdctl", "etcdutl"} {
		p := r.InstallDir + "/" + tool
		if info, err := n.Host.Lstat(p); err == nil && info.Mode().IsRegular() {
			paths = append(paths, p)
		}
	}
	return paths
}
