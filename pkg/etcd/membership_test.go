package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// memberOf returns the member with the node's peer URL, as the given cluster sees it.
func memberOf(t *testing.T, c *Cluster, n *node) (Member, bool) {
	t.Helper()
	m, err := c.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m.ByPeerURL(n.peer)
}

func TestMemberComesAndGoes(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "test CA")
	a, b := newNode(t, "a", ca.secure()), newNode(t, "b", ca.secure())
	start(t, a)
	var acts []string
	o := Options{TLS: ca.client(), Host: host.New(t.TempDir(), host.Observe(func(act string) { acts = append(acts, act) }))}
	c := open(t, o, a.client)

	added := Added{Cluster: c, PeerURL: b.peer, Blank: true}
	if r := holds(t, added); !r.Changed {
		t.Error("the member was absent, and nothing changed")
	}
	m, found := memberOf(t, c, b)
	if !found || !m.Learner || m.Started() {
		t.Fatalf("added %+v, want a learner that has not started", m)
	}
	if r := holds(t, added); r.Changed {
		t.Error("an unfinished member of ours was not adopted")
	}

	if d, err := (Answering{c, b.client}).Check(t.Context()); err != nil || !strings.Contains(d.String(), "connection refused") {
		t.Errorf("before the start: %v, %v", d, err)
	}
	join(t, b, a)
	holds(t, Answering{c, b.client})
	if d, err := (Healthy{c, b.client}).Check(t.Context()); err != nil || len(d) == 0 {
		t.Errorf("a learner passes for healthy: %v, %v", d, err)
	}
	promoted := Promoted{Cluster: c, PeerURL: b.peer, Local: b.client}
	holds(t, promoted)
	if r := holds(t, promoted); r.Changed {
		t.Error("a voter was promoted")
	}
	holds(t, Healthy{c, b.client})
	if m, _ := memberOf(t, c, b); m.Learner || m.Name != "b" {
		t.Errorf("promoted to %+v", m)
	}

	// The leader goes, though it is the only endpoint that is known.
	leader, other := a, b
	if a.server.Server.Leader() != a.server.Server.MemberID() {
		leader, other = b, a
	}
	removed := Removed{Cluster: open(t, o, leader.client), ID: leader.id(), PeerURL: leader.peer, Local: leader.client}
	holds(t, removed)
	rest := open(t, o, other.client)
	if r := holds(t, Removed{Cluster: rest, ID: removed.ID, PeerURL: removed.PeerURL}); r.Changed {
		t.Error("the member was removed, and is still there")
	}
	last := apply(t, Removed{Cluster: rest, PeerURL: other.peer, Local: other.client}, patience, nil)
	if errs.StatusOf(last.Err) != errs.Precondition {
		t.Errorf("the last voter: %v", last.Err)
	}
	if hints := errs.HintsOf(last.Err); len(hints) == 0 || !strings.Contains(hints[0], "run the same command again") {
		t.Errorf("the last voter, whose operator would give up its data: %q", hints)
	}
	want := fmt.Sprintf("add %s to the cluster as a learner\npromote member %s to a voter\nmove leadership to member %s\nremove member %s from the cluster",
		b.peer, m.HexID(), hexID(other.id()), hexID(removed.ID))
	if got := strings.Join(acts, "\n"); got != want {
		t.Errorf("acts:\n%s\nwant:\n%s", got, want)
	}
}

// TestLostReply has each change succeed while its reply is lost: the node must find out, and not do it twice.
func TestLostReply(t *testing.T) {
	t.Parallel()
	var answered atomic.Pointer[func(method string, err error)]
	tells := answers(func(_ context.Context, method string, err error) {
		if f := answered.Load(); f != nil {
			(*f)(method, err)
		}
	})
	a, b := newNode(t, "a", lax, tells), newNode(t, "b", lax, tells)
	start(t, a)
	direct := open(t, Options{}, a.client)

	// The way is an endpoint that the cluster does not advertise; so the list is read again through it too.
	lost := func(change string, want func(*Cluster) converge.Resource) {
		t.Helper()
		way := newGate(t, "127.0.0.1:0", strings.TrimPrefix(a.client, "http://"))
		var done, again atomic.Int32
		f := func(method string, err error) {
			if method != change {
				return
			}
			if done.Load() > 0 {
				again.Add(1)
			}
			if err == nil {
				done.Add(1)
				way.cut()
			}
		}
		answered.Store(&f)
		defer answered.Store(nil)
		holds(t, want(open(t, Options{}, "http://"+way.Addr().String())))
		if done.Load() != 1 || again.Load() > 0 {
			t.Errorf("%s was done %d times, and asked for %d times when it was done", change, done.Load(), again.Load())
		}
	}
	lost("MemberAdd", func(c *Cluster) converge.Resource { return Added{Cluster: c, PeerURL: b.peer} })
	join(t, b, a)
	lost("MemberPromote", func(c *Cluster) converge.Resource { return Promoted{Cluster: c, PeerURL: b.peer, Local: b.client} })
	if m, err := direct.Members(t.Context()); err != nil || len(m.Voters()) != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
	lost("MemberRemove", func(c *Cluster) converge.Resource { return Removed{Cluster: c, PeerURL: b.peer} })
	if m, err := direct.Members(t.Context()); err != nil || len(m.Members) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
}

// A member whose data is of no use is replaced, also one that has yet to tell its name: what it had confirmed it would have
// forgotten. Once another one has its peer URL, that one stays.
func TestALostMemberIsReplaced(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a")
	start(t, a)
	c := open(t, Options{}, a.client)
	const peer = "http://127.0.0.2:2380"
	holds(t, Added{Cluster: c, PeerURL: peer})
	before, _ := memberNamed(t, c, peer)
	again := Added{Cluster: c, PeerURL: peer, Lost: before.ID}
	if r := holds(t, again); !r.Changed {
		t.Error("the lost member stays")
	}
	after, _ := memberNamed(t, c, peer)
	if after.ID == before.ID || !after.Learner {
		t.Errorf("the member is %+v, and was %+v", after, before)
	}
	if r := holds(t, again); r.Changed {
		t.Error("the new one is replaced too")
	}
}

func TestAddedWaitsForTheLearnerSlot(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a")
	start(t, a)
	c := open(t, Options{}, a.client)
	other, mine := "http://127.0.0.2:2380", "http://127.0.0.3:2380"
	holds(t, Added{Cluster: c, PeerURL: other})
	held, _ := memberNamed(t, c, other)

	notes := make(chan string, 100)
	done := make(chan *converge.Result)
	go func() {
		done <- apply(t, Added{Cluster: c, PeerURL: mine}, patience, func(s string) { notes <- s })
	}()
	var why string
	select {
	case why = <-notes:
		if !strings.Contains(why, held.HexID()) || !strings.Contains(why, other) {
			t.Errorf("the note does not name the holder: %s", why)
		}
	case r := <-done:
		t.Fatalf("did not wait: %v", r.Err)
	}
	time.Sleep(4 * later) // several tries
	holds(t, Removed{Cluster: c, ID: held.ID})
	if r := <-done; r.Err != nil || !r.Changed {
		t.Errorf("after the slot was free: %+v", r)
	}
	for len(notes) > 0 { // a busy machine may have reasons of its own
		if again := <-notes; again == why {
			t.Errorf("the same reason was told again: %s", again)
		}
	}

	late := expires(t, Added{Cluster: c, PeerURL: "http://127.0.0.4:2380"}, mine)
	if errs.StatusOf(late) != errs.Timeout || !strings.Contains(late.Error(), mine) {
		t.Errorf("when its time is over: %v", late)
	}
}

func memberNamed(t *testing.T, c *Cluster, peer string) (Member, bool) {
	t.Helper()
	return memberOf(t, c, &node{peer: peer})
}

// TestAddedWaitsForAHealthyLeader meets etcd's own wait: a leader of several voters takes nobody before it has been connected for 5 s.
func TestAddedWaitsForAHealthyLeader(t *testing.T) {
	t.Parallel()
	var refused, waited atomic.Bool
	tells := answers(func(_ context.Context, method string, err error) {
		refused.Store(refused.Load() || method == "MemberAdd" && errors.Is(rpctypes.Error(err), rpctypes.ErrUnhealthy))
	})
	a, b := newNode(t, "a", tells), newNode(t, "b", tells)
	start(t, a, b)
	r := apply(t, Added{Cluster: open(t, Options{}, a.client, b.client), PeerURL: "http://127.0.0.2:2380"}, patience, func(s string) {
		waited.Store(waited.Load() || strings.Contains(s, "connected to a majority for 5s"))
	})
	if r.Err != nil || waited.Load() != refused.Load() { // on a busy machine 5 s may be over at the first try
		t.Errorf("refused %t, waited %t, %v", refused.Load(), waited.Load(), r.Err)
	}
}

func TestDeadVoter(t *testing.T) {
	t.Parallel()
	a, b, d := newNode(t, "a", lax), newNode(t, "b", lax), newNode(t, "d", lax)
	start(t, a, b, d)
	dead := d.id()
	d.die(t, a, b)
	c := open(t, Options{}, d.client, a.client, b.client)

	refused := func(what string, want converge.Checker, reason string) {
		t.Helper()
		r := apply(t, want, patience, nil)
		if errs.StatusOf(r.Err) != errs.Precondition || !strings.Contains(r.Err.Error(), reason) || !strings.Contains(r.Err.Error(), hexID(dead)) {
			t.Errorf("%s: %v", what, r.Err)
		}
	}
	refused("another voter", Added{Cluster: c, PeerURL: "http://127.0.0.2:2380"}, "could cost the cluster its quorum")
	refused("one less", Removed{Cluster: c, ID: a.id(), Local: a.client}, "would lose its quorum")
	if m, err := c.Members(t.Context()); err != nil || len(m.Members) != 3 {
		t.Errorf("the membership changed: %+v, %v", m, err)
	}

	// A node whose data is lost takes the place of its former self.
	holds(t, Added{Cluster: c, PeerURL: d.peer, Blank: true})
	if m, found := memberOf(t, c, d); !found || !m.Learner || m.ID == dead {
		t.Errorf("in place of the lost member: %+v", m)
	}
	// One that runs is not pushed aside.
	r := apply(t, Added{Cluster: c, PeerURL: b.peer, Blank: true}, patience, nil)
	if errs.StatusOf(r.Err) != errs.Precondition || !strings.Contains(r.Err.Error(), "runs somewhere") {
		t.Errorf("a member that runs: %v", r.Err)
	}
	if got := c.Unreachable(); len(got) == 0 || got[0] != (EndpointProblem{d.client, "connection refused"}) {
		t.Errorf("endpoints given up: %v", got)
	}
}

func TestLostQuorum(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "a"), newNode(t, "b")
	start(t, a, b)
	b.stop()
	// Each of them takes as long as a request may take, which a busy machine needs.
	for name, look := range map[string]func(*testing.T, *Cluster){
		"members": func(t *testing.T, c *Cluster) {
			if _, err := c.Members(t.Context()); errs.StatusOf(err) != errs.Precondition || !strings.Contains(err.Error(), "has no quorum") {
				t.Errorf("members: %v", err)
			}
		},
		"members, as one knows them": func(t *testing.T, c *Cluster) {
			if m, err := c.MembersSerializable(t.Context()); err != nil || len(m.Members) != 2 {
				t.Errorf("serializable: %+v, %v", m, err)
			}
		},
		// The member that the quorum waits for finds itself in the list.
		"added": func(t *testing.T, c *Cluster) {
			if d, err := (Added{Cluster: c, PeerURL: b.peer}).Check(t.Context()); err != nil || len(d) > 0 {
				t.Errorf("an added member: %v, %v", d, err)
			}
		},
		"removed": func(t *testing.T, c *Cluster) {
			r := apply(t, Removed{Cluster: c, PeerURL: b.peer}, patience, nil)
			if errs.StatusOf(r.Err) != errs.Precondition || !strings.Contains(strings.Join(errs.HintsOf(r.Err), " "), "--skip-remove-member") {
				t.Errorf("removal: %v, %v", r.Err, errs.HintsOf(r.Err))
			}
		},
		"healthy": func(t *testing.T, c *Cluster) {
			if d, err := (Healthy{c, a.client}).Check(t.Context()); err != nil || len(d) == 0 {
				t.Errorf("healthy without a quorum: %v, %v", d, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			look(t, open(t, Options{}, a.client))
		})
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a")
	start(t, a)
	c := open(t, Options{Host: host.New(t.TempDir(), host.ReadOnly())}, a.client)
	for _, r := range []converge.Resource{
		Added{Cluster: c, PeerURL: "http://127.0.0.2:2380"},
		Added{Cluster: c, PeerURL: "http://127.0.0.2:2380", Blank: true},
	} {
		if err := r.Apply(t.Context()); !errors.Is(err, host.ErrReadOnly) {
			t.Errorf("%T: %v", r, err)
		}
	}
	// Absence is a gap, not an error; so is a cluster that cannot be asked before there are certificates.
	for _, r := range []converge.Checker{Added{PeerURL: a.peer}, Promoted{PeerURL: a.peer}, Answering{Endpoint: a.client}, Healthy{Endpoint: a.client}} {
		if d, err := r.Check(t.Context()); err != nil || len(d) != 1 {
			t.Errorf("%T: %v, %v", r, d, err)
		}
	}
	if d, err := (Promoted{Cluster: c, PeerURL: "http://127.0.0.2:2380"}).Check(t.Context()); err != nil || len(d) != 1 {
		t.Errorf("%v, %v", d, err)
	}
	if m, err := c.Members(t.Context()); err != nil || len(m.Members) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestAlarms reads what the cluster keeps in mind, without a write of its own.
func TestAlarms(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a")
	start(t, a)
	c := open(t, Options{}, a.client)
	raise(t, a, "NOSPACE")
	if got, err := c.Alarms(t.Context()); err != nil || len(got) != 1 || got[0] != (Alarm{a.id(), "NOSPACE"}) {
		t.Errorf("%v, %v", got, err)
	}
	r := holds(t, Healthy{c, a.client})
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "NOSPACE") {
		t.Errorf("warnings: %q", r.Warnings)
	}
	raise(t, a, "CORRUPT")
	if d, err := (Healthy{c, a.client}).Check(t.Context()); err != nil || !strings.Contains(d.String(), "CORRUPT") {
		t.Errorf("a corrupt database passes for healthy: %v, %v", d, err)
	}
	if before, after := index(t, c, a), index(t, c, a); before != after {
		t.Errorf("looking wrote to the log: index %d became %d", before, after)
	}
}

func index(t *testing.T, c *Cluster, n *node) uint64 {
	t.Helper()
	if _, err := c.Alarms(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := c.Status(t.Context(), n.client)
	if err != nil {
		t.Fatal(err)
	}
	return s.RaftIndex
}

func TestQuotaAndStatus(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", func(n *node) { n.config.QuotaBackendBytes = 64 << 20 })
	start(t, a)
	c := open(t, Options{}, a.client)
	if q, err := c.Quota(t.Context(), a.client); err != nil || q != 64<<20 {
		t.Errorf("quota %d, %v", q, err)
	}
	if q, err := c.Quota(t.Context(), "https://127.0.0.1:1"); errs.StatusOf(err) != errs.Timeout {
		t.Errorf("the quota of a member that does not answer: %d, %v", q, err)
	}
	cl, err := clientv3.New(c.ClientConfig(a.client))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	put, err := cl.Put(t.Context(), "k", "v")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Status(t.Context(), a.client)
	if err != nil || s.Revision != put.Header.Revision || s.MemberID != a.id() || s.Leader != a.id() || s.Learner || s.DBSize == 0 || s.AppliedIndex == 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// behind is a member that has applied as much as it is told.
type behind struct {
	etcdserverpb.UnimplementedMaintenanceServer
	applied atomic.Uint64
	asked   chan struct{}
}

func (b *behind) Status(context.Context, *etcdserverpb.StatusRequest) (*etcdserverpb.StatusResponse, error) {
	select {
	case b.asked <- struct{}{}:
	default:
	}
	return &etcdserverpb.StatusResponse{Header: &etcdserverpb.ResponseHeader{}, RaftAppliedIndex: b.applied.Load(), IsLearner: true}, nil
}

// TestPromotedWaitsForAllOfTheLog stands in for the member's own word: etcd itself would promote it at 90 %.
// What has to come before a promotion does, while the member is a learner; without it nobody is promoted.
func TestPromotedAfterWhatComesBefore(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "a"), newNode(t, "b")
	start(t, a)
	c := open(t, Options{}, a.client)
	holds(t, Added{Cluster: c, PeerURL: b.peer})
	join(t, b, a)
	holds(t, Answering{c, b.client})

	failed := errors.New("the disk is gone")
	promoted := Promoted{Cluster: c, PeerURL: b.peer, Local: b.client, Before: func() error { return failed }}
	if r := apply(t, promoted, patience, nil); !errors.Is(r.Err, failed) {
		t.Errorf("what comes before the promotion failed: %v", r.Err)
	}
	if m, _ := memberOf(t, c, b); !m.Learner {
		t.Error("promoted all the same")
	}
	var learner bool
	promoted.Before = func() error {
		m, _ := memberOf(t, c, b)
		learner = m.Learner
		return nil
	}
	holds(t, promoted)
	if m, _ := memberOf(t, c, b); m.Learner || !learner {
		t.Errorf("a learner before: %t, after: %t", learner, m.Learner)
	}
}

func TestPromotedWaitsForAllOfTheLog(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "a"), newNode(t, "b")
	start(t, a)
	var acts atomic.Int32
	c := open(t, Options{Host: host.New(t.TempDir(), host.Observe(func(string) { acts.Add(1) }))}, a.client)
	holds(t, Added{Cluster: c, PeerURL: b.peer})

	gone := Promoted{Cluster: c, PeerURL: b.peer, Local: b.client, Ended: func(context.Context) error { return errEnough }}
	if r := apply(t, gone, patience, nil); !errors.Is(r.Err, errEnough) {
		t.Errorf("a member that does not stay up: %v", r.Err)
	}
	silent := "the member does not answer at " + b.client
	unstarted := expires(t, Promoted{Cluster: c, PeerURL: b.peer, Local: b.client}, silent)
	if errs.StatusOf(unstarted) != errs.Timeout || !strings.Contains(unstarted.Error(), silent) {
		t.Errorf("a member that was never started: %v", unstarted)
	}

	join(t, b, a)
	holds(t, Answering{c, b.client})
	s, err := c.Status(t.Context(), a.client)
	if err != nil {
		t.Fatal(err)
	}
	local := &behind{asked: make(chan struct{})}
	local.applied.Store(s.RaftIndex - 1)
	g := grpc.NewServer()
	etcdserverpb.RegisterMaintenanceServer(g, local)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)

	acts.Store(0)
	done := make(chan *converge.Result)
	go func() {
		done <- apply(t, Promoted{Cluster: c, PeerURL: b.peer, Local: "http://" + l.Addr().String()}, patience, nil)
	}()
	for range 3 {
		select {
		case <-local.asked:
		case r := <-done:
			t.Fatalf("did not wait: %+v", r)
		}
	}
	if m, _ := memberOf(t, c, b); !m.Learner || acts.Load() != 0 {
		t.Errorf("promoted before it had caught up: %+v, %d acts", m, acts.Load())
	}
	local.applied.Store(s.RaftIndex + 100)
	if r := <-done; r.Err != nil || !r.Changed {
		t.Errorf("when it had caught up: %+v", r)
	}
}

// The member says that it has caught up, and receives what is new; but the leader does not hear it, as after a cut of the
// network before TCP sends again. As a voter it would take the quorum with it.
func TestPromotedWaitsForALeaderThatHearsTheMember(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "a"), newNode(t, "b")
	start(t, a)
	c := open(t, Options{}, a.client)
	way := through(t, b)
	holds(t, Added{Cluster: c, PeerURL: b.peer})
	join(t, b, a)
	holds(t, Answering{c, b.client})
	caughtUp := Promoted{Cluster: c, PeerURL: b.peer, Local: b.client, Before: func() error { return errEnough }}
	if r := apply(t, caughtUp, patience, nil); !errors.Is(r.Err, errEnough) { // heard so far
		t.Fatal(r.Err)
	}

	way.silence(t, a, b)
	waits(t, Promoted{Cluster: c, PeerURL: b.peer, Local: b.client}, "do not hear each other")
	if m, _ := memberOf(t, c, b); !m.Learner {
		t.Fatal("promoted all the same")
	}
	way.shut(false)
	holds(t, Promoted{Cluster: c, PeerURL: b.peer, Local: b.client})
}

var errEnough = errors.New("enough")

// gate is a way to an address, at one of its own. It can be shut: connections stay, and nothing passes. Or they are cut, and
// what is on the way is lost.
type gate struct {
	net.Listener
	mu     sync.Mutex
	open   *sync.Cond
	closed bool
	conns  []net.Conn
}

func newGate(t *testing.T, at, to string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: l}
	g.open = sync.NewCond(&g.mu)
	t.Cleanup(func() { _ = l.Close(); g.shut(false) })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer from.Close()
				there, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer there.Close()
				g.mu.Lock()
				g.conns = append(g.conns, from)
				g.mu.Unlock()
				go g.pass(there, from)
				g.pass(from, there)
			}()
		}
	}()
	return g
}

// through has the others come to a node, which has yet to start, through a gate. What they send is not held up by it, as each
// connects to those that it wants to hear.
func through(t *testing.T, n *node) *gate {
	t.Helper()
	g := newGate(t, address()+":2380", strings.TrimPrefix(n.peer, "http://"))
	n.peer = "http://" + g.Addr().String()
	n.config.AdvertisePeerUrls = urls(t, n.peer)
	return g
}

func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
}

func (g *gate) shut(closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = closed
	g.open.Broadcast()
}

// silence shuts the way to a node until the others of this process hear nothing of it. As long as etcd has no stream to another
// one, it makes requests, which do not come this way; that the streams are there, only the silence tells.
func (g *gate) silence(t *testing.T, other, n *node) {
	t.Helper()
	c := open(t, Options{}, other.client)
	count := func(what string) float64 {
		for tries := 0; ; tries++ {
			v, err := c.metric(t.Context(), http.DefaultClient, other.client, "etcd_network_peer_"+what+`="`+hexID(n.id())+`"}`)
			if err == nil {
				return v
			}
			if tries == 10 {
				t.Fatal(err)
			}
			time.Sleep(soon)
		}
	}
	for opened := range 100 {
		g.shut(true)
		heard, said, beats := count("received_bytes_total{From"), count("sent_bytes_total{To"), 0
		for tries := 0; count("received_bytes_total{From") == heard; tries++ {
			if now := count("sent_bytes_total{To"); now > said { // it is asked for an answer ten times a second
				said, beats = now, beats+1
			}
			if beats == 15 {
				return
			}
			if tries == 10_000 {
				t.Fatalf("%s says nothing to %s", other.name, n.name)
			}
			time.Sleep(soon)
		}
		g.shut(false)
		time.Sleep(time.Duration(opened) * soon) // on a busy machine a stream is long in coming
	}
	t.Fatalf("%s is heard with the way shut", n.name)
}

// pass hands on what comes in while the gate is open.
func (g *gate) pass(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		g.mu.Lock()
		for g.closed {
			g.open.Wait()
		}
		g.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
