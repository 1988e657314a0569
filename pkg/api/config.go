// Package api is the desired state of a node as its operator writes it: a versioned YAML file, environment variables
// and flags, which say the same things under three spellings. It reads and judges; it looks at no host.
package api

import (
	"cmp"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"etcdadm/constants"
)

// Config is the desired state of a node. It holds no secret. What belongs to one call only (a snapshot, a dry run, an
// accepted risk) is not part of it. Settings describes each field.
type Config struct {
	APIVersion             string            `json:"apiVersion" yaml:"apiVersion"`
	Kind                   string            `json:"kind" yaml:"kind"`
	Name                   string            `json:"name" yaml:"name"`
	Version                string            `json:"version" yaml:"version"`                           // X.Y.Z and any suffix, no leading v
	ReleaseURL             string            `json:"releaseURL,omitempty" yaml:"releaseURL,omitempty"` // "": upstream, then its mirror
	InstallDir             string            `json:"installDir" yaml:"installDir"`
	CertsDir               string            `json:"certsDir" yaml:"certsDir"`
	DataDir                string            `json:"dataDir" yaml:"dataDir"`
	BindAddress            string            `json:"bindAddress" yaml:"bindAddress"`                         // an IP address in its canonical form
	AdvertiseName          string            `json:"advertiseName,omitempty" yaml:"advertiseName,omitempty"` // a DNS name, lower case; "": the address
	ServerCertExtraSANs    []string          `json:"serverCertExtraSANs" yaml:"serverCertExtraSANs"`
	InitSystem             string            `json:"initSystem" yaml:"initSystem"` // one of InitSystems
	ImageRepository        string            `json:"imageRepository" yaml:"imageRepository"`
	KubeletPodManifestPath string            `json:"kubeletPodManifestPath" yaml:"kubeletPodManifestPath"`
	CipherSuites           []string          `json:"cipherSuites" yaml:"cipherSuites"`     // names of crypto/tls; empty: Go's choice
	DiskPriorities         []string          `json:"diskPriorities" yaml:"diskPriorities"` // lines of a unit's [Service] section
	DownloadConnectTimeout Duration          `json:"downloadConnectTimeout" yaml:"downloadConnectTimeout"`
	KeyAlgorithm           string            `json:"keyAlgorithm" yaml:"keyAlgorithm"`                               // one of KeyAlgorithms
	QuotaBackendBytes      int64             `json:"quotaBackendBytes,omitempty" yaml:"quotaBackendBytes,omitempty"` // 0: etcd's default at init, the cluster's at join
	JoinEndpoints          []string          `json:"joinEndpoints,omitempty" yaml:"joinEndpoints,omitempty"`         // client URLs where join found the cluster; written by join
	ExtraEnv               map[string]string `json:"extraEnv" yaml:"extraEnv"`                                       // more environment variables of etcd
}

// The values of InitSystem.
const (
	Systemd = "systemd"
	Kubelet = "kubelet"
	Process = "process"
)

// InitSystems and KeyAlgorithms are the known values of these fields, the default first.
var (
	InitSystems   = []string{Systemd, Kubelet, Process}
	KeyAlgorithms = []string{"ecdsa-p256", "ecdsa-p384", "rsa-3072", "rsa-4096"}
)

// DiskPriorities is what the retired etcdadm gave etcd, and what its callers count on.
var DiskPriorities = []string{"Nice=-10", "IOSchedulingClass=best-effort", "IOSchedulingPriority=2"}

// Duration is a time.Duration that reads and writes itself as "10s".
type Duration struct{ time.Duration }

// MarshalText returns the form of time.Duration.String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the form of time.ParseDuration.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(b))
	return err
}

// Facts is what a caller knows about a node and Default needs. Every field may be zero.
type Facts struct {
	Hostname string
	Address  netip.Addr // the address that other members reach
	WorkDir  string     // what a relative path is relative to
}

// Default fills the fields that are empty, and brings the others to one spelling: paths without a trailing slash,
// versions without a leading v, addresses and names in their canonical form. What makes no sense it leaves to Validate.
func Default(c *Config, f Facts) {
	address := ""
	if f.Address.IsValid() {
		address = f.Address.String()
	}
	c.APIVersion = cmp.Or(c.APIVersion, constants.ConfigAPIVersion)
	c.Kind = cmp.Or(c.Kind, constants.ConfigKind)
	c.Name = cmp.Or(c.Name, f.Hostname)
	c.Version = strings.TrimPrefix(cmp.Or(c.Version, constants.DefaultVersion), "v")
	c.InstallDir = trimSlash(cmp.Or(c.InstallDir, constants.DefaultInstallDir))
	c.CertsDir = trimSlash(cmp.Or(c.CertsDir, constants.DefaultCertsDir))
	c.DataDir = trimSlash(cmp.Or(c.DataDir, constants.DefaultDataDir))
	c.BindAddress = canonical(cmp.Or(c.BindAddress, address))
	c.AdvertiseName = strings.ToLower(strings.TrimSuffix(c.AdvertiseName, "."))
	c.InitSystem = cmp.Or(c.InitSystem, InitSystems[0])
	c.ImageRepository = cmp.Or(c.ImageRepository, constants.DefaultImageRepository)
	c.KubeletPodManifestPath = trimSlash(cmp.Or(c.KubeletPodManifestPath, constants.DefaultManifestDir))
	if !filepath.IsAbs(c.KubeletPodManifestPath) && f.WorkDir != "" {
		c.KubeletPodManifestPath = filepath.Join(f.WorkDir, c.KubeletPodManifestPath)
	}
	c.KeyAlgorithm = cmp.Or(c.KeyAlgorithm, KeyAlgorithms[0])
	c.DownloadConnectTimeout.Duration = cmp.Or(c.DownloadConnectTimeout.Duration, constants.DownloadConnectTimeout)
	if c.DiskPriorities == nil { // an empty list is a choice
		c.DiskPriorities = append([]string{}, DiskPriorities...)
	}
	for _, list := range []*[]string{&c.ServerCertExtraSANs, &c.CipherSuites, &c.JoinEndpoints} {
		if *list == nil {
			*list = []string{}
		}
	}
	if c.ExtraEnv == nil {
		c.ExtraEnv = map[string]string{}
	}
}

func trimSlash(path string) string {
	if trimmed := strings.TrimRight(path, "/"); trimmed != "" {
		return trimmed
	}
	return path
}

func canonical(address string) string {
	if a, err := netip.ParseAddr(address); err == nil {
		return a.String()
	}
	return address
}

// Without returns the configuration without the settings of the given keys.
func (c Config) Without(keys ...string) Config {
	for _, s := range Settings {
		if slices.Contains(keys, s.Key) {
			s.copy(&c, new(Config))
		}
	}
	return c
}

// PeerURL returns the URL under which other members reach this one.
func (c Config) PeerURL() string {
	return endpoint(cmp.Or(c.AdvertiseName, c.BindAddress), constants.PeerPort)
}

// ClientURL returns the URL under which clients reach this member.
func (c Config) ClientURL() string {
	return endpoint(cmp.Or(c.AdvertiseName, c.BindAddress), constants.ClientPort)
}

// LocalURL returns the client URL at which the node itself finds its member. A host may know itself by a name at another
// address than others do: Debian's installer writes 127.0.1.1.
func (c Config) LocalURL() string { return endpoint(c.BindAddress, constants.ClientPort) }

func endpoint(address string, port int) string {
	return "https://" + net.JoinHostPort(address, strconv.Itoa(port))
}
