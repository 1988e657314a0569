package certs

import (
	"net/netip"
	"strings"
	"testing"

	"etcdadm/pkg/errs"
)

// TestParseSANs: what a certificate can carry, and what cfssl would quietly make something else of.
func TestParseSANs(t *testing.T) {
	good := map[string]string{
		"etcd.example.com":   "etcd.example.com",
		"ETCD.Example.COM":   "etcd.example.com",
		"etcd.example.com.":  "etcd.example.com",
		"*.etcd.example.com": "*.etcd.example.com",
		"etcd_1":             "etcd_1",
		" etcd-1 ":           "etcd-1",
		"1a":                 "1a",
		"10.0.0.7":           "10.0.0.7",
		"FD00:0::7":          "fd00::7",
		"::ffff:10.0.0.7":    "10.0.0.7",
	}
	for in, want := range good {
		names, ips, err := ParseSANs([]string{in})
		must(t, err)
		for _, ip := range ips {
			names = append(names, ip.String())
		}
		if strings.Join(names, " ") != want {
			t.Errorf("%q: %q, want %q", in, names, want)
		}
	}
	bad := []string{
		"", " ", ".", "*", "*.", "a.*.example.com", "**.example.com", "10.0.0.0/8", "10.0.0.300", "1.2.3", "fe80::1%eth0", "[::1]", "10.0.0.7:2379",
		"https://etcd.example.com", "etcd.example.com:2379", "root@example.com", "/etcd", "a b", "-a", "a-", "a..b", "étcd", "a,b", "a\nb",
		strings.Repeat("a", 64), strings.Repeat("a.", 127) + "aa",
	}
	for _, in := range bad {
		_, _, err := ParseSANs([]string{"fine", in})
		if errs.StatusOf(err) != errs.Usage || !strings.Contains(err.Error(), "is neither a host name nor an IP address") || len(errs.HintsOf(err)) == 0 {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// TestNames: which names of a node a certificate carries, each once, and that the base stays as it was.
func TestNames(t *testing.T) {
	tests := []struct{ node, want string }{
		{"etcd-1", "etcd-1 peer"},
		{"Node_1.example.com", "node_1.example.com peer"},
		{"10.0.0.9", "peer 10.0.0.9"},
		{"infra 1", "peer"},
		{"peer", "peer"},
	}
	for _, tt := range tests {
		l := Peer(Leaf{}, tt.node, []netip.Addr{netip.MustParseAddr("10.0.0.7")}, []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.7"), netip.MustParseAddr("10.1.0.7")}, "peer")
		hosts := strings.TrimSuffix(strings.Join(l.hosts(), " "), " 10.0.0.7 10.1.0.7")
		if hosts != tt.want || l.CommonName != tt.node {
			t.Errorf("%q: %q, want %q", tt.node, hosts, tt.want)
		}
	}
	if l := Peer(Leaf{}, "a", nil, nil, ""); len(l.DNSNames) != 1 {
		t.Errorf("without a marker: %v", l.DNSNames)
	}
	if _, err := Server(Leaf{}, "a", nil, []string{"10.0.0.0/8"}); errs.StatusOf(err) != errs.Usage {
		t.Error(err)
	}
	base := Leaf{DNSNames: make([]string, 0, 8)}
	a, b := EtcdctlClient(base, "a"), Peer(base, "b", nil, nil, "")
	if _, err := Server(base, "c", nil, nil); err != nil || len(a.DNSNames) != 0 || b.DNSNames[0] != "b" {
		t.Errorf("%v %v: the pairs share a slice", a.DNSNames, b.DNSNames)
	}
}
