package certs

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"etcdadm/pkg/converge"
)

// TestJudge states what is drift in a leaf, and what is not.
func TestJudge(t *testing.T) {
	day := 24 * time.Hour
	ca := foreign(t, caTemplate(), nil, nil)
	other := foreign(t, caTemplate(), nil, nil) // the same name, another key
	ending := caTemplate()
	ending.NotAfter = noon.Add(10 * day)
	caEnding := foreign(t, ending, nil, nil)
	narrow := caTemplate()
	narrow.PermittedDNSDomains, narrow.PermittedDNSDomainsCritical = []string{"example.com"}, true
	caNarrow := foreign(t, narrow, nil, nil)
	inter := caTemplate()
	inter.Subject.CommonName = "intermediate"
	mid := foreign(t, inter, nil, &ca)
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)

	want := Leaf{
		Name: ServerName, CommonName: "etcd-1", DNSNames: []string{"etcd-1", "*.etcd.example.com"}, Optional: []string{"fd00::7"},
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}, Usages: bothUsages, RenewBefore: 30 * day,
	}
	fits := func() x509.Certificate {
		return x509.Certificate{
			Subject:  pkix.Name{CommonName: "etcd-1"},
			DNSNames: []string{"etcd-1", "*.etcd.example.com"}, IPAddresses: []net.IP{net.ParseIP("10.0.0.7"), net.ParseIP("fd00::7")},
			ExtKeyUsage: bothUsages, KeyUsage: x509.KeyUsageDigitalSignature,
		}
	}
	leaf := func(f func(c *x509.Certificate)) pair {
		c := fits()
		if f != nil {
			f(&c)
		}
		return foreign(t, c, nil, &ca).pair(t, ServerName)
	}
	by := func(issuer made, f func(c *x509.Certificate)) pair {
		c := fits()
		if f != nil {
			f(&c)
		}
		return foreign(t, c, nil, &issuer).pair(t, ServerName)
	}
	issued := func(p pair) pair { p.crt.linked, p.key.linked = true, true; return p }
	good := leaf(nil)

	tests := []struct {
		name  string
		pair  pair
		roots []made
		want  string // the diff; "" when the pair fits
		soft  bool
	}{
		{name: "fits", pair: good},
		{name: "absent", pair: pair{crt: part{problem: absentText}, key: part{problem: absentText}}, want: "server.crt: absent, want issued; server.key: absent, want issued"},
		{name: "garbage", pair: pair{crt: part{problem: "holds no PEM certificate"}}, want: "server.crt: holds no PEM certificate, want issued"},
		{name: "key absent", pair: pair{chain: good.chain, key: part{problem: absentText}}, want: "server.key: absent, want issued"},
		{name: "key hidden", pair: pair{chain: good.chain, key: part{hidden: true}}},
		{name: "key of another", pair: pair{chain: good.chain, signs: leaf(nil).signs}, want: "server.key: does not belong to server.crt, want issued"},
		{name: "expired", pair: leaf(func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }), want: "server.crt: expired at 2030-06-01T11:59:59Z, want issued"},
		{name: "not yet", pair: leaf(func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Second) }), want: "server.crt: not valid before 2030-06-01T12:00:01Z, want issued"},
		{name: "ends soon", pair: leaf(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(-336*day), noon.Add(29*day) }), want: "server.crt: expires at 2030-06-30T12:00:00Z, want issued", soft: true},
		{name: "ends not so soon", pair: leaf(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(-334*day), noon.Add(31*day) })},
		{name: "short life, begun", pair: leaf(func(c *x509.Certificate) { c.NotAfter = noon.Add(2 * day) })},
		{name: "short life, last third", pair: leaf(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(-5*day), noon.Add(day) }), want: "server.crt: expires at 2030-06-02T12:00:00Z, want issued", soft: true},
		{name: "ends with its CA", pair: by(caEnding, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(-300*day), ending.NotAfter }), roots: []made{caEnding}},
		{name: "other CA of that name", pair: by(other, nil), want: "server.crt: not signed by ca.crt, want issued"},
		{name: "self-signed", pair: foreign(t, fits(), nil, nil).pair(t, ServerName), want: "server.crt: not signed by ca.crt, want issued"},
		{name: "second CA of a bundle", pair: by(other, nil), roots: []made{ca, other}},
		{name: "intermediate missing", pair: by(mid, nil), want: "server.crt: not signed by ca.crt, want issued"},
		{name: "intermediate in the file", pair: func() pair { p := by(mid, nil); p.chain = append(p.chain, mid.cert); return p }()},
		{name: "name constraints", pair: by(caNarrow, nil), roots: []made{caNarrow}, want: `server.crt: not accepted under ca.crt: a root or intermediate certificate is not authorized to sign for this name: DNS name "etcd-1" is not permitted by any constraint, want issued`},
		{name: "address missing", pair: leaf(func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[1:] }), want: "server.crt: lacks 10.0.0.7, want issued"},
		{name: "placed without what is optional", pair: leaf(func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[:1] })},
		{name: "issued without what is optional", pair: issued(leaf(func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[:1] })), want: "server.crt: lacks fd00::7, want issued"},
		{name: "names missing", pair: leaf(func(c *x509.Certificate) { c.DNSNames = []string{"etcd-2"} }), want: "server.crt: lacks etcd-1, *.etcd.example.com, want issued"},
		{name: "more names", pair: leaf(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "more") })},
		{name: "names in capitals", pair: leaf(func(c *x509.Certificate) { c.DNSNames = []string{"ETCD-1", "*.ETCD.example.com"} })},
		{name: "common name is no name", pair: leaf(func(c *x509.Certificate) { c.DNSNames = []string{"*.etcd.example.com"} }), want: "server.crt: lacks etcd-1, want issued"},
		{name: "usage missing", pair: leaf(func(c *x509.Certificate) { c.ExtKeyUsage = bothUsages[:1] }), want: "server.crt: lacks extended key usage clientAuth, want issued"},
		{name: "usages not limited", pair: leaf(func(c *x509.Certificate) { c.ExtKeyUsage = nil })},
		{name: "any usage", pair: leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })},
		{name: "cannot sign", pair: leaf(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), want: "server.crt: lacks key usage digitalSignature, want issued"},
		{name: "weak key", pair: foreign(t, fits(), rsa1024, &ca).pair(t, ServerName), want: "server.key: is weak (rsa-1024), want issued"},
		{name: "SHA-1", pair: leaf(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }), want: "server.crt: signed with ECDSA-SHA1, which is broken, want issued"},
		{name: "placed with another common name", pair: leaf(func(c *x509.Certificate) { c.Subject.CommonName = "root" })},
		{name: "issued with another common name", pair: issued(leaf(func(c *x509.Certificate) { c.Subject.CommonName = "etcd-2" })), want: `server.crt: common name is "etcd-2", not "etcd-1", want issued`},
		{name: "placed with the organization of an older tool", pair: leaf(func(c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} })},
		{name: "placed with an organization", pair: leaf(func(c *x509.Certificate) { c.Subject.Organization = []string{"Example"} })},
		{name: "several", pair: leaf(func(c *x509.Certificate) { c.DNSNames, c.NotAfter = nil, noon.Add(-day) }), want: "server.crt: expired at 2030-05-31T12:00:00Z, want issued; server.crt: lacks etcd-1, *.etcd.example.com, want issued"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.roots == nil {
				tt.roots = []made{ca}
			}
			var roots []*x509.Certificate
			for _, r := range tt.roots {
				roots = append(roots, r.cert)
			}
			var d converge.Diff
			soft := len(tt.want) > 0
			for _, p := range want.judge(tt.pair, roots, noon) {
				d = append(d, p.change)
				soft = soft && p.soft
			}
			if d.String() != tt.want || soft != tt.soft {
				t.Errorf("%s (soft %v)\nwant %s (soft %v)", d, soft, tt.want, tt.soft)
			}
		})
	}
}

// TestKeyAlgorithmIsDrift: a pair that was issued here follows the setting, one that was placed does not.
func TestKeyAlgorithmIsDrift(t *testing.T) {
	ca := foreign(t, caTemplate(), nil, nil)
	p := foreign(t, x509.Certificate{Subject: pkix.Name{CommonName: "x"}}, nil, &ca).pair(t, ServerName)
	l := Leaf{Name: ServerName, CommonName: "x", Algorithm: ECDSAP384}
	if found := l.judge(p, []*x509.Certificate{ca.cert}, noon); len(found) != 0 {
		t.Errorf("a placed pair: %v", found)
	}
	p.crt.linked = true
	found := l.judge(p, []*x509.Certificate{ca.cert}, noon)
	if len(found) != 1 || !strings.Contains(found[0].change.Have, "is of ecdsa-p256, not ecdsa-p384") {
		t.Errorf("an issued pair: %v", found)
	}
}
