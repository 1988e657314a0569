package etcd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
)

// raise makes a member raise an alarm.
func raise(t *testing.T, n *node, kind string) {
	t.Helper()
	c := open(t, Options{}, n.client)
	cl, err := c.client(t.Context(), n.client)
	if err != nil {
		t.Fatal(err)
	}
	for tries := 0; ; tries++ {
		_, err = etcdserverpb.NewMaintenanceClient(cl.ActiveConnection()).Alarm(t.Context(), &etcdserverpb.AlarmRequest{
			Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: n.id(), Alarm: etcdserverpb.AlarmType(etcdserverpb.AlarmType_value[kind]),
		})
		switch {
		case err == nil:
			return
		case tries == 10 || !transient(rpctypes.Error(err)): // an alarm that is there already is raised again
			t.Fatal(err)
		}
		time.Sleep(later)
	}
}

// mute listens and never says anything, like a host behind a firewall that swallows packets.
func mute(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return "http://" + l.Addr().String()
}

func refused() string { return "http://" + address() + ":2379" }

// TestCloseEndsEverything runs alone: it counts goroutines.
func TestCloseEndsEverything(t *testing.T) {
	before := goleak.IgnoreCurrent()
	defer func() {
		var err error
		for end := time.Now().Add(time.Minute); time.Now().Before(end); { // it tries for half a second itself
			if err = goleak.Find(before); err == nil {
				return
			}
		}
		t.Error(err)
	}()
	c := Open(Options{Endpoints: []string{mute(t), mute(t), refused()}, RequestTimeout: 100 * time.Millisecond, DialTimeout: 100 * time.Millisecond})
	_, err := c.Members(t.Context())
	if errs.StatusOf(err) != errs.Timeout {
		t.Errorf("nobody answers: %v", err)
	}
	for _, ep := range c.Endpoints() {
		if !strings.Contains(err.Error(), ep+": ") {
			t.Errorf("%v does not name %s", err, ep)
		}
	}
	c.Close()
}

func TestDeadEndpointsCostNothing(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a")
	start(t, a)
	c := open(t, Options{RequestTimeout: time.Hour}, mute(t), refused(), a.client) // an hour: waiting for the mute one would show
	m, err := c.Members(t.Context())
	if err != nil || len(m.Members) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	given := c.Endpoints()
	got := c.Unreachable()
	if len(got) != 2 || got[0].Endpoint != given[0] || got[1] != (EndpointProblem{given[1], "connection refused"}) {
		t.Errorf("given up: %q", got)
	}
}

func TestLearnersAreNotAsked(t *testing.T) {
	t.Parallel()
	a, l := newNode(t, "a"), newNode(t, "l")
	start(t, a)
	holds(t, Added{Cluster: open(t, Options{}, a.client), PeerURL: l.peer})
	join(t, l, a)
	only := open(t, Options{}, l.client)
	holds(t, Answering{only, l.client})
	if _, err := only.Members(t.Context()); errs.StatusOf(err) != errs.Precondition || !strings.Contains(err.Error(), "it is a learner") {
		t.Errorf("only a learner is known: %v", err)
	}
	both := open(t, Options{}, l.client, a.client)
	got, err := both.list(t.Context(), true, anybody)
	if err != nil || got.member != a.id() {
		t.Errorf("answered by %s, %v", hexID(got.member), err)
	}
	if s, err := both.Status(t.Context(), l.client); err != nil || !s.Learner {
		t.Errorf("a learner has a status: %+v, %v", s, err)
	}
}

func TestEndpointsOfTwoClusters(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "a"), newNode(t, "b")
	start(t, a)
	start(t, b)
	_, err := open(t, Options{}, a.client, b.client).Members(t.Context())
	if errs.StatusOf(err) != errs.Precondition || !strings.Contains(err.Error(), "different clusters") {
		t.Errorf("%v", err)
	}
}

func TestBadEndpoint(t *testing.T) {
	t.Parallel()
	for _, ep := range []string{"", "10.0.0.1:2379", "ftp://10.0.0.1", "https://", "http://%zz"} {
		if _, err := open(t, Options{}, ep).Members(t.Context()); err == nil || !strings.Contains(err.Error(), "is not a URL") {
			t.Errorf("%q: %v", ep, err)
		}
	}
	if _, err := open(t, Options{}).Members(t.Context()); errs.StatusOf(err) != errs.Usage {
		t.Errorf("no endpoint: %v", err)
	}
}

func TestCertificateProblemsAreNamed(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t, "our CA"), newAuthority(t, "their CA")
	at := func(ip string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP(ip)} }
	}
	local := at("127.0.0.1")
	early := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour / 2) }
	for _, row := range []struct {
		name   string
		pair   tls.Certificate
		client *tls.Config
		want   string
		clocks bool // may be wrong
	}{
		{"another name", ours.leaf("server", at("10.1.2.3")), ours.client(), "its certificate (CN=server) is for 10.1.2.3, not for 127.0.0.1", false},
		{"expired", ours.leaf("server", local, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), ours.client(), "(CN=server) expired at 20", false},
		{"not yet", ours.leaf("server", local, early), ours.client(), "is not valid before 20", true},
		{"ours not yet", ours.leaf("server", local), &tls.Config{RootCAs: ours.pool, Certificates: []tls.Certificate{ours.leaf("client", early)}},
			"it refuses our client certificate (expired certificate); the clock here says 20", true},
		{"unknown authority", theirs.leaf("server", local), ours.client(), `was issued by "their CA", which is not our CA`, false},
		{"our certificate", ours.leaf("server", local), &tls.Config{RootCAs: ours.pool, Certificates: theirs.client().Certificates}, "it refuses our client certificate", false},
		{"no certificate", ours.leaf("server", local), &tls.Config{RootCAs: ours.pool}, "it refuses our client certificate (certificate required)", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			endpoint := serve(t, &tls.Config{Certificates: []tls.Certificate{row.pair}, ClientCAs: ours.pool, ClientAuth: tls.RequireAndVerifyClientCert}, grpc.NewServer())
			c := open(t, Options{TLS: row.client}, endpoint)
			_, err := c.Members(t.Context())
			status := errs.Verification
			if row.clocks {
				status = errs.Precondition
			}
			if errs.StatusOf(err) != status || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("status %d: %v\nwant status %d and %q", errs.StatusOf(err), err, status, row.want)
			}
			if hints := strings.Join(errs.HintsOf(err), "\n"); strings.Contains(hints, "timedatectl") != row.clocks {
				t.Errorf("hints %q", hints)
			}
			info, err := PeerAnswer(t.Context(), endpoint, row.client)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("peer: %v", err)
			}
			if info.Certificate == nil || info.Certificate.Subject.CommonName != "server" {
				t.Errorf("peer: the certificate is not shown: %v", info.Certificate)
			}
			if refuses := strings.Contains(row.want, "refuses"); refuses != errors.Is(err, ErrCertificateRefused) {
				t.Errorf("refused: %v", err)
			}
		})
	}
	endpoint := serve(t, &tls.Config{Certificates: []tls.Certificate{ours.leaf("server", local)}}, grpc.NewServer())
	plain := strings.Replace(endpoint, "https", "http", 1)
	if _, err := open(t, Options{}, plain).Members(t.Context()); err == nil || !strings.Contains(err.Error(), "must begin with https://") {
		t.Errorf("http to TLS: %v", err)
	}
	secure := strings.Replace(refusedTLS(t), "http", "https", 1)
	if _, err := open(t, Options{TLS: ours.client()}, secure).Members(t.Context()); err == nil || !strings.Contains(err.Error(), "does not speak TLS") {
		t.Errorf("TLS to http: %v", err)
	}
}

// refusedTLS is the URL of a server that speaks plain HTTP only.
func refusedTLS(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return s.URL
}

// serve runs an HTTP/2 server at 127.0.0.1.
func serve(t *testing.T, cfg *tls.Config, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2, s.TLS = true, cfg
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// old is an etcd 3.5 as far as its quota goes: the status does not have it, the metrics do.
type old struct {
	etcdserverpb.UnimplementedMaintenanceServer
}

func (old) Status(context.Context, *etcdserverpb.StatusRequest) (*etcdserverpb.StatusResponse, error) {
	return &etcdserverpb.StatusResponse{Header: &etcdserverpb.ResponseHeader{}, Version: "3.5.35"}, nil
}

func TestQuotaOfOldEtcd(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "test CA")
	g := grpc.NewServer()
	etcdserverpb.RegisterMaintenanceServer(g, old{})
	mux := http.NewServeMux()
	mux.Handle("/", g)
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("# TYPE etcd_server_quota_backend_bytes gauge\netcd_server_quota_backend_bytes 8.589934592e+09\n"))
	})
	endpoint := serve(t, &tls.Config{
		Certificates: []tls.Certificate{ca.leaf("server", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("127.0.0.1")} })},
		ClientCAs:    ca.pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}, mux)
	c := open(t, Options{TLS: ca.client()}, endpoint)
	if q, err := c.Quota(t.Context(), endpoint); err != nil || q != 8<<30 {
		t.Errorf("quota %d, %v", q, err)
	}
}

// hasty takes a caller's limit for over a moment before the caller does.
type hasty struct {
	etcdserverpb.UnimplementedClusterServer
}

func (hasty) MemberList(ctx context.Context, _ *etcdserverpb.MemberListRequest) (*etcdserverpb.MemberListResponse, error) {
	end, _ := ctx.Deadline()
	time.Sleep(time.Until(end) - soon/2)
	return nil, status.Error(codes.DeadlineExceeded, context.DeadlineExceeded.Error())
}

// A caller who gave the cluster no more time hears that, and not that nobody answers.
func TestALimitThatTheServerIsAheadOf(t *testing.T) {
	t.Parallel()
	g := grpc.NewServer()
	etcdserverpb.RegisterClusterServer(g, hasty{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	c := open(t, Options{}, "http://"+l.Addr().String())
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if _, err := c.Members(ctx); !errors.Is(err, context.DeadlineExceeded) || Unheard(err) {
			t.Errorf("after the limit of the caller: %v", err)
		}
		cancel()
	}
}

func TestPeerAnswer(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "test CA")
	a := newNode(t, "a", ca.secure(constants.PeerMarker))
	start(t, a)
	marked := &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{
		ca.leaf("peer", func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses = []string{constants.PeerMarker}, []net.IP{net.ParseIP("127.0.0.1")}
		}),
	}}
	info, err := PeerAnswer(t.Context(), a.peer, marked)
	if err != nil {
		t.Fatal(err)
	}
	if info.ClusterID != uint64(a.server.Server.Cluster().ID()) || len(info.Members) != 1 || info.Members[0].ID != a.id() {
		t.Errorf("%+v", info)
	}
	if skew := time.Since(info.Time); skew < -2*time.Second || skew > time.Minute {
		t.Errorf("its clock says %s", info.Time)
	}
	if info.Certificate == nil || info.Certificate.VerifyHostname(constants.PeerMarker) != nil {
		t.Errorf("the certificate does not show the marker: %v", info.Certificate)
	}

	// An application's certificate of the same CA is refused; that an etcd with the marker runs there shows all the same.
	info, err = PeerAnswer(t.Context(), a.peer, ca.client())
	if !errors.Is(err, ErrCertificateRefused) || info.Certificate == nil || info.Certificate.VerifyHostname(constants.PeerMarker) != nil {
		t.Errorf("%+v, %v", info, err)
	}
	other := serve(t, &tls.Config{Certificates: []tls.Certificate{ca.leaf("server", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("127.0.0.1")} })}},
		http.NotFoundHandler())
	if _, err := PeerAnswer(t.Context(), other, ca.client()); err == nil {
		t.Error("something else passes for an etcd peer")
	}

	// Where client URLs lead nowhere, the peer port tells who is up.
	m := Membership{ClusterID: uint64(a.server.Server.Cluster().ID()), Members: []Member{
		{ID: a.id(), Name: "a", PeerURLs: []string{a.peer}, ClientURLs: []string{"https://127.0.0.1:1"}},
		{ID: 7, Name: "b", PeerURLs: []string{"https://127.0.0.1:1"}, ClientURLs: []string{a.client}},
		{ID: 8, PeerURLs: []string{a.peer}}, // has started, and told no name yet
		{ID: 9, PeerURLs: []string{"https://127.0.0.1:1"}},
	}}
	for _, t2 := range []*tls.Config{marked, ca.client()} {
		h := open(t, Options{TLS: t2}).Health(t.Context(), m)
		if h[a.id()] != nil || h[7] == nil || h[8] != nil || h[9] == nil {
			t.Errorf("health: %v", h)
		}
	}
}

// What a member's certificate carries does not tell what the member was started with.
func TestPeersOnlyIsWhatMembersWereStartedWith(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "test CA")
	a, b := newNode(t, "a", ca.secure(constants.PeerMarker)), newNode(t, "b", ca.secure(constants.PeerMarker))
	b.config.PeerTLSInfo.AllowedHostnames = nil
	start(t, a, b)
	marked := func(names ...string) *tls.Config {
		return &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{ca.leaf("peer", func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses = names, []net.IP{net.ParseIP("127.0.0.1")}
		})}}
	}
	cluster := open(t, Options{TLS: ca.client()}, a.client, b.client)
	all, err := cluster.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	of := func(members ...Member) Membership {
		return Membership{ClusterID: all.ClusterID, Members: members}
	}
	first, _ := all.ByPeerURL(a.peer)
	second, _ := all.ByPeerURL(b.peer)
	unnamed := Member{ID: first.ID, PeerURLs: first.PeerURLs} // as one that has begun to start
	silent := Member{ID: 7, PeerURLs: []string{"https://127.0.0.1:1"}}
	for name, row := range map[string]struct {
		m    Membership
		peer *tls.Config
		want bool
	}{
		"started with it":                     {of(first), marked(constants.PeerMarker), true},
		"has told no name yet":                {of(unnamed), marked(constants.PeerMarker), true},
		"carries it, and does not ask for it": {of(second), marked(constants.PeerMarker), false},
		"one of two does not ask for it":      {all, marked(constants.PeerMarker), false},
		"one does not answer":                 {of(first, silent), marked(constants.PeerMarker), false},
		"asks for something else":             {of(first), marked("other.example.com"), false},
		"is of another cluster":               {Membership{ClusterID: 1, Members: []Member{first}}, marked(constants.PeerMarker), false},
	} {
		if got := cluster.PeersOnly(t.Context(), row.m, row.peer); got != row.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// A name that nobody has looked up in time is not one that nobody has.
func TestALookupThatTakesTooLong(t *testing.T) {
	t.Parallel()
	for timeout, want := range map[bool]string{true: "no connection within the time limit", false: "the name etcd-1.example.com does not resolve"} {
		err := &net.OpError{Op: "dial", Err: &net.DNSError{Name: "etcd-1.example.com", Err: "why", IsTimeout: timeout}}
		if got := netProblem(err).Error(); got != want {
			t.Errorf("%v is told as %q", err, got)
		}
	}
}

func TestSourceAddress(t *testing.T) {
	t.Parallel()
	got, err := SourceAddress("127.0.0.1:2380")
	if err != nil || !got.IsLoopback() {
		t.Errorf("%s, %v", got, err)
	}
}

func TestClientLogsGoToOurLogger(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := open(t, Options{Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}, refused())
	c.log.Named("x").With().Error("broken")
	if got := out.String(); !strings.Contains(got, "level=DEBUG") || !strings.Contains(got, "msg=broken") {
		t.Errorf("log: %q", got)
	}
}

// Only who says that it has no quorum has none, and goes on to say so for longer than an election takes, or who is not there.
func TestHasQuorum(t *testing.T) {
	t.Parallel()
	answers := func(status int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/health" || !slices.Equal(r.URL.Query()["exclude"], []string{"NOSPACE", "CORRUPT"}) {
				status = http.StatusNotFound
			}
			w.WriteHeader(status)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	var asked atomic.Bool
	elects := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !asked.Swap(true) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(elects.Close)
	limited, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		url  string
		want bool
	}{
		"it has":      {context.Background(), answers(http.StatusOK), true},
		"it has none": {context.Background(), answers(http.StatusServiceUnavailable), false},
		"it elects":   {context.Background(), elects.URL, true},
		"nobody":      {context.Background(), refused(), false},
		"no answer":   {limited, mute(t), true},
	} {
		if got := HasQuorum(c.ctx, c.url); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
