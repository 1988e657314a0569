// Package etcdproxy stands between clients and the client port of a member, and has calls end as they do on the worse
// days of etcd and of networks: refused, unanswered, or done with the reply lost. What is not spoilt passes as it is.
package etcdproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// An Answer is what becomes of a call.
type Answer func(*call)

// call is one request on its way. pass lets the member answer.
type call struct {
	w    http.ResponseWriter
	r    *http.Request
	pass http.Handler
}

// Says answers with a code and a message of gRPC. The member is not asked.
func Says(code codes.Code, message string) Answer {
	return func(c *call) {
		h := c.w.Header()
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", strconv.Itoa(int(code)))
		h.Set("Grpc-Message", message)
		c.w.WriteHeader(http.StatusOK)
	}
}

// Silent does not answer for as long as the caller waits. The member is not asked.
func Silent(c *call) { <-c.r.Context().Done() }

// Lost has the member do what it is asked, and does not answer for as long as the caller waits.
func Lost(c *call) {
	c.pass.ServeHTTP(nowhere{http.Header{}}, c.r)
	Silent(c)
}

// Cut has the member do what it is asked, and ends the connection in place of the reply.
func Cut(c *call) {
	c.pass.ServeHTTP(nowhere{http.Header{}}, c.r)
	c.hangUp()
}

// CutAfter ends the connection when so many bytes of the reply have passed: of a stream, say.
func CutAfter(bytes int) Answer {
	return func(c *call) { c.pass.ServeHTTP(&short{ResponseWriter: c.w, left: bytes, end: c.hangUp}, c.r) }
}

// StallAfter passes so many bytes of the reply, and then nothing for as long as the caller waits.
func StallAfter(bytes int) Answer {
	return func(c *call) {
		c.pass.ServeHTTP(&short{ResponseWriter: c.w, left: bytes, end: func() { Silent(c) }}, c.r)
	}
}

type connection struct{}

// hangUp closes the connection under the call, and all others on it.
func (c *call) hangUp() {
	_ = c.r.Context().Value(connection{}).(net.Conn).Close()
	panic(http.ErrAbortHandler)
}

// nowhere is where a lost reply goes.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

// short is a reply that ends too early.
type short struct {
	http.ResponseWriter
	left int
	end  func()
}

func (s *short) Write(b []byte) (int, error) {
	n, err := s.ResponseWriter.Write(b[:min(len(b), s.left)])
	s.Flush()
	if s.left -= n; s.left <= 0 {
		s.end()
		return n, io.ErrShortWrite
	}
	return n, err
}

// Flush is what a reverse proxy looks for when it copies a stream.
func (s *short) Flush() { _ = http.NewResponseController(s.ResponseWriter).Flush() }

// Proxy is at the client URL of a node, with the certificates of the node.
type Proxy struct {
	server *http.Server
	pass   http.Handler

	mu     sync.Mutex
	method string
	answer Answer
	times  int
	limits []time.Duration
}

// Start listens at an address ("127.0.0.9:2379") with the pair "server" below pki, and passes calls on to another one,
// with the pair of etcdctl. Certificates are read when somebody comes: the node need not have them yet.
func Start(listen, target, pki string) (*Proxy, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: target})
	pass.FlushInterval = -1
	pass.ErrorLog = log.New(io.Discard, "", 0)
	pass.Transport = &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		config, err := clientTLS(pki)
		if err != nil {
			return nil, err
		}
		return (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
	}}
	p := &Proxy{pass: pass}
	p.server = &http.Server{
		Handler: p, ReadHeaderTimeout: time.Minute, ErrorLog: pass.ErrorLog,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connection{}, c) },
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := load(pki, "server")
			return &pair, err
		}},
	}
	go func() { _ = p.server.ServeTLS(l, "", "") }()
	return p, nil
}

func load(pki, name string) (tls.Certificate, error) {
	return tls.LoadX509KeyPair(filepath.Join(pki, name+".crt"), filepath.Join(pki, name+".key"))
}

func clientTLS(pki string) (*tls.Config, error) {
	pair, err := load(pki, "etcdctl-etcd-client")
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}, nil
}

// Close ends the proxy and every connection.
func (p *Proxy) Close() error { return p.server.Close() }

// Spoil gives the next calls of a method ("/etcdserverpb.Cluster/MemberAdd") another answer, so many of them; 0: all of
// them, until Heal.
func (p *Proxy) Spoil(method string, a Answer, times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.method, p.answer, p.times, p.limits = method, a, times, nil
}

// Heal passes everything on again.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = nil
}

// Limits are what the callers of spoilt calls were willing to wait, in their order; 0 is without end.
func (p *Proxy) Limits() []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.limits)
}

// ServeHTTP passes a call on, or answers it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	answer := p.answer
	if answer != nil && r.URL.Path == p.method {
		p.limits = append(p.limits, grpcTimeout(r.Header.Get("Grpc-Timeout")))
		if p.times--; p.times == 0 {
			p.answer = nil
		}
	} else {
		answer = nil
	}
	p.mu.Unlock()
	if answer == nil {
		p.pass.ServeHTTP(w, r)
		return
	}
	answer(&call{w, r, p.pass})
}

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
