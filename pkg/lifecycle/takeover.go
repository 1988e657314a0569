package lifecycle

import (
	"context"
	"fmt"
	"path"
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
	l := &api.Layer{Origin: api.FromRetired, Set: map[string]bool{}}
	put := func(key string, there bool) {
		if there {
			l.Set[key] = true
		}
	}
	runs, err := runningVersion(ctx, h, r)
	if err == nil {
		l.Config.Version = runs.String()
	}
	l.Config.InstallDir = r.InstallDir
	put("version", err == nil)
	put("installDir", r.InstallDir != "")
	if r.Name == "" {
		return l, nil
	}
	l.Config.Name, l.Config.BindAddress, l.Config.DataDir, l.Config.CertsDir = r.Name, r.Address.String(), r.DataDir, r.CertsDir
	l.Config.CipherSuites, l.Config.QuotaBackendBytes = r.CipherSuites, r.QuotaBytes
	l.Config.DiskPriorities = append([]string{}, r.DiskPriorities...) // an empty list was a choice, too
	l.Config.ExtraEnv, _ = r.ExtraFor(runs)
	if !r.Handed {
		if l.Config.ServerCertExtraSANs, err = certs.ExtraNames(h, r.CertsDir, r.Name, r.Address); err != nil {
			return nil, err
		}
	}
	put("name", true)
	put("bindAddress", true)
	put("dataDir", true)
	put("certsDir", !r.Handed)
	put("diskPriorities", !r.Handed)
	put("cipherSuites", len(r.CipherSuites) > 0)
	put("quotaBackendBytes", r.QuotaBytes > 0)
	put("serverCertExtraSANs", len(l.Config.ServerCertExtraSANs) > 0)
	put("extraEnv", len(l.Config.ExtraEnv) > 0)
	return l, nil
}

// runningVersion is the version of the etcd that is to be taken over: of the one that runs, else of the one that is
// installed.
func runningVersion(ctx context.Context, h *host.Host, r *service.Retired) (version.Etcd, error) {
	program := h.RealPath(path.Join(r.InstallDir, "etcd"))
	s, err := service.NewSystemd(h, service.Unit{}).State(ctx)
	switch {
	case err == nil && s.Running:
		program = fmt.Sprintf("/proc/%d/exe", s.PID)
	case r.Handed:
		return version.Etcd{}, errs.New(errs.Precondition, "%s does not run", constants.Unit)
	}
	return programVersion(ctx, h, program)
}

// programVersion asks an etcd, by a real path, for its version.
func programVersion(ctx context.Context, h *host.Host, program string) (version.Etcd, error) {
	ctx, cancel := context.WithTimeout(ctx, constants.RequestTimeout)
	defer cancel()
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

// unitOfOthers is no etcd.service but ours, and one of the retired etcdadm that can be taken over.
func (n *Node) unitOfOthers(ctx context.Context) (converge.Diff, error) {
	if _, err := service.FindRetired(n.Host); err != nil {
		return nil, err
	}
	return preflight.ForeignUnit{Host: n.Host, Ours: func(text []byte) bool {
		return service.IsUnit(text) || service.IsRetiredUnit(text)
	}}.Check(ctx)
}

// foreignUnit is no etcd.service that cannot be taken over. It tells what a takeover is about to do.
func (n *Node) foreignUnit(ctx context.Context) (converge.Diff, error) {
	d, err := n.unitOfOthers(ctx)
	r := n.retired()
	if r == nil || err != nil {
		return d, err
	}
	converge.Notef(ctx, "the etcd on this node is taken over with its data and its place in the cluster")
	if _, dropped := r.ExtraFor(n.version()); len(dropped) > 0 {
		converge.Warnf(ctx, "%s: what %s says there is given up: etcd %s does not read it, or etcdadm says it otherwise", constants.EnvFile, strings.Join(dropped, ", "), n.version())
	}
	return nil, nil
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
	have, err = runningVersion(ctx, n.Host, r)
	return have, err == nil, nil // where it cannot be told, whoever runs init or join has said one
}

// takeover are the steps by which the certificates of the retired etcdadm become ours; none on any other node.
func (n *Node) takeover(ca bool) []converge.Step {
	if r := n.retired(); r == nil || r.Handed {
		return nil
	}
	return []converge.Step{once("takeover/certificates", "certificates of the retired etcdadm", certs.Adopted(n.Host, n.Config.CertsDir, ca))}
}

// retiredPrograms are the programs that the retired etcdadm left in the install directory. They are told by its unit, and
// so they go before it. Where a takeover came before, links have taken their place.
func (n *Node) retiredPrograms() []string {
	r := n.retired()
	if r == nil || r.Handed {
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
