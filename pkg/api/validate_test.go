package api

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
)

func valid() Config {
	var c Config
	Default(&c, Facts{Hostname: "etcd-1", Address: netip.MustParseAddr("10.0.0.1")})
	return c
}

func TestValidateAccepts(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"defaults":        func(*Config) {},
		"fully qualified": func(c *Config) { c.Name = "ip-10-0-0-1.us-west-2.compute.internal" },
		"underscore":      func(c *Config) { c.Name = "Node_1" },
		"rebuild":         func(c *Config) { c.Version = "3.5.8-eks-1-26-16" },
		"one archive":     func(c *Config) { c.ReleaseURL = "http://10.0.0.9:8080/x/etcd.tgz" },
		"local releases":  func(c *Config) { c.ReleaseURL = "file:///srv/etcd" },
		"loopback":        func(c *Config) { c.BindAddress = "127.0.0.2" },
		"IPv6":            func(c *Config) { c.BindAddress = "fd00::1" },
		"SANs": func(c *Config) {
			c.ServerCertExtraSANs = []string{"etcd", "*.example.com", "10.0.0.7", "fd00::2", "a_b.c"}
		},
		"registry with port":  func(c *Config) { c.ImageRepository = "localhost:5000/etcd-io/etcd" },
		"other init systems":  func(c *Config) { c.InitSystem = Process },
		"no priorities":       func(c *Config) { c.DiskPriorities = []string{} },
		"another priority":    func(c *Config) { c.DiskPriorities = []string{"CPUAffinity=0,1 3"} },
		"suite":               func(c *Config) { c.CipherSuites = []string{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"} },
		"largest quota":       func(c *Config) { c.QuotaBackendBytes = 8 << 30 },
		"environment":         func(c *Config) { c.ExtraEnv = map[string]string{"ETCD_HEARTBEAT_INTERVAL": "500", "GOGC": "50"} },
		"everything together": func(c *Config) { c.InstallDir, c.CertsDir, c.DataDir = "/opt/etcd", "/opt/etcd/pki", "/opt/etcd/data" },
		"flat layout":         func(c *Config) { c.CertsDir = "/etc/etcd" },
	} {
		c := valid()
		change(&c)
		if p := c.Validate(); len(p) > 0 {
			t.Errorf("%s: %v", name, p)
		}
	}
}

// Each bad value is named with its field, in one line, and says what to do.
func TestValidateRefuses(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Name = "" }, `name: the member has no name, and the host has none`},
		{func(c *Config) { c.Name = "a=b" }, `name: "a=b" is not a member name: letters, digits and _, with . or - between them`},
		{func(c *Config) { c.Name = "a,b" }, `name: "a,b" is not`},
		{func(c *Config) { c.Name = "a b" }, `name: "a b" is not`},
		{func(c *Config) { c.Name = "a\nETCD_X=1" }, `name: "a\nETCD_X=1" is not`},
		{func(c *Config) { c.Name = "-a" }, `name: "-a" is not`},
		{func(c *Config) { c.Name = "../a" }, `name: "../a" is not`},
		{func(c *Config) { c.Name = "ä" }, `name: "ä" is not`},
		{func(c *Config) { c.Name = strings.Repeat("a", 65) }, `name: "aaaaaaaaaaaaaaaaaaaa..." has 65 characters; a certificate holds at most 64`},
		{func(c *Config) { c.Name = "Peer.etcdadm.internal" }, `name: "Peer.etcdadm.internal" is reserved: it is what peer certificates are told by`},
		{func(c *Config) { c.Version = "latest" }, `version: "latest" is not a version of the form X.Y.Z`},
		{func(c *Config) { c.Version = "3.6" }, `version: "3.6" is not a version of the form X.Y.Z`},
		{func(c *Config) { c.Version = "3.6.14/../../x" }, `version: "3.6.14/../../x" is not a version of the form X.Y.Z`},
		{func(c *Config) { c.ReleaseURL = "ftp://x/y" }, `releaseURL: "ftp://x/y" begins with none of https://, http:// and file:///`},
		{func(c *Config) { c.ReleaseURL = "/srv/etcd" }, `releaseURL: "/srv/etcd" begins with none of`},
		{func(c *Config) { c.ReleaseURL = "https:///x" }, `releaseURL: "https:///x" names no host`},
		{func(c *Config) { c.ReleaseURL = "file://srv/etcd" }, `releaseURL: "file://srv/etcd" does not name an absolute path`},
		{func(c *Config) { c.ReleaseURL = "https://x/%zz" }, `releaseURL: "https://x/%zz" is not a URL`},
		{func(c *Config) { c.ReleaseURL = "https://x/#a" }, `releaseURL: "https://x/#a" has a fragment`},
		{func(c *Config) { c.ReleaseURL = "https://me:s3cret@x/y" }, `releaseURL: "...@x/y" names a user; the configuration is world-readable and holds no secrets`},
		{func(c *Config) { c.ReleaseURL = "https://me:s3cret@x/ y" }, `releaseURL: "...@x/ y" is not a URL`},
		{func(c *Config) { c.DataDir = "/" }, `dataDir: "/" is the root directory`},
		{func(c *Config) { c.DataDir = "var/lib/etcd" }, `dataDir: "var/lib/etcd" is not an absolute path`},
		{func(c *Config) { c.DataDir = "/data/../etc" }, `dataDir: "/data/../etc" is not in its shortest form, /etc`},
		{func(c *Config) { c.CertsDir = "/a\nb" }, `certsDir: "/a\nb" may hold letters, digits and / . _ + @ : ~ - only`},
		{func(c *Config) { c.InstallDir = "/opt/%n" }, `installDir: "/opt/%n" may hold`},
		{func(c *Config) { c.DataDir = "/proc/x" }, `dataDir: "/proc/x" lies in a file system of the kernel`},
		{func(c *Config) { c.DataDir = "/var/lib" }, `dataDir: /var/lib belongs to the system; the data directory is etcd's alone`},
		{func(c *Config) { c.DataDir = "/etc/etcdadm" }, `dataDir: /etc/etcdadm holds /etc/etcdadm/config.yaml; the data directory is etcd's alone`},
		{func(c *Config) { c.DataDir = "/var/backups" }, `dataDir: /var/backups holds /var/backups/etcd; the data directory is etcd's alone`},
		{func(c *Config) { c.CertsDir = "/var/lib/etcd/pki" }, `certsDir: /var/lib/etcd/pki lies in the data directory /var/lib/etcd, which reset and restore replace as a whole`},
		{func(c *Config) { c.CertsDir = "/var/lib/etcd" }, `certsDir: /var/lib/etcd lies in the data directory`},
		{func(c *Config) { c.InstallDir = "/var/lib/etcd/bin" }, `installDir: /var/lib/etcd/bin lies in the data directory`},
		{func(c *Config) { c.DataDir = "/etc/etcd/pki/data" }, `dataDir: /etc/etcd/pki/data lies in the directory of the certificates /etc/etcd/pki`},
		{func(c *Config) { c.InitSystem, c.KubeletPodManifestPath = Kubelet, "/var/lib/etcd/m" }, `kubeletPodManifestPath: /var/lib/etcd/m lies in the data directory`},
		{func(c *Config) { c.BindAddress = "" }, `bindAddress: no address of this host was found that other members could reach`},
		{func(c *Config) { c.BindAddress = "node1" }, `bindAddress: "node1" is not an IP address`},
		{func(c *Config) { c.AdvertiseName = "10.0.0.7" }, `advertiseName: 10.0.0.7 is an address, which is advertised as it is`},
		{func(c *Config) { c.AdvertiseName = "*.example.com" }, `advertiseName: "*.example.com" is not the DNS name of one host`},
		{func(c *Config) { c.AdvertiseName = "etcd-1:2380" }, `advertiseName: "etcd-1:2380" is not the DNS name of one host`},
		{func(c *Config) { c.AdvertiseName = constants.PeerMarker }, `advertiseName: "` + constants.PeerMarker + `" is reserved: it is what peer certificates are told by`},
		{func(c *Config) { c.BindAddress = "10.0.0.1:2380" }, `bindAddress: "10.0.0.1:2380" is not an IP address`},
		{func(c *Config) { c.BindAddress = "0.0.0.0" }, `bindAddress: 0.0.0.0 means every address; other members need one that they can reach`},
		{func(c *Config) { c.BindAddress = "::" }, `bindAddress: :: means every address`},
		{func(c *Config) { c.BindAddress = "224.0.0.1" }, `bindAddress: 224.0.0.1 is not the address of one host`},
		{func(c *Config) { c.BindAddress = "255.255.255.255" }, `bindAddress: 255.255.255.255 is not the address of one host`},
		{func(c *Config) { c.BindAddress = "fe80::1%eth0" }, `bindAddress: fe80::1%eth0 is a link-local address; it means something else on each host`},
		{func(c *Config) { c.BindAddress = "::ffff:10.0.0.1" }, `bindAddress: ::ffff:10.0.0.1 is an IPv4 address in IPv6 form`},
		{func(c *Config) { c.ServerCertExtraSANs = []string{"10.0.0.0/8"} }, `serverCertExtraSANs: "10.0.0.0/8" is neither a DNS name nor an IP address`},
		{func(c *Config) { c.ServerCertExtraSANs = []string{"10.0.0.300"} }, `serverCertExtraSANs: "10.0.0.300" is neither`},
		{func(c *Config) { c.ServerCertExtraSANs = []string{"https://a"} }, `serverCertExtraSANs: "https://a" is neither`},
		{func(c *Config) { c.ServerCertExtraSANs = []string{"a..b"} }, `serverCertExtraSANs: "a..b" is neither`},
		{func(c *Config) { c.ServerCertExtraSANs = []string{"*"} }, `serverCertExtraSANs: "*" is neither`},
		{func(c *Config) { c.ServerCertExtraSANs = []string{"fe80::1%eth0"} }, `serverCertExtraSANs: "fe80::1%eth0" is not an address that a client could dial`},
		{func(c *Config) { c.ServerCertExtraSANs = []string{"PEER.etcdadm.internal"} }, `serverCertExtraSANs: "PEER.etcdadm.internal" is reserved`},
		{func(c *Config) { c.ServerCertExtraSANs = []string{"*.etcdadm.internal"} }, `serverCertExtraSANs: "*.etcdadm.internal" is reserved`},
		{func(c *Config) { c.InitSystem = "sytemd" }, `initSystem: "sytemd" is unknown; did you mean systemd?`},
		{func(c *Config) { c.KeyAlgorithm = "ed25519" }, `keyAlgorithm: "ed25519" is unknown`},
		{func(c *Config) { c.ImageRepository = "x/etcd:v3.6.14" }, `imageRepository: "x/etcd:v3.6.14" is not an image without tag and digest`},
		{func(c *Config) { c.ImageRepository = "x/etcd@sha256:00" }, `imageRepository: "x/etcd@sha256:00" is not`},
		{func(c *Config) { c.CipherSuites = []string{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA265"} }, `cipherSuites: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA265" is unknown; did you mean TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256?`},
		{func(c *Config) { c.CipherSuites = []string{"TLS_AES_128_GCM_SHA256"} }, `cipherSuites: TLS_AES_128_GCM_SHA256 belongs to TLS 1.3, whose suites cannot be chosen`},
		{func(c *Config) { c.DiskPriorities = []string{"Nice=1\nExecStart=/x"} }, `diskPriorities: "Nice=1\nExecStart=/x" is not one line Key=value of a [Service] section`},
		{func(c *Config) { c.DiskPriorities = []string{"Nice"} }, `diskPriorities: "Nice" is not one line`},
		{func(c *Config) { c.DiskPriorities = []string{"[Install]"} }, `diskPriorities: "[Install]" is not one line`},
		{func(c *Config) { c.DiskPriorities = []string{`Nice=1 \`} }, `diskPriorities: "Nice=1 \\" is not one line`},
		{func(c *Config) { c.DownloadConnectTimeout = Duration{-time.Second} }, `downloadConnectTimeout: -1s is not a positive duration`},
		{func(c *Config) { c.QuotaBackendBytes = -1 }, `quotaBackendBytes: -1 is not a size`},
		{func(c *Config) { c.JoinEndpoints = []string{"10.0.0.1:2379"} }, `joinEndpoints: "10.0.0.1:2379" is not the client URL of a member`},
		{func(c *Config) { c.JoinEndpoints = []string{"https://me:s3cret@a:2379"} }, `joinEndpoints: "...@a:2379" is not`},
		{func(c *Config) { c.JoinEndpoints = []string{"https://10.0.0.1:2379/x"} }, `joinEndpoints: "https://10.0.0.1:2379/x" is not`},
		{func(c *Config) { c.ExtraEnv = map[string]string{"a b": "x"} }, `extraEnv: "a b" is not the name of an environment variable`},
		{func(c *Config) { c.ExtraEnv = map[string]string{"ETCDADM_DIGEST": "x"} }, `extraEnv.ETCDADM_DIGEST: variables of this prefix are for etcdadm, not for etcd`},
		{func(c *Config) { c.ExtraEnv = map[string]string{"GOGC": "1\nETCD_NAME=x"} }, `extraEnv.GOGC: the value holds a line break or another control character`},
	} {
		config := valid()
		c.change(&config)
		problems := config.Validate()
		err := Verdict(problems)
		if len(problems) != 1 || err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("got  %v\nwant %s", problems, c.want)
			continue
		}
		if errs.StatusOf(err) != errs.Usage || strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("%q with status %d", err, errs.StatusOf(err))
		}
	}
}

func TestValidateWarns(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"quotaBackendBytes: 17179869184 is above 8 GiB, the most that etcd suggests":                      func(c *Config) { c.QuotaBackendBytes = 16 << 30 },
		"cipherSuites: none of them works with a key of ecdsa-p256; clients of TLS 1.2 cannot connect":    func(c *Config) { c.CipherSuites = []string{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"} },
		"cipherSuites: TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256 is weak":                                   func(c *Config) { c.CipherSuites = []string{"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"} },
		"releaseURL: its query is kept in /etc/etcdadm/config.yaml, which everybody on the node can read": func(c *Config) { c.ReleaseURL = "https://x/etcd.tgz?sig=1" },
	} {
		c := valid()
		change(&c)
		problems := c.Validate()
		if len(problems) != 1 || problems[0].String() != want || !problems[0].Warning {
			t.Errorf("got  %v\nwant %s", problems, want)
		}
		if err := Verdict(problems); err != nil {
			t.Errorf("a warning is no verdict: %v", err)
		}
	}
}

// All problems are told at once, with their hints.
func TestVerdictListsAll(t *testing.T) {
	c := valid()
	c.Name, c.BindAddress, c.QuotaBackendBytes = "a b", "::", 16<<30
	err := Verdict(c.Validate())
	want := `2 problems in the configuration: name: "a b" is not a member name: letters, digits and _, with . or - between them; bindAddress: :: means every address; other members need one that they can reach`
	if err == nil || err.Error() != want || len(errs.HintsOf(err)) != 2 {
		t.Errorf("%v %q", err, errs.HintsOf(err))
	}
}
