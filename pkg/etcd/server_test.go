package etcd

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// TestMain lets all tests run at the same time: they wait for etcd more than they work.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	wal.SegmentSizeBytes = 1 << 20 // of 64 MB, dozens of etcds at the same time reserve gigabytes
	grace, callLimit, yieldLimit, pageLimit = 15*time.Second, 20*time.Second, patience, patience
	os.Exit(m.Run())
}

// patience is for what comes about at once on a machine that has nothing else to do.
const patience = 3 * time.Minute

// node is a real etcd in this process, at an address of its own.
type node struct {
	name, ip, client, peer string
	config                 *embed.Config
	server                 *embed.Etcd
}

// election is how long a leader has to be silent for another one to be elected: with the second of etcd a busy machine elects
// leaders without a cause. A lease lives for one and a half of it, at least.
const election = 3 * time.Second

var addresses atomic.Int64

// address returns an address of 127.0.0.0/8 that no other test uses, nor another test process of this machine.
func address() string {
	n := addresses.Add(1)%250 + 1 // by the time that all were given out, those who had the first are gone
	return fmt.Sprintf("127.%d.%d.%d", 64+os.Getpid()%64, (os.Getpid()/64)%256, n)
}

// newNode prepares an etcd; start or join runs it.
func newNode(t *testing.T, name string, change ...func(*node)) *node {
	t.Helper()
	ip := address()
	n := &node{name: name, ip: ip, client: "http://" + ip + ":2379", peer: "http://" + ip + ":2380", config: embed.NewConfig()}
	cfg := n.config
	cfg.Name, cfg.Dir = name, filepath.Join(t.TempDir(), "etcd")
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.UnsafeNoFsync = true
	cfg.ElectionMs = uint(election.Milliseconds())
	for _, f := range change {
		f(n)
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = urls(t, n.client), urls(t, n.client)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = urls(t, n.peer), urls(t, n.peer)
	return n
}

func urls(t *testing.T, raw ...string) []url.URL {
	t.Helper()
	var out []url.URL
	for _, r := range raw {
		u, err := url.Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, *u)
	}
	return out
}

// start runs the etcds as the first members of a cluster, and waits until all serve.
func start(t *testing.T, nodes ...*node) {
	t.Helper()
	launch(t, embed.ClusterStateFlagNew, nodes, nodes)
	for _, n := range nodes {
		<-n.server.Server.ReadyNotify()
		for tries := 0; n.server.Server.ClusterVersion() == nil; tries++ { // etcd lets nobody join before there is one
			if tries == 10_000 {
				t.Fatal("the cluster has decided on no version")
			}
			time.Sleep(soon)
		}
	}
}

// join runs an etcd that was added to the cluster of the others. It is not waited for.
func join(t *testing.T, n *node, others ...*node) {
	t.Helper()
	for _, other := range others {
		for tries := 0; other.server != nil && !other.knows(n); tries++ { // it may be the one who is asked, and a moment behind
			if tries == 10_000 {
				t.Fatalf("%s does not learn that %s was added", other.name, n.name)
			}
			time.Sleep(soon)
		}
	}
	launch(t, embed.ClusterStateFlagExisting, append(others, n), []*node{n})
}

func launch(t *testing.T, state string, all, run []*node) {
	t.Helper()
	var initial []string
	for _, n := range all {
		initial = append(initial, n.name+"="+n.peer)
	}
	for _, n := range run {
		n.config.InitialCluster, n.config.ClusterState = strings.Join(initial, ","), state
		n.config.InitialClusterToken = t.Name()
		server, err := embed.StartEtcd(n.config)
		if err != nil {
			t.Fatalf("start %s: %v", n.name, err)
		}
		n.server = server
		t.Cleanup(n.stop)
	}
}

func (n *node) stop() {
	if n.server != nil {
		// Not Close, which hands leadership over first: a member that dies does not.
		n.server.Server.HardStop()
		n.server.Close()
		n.server = nil
	}
}

// die stops one of several members, and waits until the others have a leader.
func (n *node) die(t *testing.T, others ...*node) {
	t.Helper()
	id := n.server.Server.MemberID()
	n.stop()
	for _, other := range others {
		for tries := 0; other.server.Server.Leader() == id || other.server.Server.Leader() == 0; tries++ {
			if tries == 10_000 {
				t.Fatalf("%s elects nobody", other.name)
			}
			time.Sleep(soon)
		}
	}
}

// lead makes one of several members their leader. A handover that is not done within an election raft gives up.
func (n *node) lead(t *testing.T, others ...*node) {
	t.Helper()
	for tries := 0; n.server.Server.Leader() != n.server.Server.MemberID(); tries++ {
		if tries == 20 {
			t.Fatalf("%s does not come to lead", n.name)
		}
		for _, other := range others {
			if other.server.Server.Leader() == other.server.Server.MemberID() {
				ctx, cancel := context.WithTimeout(t.Context(), 2*election)
				_ = other.server.Server.MoveLeader(ctx, other.id(), n.id())
				cancel()
			}
		}
		time.Sleep(later)
	}
}

// knows tells whether another one is a member, as far as this one has heard.
func (n *node) knows(other *node) bool {
	return slices.ContainsFunc(n.server.Server.Cluster().Members(), func(m *membership.Member) bool { return slices.Contains(m.PeerURLs, other.peer) })
}

func (n *node) id() uint64 { return uint64(n.server.Server.MemberID()) }

// answers has f see each answer of a member to a request, before it is sent. The context ends when nobody waits for it any
// more.
func answers(f func(ctx context.Context, method string, err error)) func(*node) {
	return intercepted(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		reply, err := handle(ctx, req)
		f(ctx, path.Base(info.FullMethod), err)
		return reply, err
	})
}

// intercepted has f stand between a member and its clients.
func intercepted(f grpc.UnaryServerInterceptor) func(*node) {
	return func(n *node) {
		n.config.GRPCAdditionalServerOptions = append(n.config.GRPCAdditionalServerOptions, grpc.ChainUnaryInterceptor(f))
	}
}

// lax turns off the wait of 5 s before each change of a membership of several voters.
func lax(n *node) { n.config.StrictReconfigCheck = false }

// open returns the cluster behind the endpoints, with limits that a busy machine keeps.
func open(t *testing.T, o Options, endpoints ...string) *Cluster {
	t.Helper()
	o.Endpoints = endpoints
	o.DialTimeout, o.RequestTimeout = cmp.Or(o.DialTimeout, patience), cmp.Or(o.RequestTimeout, 20*time.Second)
	if o.Host == nil {
		o.Host = host.New(t.TempDir())
	}
	c := Open(o)
	t.Cleanup(c.Close)
	return c
}

// apply brings one state about as the program does, and returns the result and what was told on the way.
func apply(t *testing.T, want converge.Checker, within time.Duration, told func(string)) *converge.Result {
	t.Helper()
	return applyUntil(t.Context(), want, within, told)
}

func applyUntil(ctx context.Context, want converge.Checker, within time.Duration, told func(string)) *converge.Result {
	return converge.Run(ctx, []converge.Phase{{
		Name: "test", Steps: func(context.Context) ([]converge.Step, error) {
			return []converge.Step{{Name: "test/state", Short: "state", Want: want, Within: within}}, nil
		},
	}}, converge.Options{Events: func(e converge.Event) {
		if e.Kind == converge.Note && told != nil {
			told(e.Text)
		}
	}})
}

// holds fails the test unless the state comes about.
func holds(t *testing.T, want converge.Checker) *converge.Result {
	t.Helper()
	r := apply(t, want, patience, func(s string) { t.Log(s) })
	if r.Err != nil {
		t.Fatalf("%T: %v", want, r.Err)
	}
	return r
}

// waits fails the test unless the state is waited for, for a reason that is told, and is the error when the wait is ended
// then.
func waits(t *testing.T, want converge.Checker, reason string) {
	t.Helper()
	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	r := applyUntil(ctx, want, patience, func(s string) {
		t.Log(s)
		if strings.Contains(s, reason) {
			enough()
		}
	})
	if ctx.Err() == nil || r.Err == nil || !strings.Contains(r.Err.Error(), reason) {
		t.Errorf("%T is not waited for because of %q: %v", want, reason, r.Err)
	}
}

// expires returns the error of a state that is waited for, for a reason that is told, when the time for it is over.
func expires(t *testing.T, want converge.Checker, reason string) error {
	t.Helper()
	limit := expiring{t.Context(), make(chan struct{})}
	end := sync.OnceFunc(func() { close(limit.over) })
	return applyUntil(limit, want, patience, func(s string) {
		t.Log(s)
		if strings.Contains(s, reason) {
			end()
		}
	}).Err
}

// expiring is a context whose limit is over at a moment that no clock decides.
type expiring struct {
	context.Context
	over chan struct{}
}

func (e expiring) Done() <-chan struct{} { return e.over }

func (e expiring) Err() error {
	select {
	case <-e.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// authority is a CA for tests.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), pool: x509.NewCertPool()}
	a.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert = a.sign(template, template, &a.key.PublicKey)
	a.pool.AddCert(a.cert)
	a.write("ca.crt", "CERTIFICATE", a.cert.Raw)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(template, parent *x509.Certificate, public *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// leaf issues a certificate for both usages.
func (a *authority) leaf(name string, change ...func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, f := range change {
		f(template)
	}
	cert := a.sign(template, a.cert, &key.PublicKey)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// info writes a pair to files, as etcd wants it.
func (a *authority) info(name string, pair tls.Certificate) transport.TLSInfo {
	a.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	return transport.TLSInfo{
		CertFile: a.write(name+".crt", "CERTIFICATE", pair.Certificate[0]), KeyFile: a.write(name+".key", "PRIVATE KEY", der),
		TrustedCAFile: filepath.Join(a.dir, "ca.crt"), ClientCertAuth: true,
	}
}

// client is the TLS configuration of a client with a certificate of its own.
func (a *authority) client() *tls.Config {
	return &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{a.leaf("client")}, MinVersion: tls.VersionTLS12}
}

// secure gives an etcd certificates for its address. With a marker, its peer port asks for that name.
func (a *authority) secure(marker ...string) func(*node) {
	return func(n *node) {
		// Within 127.0.0.0/8 connections come from 127.0.0.1, and members compare that with the certificate.
		names := func(t *x509.Certificate) { t.IPAddresses = []net.IP{net.ParseIP(n.ip), net.ParseIP("127.0.0.1")} }
		n.config.ClientTLSInfo = a.info(n.name+"-server", a.leaf("server", names))
		n.config.PeerTLSInfo = a.info(n.name+"-peer", a.leaf("peer", names, func(t *x509.Certificate) { t.DNSNames = marker }))
		n.config.PeerTLSInfo.AllowedHostnames = marker
		n.client, n.peer = "https://"+n.ip+":2379", "https://"+n.ip+":2380"
	}
}
