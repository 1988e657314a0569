package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// handshake connects a client to a server over a pipe, as etcd does: both show a certificate, and the server asks for
// allowedName in the client's, if it is given one. It returns the error of each side.
func handshake(t *testing.T, h *host.Host, server, client, serverName, allowedName string) (serverErr, clientErr error) {
	t.Helper()
	s, err := ClientTLS(h, dir, server)
	must(t, err)
	c, err := ClientTLS(h, dir, client)
	must(t, err)
	c.ServerName = serverName
	mine := c.Certificates[0] // shown even to a server that asks for those of another CA
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &mine, nil }
	c.Time, s.Time = at(noon), at(noon)
	s.ClientCAs, s.ClientAuth = s.RootCAs, tls.RequireAndVerifyClientCert
	s.VerifyPeerCertificate = func(_ [][]byte, chains [][]*x509.Certificate) error {
		if allowedName == "" {
			return nil
		}
		return chains[0][0].VerifyHostname(allowedName)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(a, s)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte{1})
		}
		a.Close()
		done <- err
	}()
	conn := tls.Client(b, c)
	_, clientErr = conn.Read(make([]byte, 1)) // in TLS 1.3 a client learns here that it was refused
	b.Close()
	return <-done, clientErr
}

// TestHandshakes with real TLS: who may talk to whom, under which name.
func TestHandshakes(t *testing.T) {
	h, _ := set(t)
	tests := []struct {
		server, client, name, allowed string
		ok                            bool
	}{
		{ServerName, EtcdctlName, "10.0.0.7", "", true},
		{ServerName, EtcdctlName, "127.0.0.1", "", true},
		{ServerName, EtcdctlName, "::1", "", true},
		{ServerName, EtcdctlName, "localhost", "", true},
		{ServerName, EtcdctlName, "etcd-1", "", true},
		{ServerName, APIServerName, "a.etcd.example.com", "", true},
		{ServerName, APIServerName, "192.0.2.1", "", true},
		{ServerName, ServerName, "10.0.0.7", "", true}, // the HTTP gateway dials itself
		{ServerName, EtcdctlName, "10.0.0.8", "", false},
		{ServerName, EtcdctlName, "b.a.etcd.example.com", "", false},
		{PeerName, PeerName, "10.0.0.7", constants.PeerMarker, true},
		{PeerName, EtcdctlName, "10.0.0.7", constants.PeerMarker, false},
		{PeerName, APIServerName, "10.0.0.7", constants.PeerMarker, false},
		{PeerName, ServerName, "10.0.0.7", constants.PeerMarker, false},
		{PeerName, PeerName, "127.0.0.1", constants.PeerMarker, false},
		{EtcdctlName, PeerName, "10.0.0.7", "", false}, // a client certificate is no server's
	}
	for _, tt := range tests {
		s, c := handshake(t, h, tt.server, tt.client, tt.name, tt.allowed)
		if ok := s == nil && c == nil; ok != tt.ok {
			t.Errorf("%s as %s, asked by %s, allowed %q: server %v, client %v", tt.server, tt.name, tt.client, tt.allowed, s, c)
		}
	}
}

// TestHandshakeStrangers: a pair of another CA is refused.
func TestHandshakeStrangers(t *testing.T) {
	h, _ := set(t)
	stranger := foreign(t, caTemplate(), nil, nil)
	foreign(t, x509.Certificate{ExtKeyUsage: clientOnly}, nil, &stranger).place(t, h, EtcdctlName)
	s, _ := handshake(t, h, ServerName, EtcdctlName, "10.0.0.7", "")
	if !errors.As(s, new(x509.UnknownAuthorityError)) {
		t.Errorf("server %v", s)
	}
}

// TestKeyAlgorithms: each makes a CA and pairs that talk to each other.
func TestKeyAlgorithms(t *testing.T) {
	for _, a := range KeyAlgorithms() {
		t.Run(a, func(t *testing.T) {
			if a == string(RSA4096) && testing.Short() {
				t.Skip("seconds per key")
			}
			t.Parallel()
			algorithm, err := ParseKeyAlgorithm(a)
			must(t, err)
			h := host.New(t.TempDir())
			n := newNode(h)
			n.base.Algorithm = algorithm
			ca := n.ca()
			ca.Algorithm = algorithm
			converged(t, ca.Created())
			converged(t, n.leaf(ServerName))
			p, err := readPair(h, dir, ServerName)
			must(t, err)
			if algorithmOf(p.chain[0].PublicKey) != algorithm {
				t.Errorf("the key is of %s", algorithmOf(p.chain[0].PublicKey))
			}
			wantUsage := x509.KeyUsageDigitalSignature
			if p.chain[0].PublicKeyAlgorithm == x509.RSA {
				wantUsage |= x509.KeyUsageKeyEncipherment
			}
			if p.chain[0].KeyUsage != wantUsage {
				t.Errorf("key usage %b", p.chain[0].KeyUsage)
			}
			if s, c := handshake(t, h, ServerName, ServerName, "10.0.0.7", ""); s != nil || c != nil {
				t.Errorf("server %v, client %v", s, c)
			}
		})
	}
	if a, err := ParseKeyAlgorithm(""); a != ECDSAP256 || err != nil {
		t.Errorf("default %q, %v", a, err)
	}
	_, err := ParseKeyAlgorithm("rsa-1024")
	wantError(t, err, errs.Usage, `"rsa-1024"`, "ecdsa-p256, ecdsa-p384, rsa-3072, rsa-4096")
}

// TestClientTLSErrors name the file and its state.
func TestClientTLSErrors(t *testing.T) {
	h := host.New(t.TempDir())
	_, err := ClientTLS(h, dir, EtcdctlName)
	wantError(t, err, errs.Precondition, "/etc/etcd/pki/ca.crt is absent", "on a member, bring the CA of its cluster; from a node that has it: mkdir -p "+h.Path(dir)+" && scp -p ", "etcdadm init, or")
	if hints := strings.Join(errs.HintsOf(err), "\n"); strings.Contains(hints, "phase certificates") {
		t.Errorf("a member that lost its CA is told to make one: %s", hints)
	}

	h, _ = set(t)
	must(t, h.Remove(dir+"/etcdctl-etcd-client.key"))
	_, err = ClientTLS(h, dir, EtcdctlName)
	wantError(t, err, errs.Precondition, "/etc/etcd/pki/etcdctl-etcd-client.key is absent")

	place(t, h, "etcdctl-etcd-client.key", []byte("x"), 0o600)
	_, err = ClientTLS(h, dir, EtcdctlName)
	wantError(t, err, errs.Verification, "/etc/etcd/pki/etcdctl-etcd-client.key holds no PEM private key", "etcdctl-etcd-client.key, then etcdadm init phase certificates")
	place(t, h, "etcdctl-etcd-client.key", file(t, h, "server.key"), 0o600)
	_, err = ClientTLS(h, dir, EtcdctlName)
	wantError(t, err, errs.Verification, "/etc/etcd/pki/etcdctl-etcd-client.key does not belong to /etc/etcd/pki/etcdctl-etcd-client.crt", "etcdctl-etcd-client.key, then etcdadm init phase certificates")
}

// TestDescribe: what status shows, of a node that is well and of one that is not.
func TestDescribe(t *testing.T) {
	h, _ := set(t)
	list, err := Describe(h, dir, noon)
	must(t, err)
	if len(list) != 5 {
		t.Fatalf("%d descriptions", len(list))
	}
	for _, d := range list {
		if d.Problem != "" || d.Placed || d.NotAfter.Before(noon) || d.Serial == "" || d.Algorithm != "ecdsa-p256" || d.Issuer != "CN=etcd-ca" {
			t.Errorf("%+v", d)
		}
	}
	problems := func(now time.Time) map[string]string {
		list, err := Describe(h, dir, now)
		must(t, err)
		m := map[string]string{}
		for _, d := range list {
			m[d.Name] = d.Problem
		}
		return m
	}
	must(t, h.Remove(dir+"/server.crt"))
	must(t, h.Remove(dir+"/ca.key"))
	place(t, h, "peer.key", []byte("x"), 0o600)
	p := problems(noon.Add(366 * 24 * time.Hour))
	want := map[string]string{
		CAName: "", ServerName: "absent", PeerName: "peer.key holds no PEM private key",
		EtcdctlName: "etcdctl-etcd-client.crt expired at 2031-06-01T12:00:00Z", APIServerName: "apiserver-etcd-client.crt expired at 2031-06-01T12:00:00Z",
	}
	for name, w := range want {
		if p[name] != w {
			t.Errorf("%s: %q, want %q", name, p[name], w)
		}
	}
	must(t, h.RemoveAll(dir))
	for name, p := range problems(noon) {
		if p != "absent" {
			t.Errorf("%s: %q", name, p)
		}
	}
}

// A pair that fits is tried itself; for one that does not, the CA issues another one, of which nothing is left.
func TestATrialShowsWhatWillBeThere(t *testing.T) {
	h, n := set(t)
	l := n.leaf(EtcdctlName)
	have, err := readPair(h, dir, EtcdctlName)
	must(t, err)
	c, err := l.Trial()
	must(t, err)
	if !c.Certificates[0].Leaf.Equal(have.chain[0]) {
		t.Error("a pair that fits is not the one that is shown")
	}
	other := foreign(t, caTemplate(), nil, nil)
	other.place(t, h, "ca")
	before := snapshot(t, h)
	c, err = l.Trial()
	must(t, err)
	if err := c.Certificates[0].Leaf.CheckSignatureFrom(other.cert); err != nil {
		t.Errorf("the pair that would be issued is not of the CA that is there: %v", err)
	}
	if now, err := readPair(h, dir, EtcdctlName); err != nil || !now.chain[0].Equal(have.chain[0]) || snapshot(t, h) != before {
		t.Errorf("a trial has changed the directory: %v", err)
	}
	l.KeepExisting = true
	if c, err = l.Trial(); err != nil || !c.Certificates[0].Leaf.Equal(have.chain[0]) {
		t.Errorf("a pair that is kept is not the one that is shown: %v", err)
	}
	must(t, h.Remove(dir+"/ca.key"))
	l.KeepExisting = false
	_, err = l.Trial()
	wantError(t, err, errs.Precondition, "ca.key is absent")
}
