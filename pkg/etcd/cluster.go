// Package etcd talks to a cluster of etcd as one that is about to change it must: it asks started voters only, takes
// a failed reply for no answer rather than for a failed request, and changes the membership behind gates that keep the quorum.
//
// A Cluster is a set of client endpoints, of which some may be dead and some may be learners. Added, Promoted, Removed,
// Answering and Healthy are the states of one member as pkg/converge knows them.
package etcd

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/grpclog"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// Options say how to reach a cluster.
type Options struct {
	Host      *host.Host  // told of every change of the cluster before it is made; only the resources need it
	Endpoints []string    // client URLs; some may be dead
	TLS       *tls.Config // nil: what an http:// endpoint needs
	Log       *slog.Logger

	DialTimeout    time.Duration // to connect to one endpoint; 0: constants.DialTimeout
	RequestTimeout time.Duration // for one answer; 0: constants.RequestTimeout
}

// EndpointProblem is an endpoint that gave no usable answer, and why: "connection refused".
type EndpointProblem struct{ Endpoint, Problem string }

// Cluster is a cluster of etcd seen through some of its client endpoints. It is safe for concurrent use.
type Cluster struct {
	o   Options
	log *zap.Logger

	mu       sync.Mutex
	clients  map[string]*clientv3.Client // one per endpoint, so that it is always known who answered
	problems map[string]string
	good     string // the endpoint that answered last
}

// Open returns the cluster behind the endpoints. It does not touch the network yet.
func Open(o Options) *Cluster {
	quiet()
	if o.DialTimeout == 0 {
		o.DialTimeout = constants.DialTimeout
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = constants.RequestTimeout
	}
	return &Cluster{o: o, log: zapTo(o.Log), clients: map[string]*clientv3.Client{}, problems: map[string]string{}}
}

// quiet keeps gRPC, whose logger is global, from writing to the terminal: what matters reaches the caller as an error.
var quiet = sync.OnceFunc(func() { grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)) })

// Close ends all connections.
func (c *Cluster) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range c.clients {
		_ = cl.Close()
	}
	c.clients = map[string]*clientv3.Client{}
}

// Endpoints returns the client URLs that the cluster was opened with.
func (c *Cluster) Endpoints() []string { return slices.Clone(c.o.Endpoints) }

// Unreachable returns the endpoints that were given up so far, in the order in which they were given. An endpoint
// that answered later is not among them.
func (c *Cluster) Unreachable() []EndpointProblem {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []EndpointProblem
	for _, ep := range c.o.Endpoints {
		if p, ok := c.problems[ep]; ok {
			out = append(out, EndpointProblem{ep, p})
		}
	}
	return out
}

func (c *Cluster) note(endpoint string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.problems, endpoint)
	} else {
		c.problems[endpoint] = said(err)
	}
}

// ClientConfig is how a client of one endpoint is set up here: no proxy, no retries behind the caller's back, reconnects
// at once, logs nowhere but to our logger. For libraries that make their own client.
func (c *Cluster) ClientConfig(endpoint string) clientv3.Config {
	return clientv3.Config{
		Endpoints:       []string{endpoint},
		TLS:             c.o.TLS,
		DialTimeout:     c.o.DialTimeout,
		MaxUnaryRetries: 1, // the number of attempts; a change must not be repeated before the state is read again
		Logger:          c.log,
		DialOptions: []grpc.DialOption{
			grpc.WithNoProxy(),
			grpc.WithConnectParams(grpc.ConnectParams{ // gRPC's own first pause is a second
				Backoff:           backoff.Config{BaseDelay: constants.PollInterval, Multiplier: 1.2, Jitter: 0.2, MaxDelay: 100 * time.Millisecond},
				MinConnectTimeout: c.o.DialTimeout,
			}),
			// The client's calls wait for a connection as long as their context allows, and then do not know why there was none.
			grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
			}),
			grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				return stream(ctx, desc, cc, method, append(opts, grpc.WaitForReady(false))...)
			}),
		},
	}
}

// client returns the client of one endpoint. Unless it is connected, the endpoint takes TCP connections: a dead one is found out before gRPC dials it.
func (c *Cluster) client(ctx context.Context, endpoint string) (*clientv3.Client, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errs.New(errs.Usage, "endpoint %q is not a URL of the form https://<address>:2379", endpoint)
	}
	c.mu.Lock()
	cl := c.clients[endpoint]
	if cl != nil && cl.ActiveConnection().GetState() == connectivity.TransientFailure {
		_ = cl.Close() // it would go on to tell about its last failure, though it has begun to connect anew
		cl = nil
	}
	if cl == nil {
		if cl, err = clientv3.New(c.ClientConfig(endpoint)); err != nil { // only builds it
			c.mu.Unlock()
			return nil, err
		}
		c.clients[endpoint] = cl
	}
	c.mu.Unlock()
	if cl.ActiveConnection().GetState() != connectivity.Ready {
		if err := dialTCP(ctx, u, c.o.DialTimeout); err != nil {
			return nil, err
		}
	}
	return cl, nil
}

// dialTCP finds out whether something listens where the URL points.
func dialTCP(ctx context.Context, u *url.URL, limit time.Duration) error {
	d := net.Dialer{Timeout: limit}
	conn, err := d.DialContext(ctx, "tcp", hostPort(u))
	if err != nil {
		return netProblem(err)
	}
	return conn.Close()
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
