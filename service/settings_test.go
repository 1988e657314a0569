package service

import (
	"net/netip"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/version"
)

func settings(v string) Settings {
	parsed, err := version.ParseEtcd(v)
	if err != nil {
		panic(err)
	}
	return Settings{Name: "etcd-1", CertsDir: "/etc/etcd/pki", Version: parsed, BindAddress: netip.MustParseAddr("10.0.0.7")}
}

func same(logical string) string { return logical }

func TestListeners(t *testing.T) {
	for _, c := range []struct{ bind, peer, clients, local, metrics string }{
		{"10.0.0.7", "https://10.0.0.7:2380", "https://10.0.0.7:2379,https://127.0.0.1:2379", "https://127.0.0.1:2379", "http://127.0.0.1:2381"},
		{"127.0.0.3", "https://127.0.0.3:2380", "https://127.0.0.3:2379", "https://127.0.0.3:2379", "http://127.0.0.3:2381"},
		{"fd00::7", "https://[fd00::7]:2380", "https://[fd00::7]:2379,https://[::1]:2379", "https://[::1]:2379", "http://[::1]:2381"},
		{"::1", "https://[::1]:2380", "https://[::1]:2379", "https://[::1]:2379", "http://[::1]:2381"},
		{"::ffff:10.0.0.7", "https://10.0.0.7:2380", "https://10.0.0.7:2379,https://127.0.0.1:2379", "https://127.0.0.1:2379", "http://127.0.0.1:2381"},
	} {
		l := ListenersOf(netip.MustParseAddr(c.bind))
		got := []string{l.Peer, l.Client, strings.Join(l.Clients, ","), l.Local, l.Metrics}
		want := []string{c.peer, strings.Split(c.clients, ",")[0], c.clients, c.local, c.metrics}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", c.bind, diff)
		}
	}
}

const common = `# Written by etcdadm; changes are lost. More variables: extraEnv in /etc/etcdadm/config.yaml.
ETCD_NAME=etcd-1
ETCD_INITIAL_CLUSTER_STATE=existing
ETCD_STRICT_RECONFIG_CHECK=true
ETCD_LISTEN_PEER_URLS=https://10.0.0.7:2380
ETCD_INITIAL_ADVERTISE_PEER_URLS=https://10.0.0.7:2380
ETCD_LISTEN_CLIENT_URLS=https://10.0.0.7:2379,https://127.0.0.1:2379
ETCD_ADVERTISE_CLIENT_URLS=https://10.0.0.7:2379
ETCD_LISTEN_METRICS_URLS=http://127.0.0.1:2381
ETCD_CERT_FILE=/root/etc/etcd/pki/server.crt
ETCD_KEY_FILE=/root/etc/etcd/pki/server.key
ETCD_TRUSTED_CA_FILE=/root/etc/etcd/pki/ca.crt
ETCD_CLIENT_CERT_AUTH=true
ETCD_AUTO_TLS=false
ETCD_PEER_CERT_FILE=/root/etc/etcd/pki/peer.crt
ETCD_PEER_KEY_FILE=/root/etc/etcd/pki/peer.key
ETCD_PEER_TRUSTED_CA_FILE=/root/etc/etcd/pki/ca.crt
ETCD_PEER_CLIENT_CERT_AUTH=true
ETCD_PEER_AUTO_TLS=false
`

func TestEnvironmentOfEachMinor(t *testing.T) {
	const tail = "ETCDADM_DIGEST=d\n"
	for v, want := range map[string]string{
		"3.5.35": "ETCD_SNAPSHOT_COUNT=10000\nETCD_TLS_MIN_VERSION=TLS1.2\nETCD_LOGGER=zap\nETCD_LOG_OUTPUTS=stderr\nETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK=true\nETCD_EXPERIMENTAL_COMPACT_HASH_CHECK_ENABLED=true\n",
		"3.5.6":  "ETCD_SNAPSHOT_COUNT=10000\nETCD_LOGGER=zap\nETCD_LOG_OUTPUTS=stderr\nETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK=true\nETCD_EXPERIMENTAL_COMPACT_HASH_CHECK_ENABLED=true\n",
		"3.6.16": "ETCD_SNAPSHOT_COUNT=10000\nETCD_TLS_MIN_VERSION=TLS1.2\nETCD_LOGGER=zap\nETCD_LOG_OUTPUTS=stderr\nETCD_MAX_LEARNERS=4\nETCD_FEATURE_GATES=CompactHashCheck=true,InitialCorruptCheck=true\n",
		"3.7.3":  "ETCD_SNAPSHOT_COUNT=10000\nETCD_TLS_MIN_VERSION=TLS1.2\nETCD_LOGGER=zap\nETCD_LOG_OUTPUTS=stderr\nETCD_MAX_LEARNERS=4\nETCD_FEATURE_GATES=CompactHashCheck=true,InitialCorruptCheck=true\n",
	} {
		s := settings(v)
		s.MaxLearners = 4 // of which etcd 3.5 knows nothing
		kvs, err := s.Environment(func(p string) string { return path.Join("/root", p) })
		if err != nil {
			t.Fatalf("%s: %v", v, err)
		}
		if diff := cmp.Diff(common+want+tail, string(RenderEnv(kvs, "d"))); diff != "" {
			t.Errorf("%s: %s", v, diff)
		}
		for _, kv := range kvs {
			if !knows(s.Version, kv.Key) {
				t.Errorf("etcd %s does not know %s", v, kv.Key)
			}
		}
	}
}

func TestEnvironmentHasTheLinesThatCallersLookFor(t *testing.T) {
	s := settings("3.6.14")
	s.QuotaBytes, s.PeerCertAllowedHostname, s.CipherSuites = 8<<30, "peer.example", []string{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}
	s.ExtraEnv = map[string]string{"ETCD_METRICS": "extensive", "GOGC": "50", "ETCD_FEATURE_GATES": "InitialCorruptCheck=false", "ETCD_SNAPSHOT_COUNT": "5"}
	kvs, err := s.Environment(same)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(RenderEnv(kvs, "d")), "\n")
	for _, part := range []string{"ETCD_NAME", "ETCD_INITIAL_ADVERTISE_PEER_URLS"} {
		var n int
		for _, l := range lines {
			if strings.Contains(l, part) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d lines contain %s, want 1", n, part)
		}
	}
	for _, want := range []string{
		"ETCD_QUOTA_BACKEND_BYTES=8589934592", "ETCD_PEER_CERT_ALLOWED_HOSTNAME=peer.example", "ETCD_CIPHER_SUITES=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
		"ETCD_METRICS=extensive", "GOGC=50", "ETCD_SNAPSHOT_COUNT=5", "ETCD_FEATURE_GATES=CompactHashCheck=true,InitialCorruptCheck=false",
	} {
		var n int
		for _, l := range lines {
			if l == want {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d lines are %s, want 1", n, want)
		}
	}
	for _, kv := range kvs {
		if kv.Key == "ETCD_DATA_DIR" || kv.Key == "ETCD_INITIAL_CLUSTER" || kv.Key == "ETCD_INITIAL_CLUSTER_TOKEN" {
			t.Errorf("%s is set", kv.Key)
		}
	}
}

func TestExtraEnvFailsClosed(t *testing.T) {
	for _, c := range []struct{ version, key, value, reason, hint string }{
		{"3.6.14", "ETCD_SNAPSHOT_CONT", "1", "no variable that etcd 3.6.14 reads", "did you mean ETCD_SNAPSHOT_COUNT?"},
		{"3.6.14", "SNAPSHOT", "1", "no variable", "the flags of `etcd --help`"},
		{"3.5.35", "ETCD_MAX_LEARNERS", "2", "no variable that etcd 3.5.35 reads", "etcd --help"},
		{"3.5.7", "ETCD_LISTEN_CLIENT_HTTP_URLS", "http://127.0.0.1:1", "no variable that etcd 3.5.7 reads", ""},
		{"3.7.3", "ETCD_EXPERIMENTAL_MAX_LEARNERS", "2", "no variable", "did you mean ETCD_MAX_LEARNERS?"},
		{"3.6.14", "ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "true", "feature gate in etcd 3.6.14", "ETCD_FEATURE_GATES: InitialCorruptCheck=true"},
		{"3.6.14", "ETCD_NAME", "b", "etcdadm sets it", "remove ETCD_NAME"},
		{"3.6.14", "ETCD_CLIENT_CERT_AUTH", "false", "etcdadm sets it", ""},
		{"3.6.14", "ETCD_PEER_CERT_ALLOWED_HOSTNAME", "x", "cannot be set", ""},
		{"3.6.14", "ETCD_QUOTA_BACKEND_BYTES", "1", "quotaBackendBytes", ""},
		{"3.6.14", "ETCD_DATA_DIR", "/x", "dataDir", ""},
		{"3.6.14", "ETCD_CONFIG_FILE", "/x", "ignores its environment", ""},
		{"3.6.14", "ETCD_FORCE_NEW_CLUSTER", "true", "drop the other members", ""},
		{"3.6.14", "ETCD_DISCOVERY_SRV", "x", "cannot be set", ""},
		{"3.6.14", "ETCD_VERSION", "true", "print its version", ""},
		{"3.6.14", "ETCD_SNAPSHOT_COUNT", "many", "an integer of at least 0", ""},
		{"3.6.14", "ETCD_SNAPSHOT_COUNT", "", "is empty", "leave"},
		{"3.6.14", "ETCD_PRE_VOTE", "yes", "true or false", ""},
		{"3.6.14", "ETCD_GRPC_KEEPALIVE_TIMEOUT", "5", "a duration", ""},
		{"3.6.14", "ETCD_METRICS", "a\nETCD_NAME=x", "control character", ""},
		{"3.6.14", "ETCD_METRICS", "\"basic\"", "begins with a quote", ""},
		{"3.6.14", "BAD KEY", "x", "not the name of an environment variable", ""},
		{"3.6.14", "ETCD_TLS_MIN_VERSION", "TLS1.1", "TLS1.2 or TLS1.3", ""},
		{"3.6.14", "ETCD_FEATURE_GATES", "Nonsense=true", "no feature gate", "CompactHashCheck"},
		{"3.6.14", "ETCD_FEATURE_GATES", "CompactHashCheck", "not of the form", ""},
		{"3.5.35", "ETCD_FEATURE_GATES", "CompactHashCheck=true", "no variable", ""},
		{"3.6.14", "LD_PRELOAD", "/x.so", "no variable", ""},
	} {
		s := settings(c.version)
		s.ExtraEnv = map[string]string{c.key: c.value}
		refused(t, s, c.key+"="+c.value, c.reason, c.hint)
	}
	s := settings("3.6.14")
	s.ExtraEnv = map[string]string{"ETCD_LOG_ROTATION_CONFIG_JSON": `{"maxsize": 100}`, "ETCD_HEARTBEAT_INTERVAL": "200", "GOMEMLIMIT": "2GiB"}
	if _, err := s.Environment(same); err != nil {
		t.Errorf("good variables: %v", err)
	}
}

func refused(t *testing.T, s Settings, what, reason, hint string) {
	t.Helper()
	_, err := s.Environment(same)
	hints := strings.Join(errs.HintsOf(err), "; ")
	if errs.StatusOf(err) != errs.Usage || !strings.Contains(text(err), reason) || !strings.Contains(hints, hint) {
		t.Errorf("%s: %v (status %d; %s), want %q (status 2; %q)", what, err, errs.StatusOf(err), hints, reason, hint)
	}
}

func TestSettingsAreJudged(t *testing.T) {
	for reason, change := range map[string]func(*Settings){
		"cannot be the name of a member":    func(s *Settings) { s.Name = "a,b" },
		`"" cannot be the name`:             func(s *Settings) { s.Name = "" },
		`"a=b" cannot be`:                   func(s *Settings) { s.Name = "a=b" },
		"not an address that other members": func(s *Settings) { s.BindAddress = netip.IPv4Unspecified() },
		`"invalid IP" is not`:               func(s *Settings) { s.BindAddress = netip.Addr{} },
		`"fe80::1%eth0" is not`:             func(s *Settings) { s.BindAddress = netip.MustParseAddr("fe80::1%eth0") },
		"not an absolute path":              func(s *Settings) { s.CertsDir = "pki" },
		"is negative":                       func(s *Settings) { s.QuotaBytes = -1 },
		"no cipher suite that etcd knows":   func(s *Settings) { s.CipherSuites = []string{"RC5"} },
		"cannot be chosen where": func(s *Settings) {
			s.CipherSuites, s.ExtraEnv = []string{"TLS_AES_128_GCM_SHA256"}, map[string]string{"ETCD_TLS_MIN_VERSION": "TLS1.3"}
		},
		"the settings of etcd 3.4.30 are not known": func(s *Settings) { s.Version = version.Etcd{Major: 3, Minor: 4, Patch: 30} },
		"the settings of etcd 3.8.0 are not known":  func(s *Settings) { s.Version = version.Etcd{Major: 3, Minor: 8} },
		"ETCD_CERT_FILE contains a backslash":       func(s *Settings) { s.CertsDir = `/a\b` },
	} {
		s := settings("3.6.14")
		change(&s)
		refused(t, s, reason, reason, "")
	}
}

func TestTablesNameKnownVariables(t *testing.T) {
	for _, table := range []map[string]string{reserved, gateVariables} {
		for name := range table {
			if variables[name].minors == "" {
				t.Errorf("%s is no variable of any etcd", name)
			}
		}
	}
	for name := range since {
		if !strings.Contains(variables[name].minors, "5") {
			t.Errorf("%s is no variable of etcd 3.5", name)
		}
	}
}
