// Package lifecycle says what each operation consists of: a plain list of phases, each a plain list of steps. It is the
// only place where releases, certificates, the service, the cluster and snapshots meet.
//
// Read init.go first: it is the longest list, and the others are made of the same steps. Constructors of plans do not
// touch the node, and steps hand nothing to each other: the next one observes.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"etcdadm/binary"
	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/api"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/etcd"
	"etcdadm/pkg/host"
	"etcdadm/pkg/report"
	"etcdadm/pkg/snapshot"
	"etcdadm/pkg/version"
	"etcdadm/service"
)

// The names of phases that callers count on.
const (
	PhasePreflight    = "preflight"
	PhaseConfig       = "config"
	PhaseInstall      = "install"
	PhaseCertificates = "certificates"
	PhaseSnapshot     = "snapshot"
	PhaseMembership   = "membership"
	PhaseConfigure    = "configure"
	PhaseStart        = "start"
	PhaseEtcdctl      = "etcdctl"
	PhaseHealth       = "health"
	PhaseStop         = "stop"
)

// RiskUnverifiedDownload is the name of the risk of an archive that nobody vouches for.
const RiskUnverifiedDownload = "unverified-download"

// RiskLoseQuorum is the name of the risk that a cluster stands still while a member restarts.
const RiskLoseQuorum = "lose-quorum"

// Node is what an operation works on: the desired state, and the ways to the machine and its cluster.
type Node struct {
	Config           api.Config
	Host             *host.Host
	Log              *slog.Logger
	Now              func() time.Time
	Sums             map[string]string // digests that the caller trusts, by file name; nil: the compiled-in ones
	AcceptUnverified bool

	// StoredDataDir is the data directory in the stored configuration; "" when none is stored.
	StoredDataDir string

	// Unstored is what is wrong with the stored configuration; Config is made without it then, and may not be this node's.
	Unstored error

	// Transient are the keys of settings that are not stored: what was found on this machine, when only a part of an
	// operation runs. It may be that an image is made here of which other machines are copies. Nor is a version stored
	// that nobody named, before a release is installed.
	Transient []string

	// Member and Next are for the report: who this node is at the end, and what its operator may do next.
	Member *report.Member
	Next   []report.Next

	// AcceptLoseQuorum lets a restart take the quorum away.
	AcceptLoseQuorum bool

	process service.Backend // under --init-system process, once: it remembers that it looked through all processes

	turn      *etcd.Turn     // to be away, while this operation lasts
	admission etcd.Admission // to be added and started
	clusters  map[string]*etcd.Cluster
	snapshots map[string]snapshot.Info // verified in this run
}

// Close gives back the turn to be away and the admission, and ends the connections to the cluster.
func (n *Node) Close() {
	if n.turn != nil {
		n.turn.Close()
		n.turn = nil
	}
	n.admission.Close()
	for _, c := range n.clusters {
		c.Close()
	}
	n.clusters = nil
}

// SyncNames makes durable which files there are: a run that was killed, or that failed, may not have come to that, and the
// next one finds its work done. What a file holds is on the disk before it has its name. Where systemctl makes links it
// makes directories too.
func (n *Node) SyncNames() error {
	c := n.Config
	dirs := []string{
		"/etc", path.Dir(constants.ConfigFile), constants.EtcdDir, path.Dir(c.CertsDir), c.CertsDir, path.Join(c.CertsDir, certs.PairsDir),
		path.Dir(constants.SysusersFile), path.Dir(c.InstallDir), c.InstallDir, path.Join(c.InstallDir, constants.ReleasesDir),
		path.Dir(c.DataDir), c.DataDir, constants.BackupDir,
	}
	if c.InitSystem == api.Kubelet {
		dirs = append(dirs, c.KubeletPodManifestPath)
	}
	var all []string
	for _, dir := range dirs {
		for p := n.Host.Resolved(dir); !slices.Contains(all, p); p = path.Dir(p) { // up to one that is there already, at last "/"
			all = append(all, p)
		}
	}
	for _, dir := range all {
		if err := n.Host.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := n.Host.SyncTree(path.Dir(constants.UnitFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// version is valid: the configuration was validated.
func (n *Node) version() version.Etcd {
	v, _ := version.ParseEtcd(n.Config.Version)
	return v
}

func (n *Node) address() netip.Addr {
	a, _ := netip.ParseAddr(n.Config.BindAddress)
	return a
}

func (n *Node) listeners() service.Listeners { return service.ListenersOf(n.address()) }

func (n *Node) source() binary.Source {
	return binary.Source{
		Host: n.Host, Version: n.version(), Arch: runtime.GOARCH, ReleaseURL: n.Config.ReleaseURL, Trusted: n.Sums,
		AcceptUnverified: n.AcceptUnverified, Connect: n.Config.DownloadConnectTimeout.Duration,
	}
}

func (n *Node) installed() binary.Installed {
	return binary.Installed{Source: n.source(), InstallDir: n.Config.InstallDir}
}

// ChooseVersion settles which release is installed where nobody named a version: the default one, unless no server has it
// for us and the cache holds exactly one other. Then it returns what to tell the user of that; "" otherwise.
func (n *Node) ChooseVersion(ctx context.Context) (string, error) {
	if n.Config.InitSystem == api.Kubelet { // no server is asked for what comes as an image
		return "", nil
	}
	cached, err := binary.CachedVersions(n.Host, n.source().Arch)
	if err != nil || len(cached) != 1 || cached[0] == n.version() {
		return "", err
	}
	if d, err := n.installed().Check(ctx); err == nil && len(d) == 0 {
		return "", nil
	}
	problem := n.source().Available(ctx)
	if problem == nil || ctx.Err() != nil {
		return "", ctx.Err()
	}
	told := fmt.Sprintf("etcd %s is installed, the only release in the cache: no --version was given, and %s cannot be had (%s)",
		cached[0], n.version(), problem)
	n.Config.Version = cached[0].String()
	return told, nil
}

// backend is how etcd is kept running here.
func (n *Node) backend() (service.Backend, error) {
	switch n.Config.InitSystem {
	case api.Process:
		if n.process == nil {
			n.process = service.NewProcess(n.Host, n.Config.InstallDir, n.Config.DataDir)
		}
		return n.process, nil
	case api.Systemd:
		return service.NewSystemd(n.Host, service.Unit{
			InstallDir: n.Config.InstallDir, DataDir: n.Config.DataDir, CertsDir: n.Config.CertsDir, DiskPriorities: n.Config.DiskPriorities,
			Data: n.Host.Resolved(n.Config.DataDir),
		}), nil
	case api.Kubelet:
		return service.NewKubelet(n.Host, service.Pod{
			Image: n.Config.ImageRepository + ":v" + n.version().String(), ManifestDir: n.Config.KubeletPodManifestPath,
			DataDir: n.Config.DataDir, CertsDir: n.Config.CertsDir, Listeners: n.listeners(),
		}), nil
	default:
		return nil, errs.New(errs.Usage, "the init system %q is unknown", n.Config.InitSystem).Hint("--init-system %s", api.InitSystems[0])
	}
}

// startLimit is how long etcd may take from its start to its first answer.
func (n *Node) startLimit() time.Duration {
	backend, err := n.backend()
	if err != nil {
		return constants.StartTimeout
	}
	return backend.StartLimit()
}

// podVersion is the version of the etcd in the static pod; false when there is none of ours, or none to be read.
func (n *Node) podVersion() (version.Etcd, bool, error) {
	text, err := service.PodVersion(n.Host, n.Config.KubeletPodManifestPath)
	if errors.Is(err, fs.ErrPermission) { // a dry run, or a status, of another user than root
		return version.Etcd{}, false, nil
	}
	if err != nil || text == "" {
		return version.Etcd{}, false, err
	}
	v, err := version.ParseEtcd(text)
	return v, err == nil, nil
}

// owner is to whom the data and the keys of etcd belong.
func (n *Node) owner() host.Owner {
	backend, err := n.backend()
	if err != nil {
		return host.Owner{}
	}
	return backend.Owner()
}

// account is the user that etcd runs as; no step where that is the caller. Every phase that gives it files begins so.
func (n *Node) account(phase string) []converge.Step {
	owner := n.owner()
	if owner == (host.Owner{}) {
		return nil
	}
	return []converge.Step{once(phase+"/user", "user "+owner.Name, service.Account{Host: n.Host, Owner: owner})}
}

func (n *Node) authority(from string) certs.Authority {
	algorithm, _ := certs.ParseKeyAlgorithm(n.Config.KeyAlgorithm)
	return certs.Authority{Host: n.Host, Dir: n.Config.CertsDir, Algorithm: algorithm, Now: n.Now, From: from}
}

// leaves are the pairs of this node. peers are the peer URLs of the other members that are known.
func (n *Node) leaves(peers []string, missingOnly bool) ([]certs.Leaf, error) {
	algorithm, _ := certs.ParseKeyAlgorithm(n.Config.KeyAlgorithm)
	base := certs.Leaf{
		Host: n.Host, Dir: n.Config.CertsDir, Algorithm: algorithm, Now: n.Now,
		RenewBefore: constants.RenewBefore, KeepExisting: missingOnly,
	}
	own := []netip.Addr{n.address()}
	named := base
	if n.Config.AdvertiseName != "" {
		named.DNSNames = []string{n.Config.AdvertiseName}
	}
	server, err := certs.Server(named, n.Config.Name, own, n.Config.ServerCertExtraSANs)
	if err != nil {
		return nil, err
	}
	sources, err := n.sources(peers)
	if err != nil {
		return nil, err
	}
	peer := certs.Peer(named, n.Config.Name, own, sources, constants.PeerMarker)
	server.Owner, peer.Owner = n.owner(), n.owner() // etcd reads these two
	env, err := n.environment()
	if err != nil {
		return nil, err
	}
	if env != nil && env["ETCD_PEER_CERT_ALLOWED_HOSTNAME"] == "" { // a member that lives among others without the marker
		peer.Optional = []string{constants.PeerMarker}
	}
	return []certs.Leaf{
		server,
		peer,
		certs.EtcdctlClient(base, n.Config.Name),
		certs.APIServerClient(base, n.Config.Name),
	}, nil
}

// sources are the addresses from which this node connects to its peers: to those that are given, and to those that it joined,
// so that a pair which is issued later names no fewer. A name among the latter is left out: a renewal looks nothing up.
// What the pair has named so far stays, where this node still has that address. Between loopback addresses the source is
// 127.0.0.1, whatever address a member is bound to.
func (n *Node) sources(peers []string) ([]netip.Addr, error) {
	var list []netip.Addr
	add := func(a netip.Addr) {
		if !slices.Contains(list, a) && a.IsLoopback() == n.address().IsLoopback() {
			list = append(list, a)
		}
	}
	joined := slices.DeleteFunc(slices.Clone(n.Config.JoinEndpoints), func(u string) bool {
		_, err := netip.ParseAddrPort(hostPort(u))
		return err != nil
	})
	for _, target := range slices.Concat([]string{n.listeners().Peer}, peers, joined) {
		if target = hostPort(target); target == "" {
			continue
		}
		if a, err := etcd.SourceAddress(target); err == nil {
			add(a)
		}
	}
	named, err := certs.Addresses(n.Host, n.Config.CertsDir, certs.PeerName)
	if err != nil {
		return nil, err
	}
	for _, a := range named { // to an address of this node, connections come from that one
		if from, err := etcd.SourceAddress(netip.AddrPortFrom(a, constants.PeerPort).String()); err == nil && from == a {
			add(a)
		}
	}
	if n.address().IsLoopback() && n.address().Is4() {
		add(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return list, nil
}

// cluster returns the cluster behind the endpoints. The connections are kept for the steps that follow.
func (n *Node) cluster(endpoints ...string) (*etcd.Cluster, error) {
	key := strings.Join(endpoints, ",")
	if c := n.clusters[key]; c != nil {
		return c, nil
	}
	t, err := certs.ClientTLS(n.Host, n.Config.CertsDir, certs.EtcdctlName)
	if err != nil {
		return nil, err
	}
	c := etcd.Open(etcd.Options{Host: n.Host, Endpoints: endpoints, TLS: t, Log: n.Log})
	if n.clusters == nil {
		n.clusters = map[string]*etcd.Cluster{}
	}
	n.clusters[key] = c
	return c, nil
}

// data is what stands in the data directory.
func (n *Node) data() (snapshot.State, error) {
	return snapshot.InspectDir(n.Host, n.Config.DataDir)
}

// environment is the environment file as it stands on the node; nil when there is none.
func (n *Node) environment() (map[string]string, error) {
	data, err := n.Host.ReadFile(constants.EnvFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	kvs, err := service.ParseEnv(data)
	if err != nil {
		return nil, errs.New(errs.Precondition, "%s: %w", constants.EnvFile, err).Hint("mend or remove the file, then run this command again")
	}
	env := map[string]string{}
	for _, kv := range kvs {
		env[kv.Key] = kv.Value
	}
	return env, nil
}

// Remembered is who a node without a stored configuration is, as etcd was told: its name and its address. Where that
// cannot be read, the layer says nothing.
func Remembered(h *host.Host) api.Layer {
	l := api.Layer{Origin: api.FromStored, Set: map[string]bool{}}
	env, err := (&Node{Host: h}).environment()
	if err != nil {
		return l
	}
	if name := env["ETCD_NAME"]; name != "" {
		l.Config.Name, l.Set["name"] = name, true
	}
	if at, err := netip.ParseAddrPort(hostPort(env["ETCD_LISTEN_PEER_URLS"])); err == nil {
		l.Config.BindAddress, l.Set["bindAddress"] = at.Addr().String(), true
	}
	advertised := hostPort(env["ETCD_INITIAL_ADVERTISE_PEER_URLS"])
	if _, err := netip.ParseAddrPort(advertised); err != nil && advertised != "" {
		l.Config.AdvertiseName, _, _ = strings.Cut(advertised, ":")
		l.Set["advertiseName"] = true
	}
	return l
}

// bootstrapping tells whether the member has yet to start for the first time: what it needs for that is still there.
func (n *Node) bootstrapping() (bool, error) { return n.Host.Exists(constants.BootstrapFile) }

// isMember tells whether the data directory holds a member that this node was set up for.
func (n *Node) isMember() (bool, error) {
	s, err := n.data()
	if err != nil || s.Kind != snapshot.Whole {
		return false, err
	}
	env, err := n.environment()
	return env != nil, err
}

// ParseEndpoints reads a comma-separated list of client URLs.
func ParseEndpoints(list string) ([]string, error) {
	var endpoints []string
	for e := range strings.SplitSeq(list, ",") {
		if e = strings.TrimRight(strings.TrimSpace(e), "/"); e == "" {
			continue
		}
		if !strings.HasPrefix(e, "https://") || hostPort(e) == "" {
			return nil, errs.New(errs.Usage, "%q is not the client URL of a member", e).
				Hint("give URLs such as https://10.0.0.7:%d, with commas between them", constants.ClientPort)
		}
		if !slices.Contains(endpoints, e) {
			endpoints = append(endpoints, e)
		}
	}
	if len(endpoints) == 0 {
		return nil, errs.New(errs.Usage, "%q names no member", list).Hint("etcdadm join https://10.0.0.7:%d", constants.ClientPort)
	}
	return endpoints, nil
}

// once is a step without a limit of its own.
func once(name, short string, want converge.Checker) converge.Step {
	return converge.Step{Name: name, Short: short, Want: want}
}

// fixed is a phase whose steps are known from the start.
func fixed(steps ...converge.Step) func(context.Context) ([]converge.Step, error) {
	return func(context.Context) ([]converge.Step, error) { return steps, nil }
}

// gap is one difference.
func gap(what, have, want string) converge.Diff {
	return converge.Diff{{What: what, Have: have, Want: want}}
}

// etcdBinary is the logical path of the program that the link in the install directory leads to.
func (n *Node) etcdBinary() string {
	return path.Join(n.Config.InstallDir, constants.ReleasesDir, "v"+n.version().String(), "etcd")
}

// Supervise keeps etcd running on this node until it is told to stop: what --init-system process starts.
func Supervise(ctx context.Context, n *Node) error {
	return service.Supervise(ctx, n.Host, n.Config.InstallDir, n.Config.DataDir)
}
