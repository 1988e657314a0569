package retired_test

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"etcdadm/pkg/api"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
	"etcdadm/pkg/lifecycle"
	"etcdadm/pkg/version"
	"etcdadm/service"
	"etcdadm/test/retired"
)

var update = flag.Bool("update", false, "write the golden files anew")

// nodes are those whose files are kept, each with what etcdadm has to read from them.
var nodes = map[string]struct {
	node retired.Node
	want service.Retired
}{
	"init": {
		retired.Node{Name: "etcd-1", Address: "10.0.0.7"},
		service.Retired{
			Name: "etcd-1", Address: netip.MustParseAddr("10.0.0.7"), InstallDir: "/opt/bin", CertsDir: "/etc/etcd/pki", DataDir: "/var/lib/etcd",
			DiskPriorities: []string{"Nice=-10", "IOSchedulingClass=best-effort", "IOSchedulingPriority=2"},
		},
	},
	"join": {
		retired.Node{
			Name: "node_2", Address: "10.0.0.8", Joined: true, InitialCluster: "etcd-1=https://10.0.0.7:2380,node_2=https://10.0.0.8:2380",
			InstallDir: "/usr/local/bin/", CertsDir: "/srv/pki", DataDir: "/data/etcd", DiskPriorities: []string{"Nice=-5"},
			CipherSuites: []string{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"},
			ExtraSANs:    []string{"etcd.example.com", "10.0.0.99"},
			Environment:  []string{"GOMAXPROCS=997", "ETCD_ENABLE_V2=false", "ETCD_LOGGER=zap", "ETCD_LOG_OUTPUTS=stdout", "ETCD_HEARTBEAT_INTERVAL=250", "ETCD_QUOTA_BACKEND_BYTES=8589934592", "ETCD_TYPO=1"},
		},
		service.Retired{
			Name: "node_2", Address: netip.MustParseAddr("10.0.0.8"), InstallDir: "/usr/local/bin", CertsDir: "/srv/pki", DataDir: "/data/etcd",
			QuotaBytes: 8 << 30, CipherSuites: []string{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"}, DiskPriorities: []string{"Nice=-5"},
		},
	},
}

// place makes a host of a node.
func place(t *testing.T, n retired.Node, ca *retired.CA) *host.Host {
	t.Helper()
	files, err := n.Files(ca)
	if err != nil {
		t.Fatal(err)
	}
	h := host.New(t.TempDir())
	for p, f := range files {
		if err := h.WriteFile(p, f.Data, f.Mode); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func newCA(t *testing.T) *retired.CA {
	t.Helper()
	ca, err := retired.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// What such a node looks like is kept, so that a change of the generator is seen; and etcdadm reads the kept files.
func TestGoldenNodesAreRead(t *testing.T) {
	ca := newCA(t)
	for name, c := range nodes {
		t.Run(name, func(t *testing.T) {
			files, err := c.node.Files(ca)
			if err != nil {
				t.Fatal(err)
			}
			h := host.New(t.TempDir())
			for _, p := range slices.Sorted(maps.Keys(files)) {
				if base := filepath.Base(p); strings.HasSuffix(base, ".crt") || strings.HasSuffix(base, ".key") {
					continue
				}
				golden := filepath.Join("testdata", name, filepath.Base(p))
				if *update {
					if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(golden, files[p].Data, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), string(files[p].Data)); diff != "" {
					t.Errorf("%s\n%s", golden, diff)
				}
				if err := h.WriteFile(p, want, files[p].Mode); err != nil {
					t.Fatal(err)
				}
			}
			got, err := service.FindRetired(h)
			if err != nil || got == nil {
				t.Fatalf("not recognized: %v", err)
			}
			extra := got.Extra
			got.Extra = nil
			if diff := cmp.Diff(c.want, *got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
			got.Extra = extra
			kept, dropped := got.ExtraFor(version.Etcd{Major: 3, Minor: 6, Patch: 16})
			wantKept, wantDropped := map[string]string{}, []string(nil)
			if name == "join" {
				wantKept = map[string]string{"GOMAXPROCS": "997", "ETCD_HEARTBEAT_INTERVAL": "250", "ETCD_LOG_OUTPUTS": "stdout"}
				wantDropped = []string{"ETCD_TYPO"}
			}
			if diff := cmp.Diff(wantKept, kept) + cmp.Diff(wantDropped, dropped); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The certificates of the generator are those of the retired etcdadm: RSA-2048, names, addresses, usages, organization.
func TestCertificatesAreAsTheyWere(t *testing.T) {
	files, err := nodes["join"].node.Files(newCA(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"ca":                    "etcd [] [] [] []",
		"server":                "node_2 [] [node_2 etcd.example.com] [10.0.0.8 127.0.0.1 10.0.0.99] [1 2]",
		"peer":                  "node_2 [] [node_2] [10.0.0.8] [1 2]",
		"etcdctl-etcd-client":   "node_2-etcdctl [system:masters] [] [] [2]",
		"apiserver-etcd-client": "node_2-kube-apiserver-etcd-client [system:masters] [] [] [2]",
	} {
		block, _ := pem.Decode(files["/srv/pki/"+name+".crt"].Data)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		key, ok := c.PublicKey.(*rsa.PublicKey)
		if !ok || key.N.BitLen() != 2048 {
			t.Errorf("%s has a key of %T", name, c.PublicKey)
		}
		if got := strings.TrimSpace(cmpText(c)); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func cmpText(c *x509.Certificate) string {
	var ips, usages []string
	for _, ip := range c.IPAddresses {
		ips = append(ips, ip.String())
	}
	for _, u := range c.ExtKeyUsage {
		usages = append(usages, string('0'+rune(u)))
	}
	list := func(l []string) string { return "[" + strings.Join(l, " ") + "]" }
	return strings.Join([]string{c.Subject.CommonName, list(c.Subject.Organization), list(c.DNSNames), list(ips), list(usages)}, " ")
}

// What the node says about itself is the configuration, without a flag; and of its certificates none is made anew.
func TestNoCertificateThatFitsIsMadeAnew(t *testing.T) {
	here, err := host.DefaultAddress()
	if err != nil || !here.Is4() { // a peer certificate has to name the address from which this machine sends
		t.Skipf("this machine has no address of its own: %v", err)
	}
	ca := newCA(t)
	for name, c := range nodes {
		t.Run(name, func(t *testing.T) {
			c.node.Address = here.String()
			h := place(t, c.node, ca)
			found, err := lifecycle.Found(context.Background(), h)
			if err != nil || found == nil {
				t.Fatalf("not found: %v", err)
			}
			config, _ := api.Merge(*found)
			api.Default(&config, api.Facts{Hostname: "another", Address: netip.MustParseAddr("192.0.2.1")})
			if problems := config.Validate(); len(problems) > 0 {
				for _, p := range problems {
					if !p.Warning {
						t.Error(p)
					}
				}
			}
			if config.Name != c.node.Name || config.BindAddress != c.node.Address || !slices.Equal(config.ServerCertExtraSANs, c.node.ExtraSANs) && len(c.node.ExtraSANs) > 0 {
				t.Errorf("found %+v", config)
			}
			config.InitSystem = api.Process // as this user
			n := &lifecycle.Node{Config: config, Host: host.New(h.Root(), host.ReadOnly()), Now: time.Now}
			t.Cleanup(n.Close)
			phases, err := converge.Only(lifecycle.Init(n, lifecycle.InitOptions{}), lifecycle.PhaseCertificates)
			if err != nil {
				t.Fatal(err)
			}
			r := converge.Run(t.Context(), phases, converge.Options{DryRun: true})
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			for _, s := range r.Steps {
				if len(s.Diff) > 0 {
					t.Errorf("%s: %s", s.Step, s.Diff)
				}
			}
		})
	}
}

// What tells whose the certificates are is written down before the unit is replaced that tells whose the node is.
func TestWhoseTheNodeWasIsWrittenDownFirst(t *testing.T) {
	h := place(t, nodes["init"].node, newCA(t))
	found, err := lifecycle.Found(t.Context(), h)
	if err != nil || found == nil {
		t.Fatalf("not found: %v", err)
	}
	config, _ := api.Merge(*found)
	api.Default(&config, api.Facts{})
	n := &lifecycle.Node{Config: config, Host: host.New(h.Root(), host.ReadOnly()), Now: time.Now}
	t.Cleanup(n.Close)
	for name, phases := range map[string][]converge.Phase{
		"init": lifecycle.Init(n, lifecycle.InitOptions{}), "join": lifecycle.Join(n, lifecycle.JoinOptions{Endpoints: []string{"https://10.0.0.8:2379"}}),
	} {
		first, err := converge.Only(phases, lifecycle.PhaseConfig)
		if err != nil {
			t.Fatal(err)
		}
		r := converge.Run(t.Context(), first, converge.Options{DryRun: true})
		if r.Err != nil || len(r.Steps) < 2 || r.Steps[0].Step != "takeover/certificates" || r.Steps[0].Status != converge.Pending {
			t.Errorf("%s begins with %+v, %v", name, r.Steps, r.Err)
		}
	}
}

// A unit of somebody else is not taken for one of the retired etcdadm, and neither is one whose settings etcdadm cannot keep.
func TestOthersAreNotTakenOver(t *testing.T) {
	n := retired.Node{Name: "etcd-1", Address: "10.0.0.7"}
	for name, c := range map[string]struct {
		unit, env func(string) string
		refused   string // "" when it is no node of the retired etcdadm at all
	}{
		"another program":          {unit: change("ExecStart=/opt/bin/etcd", "ExecStart=/opt/bin/etcd --data-dir /var/lib/etcd")},
		"another environment file": {unit: change("/etc/etcd/etcd.env", "/etc/etcd.env")},
		"made by hand":             {unit: change("Conflicts=etcd-member.service\n", "")},
		"certificates elsewhere":   {env: change("/etc/etcd/pki/server.crt", "/etc/ssl/etcd/member.pem"), refused: "ETCD_CERT_FILE"},
		"known by its host's name": {env: change("ETCD_INITIAL_ADVERTISE_PEER_URLS=https://10.0.0.7", "ETCD_INITIAL_ADVERTISE_PEER_URLS=https://etcd-1"), refused: "ETCD_INITIAL_ADVERTISE_PEER_URLS"},
		"another port":             {env: change("ETCD_ADVERTISE_CLIENT_URLS=https://10.0.0.7:2379", "ETCD_ADVERTISE_CLIENT_URLS=https://10.0.0.7:4001"), refused: "ETCD_ADVERTISE_CLIENT_URLS"},
		"data nowhere":             {env: change("ETCD_DATA_DIR=/var/lib/etcd\n", ""), refused: "ETCD_DATA_DIR"},
	} {
		t.Run(name, func(t *testing.T) {
			same := func(s string) string { return s }
			if c.unit == nil {
				c.unit = same
			}
			if c.env == nil {
				c.env = same
			}
			h := host.New(t.TempDir())
			for p, text := range map[string]string{"/etc/systemd/system/etcd.service": c.unit(n.Unit()), "/etc/etcd/etcd.env": c.env(n.Env())} {
				if err := h.WriteFile(p, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			r, err := service.FindRetired(h)
			if c.refused == "" && (r != nil || err != nil) || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("found %+v, %v", r, err)
			}
			if found, err := lifecycle.Found(t.Context(), h); found != nil || err != nil {
				t.Errorf("taken for %+v, %v", found, err)
			}
		})
	}
}

// A member of somebody else is handed over by its environment file alone, where ours is: what is about certificates does not
// matter then, and what etcdadm cannot keep is named.
func TestAMemberIsHandedOver(t *testing.T) {
	const env = `# of kubespray
ETCD_DATA_DIR=/var/lib/etcd
ETCD_ADVERTISE_CLIENT_URLS=https://10.0.0.7:2379
ETCD_INITIAL_ADVERTISE_PEER_URLS=https://10.0.0.7:2380
ETCD_LISTEN_CLIENT_URLS=https://10.0.0.7:2379,https://127.0.0.1:2379
ETCD_LISTEN_METRICS_URLS=http://10.0.0.7:2381
ETCD_ELECTION_TIMEOUT=5000
ETCD_NAME=etcd1
ETCD_PROXY=off
ETCD_TRUSTED_CA_FILE=/etc/ssl/etcd/ssl/ca.pem
ETCD_PEER_CLIENT_CERT_AUTH=True
ETCDCTL_ENDPOINTS=https://127.0.0.1:2379
`
	h := host.New(t.TempDir())
	write := func(p, text string) {
		t.Helper()
		if err := h.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("/etc/etcd/etcd.env", env)
	r, err := service.FindRetired(h)
	if err != nil || r == nil || !r.Handed {
		t.Fatalf("found %+v, %v", r, err)
	}
	kept, dropped := r.ExtraFor(version.Etcd{Major: 3, Minor: 5, Patch: 35})
	if diff := cmp.Diff(map[string]string{"ETCD_ELECTION_TIMEOUT": "5000"}, kept) + cmp.Diff([]string{"ETCD_LISTEN_METRICS_URLS"}, dropped); diff != "" {
		t.Error(diff)
	}
	found, err := lifecycle.Found(t.Context(), h)
	if err != nil || found == nil {
		t.Fatalf("not found: %v", err)
	}
	if c := found.Config; c.Name != "etcd1" || c.BindAddress != "10.0.0.7" || found.Set["certsDir"] || found.Set["installDir"] || found.Set["version"] {
		t.Errorf("found %+v, %v", c, found.Set)
	}
	write("/etc/etcd/etcd.env", env+"ETCDADM_DIGEST=x\n")
	if r, err := service.FindRetired(h); r != nil || err != nil {
		t.Errorf("what etcdadm wrote was handed over: %+v, %v", r, err)
	}
	write("/etc/etcd/etcd.env", env)
	write("/etc/systemd/system/etcd.service", "[Service]\nEnvironmentFile=/etc/etcd.env\nExecStart=/usr/local/bin/etcd\n")
	if r, err := service.FindRetired(h); r != nil || err != nil {
		t.Errorf("with its unit in place: %+v, %v", r, err)
	}
}

func change(from, to string) func(string) string {
	return func(s string) string { return strings.Replace(s, from, to, 1) }
}
