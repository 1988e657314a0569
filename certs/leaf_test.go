package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// TestIssued states what the pairs of a node say.
func TestIssued(t *testing.T) {
	h, _ := set(t)
	ca, err := readCA(h, dir)
	must(t, err)
	tests := []struct {
		name, subject, sans string
		usages              []x509.ExtKeyUsage
	}{
		{ServerName, "CN=etcd-1", "etcd-1 localhost *.etcd.example.com 127.0.0.1 ::1 10.0.0.7 192.0.2.1", bothUsages},
		{PeerName, "CN=etcd-1", "etcd-1 peer.etcdadm.internal 10.0.0.7", bothUsages},
		{EtcdctlName, "CN=etcd-1-etcdctl", "", clientOnly},
		{APIServerName, "CN=etcd-1-kube-apiserver-etcd-client", "", clientOnly},
	}
	for _, tt := range tests {
		p, err := readPair(h, dir, tt.name)
		must(t, err)
		c := p.chain[0]
		if got := strings.Join(describe(p).SANs, " "); got != tt.sans || c.Subject.String() != tt.subject {
			t.Errorf("%s: subject %s, SANs %s", tt.name, c.Subject, got)
		}
		if !slices.Equal(c.ExtKeyUsage, tt.usages) || c.KeyUsage != x509.KeyUsageDigitalSignature || c.IsCA || !c.BasicConstraintsValid {
			t.Errorf("%s: usages %v %b, CA %v", tt.name, c.ExtKeyUsage, c.KeyUsage, c.IsCA)
		}
		if !c.NotBefore.Equal(noon.Add(-constants.Backdate)) || !c.NotAfter.Equal(noon.Add(constants.LeafLifetime)) {
			t.Errorf("%s: valid from %s to %s", tt.name, c.NotBefore, c.NotAfter)
		}
		if !bytes.Equal(c.AuthorityKeyId, ca.chain[0].SubjectKeyId) || len(c.SubjectKeyId) == 0 {
			t.Errorf("%s: key ids %x, %x", tt.name, c.SubjectKeyId, c.AuthorityKeyId)
		}
		if p.crt.mode.Perm() != 0o644 || p.key.mode.Perm() != 0o600 || !p.usable() || p.placed() {
			t.Errorf("%s: modes %o %o, usable %v, placed %v", tt.name, p.crt.mode, p.key.mode, p.usable(), p.placed())
		}
		if !bytes.HasPrefix(p.key.data, []byte("-----BEGIN PRIVATE KEY-----")) {
			t.Errorf("%s: the key is not PKCS#8", tt.name)
		}
	}
	info, err := h.Stat(dir)
	must(t, err)
	if info.Mode().Perm() != 0o755 {
		t.Errorf("directory mode %o", info.Mode())
	}
}

// TestSecondRunTouchesNothing: no act, and so no mtime.
func TestSecondRunTouchesNothing(t *testing.T) {
	h, n := set(t)
	n.base.Host = host.New(h.Root(), host.ReadOnly())
	if r := run(n.steps()...); r.Err != nil || r.Changed {
		t.Errorf("changed %v, error %v", r.Changed, r.Err)
	}
}

// TestDrift: what changes under a pair has it issued anew, with a new key, and leaves nothing behind.
func TestDrift(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, h *host.Host, n *node)
		diff   string
	}{
		{"certificate deleted", func(t *testing.T, h *host.Host, _ *node) { must(t, h.Remove(dir+"/server.crt")) }, "server.crt: absent, want issued"},
		{"key deleted", func(t *testing.T, h *host.Host, _ *node) { must(t, h.Remove(dir+"/server.key")) }, "server.key: absent, want issued"},
		{"both deleted", func(t *testing.T, h *host.Host, _ *node) {
			must(t, h.Remove(dir+"/server.crt"))
			must(t, h.Remove(dir+"/server.key"))
		}, "server.crt: absent, want issued"},
		{"behind the links deleted", func(t *testing.T, h *host.Host, _ *node) { must(t, h.RemoveAll(dir+"/.pairs/server")) }, "server.crt: absent, want issued"},
		{"hidden directory deleted", func(t *testing.T, h *host.Host, _ *node) { must(t, h.RemoveAll(dir+"/.pairs")) }, "server.crt: absent, want issued"},
		{"name", func(_ *testing.T, _ *host.Host, n *node) { n.name = "etcd-9" }, "server.crt: lacks etcd-9"},
		{"address", func(_ *testing.T, _ *host.Host, n *node) { n.addr = n.addr.Next() }, "server.crt: lacks 10.0.0.8"},
		{"time", func(_ *testing.T, _ *host.Host, n *node) { n.now = noon.Add(340 * 24 * time.Hour) }, "server.crt: expires at 2031-06-01T12:00:00Z"},
		{"expired", func(_ *testing.T, _ *host.Host, n *node) { n.now = noon.Add(400 * 24 * time.Hour) }, "server.crt: expired at 2031-06-01T12:00:00Z"},
		{"another CA", func(t *testing.T, h *host.Host, _ *node) { foreign(t, caTemplate(), nil, nil).place(t, h, CAName) }, "server.crt: not signed by ca.crt"},
		{"algorithm", func(_ *testing.T, _ *host.Host, n *node) { n.base.Algorithm = ECDSAP384 }, "server.key: is of ecdsa-p256, not ecdsa-p384"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, n := set(t)
			before, err := readPair(h, dir, ServerName)
			must(t, err)
			layout := snapshot(t, h)
			tt.change(t, h, &n)
			if d := check(t, n.leaf(ServerName)).String(); !strings.Contains(d, tt.diff) {
				t.Errorf("diff %q, want %q", d, tt.diff)
			}
			must(t, run(n.steps()...).Err)
			after, err := readPair(h, dir, ServerName)
			must(t, err)
			if !after.usable() || samePublic(before.signs.Public(), after.signs.Public()) {
				t.Error("the pair has no new key that fits")
			}
			if tt.name != "hidden directory deleted" && tt.name != "another CA" { // those lose the record of the CA, or its modes
				if got := snapshot(t, h); got != layout {
					t.Errorf("the layout is\n%s\nbefore it was\n%s", got, layout)
				}
			}
			if r := run(n.steps()...); r.Changed || r.Err != nil {
				t.Errorf("a run after that: changed %v, %v", r.Changed, r.Err)
			}
		})
	}
}

// TestModesAreCorrected: without a new key.
func TestModesAreCorrected(t *testing.T) {
	h, n := set(t)
	key := file(t, h, "server.key")
	must(t, h.Chmod(dir+"/server.key", 0o644))
	must(t, h.Chmod(dir+"/server.crt", 0o600))
	if d := check(t, n.leaf(ServerName)).String(); d != "server.key: mode 0644, want 0600; server.crt: mode 0600, want 0644" {
		t.Error(d)
	}
	converged(t, n.leaf(ServerName))
	if !bytes.Equal(key, file(t, h, "server.key")) {
		t.Error("the key changed")
	}
}

// operator is a node whose server pair an operator placed, with a CA of the operator's.
func operator(t *testing.T) (h *host.Host, n node, ca, leaf made) {
	t.Helper()
	h = host.New(t.TempDir())
	n = newNode(h)
	ca = foreign(t, caTemplate(), nil, nil)
	ca.place(t, h, CAName)
	w := n.leaf(ServerName)
	c := x509.Certificate{DNSNames: w.DNSNames, ExtKeyUsage: w.Usages}
	for _, ip := range w.IPs {
		c.IPAddresses = append(c.IPAddresses, ip.AsSlice())
	}
	leaf = foreign(t, c, nil, &ca)
	leaf.place(t, h, ServerName)
	return h, n, ca, leaf
}

// TestPlacedPairStays: as the regular files that it is, key shared with a group, and without ca.key on the node.
func TestPlacedPairStays(t *testing.T) {
	h, n, _, _ := operator(t)
	must(t, h.Chmod(dir+"/server.key", 0o640))
	must(t, h.Remove(dir+"/ca.key"))
	n.base.Host = host.New(h.Root(), host.ReadOnly())
	if d := check(t, n.leaf(ServerName)); len(d) > 0 {
		t.Error(d)
	}
	if d := check(t, n.ca().Given()); len(d) > 0 {
		t.Error(d)
	}
}

// TestPlacedPairIsReplaced when it does not fit any more.
func TestPlacedPairIsReplaced(t *testing.T) {
	h, n, _, leaf := operator(t)
	n.name = "etcd-2"
	converged(t, n.leaf(ServerName))
	p, err := readPair(h, dir, ServerName)
	must(t, err)
	if p.placed() || samePublic(p.signs.Public(), leaf.key.Public()) {
		t.Error("the pair is the old one")
	}
}

// TestIssuingNeedsTheKey: status 3 with the way to bring ca.key; what still serves is a warning instead.
func TestIssuingNeedsTheKey(t *testing.T) {
	h, n := set(t)
	must(t, h.Remove(dir+"/ca.key"))
	n.now = noon.Add(340 * 24 * time.Hour)
	r := run(converge.Step{Name: "certificates/server", Short: "server pair", Want: n.leaf(ServerName)})
	if r.Err != nil || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "server.crt: expires at 2031-06-01T12:00:00Z, want issued, but /etc/etcd/pki/ca.key is not here") {
		t.Errorf("error %v, warnings %v", r.Err, r.Warnings)
	}
	n.now = noon.Add(366 * 24 * time.Hour)
	_, err := n.leaf(ServerName).Check(context.Background())
	wantError(t, err, errs.Precondition, "ca.key is absent, and server has to be issued (server.crt: expired", "scp -p root@EXISTING-NODE:/etc/etcd/pki/ca.key")
}

// TestKeepExisting: only missing pairs are made; the others are kept, with a warning for what is wrong with them.
func TestKeepExisting(t *testing.T) {
	h, n := set(t)
	n.base.KeepExisting = true
	n.name = "etcd-2"
	server := file(t, h, "server.crt")
	must(t, h.Remove(dir+"/peer.crt"))
	must(t, h.Remove(dir+"/peer.key"))
	r := run(n.steps()...)
	must(t, r.Err)
	if !bytes.Equal(server, file(t, h, "server.crt")) {
		t.Error("an existing pair was replaced")
	}
	if p, err := readPair(h, dir, PeerName); err != nil || !p.usable() || p.chain[0].Subject.CommonName != "etcd-2" {
		t.Errorf("peer: %v %v", p.chain, err)
	}
	if w := strings.Join(r.Warnings, "\n"); !strings.Contains(w, "server.crt is kept as it is: lacks etcd-2") {
		t.Errorf("warnings %q", w)
	}
}

// TestAnotherCABesideKeptPairs: a missing pair is not issued by a CA that the kept ones are not of. Placed ones may be of any.
func TestAnotherCABesideKeptPairs(t *testing.T) {
	h, n := set(t)
	n.base.KeepExisting = true
	other, _ := set(t)
	for _, f := range []string{"ca.crt", "ca.key"} {
		place(t, h, f, file(t, other, f), 0o600)
	}
	must(t, h.Remove(dir+"/server.crt"))
	wantError(t, run(n.steps()...).Err, errs.Verification, "ca.crt is another CA than the one that", "peer.crt is of: it is not signed by ca.crt", "! -name 'ca.*'")
	for _, name := range LeafNames() { // now as an operator places them
		for _, f := range []string{name + ".crt", name + ".key"} {
			if data, err := h.ReadFile(dir + "/" + f); err == nil {
				must(t, h.Remove(dir+"/"+f))
				place(t, h, f, data, 0o600)
			}
		}
	}
	must(t, run(n.steps()...).Err)
}

// TestRenewalByDeleting: callers copy the directory away, delete everything that they see, copy the CA back, and run again.
func TestRenewalByDeleting(t *testing.T) {
	h, n := set(t)
	n.base.KeepExisting = true
	old := file(t, h, "server.crt")
	ca := map[string][]byte{"ca.crt": file(t, h, "ca.crt"), "ca.key": file(t, h, "ca.key")}
	entries, err := h.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") { // as a shell's * does
			must(t, h.Remove(path.Join(dir, e.Name())))
		}
	}
	for f, data := range ca {
		place(t, h, f, data, 0o600)
	}
	must(t, run(n.steps()...).Err)
	for _, name := range LeafNames() {
		if p, err := readPair(h, dir, name); err != nil || !p.usable() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if bytes.Equal(old, file(t, h, "server.crt")) {
		t.Error("server.crt is the old one")
	}
	if !bytes.Equal(ca["ca.crt"], file(t, h, "ca.crt")) {
		t.Error("the CA changed")
	}
}

// TestDryRun: on a blank node everything is a gap, and nothing is an error or an act.
func TestDryRun(t *testing.T) {
	h := host.New(t.TempDir(), host.ReadOnly())
	n := newNode(h)
	r := converge.Run(context.Background(), []converge.Phase{{Name: "certificates", Steps: func(context.Context) ([]converge.Step, error) { return n.steps(), nil }}}, converge.Options{DryRun: true})
	must(t, r.Err)
	for _, s := range r.Steps {
		if s.Status != converge.Pending || len(s.Diff) != 1 || s.Diff[0].Have != "absent" || s.Diff[0].Want != "issued" {
			t.Errorf("%s: %s %s", s.Step, s.Status, s.Diff)
		}
	}
	if entries, _ := os.ReadDir(h.Root()); len(entries) > 0 {
		t.Errorf("the dry run made %v", entries)
	}
}

// TestLeafNeedsCA: without a CA there is a gap, and Apply says what is missing.
func TestLeafNeedsCA(t *testing.T) {
	h := host.New(t.TempDir())
	err := newNode(h).leaf(PeerName).Apply(context.Background())
	wantError(t, err, errs.Precondition, "ca.crt and ca.key are not there to issue peer with")
}

// TestConstrainedCA: a CA that cannot issue what is wanted is found out before the old pair is gone.
func TestConstrainedCA(t *testing.T) {
	h, n := set(t)
	before := file(t, h, "server.crt")
	narrow := caTemplate()
	narrow.PermittedDNSDomains, narrow.PermittedDNSDomainsCritical = []string{"example.com"}, true
	foreign(t, narrow, nil, nil).place(t, h, CAName)
	err := n.leaf(ServerName).Apply(context.Background())
	wantError(t, err, errs.Verification, "cannot issue server", "not permitted by any constraint")
	if !bytes.Equal(before, file(t, h, "server.crt")) {
		t.Error("the old certificate is gone")
	}
}

// A key belongs to its owner from the moment that it has its name; one that was given to somebody else is given back,
// and not issued anew. One that an operator placed is not judged.
func TestKeysBelongToTheirOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	h := host.New(t.TempDir())
	must(t, h.WriteFile("/etc/passwd", []byte("etcd:x:501:502::/:/bin/false\n"), 0o644))
	must(t, h.WriteFile("/etc/group", []byte("etcd:x:502:\n"), 0o644))
	n := newNode(h)
	n.base.Owner = host.Owner{Name: "etcd"}
	must(t, run(n.steps()...).Err)
	leaf := n.leaf(ServerName)
	owned := func(want bool) {
		t.Helper()
		info, err := h.Stat(path.Join(dir, "server.key"))
		must(t, err)
		if h.Owns(leaf.Owner, info) != want {
			t.Errorf("the key belongs to etcd: %t", !want)
		}
	}
	owned(true)
	before, err := h.ReadFile(path.Join(dir, "server.key"))
	must(t, err)
	must(t, os.Chown(h.RealPath(path.Join(dir, "server.key")), 0, 0))
	d, err := leaf.Check(t.Context())
	must(t, err)
	if d.String() != "server.key: another owner, want etcd" {
		t.Errorf("gap %q", d)
	}
	must(t, leaf.Apply(t.Context()))
	owned(true)
	after, err := h.ReadFile(path.Join(dir, "server.key"))
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the key was made anew")
	}
	must(t, h.Remove(path.Join(dir, "server.key")))
	must(t, h.WriteFile(path.Join(dir, "server.key"), before, 0o600))
	crt, err := h.ReadFile(path.Join(dir, "server.crt"))
	must(t, err)
	must(t, h.WriteFile(path.Join(dir, "server.crt"), crt, 0o644))
	must(t, h.RemoveAll(path.Join(dir, PairsDir)))
	if d, err := leaf.Check(t.Context()); err != nil || len(d) > 0 {
		t.Errorf("a placed key: %v, %v", d, err)
	}
}
