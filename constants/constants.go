// Package constants holds the paths, ports, names, limits and defaults of etcdadm, each with its reason, and no logic.
package constants

import "time"

// The release of etcd.
const (
	// DefaultVersion carries the security fixes of July 2026 and has a digest that independent sources agree on.
	DefaultVersion = "3.6.14"
	// ReleaseURL is where upstream publishes; the file is <ReleaseURL>/v<X.Y.Z>/etcd-v<X.Y.Z>-linux-<arch>.tar.gz.
	ReleaseURL = "https://github.com/etcd-io/etcd/releases/download"
	// MirrorURL is upstream's second host, of the same layout. It has refused some versions, so it only stands in.
	MirrorURL = "https://storage.googleapis.com/etcd"
	// CacheDir holds verified release archives, in v<X.Y.Z> directories.
	CacheDir = "/var/cache/etcdadm/etcd"
	// DefaultInstallDir is writable on systems whose /usr is not, and what callers of etcdadm expect.
	DefaultInstallDir = "/opt/bin"
	// ReleasesDir, below the install directory, holds one directory per installed release; the install directory links into it.
	ReleasesDir = ".etcdadm"
	// DefaultImageRepository is upstream's container image, without a tag.
	DefaultImageRepository = "gcr.io/etcd-development/etcd"
)

// Files on a node. All of them are logical paths: pkg/host puts them under its root.
const (
	// ConfigFile is the desired state of the node. Without secrets, world-readable.
	ConfigFile = "/etc/etcdadm/config.yaml"
	// LockFile is held with flock while an etcdadm works on the node; the kernel frees it on death.
	LockFile = "/run/etcdadm.lock"
	// DefaultCertsDir holds the CA and all pairs.
	DefaultCertsDir = "/etc/etcd/pki"
	// DefaultDataDir is etcd's data directory, mode 0700.
	DefaultDataDir = "/var/lib/etcd"
	// EtcdDir holds the environment files.
	EtcdDir = "/etc/etcd"
	// EnvFile is the environment of etcd, unquoted KEY=value lines.
	EnvFile = "/etc/etcd/etcd.env"
	// BootstrapFile holds what matters only before the data directory exists: initial cluster, state and token.
	BootstrapFile = "/etc/etcd/bootstrap.env"
	// UnitFile is etcd's unit, where a unit of the operator's takes the place of a distribution's.
	UnitFile = "/etc/systemd/system/etcd.service"
	// SysusersFile tells systemd-sysusers of the account of etcd.
	SysusersFile = "/etc/sysusers.d/etcdadm.conf"
	// EtcdctlEnvFile is sourced by shells: export K=V lines.
	EtcdctlEnvFile = "/etc/etcd/etcdctl.env"
	// RunDir holds what does not outlive a boot.
	RunDir = "/run/etcdadm"
	// SupervisorFile is locked by the supervisor of --init-system process, and holds its process id.
	SupervisorFile = "/run/etcdadm/supervisor"
	// SupervisorStatusFile is where the supervisor tells how etcd ended, for those who look from outside.
	SupervisorStatusFile = "/run/etcdadm/supervisor.json"
	// LogFile is etcd's output under --init-system process.
	LogFile = "/var/log/etcd/etcd.log"
	// BackupDir receives the final snapshot of a cluster that ends.
	BackupDir = "/var/backups/etcd"
	// DefaultManifestDir is where a kubelet reads static pods.
	DefaultManifestDir = "/etc/kubernetes/manifests"
	// ManifestFile is etcd's manifest in that directory.
	ManifestFile = "etcd.manifest"
	// PodLogDir is where a kubelet has the output of containers written.
	PodLogDir = "/var/log/pods"
	// GuardFile, in the data directory, stands there as long as the member's data does: without it no pod of etcd starts.
	GuardFile = "member/.etcdadm-guard"
)

// Ports and names.
const (
	ClientPort  = 2379 // IANA: etcd-client
	PeerPort    = 2380 // IANA: etcd-server
	MetricsPort = 2381 // plain HTTP, on loopback only; Kubernetes' convention

	// Unit is the name of the systemd unit, which is that of everybody's.
	Unit = "etcd.service"
	// User is the user, and the group, that etcd runs as under systemd.
	User = "etcd"
	// OpenFiles is how many files etcd may have open: two for each client, and the peers.
	OpenFiles = 65536

	// PeerMarker is a DNS name that only peer certificates carry; etcd's peer port asks for it, so that a client
	// certificate of the same CA is no key to the peer port. ".internal" is reserved for private use (ICANN, 2024).
	PeerMarker = "peer.etcdadm.internal"
	// DigestVariable carries the digest of what a running etcd was started with, in its environment.
	DigestVariable = "ETCDADM_DIGEST"
	// ConfigAPIVersion and ConfigKind are the first two keys of a configuration file.
	ConfigAPIVersion = "etcdadm/v1"
	ConfigKind       = "Config"
)

// Limits in time. Everything that waits has one.
const (
	DownloadConnectTimeout = 10 * time.Second // to connect to a release server
	DownloadStallTimeout   = 30 * time.Second // without a byte from a release server
	DownloadTotalTimeout   = 15 * time.Minute // for one archive, over all tries
	SnapshotStallTimeout   = 30 * time.Second // without a byte of a snapshot from a member
	MembershipCallTimeout  = 7 * time.Second  // one membership RPC: of two concurrent changes one is dropped silently, and its caller hangs
	AdmissionTTL           = 3 * time.Second  // after which a node that died while it joined holds no other up; etcd knows none below 2s
	YieldLimit             = 5 * time.Second  // that a promotion waits for additions: they would wait that long after it
	DialTimeout            = 3 * time.Second  // to connect to one endpoint
	RequestTimeout         = 5 * time.Second  // one request to etcd that a healthy cluster answers
	StartTimeout           = 90 * time.Second // from start to the first answer of a local etcd
	PodStartTimeout        = 6 * time.Minute  // the same for a pod, whose image may have to be pulled first
	JoinTimeout            = 5 * time.Minute  // for the cluster to take a member, others that join at the same moment included
	CatchUpTimeout         = 30 * time.Minute // for a learner to receive a large database
	TurnTimeout            = 5 * time.Minute  // for other members to be back, before this one may be away
	TurnTTL                = 15 * time.Second // after which a member that died while it had the turn has it no longer
	StopTimeout            = 90 * time.Second // for etcd to hand over and exit
	PollInterval           = 5 * time.Millisecond
)

// Certificates.
const (
	CALifetime   = 10 * 365 * 24 * time.Hour
	LeafLifetime = 365 * 24 * time.Hour
	Backdate     = time.Hour // clocks of members differ
	// RenewBefore is how long before its end a leaf counts as drift.
	RenewBefore = 30 * 24 * time.Hour
)

// Storage.
const (
	// RestoreRevisionBump is what upstream suggests for Kubernetes, so that watchers never see a revision go back.
	RestoreRevisionBump = 1_000_000_000
	// SnapshotCount is etcd's own default since 3.6, and right for 3.5 too.
	SnapshotCount = 10_000
	// MaxLearners is how many members can join at once, from one to five. All members have to agree on it: each judges an
	// addition by its own limit, and one that refuses what others accept has another member list from then on.
	MaxLearners = 4
	// DefaultQuota is etcd's own default of --quota-backend-bytes: 2 GiB.
	DefaultQuota = 2 << 30
	// MinFreeSpace is asked of the data directory's file system when nothing is known about the database.
	MinFreeSpace = 1 << 30
)
