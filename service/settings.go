package service

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/version"
)

// Settings are what etcd is told. Paths are logical and absolute.
type Settings struct {
	Name                    string
	CertsDir                string
	Version                 version.Etcd // that will read the settings
	BindAddress             netip.Addr
	PeerURL, ClientURL      string            // advertised; "": those at the bind address
	QuotaBytes              int64             // size limit of the database; 0: etcd's own
	CipherSuites            []string          // names of crypto/tls; they count for TLS 1.2 alone; none: Go's choice
	PeerCertAllowedHostname string            // a name that every peer's certificate must carry; "": none is asked for
	MaxLearners             int               // how many members join at once; 0: etcd's own limit. All members have the same
	ExtraEnv                map[string]string // more variables of etcd, and of the Go runtime in it
}

// Listeners are the URLs that one member listens on.
type Listeners struct {
	Peer    string   // https://<ip>:2380
	Client  string   // https://<ip>:2379
	Clients []string // that one, and one on loopback
	Local   string   // for clients on the node itself
	Metrics string   // plain HTTP, on loopback only
}

// ListenersOf returns the URLs of a member at an address. A loopback address gets no second loopback listener, so that
// members at several of them live on one machine.
func ListenersOf(bind netip.Addr) Listeners {
	bind = bind.Unmap()
	loopback := bind
	if !bind.IsLoopback() {
		loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if bind.Is6() {
			loopback = netip.IPv6Loopback()
		}
	}
	l := Listeners{
		Peer:    address("https", bind, constants.PeerPort),
		Client:  address("https", bind, constants.ClientPort),
		Local:   address("https", loopback, constants.ClientPort),
		Metrics: address("http", loopback, constants.MetricsPort),
	}
	l.Clients = slices.Compact([]string{l.Client, l.Local})
	return l
}

func address(scheme string, a netip.Addr, port int) string {
	return scheme + "://" + net.JoinHostPort(a.String(), strconv.Itoa(port))
}

// A member's name stands between commas and equals signs in the initial cluster.
var memberName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)

func (s Settings) validate() error {
	if err := supported(s.Version); err != nil {
		return err
	}
	bad := func(format string, args ...any) *errs.Error { return errs.New(errs.Usage, format, args...) }
	switch a := s.BindAddress; {
	case !memberName.MatchString(s.Name):
		return bad("%q cannot be the name of a member", s.Name).Hint("use letters, digits, dots, hyphens and underscores: --name etcd-1")
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "":
		return bad("%q is not an address that other members can reach", a).Hint("name one address of this node: --bind-address 10.0.0.7")
	case !path.IsAbs(s.CertsDir):
		return bad("the certificates directory %q is not an absolute path", s.CertsDir)
	case s.QuotaBytes < 0:
		return bad("the quota of %d bytes is negative", s.QuotaBytes)
	}
	for _, name := range s.CipherSuites {
		if !slices.ContainsFunc(slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()),
			func(c *tls.CipherSuite) bool { return c.Name == name }) {
			return bad("%q is no cipher suite that etcd knows", name).
				Hint("use names such as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, with a comma between two")
		}
	}
	if s.ExtraEnv["ETCD_TLS_MIN_VERSION"] == "TLS1.3" && len(s.CipherSuites) > 0 {
		return bad("cipher suites cannot be chosen where ETCD_TLS_MIN_VERSION is TLS1.3").Hint("leave one of the two out")
	}
	return nil
}

// Environment returns the variables of etcd, grouped for a reader. The data directory is not among them: it is a flag,
// and etcd refuses both. pathFor gives the path by which etcd finds a logical one. Errors have status errs.Usage.
//
// The initial cluster state is "existing": where the bootstrap file exists, it overrides that, and where it does not,
// a member never starts as a cluster of its own.
func (s Settings) Environment(pathFor func(logical string) string) ([]KV, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	l := ListenersOf(s.BindAddress)
	cert := func(name string) string { return pathFor(path.Join(s.CertsDir, name)) }
	kvs := []KV{
		{"ETCD_NAME", s.Name},
		{"ETCD_INITIAL_CLUSTER_STATE", stateExisting},
		{"ETCD_STRICT_RECONFIG_CHECK", "true"},

		{"ETCD_LISTEN_PEER_URLS", l.Peer},
		{"ETCD_INITIAL_ADVERTISE_PEER_URLS", cmp.Or(s.PeerURL, l.Peer)},
		{"ETCD_LISTEN_CLIENT_URLS", strings.Join(l.Clients, ",")},
		{"ETCD_ADVERTISE_CLIENT_URLS", cmp.Or(s.ClientURL, l.Client)},
		{"ETCD_LISTEN_METRICS_URLS", l.Metrics},

		{"ETCD_CERT_FILE", cert("server.crt")},
		{"ETCD_KEY_FILE", cert("server.key")},
		{"ETCD_TRUSTED_CA_FILE", cert("ca.crt")},
		{"ETCD_CLIENT_CERT_AUTH", "true"},
		{"ETCD_AUTO_TLS", "false"},

		{"ETCD_PEER_CERT_FILE", cert("peer.crt")},
		{"ETCD_PEER_KEY_FILE", cert("peer.key")},
		{"ETCD_PEER_TRUSTED_CA_FILE", cert("ca.crt")},
		{"ETCD_PEER_CLIENT_CERT_AUTH", "true"},
		{"ETCD_PEER_AUTO_TLS", "false"},
	}
	if s.PeerCertAllowedHostname != "" {
		kvs = append(kvs, KV{"ETCD_PEER_CERT_ALLOWED_HOSTNAME", s.PeerCertAllowedHostname})
	}
	if len(s.CipherSuites) > 0 {
		kvs = append(kvs, KV{"ETCD_CIPHER_SUITES", strings.Join(s.CipherSuites, ",")})
	}
	if s.QuotaBytes > 0 {
		kvs = append(kvs, KV{"ETCD_QUOTA_BACKEND_BYTES", strconv.FormatInt(s.QuotaBytes, 10)})
	}
	kvs, err := s.extend(kvs)
	if err != nil {
		return nil, err
	}
	for _, kv := range kvs {
		if err := kv.check(); err != nil {
			return nil, errs.New(errs.Usage, "%w", err)
		}
	}
	return kvs, nil
}

const maxLearners = "ETCD_MAX_LEARNERS"

// LimitsLearners tells whether all of these versions can be told how many learners they allow.
func LimitsLearners(versions ...version.Etcd) bool {
	return !slices.ContainsFunc(versions, func(v version.Etcd) bool { return !knows(v, maxLearners) })
}

// extend adds the defaults that extraEnv may change, and what it sets beside those.
func (s Settings) extend(kvs []KV) ([]KV, error) {
	extra := maps.Clone(s.ExtraEnv)
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		if slices.ContainsFunc(kvs, func(kv KV) bool { return kv.Key == key }) && reserved[key] == "" {
			return nil, errs.New(errs.Usage, "extraEnv: %s cannot be set: etcdadm sets it", key).
				Hint("remove %s from extraEnv in the configuration", key)
		}
		if err := checkExtra(s.Version, KV{key, extra[key]}); err != nil {
			return nil, err
		}
	}
	defaults := []KV{
		{"ETCD_SNAPSHOT_COUNT", fmt.Sprint(constants.SnapshotCount)},
		{"ETCD_TLS_MIN_VERSION", "TLS1.2"},
		{"ETCD_LOGGER", "zap"},
		{"ETCD_LOG_OUTPUTS", "stderr"},
	}
	if s.MaxLearners > 0 {
		defaults = append(defaults, KV{maxLearners, strconv.Itoa(s.MaxLearners)})
	}
	if s.Version.Minor == 5 {
		defaults = append(defaults,
			KV{"ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "true"}, KV{"ETCD_EXPERIMENTAL_COMPACT_HASH_CHECK_ENABLED", "true"})
	} else {
		all, err := featureGates(s.Version, extra["ETCD_FEATURE_GATES"])
		if err != nil {
			return nil, err
		}
		delete(extra, "ETCD_FEATURE_GATES")
		defaults = append(defaults, KV{"ETCD_FEATURE_GATES", all})
	}
	for _, kv := range defaults {
		if knows(s.Version, kv.Key) {
			kvs = append(kvs, KV{kv.Key, cmp.Or(extra[kv.Key], kv.Value)})
			delete(extra, kv.Key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		kvs = append(kvs, KV{key, extra[key]})
	}
	return kvs, nil
}
