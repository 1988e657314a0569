package lifecycle

import (
	"context"
	"net/netip"
	"path"
	"runtime"
	"strings"
	"time"

	"etcdadm/binary"
	"etcdadm/constants"
	"etcdadm/pkg/api"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/etcd"
	"etcdadm/pkg/preflight"
	"etcdadm/pkg/snapshot"
	pkgversion "etcdadm/pkg/version"
	"etcdadm/service"
)

// CheckNames are the names of all checks, of this node and of the cluster. Scripts know them: none is ever changed.
var CheckNames = []string{
	"Address", "AdvertiseName", "Architecture", "CA", "CAUnknown", "Clock", "ClusterClock", "DataDirectory", "DataFileSystem", "DataLost", "DataMounted", "DataMoved", "DatabaseSpace",
	"DiskLatency", "Firewall", "ForeignUnit", "FreeSpace", "MemberName", "Name", "OneAddress", "OpenFiles", "OtherMembers", "Ports", "Proxy",
	"Reachable", "Root", "SELinux", "Settings", "Snapshot", "SourceAddress", "StaticPods", "Swap", "Systemd", "Version", "VersionChange", "VersionSkew",
}

// check is a check by name: a step of a phase of checks, or one that comes again before a change. The last part of its name
// is in CheckNames, and what --ignore-preflight-errors takes.
func check(phase, name, short string, want converge.Checker) converge.Step {
	return converge.Step{Name: phase + "/" + name, Short: short, Want: want, Named: true}
}

// nodeChecks are those of every operation that starts etcd here.
func (n *Node) nodeChecks(ctx context.Context) ([]converge.Step, error) {
	const phase = PhasePreflight
	gate, err := n.gate(ctx)
	if err != nil {
		return nil, err
	}
	return append(n.hostChecks(),
		check(phase, "Root", "user", preflight.Root{Host: n.Host}),
		check(phase, "Architecture", "architecture", preflight.Architecture{Arch: runtime.GOARCH}),
		check(phase, "Name", "name", preflight.Name{Name: n.Config.Name, PeerURL: n.Config.PeerURL()}),
		check(phase, "Address", "bind address", preflight.Address{Address: n.address()}),
		check(phase, "AdvertiseName", "advertised name", preflight.Advertised{Name: n.Config.AdvertiseName, Address: n.address()}),
		check(phase, "Version", "version of etcd", gate),
		check(phase, "VersionChange", "change of the version", converge.CheckFunc(n.versionChange)),
		check(phase, "Settings", "settings of etcd", converge.CheckFunc(n.settingsValid)),
		n.dataMounted(phase),
		check(phase, "DataMoved", "place of the data", converge.CheckFunc(n.dataMoved)),
		check(phase, "Ports", "ports", converge.CheckFunc(n.portsFree)),
		check(phase, "DataFileSystem", "file system of the data", preflight.DataFileSystem{Host: n.Host, Path: n.Config.DataDir}),
		check(phase, "Clock", "clock", preflight.Clock{Now: n.Now, Built: built()}),
		check(phase, "Proxy", "proxy", preflight.Proxy{URLs: []string{n.Config.PeerURL(), n.Config.ClientURL()}}),
	), nil
}

// hostChecks are those of what keeps etcd running: for systemd, which is a whole machine, the most.
func (n *Node) hostChecks() []converge.Step {
	const phase = PhasePreflight
	if n.Config.InitSystem == api.Kubelet {
		return []converge.Step{check(phase, "StaticPods", "static pods", preflight.StaticPods{
			Host: n.Host, Dir: n.Config.KubeletPodManifestPath, File: constants.ManifestFile, Ours: service.IsManifest,
		})}
	}
	if n.Config.InitSystem != api.Systemd {
		return nil
	}
	return []converge.Step{
		check(phase, "Systemd", "init system", preflight.Systemd{Host: n.Host}),
		check(phase, "ForeignUnit", "etcd of others", converge.CheckFunc(n.foreignUnit)),
		check(phase, "Firewall", "firewall", preflight.Firewall{Host: n.Host, Ports: []int{constants.ClientPort, constants.PeerPort}}),
		check(phase, "SELinux", "SELinux", preflight.SELinux{Host: n.Host, InstallDir: n.Config.InstallDir}),
		check(phase, "Swap", "swap", preflight.Swap{Host: n.Host}),
		check(phase, "OpenFiles", "open files", preflight.OpenFiles{Host: n.Host}),
		check(phase, "OneAddress", "addresses", preflight.OneAddress{Address: n.address()}),
		check(phase, "DiskLatency", "disk", n.fresh(preflight.DiskLatency{Host: n.Host, Path: n.Config.DataDir})),
	}
}

// fresh is a check of a node that holds no member yet.
func (n *Node) fresh(c converge.Checker) converge.Checker {
	return converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		if s, err := n.data(); err != nil || bootstrapped(s) {
			return nil, err
		}
		return c.Check(ctx)
	})
}

// caChecks are those of a CA before pairs are issued by it.
func (n *Node) caChecks(phase string, ca converge.Checker, missingOnly bool) []converge.Step {
	return []converge.Step{
		check(phase, "CA", "CA", withoutGap(ca)),
		check(phase, "CAUnknown", "CA of the member that runs", converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) { return nil, n.caUnknown(ctx, missingOnly) })),
	}
}

func (n *Node) initChecks(ctx context.Context, o InitOptions) ([]converge.Step, error) {
	ca, err := n.ca()
	if err != nil {
		return nil, err
	}
	steps, err := n.nodeChecks(ctx)
	if err != nil {
		return nil, err
	}
	steps = append(steps, n.caChecks(PhasePreflight, ca, false)...)
	var info snapshot.Info
	if o.Snapshot != "" {
		steps = append(steps, check(PhasePreflight, "Snapshot", "snapshot", converge.CheckFunc(func(ctx context.Context) (_ converge.Diff, err error) {
			info, err = n.verified(ctx, o.Snapshot, o.SkipHashCheck)
			return nil, err
		})), n.otherMembers(o.Snapshot, o.SkipHashCheck, o.BumpRevision))
	}
	return append(steps,
		check(PhasePreflight, "DataDirectory", "data directory", converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
			ours, err := n.dataIsOurs(ctx)
			if o.Snapshot != "" && err == nil {
				d, derr := n.fromSnapshot(info, o.BumpRevision).Check(ctx)
				ours, err = derr == nil && len(d) == 0, derr
			}
			if err != nil {
				return nil, err
			}
			return n.dataDirectory(ours).Check(ctx)
		})),
		n.noDataLost(PhasePreflight, o),
		n.freeSpace(PhasePreflight, "FreeSpace", nil),
	), nil
}

func (n *Node) joinChecks(ctx context.Context, o JoinOptions) ([]converge.Step, error) {
	steps, err := n.nodeChecks(ctx)
	if err != nil {
		return nil, err
	}
	return append(append(steps, n.caChecks(PhasePreflight, n.authority(hostOf(o.Endpoints)).Given(), o.MissingOnly)...),
		check(PhasePreflight, "DataDirectory", "data directory", converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
			ours, err := n.dataIsOurs(ctx)
			if err != nil {
				return nil, err
			}
			return n.dataDirectory(ours).Check(ctx)
		})),
		n.freeSpace(PhasePreflight, "FreeSpace", nil),
	), nil
}

func (n *Node) restoreChecks(ctx context.Context, o RestoreOptions) ([]converge.Step, error) {
	steps, err := n.nodeChecks(ctx)
	return append(steps,
		check(PhasePreflight, "CA", "CA", withoutGap(n.authority("").Created())),
		check(PhasePreflight, "Snapshot", "snapshot", converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
			info, err := n.verified(ctx, o.File, o.SkipHashCheck)
			if err != nil {
				return nil, err
			}
			if d, err := n.fromSnapshot(info, o.BumpRevision).Check(ctx); err != nil || len(d) == 0 {
				return nil, err
			}
			return nil, snapshot.RoomFor(n.Host, n.Config.DataDir, info)
		})),
		n.otherMembers(o.File, o.SkipHashCheck, o.BumpRevision),
	), err
}

// otherMembers is nobody answering of a cluster that is about to begin anew from a snapshot.
func (n *Node) otherMembers(file string, skipHash bool, bump uint64) converge.Step {
	return check(PhasePreflight, "OtherMembers", "other members", converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		info, err := n.verified(ctx, file, skipHash)
		if err != nil { // the check of the snapshot says so
			return nil, nil //nolint:nilerr
		}
		if d, err := n.fromSnapshot(info, bump).Check(ctx); err == nil && len(d) == 0 { // restored already: those who answer are of the new cluster
			return nil, nil
		}
		return n.othersSilent(ctx)
	}))
}

func (n *Node) resetChecks(context.Context) ([]converge.Step, error) {
	return []converge.Step{
		check(PhasePreflight, "Root", "user", preflight.Root{Host: n.Host}),
		n.dataMounted(PhasePreflight),
		check(PhasePreflight, "DataMoved", "place of the data", converge.CheckFunc(n.dataMoved)),
	}, nil
}

func (n *Node) downloadChecks(ctx context.Context) ([]converge.Step, error) {
	gate, err := n.gate(ctx)
	return []converge.Step{
		check(PhasePreflight, "Root", "user", preflight.Root{Host: n.Host}),
		check(PhasePreflight, "Version", "version of etcd", gate),
	}, err
}

// clusterChecks ask the cluster, which takes a certificate: so they come behind the preflight, and before the first
// change of the cluster.
func (n *Node) clusterChecks(ctx context.Context, o JoinOptions) ([]converge.Step, error) {
	const phase = "cluster"
	if down, err := n.down(ctx); err != nil || down {
		return nil, err
	}
	c, err := n.joining(o)
	if err != nil || c == nil {
		return nil, err
	}
	leaves, err := n.leaves(o.Endpoints, false)
	if err != nil {
		return nil, err
	}
	view := &clusterView{n: n, c: c}
	member, err := n.isMember()
	if err != nil {
		return nil, err
	}
	if _, err := view.membership(ctx); member && etcd.Unheard(err) {
		converge.Notef(ctx, "nobody answers; the member on this node may be waiting for the others")
		return nil, nil
	}
	return []converge.Step{
		check(phase, "Reachable", "members", preflight.Reachable{PeerURL: n.Config.PeerURL(), Member: member, Members: view.members}),
		check(phase, "MemberName", "name among the members", preflight.Name{Name: n.Config.Name, PeerURL: n.Config.PeerURL(), Members: view.members}),
		check(phase, "VersionSkew", "versions of the members", preflight.VersionSkew{Mine: n.version(), Members: view.versions, Judge: etcd.VersionSkew}),
		check(phase, "ClusterClock", "clock of the cluster", preflight.Clock{Now: n.Now, Remote: view.time}),
		check(phase, "SourceAddress", "source address", converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
			members, err := view.members(ctx)
			if err != nil {
				return nil, err
			}
			return preflight.SourceAddress{Peers: view.peers(members), Named: leaves[1].IPs}.Check(ctx)
		})),
		n.freeSpace(phase, "DatabaseSpace", view.database),
	}, nil
}

// freeSpace is room for what is to come; a member that is here already has its room.
func (n *Node) freeSpace(phase, name string, database func(context.Context) (int64, error)) converge.Step {
	return check(phase, name, "free space", converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		if s, err := n.data(); err != nil || s.Kind == snapshot.Whole {
			return nil, err
		}
		return preflight.FreeSpace{Host: n.Host, Path: n.Config.DataDir, Database: database}.Check(ctx)
	}))
}

// gate is the verdict of the table of versions.
func (n *Node) gate(ctx context.Context) (preflight.Gate, error) {
	have, installed, err := n.installedVersion(ctx)
	refused, warnings := binary.Gates(n.version(), !installed || have.Compare(n.version()) != 0)
	return preflight.Gate{Refused: refused, Warnings: warnings}, err
}

// versionChange refuses an etcd that cannot take over the data of the one that is installed.
func (n *Node) versionChange(ctx context.Context) (converge.Diff, error) {
	have, installed, err := n.installedVersion(ctx)
	if err != nil || !installed {
		return nil, err
	}
	state, err := n.data()
	if err != nil || state.Kind != snapshot.Whole {
		return nil, err
	}
	return nil, etcd.VersionSkew([]pkgversion.Etcd{have}, n.version())
}

// settingsValid has the settings judged for the version that will run, before anything is changed.
func (n *Node) settingsValid(context.Context) (converge.Diff, error) {
	_, err := n.envFile(0, true)
	return nil, err
}

// listens are the addresses on which etcd will listen.
func (n *Node) listens() []netip.AddrPort {
	l := n.listeners()
	var list []netip.AddrPort
	for _, u := range append([]string{l.Peer, l.Metrics}, l.Clients...) {
		if at, err := netip.ParseAddrPort(hostPort(u)); err == nil {
			list = append(list, at)
		}
	}
	return list
}

// portsFree are the ports that etcd will listen on, free or held by the etcd of this node. One that keeps ending is
// started again while they are looked at: then they are looked at once more.
func (n *Node) portsFree(ctx context.Context) (converge.Diff, error) {
	backend, err := n.backend()
	if err != nil {
		return nil, err
	}
	for before := -1; ; {
		state, err := backend.State(ctx)
		if err != nil {
			return nil, err
		}
		d, err := preflight.Ports{Host: n.Host, Listen: n.listens(), PID: state.PID, Hidden: state.Running && state.PID == 0}.Check(ctx)
		if err == nil && len(d) == 0 || state.PID == before {
			return d, err
		}
		before = state.PID
	}
}

// withoutGap passes on what is wrong, and not what is merely absent.
func withoutGap(c converge.Checker) converge.Checker {
	return converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		_, err := c.Check(ctx)
		return nil, err
	})
}

// dataIsOurs tells whether a member in the data directory is the one that this node was set up as.
func (n *Node) dataIsOurs(context.Context) (bool, error) {
	env, err := n.environment()
	if err != nil || env == nil {
		return false, err
	}
	have := env["ETCD_INITIAL_ADVERTISE_PEER_URLS"]
	if have == "" {
		return false, errs.New(errs.Precondition, "%s does not tell by which peer URL the member in %s is known to its cluster", constants.EnvFile, n.Config.DataDir).
			Hint("mend it, with this line: ETCD_INITIAL_ADVERTISE_PEER_URLS=https://ADDRESS-OF-THE-MEMBER:%d", constants.PeerPort)
	}
	if have != n.Config.PeerURL() {
		return false, errs.New(errs.Precondition, "the member in %s is known to its cluster by %s, not by %s", n.Config.DataDir, have, n.Config.PeerURL()).
			Hint("to keep it, run this command with the address and the name that it has: --bind-address, --advertise-name").
			Hint("to give this node another address: etcdadm reset, then join again")
	}
	return true, nil
}

// ofOthers are the checks of the phase configure, which may run alone: it does not replace the unit of somebody else, nor
// begin anything beside a disk that is not mounted, or a member that this node was not set up as. Data that was restored was
// settled by the phase before.
func (n *Node) ofOthers(context.Context) ([]converge.Step, error) {
	steps := append(n.unitsOfOthers(), n.dataMounted(PhaseConfigure), check(PhaseConfigure, "Settings", "settings of etcd", converge.CheckFunc(n.settingsValid)))
	if n.Config.InitSystem != api.Systemd {
		return steps, nil
	}
	return append(steps, check(PhaseConfigure, "DataDirectory", "data directory", converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		ours, err := n.dataIsOurs(ctx)
		if err == nil && !ours {
			ours, err = snapshot.IsRestored(n.Host, n.Config.DataDir)
		}
		if err != nil {
			return nil, err
		}
		return n.dataDirectory(ours).Check(ctx)
	}))), nil
}

// unitsOfOthers is the check before a unit is written.
func (n *Node) unitsOfOthers() []converge.Step {
	if n.Config.InitSystem != api.Systemd {
		return nil
	}
	return []converge.Step{check(PhaseConfigure, "ForeignUnit", "etcd of others", converge.CheckFunc(n.unitOfOthers))}
}

// dataMounted comes before whatever takes what is in the data directory for the data of this node.
func (n *Node) dataMounted(phase string) converge.Step {
	mounted := preflight.DataMounted{Host: n.Host, Path: n.Config.DataDir, Table: "/etc/fstab"}
	if n.Config.InitSystem == api.Systemd {
		mounted.Units = []string{path.Dir(constants.UnitFile), "/run/systemd/system"}
	}
	return check(phase, "DataMounted", "file systems of the data", mounted)
}

// dataMoved refuses another data directory while the member's data is in the one that is stored: the member would be
// taken for one that lost its data.
func (n *Node) dataMoved(context.Context) (converge.Diff, error) {
	if n.StoredDataDir == "" || n.Host.Resolved(n.StoredDataDir) == n.Host.Resolved(n.Config.DataDir) {
		return nil, nil
	}
	s, err := snapshot.InspectDir(n.Host, n.StoredDataDir)
	if err != nil || s.Kind == snapshot.Absent || s.Kind == snapshot.Empty || s.Kind == snapshot.Foreign {
		return nil, err
	}
	return nil, errs.New(errs.Precondition, "the data of this member is in %s, not in %s", n.StoredDataDir, n.Config.DataDir).
		Hint("leave --data-dir out, or say --data-dir %s", n.StoredDataDir).
		Hint("to move the data, stop etcd and move %s yourself, then run this command again", n.Host.Path(n.StoredDataDir))
}

// dataDirectory is a data directory that is empty, or holds our member. What the first start of etcd left when it was
// killed counts as empty: no write was acknowledged from it.
func (n *Node) dataDirectory(ours bool) preflight.DataDirectory {
	return preflight.DataDirectory{Host: n.Host, Path: n.Config.DataDir, Ours: ours, Inspect: func(context.Context) (preflight.Contents, string, error) {
		s, err := n.data()
		if err != nil {
			return 0, "", err
		}
		bootstrapping, err := n.bootstrapping()
		switch {
		case err != nil:
			return 0, "", err
		case s.Kind == snapshot.Whole:
			return preflight.Whole, s.Detail, nil
		case s.Kind == snapshot.Half && !bootstrapping:
			return preflight.Half, s.Detail, nil
		case s.Kind == snapshot.Foreign:
			return preflight.Foreign, s.Detail, nil
		case s.Kind == snapshot.Unreadable:
			return preflight.Unreadable, s.Detail, nil
		}
		return preflight.Empty, "", nil
	}}
}

// noDataLost comes before a new cluster is begun.
func (n *Node) noDataLost(phase string, o InitOptions) converge.Step {
	return check(phase, "DataLost", "data of this member", converge.CheckFunc(func(context.Context) (converge.Diff, error) { return nil, n.dataLost(o) }))
}

// dataLost refuses to begin a new cluster on a node that was a member of one, or was about to be: settings without data, and
// without what the first start needs, are what a lost disk leaves; and a cluster that was asked to add this node waits for it.
func (n *Node) dataLost(o InitOptions) error {
	env, err := n.environment()
	if err != nil || o.Snapshot != "" {
		return err
	}
	if begins, err := n.begins(); err != nil || !begins {
		return err
	}
	if condemned, err := snapshot.IsCondemned(n.Host, n.Config.DataDir); err != nil || condemned { // by a reset, not lost
		return err
	}
	bootstrapping, err := n.bootstrapping()
	switch {
	case err != nil:
		return err
	case env != nil && !bootstrapping:
		return errs.New(errs.Precondition, "this node was set up as member %s, and its data directory %s is empty", env["ETCD_NAME"], n.Config.DataDir).
			Hint("if other members of its cluster are up: etcdadm join https://ADDRESS-OF-A-MEMBER:2379").
			Hint("from a snapshot: etcdadm restore FILE").
			Hint("to begin an empty cluster: etcdadm reset --skip-remove-member, then etcdadm init")
	case len(n.Config.JoinEndpoints) > 0:
		at := strings.Join(n.Config.JoinEndpoints, ",")
		return errs.New(errs.Precondition, "this node is about to join the cluster at %s", at).
			Hint("go on with that: etcdadm join %s", at).
			Hint("to begin a cluster of its own, leave that one first: etcdadm reset, then etcdadm init")
	}
	return nil
}

// begins tells whether the data directory holds nothing of a member yet: what begins here is new.
func (n *Node) begins() (bool, error) {
	s, err := n.data()
	return s.Kind == snapshot.Absent || s.Kind == snapshot.Empty, err
}

// built is when this program was built; zero when it does not know.
func built() time.Time {
	t, _ := time.Parse(time.RFC3339, pkgversion.Get().BuildDate)
	return t
}
