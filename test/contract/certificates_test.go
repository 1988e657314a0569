package contract

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"etcdadm/pkg/errs"
	"etcdadm/test/process"
)

// pairs are the certificates of a node, beside the CA.
var pairs = []string{"server", "peer", "etcdctl-etcd-client", "apiserver-etcd-client"}

// TestContract02RenewalByDeleting: callers delete all but the CA and run one phase of join. The four pairs come back as
// they were, and etcd serves the new ones as the process that it is.
func TestContract02RenewalByDeleting(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, "a", "b")
	a, b := nodes[0], nodes[1]
	b.must("join", a.url(), "--server-cert-extra-sans", "etcd.example.com")
	for _, deletes := range []string{
		// As EKS Anywhere does it: everything goes, and the CA comes back from a copy.
		`cp -r "$PKI" "$PKI.bak" && rm "$PKI"/* && cp "$PKI.bak"/ca.* "$PKI" && rm -r "$PKI.bak"`,
		// As an operator may do it, what we keep to ourselves included.
		`find "$PKI" -mindepth 1 -maxdepth 1 ! -name 'ca.*' -exec rm -r {} +`,
	} {
		before, owners := map[string]*x509.Certificate{}, describe(b)
		for _, port := range []string{"2379", "2380"} {
			before[port] = b.served(port)
		}
		pid := process.Etcd(b.root)
		c := exec.Command("sh", "-ec", deletes)
		c.Env = append(os.Environ(), "PKI="+b.pki(""))
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		ca := b.read("/etc/etcd/pki/ca.crt") + b.read("/etc/etcd/pki/ca.key")

		succeeded(t, b.bare("join", "phase", "certificates", "http://eks-a-etcd-dumb-url"))
		if got := describe(b); got != owners {
			t.Errorf("owners and modes were\n%s\nand are\n%s", owners, got)
		}
		if b.read("/etc/etcd/pki/ca.crt")+b.read("/etc/etcd/pki/ca.key") != ca {
			t.Error("the CA is another one")
		}
		for port, old := range before {
			now := b.served(port)
			if now.Equal(old) || !slices.Equal(now.DNSNames, old.DNSNames) || fmt.Sprint(now.IPAddresses) != fmt.Sprint(old.IPAddresses) || now.Subject.String() != old.Subject.String() {
				t.Errorf("port %s serves %v %v (the same: %t), and served %v %v", port, now.Subject, now.DNSNames, now.Equal(old), old.Subject, old.DNSNames)
			}
		}
		if now := process.Etcd(b.root); now != pid {
			t.Errorf("etcd was process %d and is %d", pid, now)
		}
		b.voters(2)
		b.serves()
		if r := b.must("join", a.url(), "-o", "json"); r.Changed {
			t.Errorf("a whole join changes something afterwards: %q", r.Changes())
		}
	}
}

// describe tells owner, group and mode of what callers see of the certificates.
func describe(n *node) string {
	n.t.Helper()
	var b strings.Builder
	files, err := filepath.Glob(n.pki("*.*"))
	n.check(err)
	for _, f := range append(files, n.pki("")) {
		info, err := os.Stat(f)
		n.check(err)
		s := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %d:%d %s\n", info.Mode(), s.Uid, s.Gid, filepath.Base(f))
	}
	return b.String()
}

// TestContract02MissingPairsOnly: a pair that is there stays, whatever is asked for.
func TestContract02MissingPairsOnly(t *testing.T) {
	t.Parallel()
	a := newNode(t)
	a.must("init", "phase", "certificates")
	kept := a.read("/etc/etcd/pki/peer.crt")
	a.check(os.Remove(a.pki("server.crt")))
	r := a.must("join", "phase", "certificates", "nothing.invalid", "--server-cert-extra-sans", "etcd.example.com", "--name", "other", "-o", "json")
	if r.Step("certificates/server") != "changed" || r.Step("certificates/peer") != "ok" || a.read("/etc/etcd/pki/peer.crt") != kept {
		t.Errorf("want a new server certificate and the old others: %s", r)
	}
	if c := a.certificate("server"); c.VerifyHostname("etcd.example.com") != nil {
		t.Errorf("the new certificate is for %v", c.DNSNames)
	}
}

// TestContract02NeitherDialsNorResolves: nobody is called at the address that the argument names, and the argument may be
// anything.
func TestContract02NeitherDialsNorResolves(t *testing.T) {
	t.Parallel()
	a := newNode(t)
	a.must("init", "phase", "certificates")
	at := network.Address() + ":2379"
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at)
	a.check(err)
	defer l.Close()
	for _, argument := range []string{"https://" + at, "eks-a-etcd-dumb-url", "https://no-such-host.invalid:2379", "::", "a b"} {
		a.check(os.Remove(a.pki("server.crt")))
		a.must("join", "phase", "certificates", argument)
	}
	mine, err := net.Dial("tcp", at)
	a.check(err)
	defer mine.Close()
	first, err := l.Accept()
	a.check(err)
	defer first.Close()
	if first.RemoteAddr().String() != mine.LocalAddr().String() {
		t.Errorf("%s dialed the argument", first.RemoteAddr())
	}
}

// TestContract02BadCA: a CA that cannot renew is named with what is wrong with it, and nothing is replaced.
func TestContract02BadCA(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good := newCA(t, ecKey(t), nil)
	for _, c := range []struct {
		name     string
		crt, key []byte
		status   errs.Status
		words    []string
	}{
		{"expired", newCA(t, good.key, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-48*time.Hour), now.Add(-24*time.Hour) }).crt, good.pem(t, "EC PRIVATE KEY"),
			errs.Verification, []string{"the CA in /etc/etcd/pki/ca.crt expired at "}},
		{"not yet valid", newCA(t, good.key, func(c *x509.Certificate) { c.NotBefore = now.Add(24 * time.Hour) }).crt, good.pem(t, "EC PRIVATE KEY"),
			errs.Precondition, []string{"the clock says ", "timedatectl"}},
		{"without its key", good.crt, nil, errs.Precondition, []string{"ca.key", "scp -p root@"}},
		{"with another key", good.crt, newCA(t, ecKey(t), nil).pem(t, "EC PRIVATE KEY"), errs.Verification, []string{"ca.key does not belong to ca.crt"}},
		{"no CA", newCA(t, good.key, func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }).crt, good.pem(t, "EC PRIVATE KEY"), errs.Verification, []string{"is not the certificate of a CA"}},
		{"absent", nil, nil, errs.Precondition, []string{"ca.crt is absent", "scp -p root@"}},
		{"not a certificate", []byte("x"), good.pem(t, "EC PRIVATE KEY"), errs.Verification, []string{"ca.crt"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			for file, data := range map[string][]byte{"ca.crt": c.crt, "ca.key": c.key} {
				if data != nil {
					n.write("/etc/etcd/pki/"+file, data, 0o600)
				}
			}
			failed(t, n.run("join", "phase", "certificates", "any"), c.status, c.words...)
			for _, p := range pairs {
				if n.exists("/etc/etcd/pki/" + p + ".crt") {
					t.Errorf("%s.crt was made", p)
				}
			}
		})
	}
	t.Run("of another cluster", func(t *testing.T) {
		t.Parallel()
		nodes := cluster(t, "a", "b")
		a, b := nodes[0], nodes[1]
		b.write("/etc/etcd/pki/ca.crt", good.crt, 0o644)
		b.write("/etc/etcd/pki/ca.key", good.pem(t, "EC PRIVATE KEY"), 0o600)
		b.must("join", "phase", "certificates", a.url())
		failed(t, b.run("join", "phase", "membership", a.url()), errs.Verification, a.url(), "was issued by", "which is not our CA", "every node needs certificates of the same CA")
		a.voters(1)
		// One that lies beside pairs of the cluster's CA is found out before anything is issued.
		b.check(os.RemoveAll(b.pki("")))
		b.check(process.GiveCA(a.root, b.root))
		b.must("join", "phase", "certificates", a.url())
		b.write("/etc/etcd/pki/ca.crt", good.crt, 0o644)
		b.write("/etc/etcd/pki/ca.key", good.pem(t, "EC PRIVATE KEY"), 0o600)
		b.check(os.Remove(b.pki("server.crt")))
		failed(t, b.run("join", "phase", "certificates", a.url()), errs.Verification, "peer.crt", "not signed by ca.crt")
		if b.exists("/etc/etcd/pki/server.crt") {
			t.Error("a pair of the other CA was put beside those of the cluster")
		}
	})
}

// authority is a CA that a test brings.
type authority struct {
	key  crypto.Signer
	cert *x509.Certificate
	crt  []byte
}

func newCA(t *testing.T, key crypto.Signer, change func(*x509.Certificate)) authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Any Name", Organization: []string{"of theirs"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pem is the key of the CA in the form of a PEM type.
func (a authority) pem(t *testing.T, kind string) []byte {
	t.Helper()
	var der []byte
	var err error
	switch key := a.key.(type) {
	case *rsa.PrivateKey:
		der = x509.MarshalPKCS1PrivateKey(key)
	case *ecdsa.PrivateKey:
		der, err = x509.MarshalECPrivateKey(key)
	}
	if kind == "PRIVATE KEY" {
		der, err = x509.MarshalPKCS8PrivateKey(a.key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// TestContract04GivenCAIsUsed: a CA of any of the usual forms issues the pairs, and stays as it was brought.
func TestContract04GivenCAIsUsed(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind string
		key  crypto.Signer
	}{{"RSA PRIVATE KEY", rsaKey}, {"PRIVATE KEY", rsaKey}, {"EC PRIVATE KEY", ecKey(t)}, {"PRIVATE KEY", ecKey(t)}} {
		t.Run(fmt.Sprintf("%T as %s", c.key, c.kind), func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			ca := newCA(t, c.key, nil)
			n.write("/etc/etcd/pki/ca.crt", ca.crt, 0o640)
			n.write("/etc/etcd/pki/ca.key", ca.pem(t, c.kind), 0o600)
			if c.kind == "RSA PRIVATE KEY" { // with one of them the member serves
				n.must("init")
				n.serves()
			} else {
				n.must("join", "phase", "certificates", "any")
			}
			for _, p := range pairs {
				if err := n.certificate(p).CheckSignatureFrom(ca.cert); err != nil {
					t.Errorf("%s.crt: %v", p, err)
				}
			}
			if n.read("/etc/etcd/pki/ca.crt") != string(ca.crt) || n.read("/etc/etcd/pki/ca.key") != string(ca.pem(t, c.kind)) {
				t.Error("the CA was replaced")
			}
			if info, err := os.Lstat(n.pki("ca.crt")); err != nil || info.Mode() != 0o640 {
				t.Errorf("ca.crt is %v (%v)", info.Mode(), err)
			}
		})
	}
}

// TestContract04JoinInventsNoCA: without a CA a join fails, and says what to do.
func TestContract04JoinInventsNoCA(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	failed(t, n.run("join", "https://"+network.Address()+":2379"), errs.Precondition, "/etc/etcd/pki/ca.crt is absent", "ca.key", "scp -p root@")
	if n.exists("/etc/etcd/pki") || n.exists("/opt/bin") {
		t.Error("something was made")
	}
}

// TestContract05BothUsages: the certificates of the server and the peer are for both ends of a connection, so that the
// HTTP gateway of etcd, which dials itself, works.
func TestContract05BothUsages(t *testing.T) {
	t.Parallel()
	n := cluster(t, "a")[0]
	for _, name := range []string{"server", "peer"} {
		c := n.certificate(name)
		for _, u := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if !slices.Contains(c.ExtKeyUsage, u) {
				t.Errorf("%s.crt is for %v, and not for %v", name, c.ExtKeyUsage, u)
			}
		}
	}
	// RBAC has no say about a maintenance call, so a certificate with a CN will do.
	n.answers("/v3/maintenance/status", []byte("{}"), `"version":"`+current+`"`)
}

// TestContract06URLs: the addresses of a member, who it answers to, and what its certificate is for.
func TestContract06URLs(t *testing.T) {
	t.Parallel()
	n := cluster(t, "etcd-of-six")[0]
	list := n.etcdctl("member", "list")
	for _, want := range []string{", https://" + n.address + ":2380, ", ", https://" + n.address + ":2379, "} {
		if !strings.Contains(list, want) {
			t.Errorf("the member list lacks %q: %s", want, list)
		}
	}
	n.answers("/health", nil, `"health":"true"`)
	c := n.served("2379")
	for _, name := range []string{n.address, "127.0.0.1", "::1", n.name, "localhost"} {
		if err := c.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
}

// answers wants an answer on the client port, to each client certificate of the node.
func (n *node) answers(path string, body []byte, want string) {
	n.t.Helper()
	for _, pair := range []string{"etcdctl-etcd-client", "apiserver-etcd-client"} {
		client := http.Client{Transport: &http.Transport{TLSClientConfig: n.client(pair), DisableKeepAlives: true}}
		method := http.MethodGet
		if body != nil {
			method = http.MethodPost
		}
		req, err := http.NewRequestWithContext(n.t.Context(), method, n.url()+path, bytes.NewReader(body))
		n.check(err)
		resp, err := client.Do(req)
		n.check(err)
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(text), want) {
			n.t.Errorf("%s answers %s to %s: %s (%v)", path, resp.Status, pair, text, err)
		}
	}
}
