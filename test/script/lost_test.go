package script

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"etcdadm/constants"
	"etcdadm/test/process"
	"etcdadm/test/release"
)

// swallower stands before a member as a client sees it: it passes everything on, but the replies of one method. That
// has its effect then, and its caller waits for as long as it cares to.
type swallower struct {
	method string
	pass   http.Handler

	mu     sync.Mutex
	limits []time.Duration // that the callers of the method gave, in their order
}

func (s *swallower) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != s.method {
		s.pass.ServeHTTP(w, r)
		return
	}
	s.mu.Lock()
	s.limits = append(s.limits, grpcTimeout(r.Header.Get("Grpc-Timeout")))
	s.mu.Unlock()
	s.pass.ServeHTTP(lost{http.Header{}}, r)
	<-r.Context().Done() // the caller has given up
}

// lost is where a reply goes.
type lost struct{ header http.Header }

func (l lost) Header() http.Header         { return l.header }
func (l lost) Write(b []byte) (int, error) { return len(b), nil }
func (l lost) WriteHeader(int)             {}

// grpcTimeout reads a limit as gRPC sends it: "6999m"; 0 when there is none.
func grpcTimeout(s string) time.Duration {
	units := map[string]time.Duration{"H": time.Hour, "M": time.Minute, "S": time.Second, "m": time.Millisecond, "u": time.Microsecond, "n": 1}
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s[:len(s)-1])
	if err != nil {
		return 0
	}
	return time.Duration(n) * units[s[len(s)-1:]]
}

// before listens at the client URL of one node, with its certificates, and passes on to another.
func (s *swallower) before(t *testing.T, at, target *node) {
	t.Helper()
	pki := filepath.Join(at.root, "etc/etcd/pki")
	pair := func(name string) tls.Certificate {
		p, err := tls.LoadX509KeyPair(filepath.Join(pki, name+".crt"), filepath.Join(pki, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: target.address + ":2379"})
	proxy.FlushInterval = -1
	proxy.Transport = &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair("etcdctl-etcd-client")}, MinVersion: tls.VersionTLS12}}
	s.pass = proxy
	l, err := net.Listen("tcp", at.address+":2379")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair("server")}, MinVersion: tls.VersionTLS12}, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
}

// The reply to a change of the membership is lost, which etcd's client would wait for without end: the call has a limit,
// the member list tells that the change was made, and it is not made a second time.
func TestLostRepliesOfMembershipCalls(t *testing.T) {
	t.Parallel()
	mirror := release.Get(t)
	for name, method := range map[string]string{"add": "/etcdserverpb.Cluster/MemberAdd", "promote": "/etcdserverpb.Cluster/MemberPromote"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := &world{nodes: map[string]*node{}}
			t.Cleanup(w.end)
			run := func(name string, args ...string) process.Result {
				t.Helper()
				n := w.nodes[name]
				if n == nil {
					n = newNode(name, filepath.Join(dir, name))
					w.nodes[name] = n
				}
				args = append(slices.Clip(args), "--root", n.root, "--name", name, "--bind-address", n.address, "--init-system", "process",
					"--version", current, "--release-url", mirror.URL(), "--sha256sums", mirror.Sums(), "-o", "json")
				r, err := process.Run(args)
				if err != nil || r.Status != 0 {
					t.Fatalf("%v\n%s", err, r)
				}
				return r
			}
			run("member", "init")
			member := w.nodes["member"]
			for _, name := range []string{"door", "joiner"} {
				if err := process.GiveCA(member.root, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			run("door", "join", "phase", "certificates", "https://"+member.address+":2379")
			door := w.nodes["door"]
			s := &swallower{method: method}
			s.before(t, door, member)
			r := run("joiner", "join", "https://"+door.address+":2379")
			if len(s.limits) != 1 || s.limits[0] > constants.MembershipCallTimeout || s.limits[0] < constants.MembershipCallTimeout-time.Second {
				t.Errorf("the calls had the limits %s, want one of %s\n%s", s.limits, constants.MembershipCallTimeout, r)
			}
			var list struct {
				Members []struct {
					Name      string
					IsLearner bool
				}
			}
			out := in(t, ".", filepath.Join(member.root, "opt/bin/etcdctl.sh"), "member", "list", "-w", "json")
			if err := json.Unmarshal([]byte(out), &list); err != nil {
				t.Fatal(err)
			}
			if len(list.Members) != 2 || strings.Contains(out, `"isLearner":true`) {
				t.Errorf("the members are %s", out)
			}
		})
	}
}
