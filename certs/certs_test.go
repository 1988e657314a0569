package certs

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

const dir = constants.DefaultCertsDir

var (
	noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	addr = netip.MustParseAddr("10.0.0.7")
)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

// node is what a node has of certificates: the CA, then the leaves.
type node struct {
	name string
	addr netip.Addr
	now  time.Time
	base Leaf
}

func newNode(h *host.Host) node {
	return node{name: "etcd-1", addr: addr, now: noon, base: Leaf{Host: h, Dir: dir, RenewBefore: constants.RenewBefore}}
}

func (n node) ca() Authority { return Authority{Host: n.base.Host, Dir: dir, Now: at(n.now)} }

func (n node) leaves() []Leaf {
	b := n.base
	b.Now = at(n.now)
	server, err := Server(b, n.name, []netip.Addr{n.addr}, []string{"*.etcd.example.com", "192.0.2.1"})
	if err != nil {
		panic(err)
	}
	return []Leaf{server, Peer(b, n.name, []netip.Addr{n.addr}, nil, constants.PeerMarker), EtcdctlClient(b, n.name), APIServerClient(b, n.name)}
}

func (n node) leaf(name string) Leaf {
	for _, l := range n.leaves() {
		if l.Name == name {
			return l
		}
	}
	panic(name)
}

func (n node) steps() []converge.Step {
	steps := []converge.Step{{Name: "certificates/ca", Short: "CA", Want: n.ca().Created()}}
	for _, l := range n.leaves() {
		steps = append(steps, converge.Step{Name: "certificates/" + l.Name, Short: l.Name, Want: l})
	}
	return steps
}

func run(steps ...converge.Step) *converge.Result {
	return converge.Run(context.Background(), []converge.Phase{{
		Name: "certificates", Steps: func(context.Context) ([]converge.Step, error) { return steps, nil },
	}}, converge.Options{})
}

// set brings a node up and returns its host.
func set(t *testing.T) (*host.Host, node) {
	t.Helper()
	h := host.New(t.TempDir())
	n := newNode(h)
	must(t, run(n.steps()...).Err)
	return h, n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, c converge.Checker) converge.Diff {
	t.Helper()
	d, err := c.Check(context.Background())
	must(t, err)
	return d
}

// converged applies a resource and demands that nothing is left.
func converged(t *testing.T, r converge.Resource) {
	t.Helper()
	must(t, r.Apply(context.Background()))
	if d := check(t, r); len(d) > 0 {
		t.Fatalf("still %s", d)
	}
}

func file(t *testing.T, h *host.Host, name string) []byte {
	t.Helper()
	b, err := h.ReadFile(dir + "/" + name)
	must(t, err)
	return b
}

// place writes a regular file in the certificates directory, as an operator would.
func place(t *testing.T, h *host.Host, name string, data []byte, mode fs.FileMode) {
	t.Helper()
	p := h.Path(dir + "/" + name)
	must(t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(t, os.RemoveAll(p))
	must(t, os.WriteFile(p, data, mode))
	must(t, os.Chmod(p, mode))
}

// wantError demands a status, and words in the reason and the hints.
func wantError(t *testing.T, err error, status errs.Status, words ...string) {
	t.Helper()
	if err == nil || errs.StatusOf(err) != status {
		t.Fatalf("error %v (status %d), want status %d", err, errs.StatusOf(err), status)
	}
	if len(errs.HintsOf(err)) == 0 {
		t.Errorf("no hint with %q", err)
	}
	all := err.Error() + "\n" + strings.Join(errs.HintsOf(err), "\n")
	for _, w := range words {
		if !strings.Contains(all, w) {
			t.Errorf("%q does not say %q", all, w)
		}
	}
}

// made is a certificate with its key that somebody else made, with the standard library.
type made struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (m made) crtPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw})
}

func (m made) keyPEM(t *testing.T) []byte {
	t.Helper()
	b, err := encodeKey(m.key)
	must(t, err)
	return b
}

func (m made) place(t *testing.T, h *host.Host, name string) {
	t.Helper()
	place(t, h, name+".crt", m.crtPEM(), 0o644)
	place(t, h, name+".key", m.keyPEM(t), 0o600)
}

func (m made) pair(t *testing.T, name string) pair {
	t.Helper()
	p := pair{name: name, crt: part{data: m.crtPEM()}, key: part{data: m.keyPEM(t)}}
	p.parse()
	return p
}

var serial atomic.Int64

// foreign makes a certificate from a template: signed by ca, or by itself. Without a key it makes one.
func foreign(t *testing.T, template x509.Certificate, key crypto.Signer, ca *made) made {
	t.Helper()
	var err error
	if key == nil {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
	}
	template.SerialNumber = big.NewInt(serial.Add(1))
	if template.NotBefore.IsZero() {
		template.NotBefore = noon.Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = noon.Add(365 * 24 * time.Hour)
	}
	parent, signs := &template, key
	if ca != nil {
		parent, signs = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, key.Public(), signs)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return made{cert, key}
}

// caTemplate is a CA as operators bring it.
func caTemplate() x509.Certificate {
	return x509.Certificate{
		Subject: pkix.Name{CommonName: "Example Corp. CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: noon.Add(5 * 365 * 24 * time.Hour),
	}
}

// snapshot lists what lies below the root: types, modes and targets, with the random parts of names made even.
func snapshot(t *testing.T, h *host.Host) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(h.Root(), func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		text, _ := os.Readlink(p)
		fmt.Fprintln(&b, even(strings.TrimPrefix(p, h.Root())), info.Mode(), even(text))
		return nil
	}))
	return b.String()
}

func even(p string) string {
	base := filepath.Base(p)
	if len(base) > 17 && fingerprint.MatchString(base[len(base)-17:]) {
		return p[:len(p)-16] + "FINGERPRINT"
	}
	parts := strings.Split(p, "/")
	for i, x := range parts {
		if len(x) > 17 && fingerprint.MatchString(x[len(x)-17:]) {
			parts[i] = x[:len(x)-16] + "FINGERPRINT"
		}
	}
	return strings.Join(parts, "/")
}
