package etcd

import (
	"context"
	"errors"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

func TestOneMemberIsAwayAtATime(t *testing.T) {
	t.Parallel()
	a, b, c := newNode(t, "a"), newNode(t, "b"), newNode(t, "c")
	start(t, a, b, c)
	endpoints := []string{a.client, b.client, c.client}
	one := &Turn{Cluster: open(t, Options{}, endpoints...), PeerURL: a.peer, lease: lasting()}
	two := &Turn{Cluster: open(t, Options{}, endpoints...), PeerURL: b.peer}
	holds(t, one)

	waits(t, two, "another member of the cluster is being restarted")
	one.Close()

	// One that dies while it has the turn loses it: nobody renews it any more.
	one = &Turn{Cluster: open(t, Options{}, endpoints...), PeerURL: a.peer}
	holds(t, one)
	one.stop()
	one.kept.Wait()
	holds(t, two)
	two.Close()
	if d, err := two.Check(context.Background()); err != nil || len(d) == 0 {
		t.Errorf("the turn is held after it was given back: %v, %v", d, err)
	}

	// A member that is down already is as good as one that is away.
	c.stop()
	waits(t, two, "member c (")
	// What is refused holds nobody else up.
	one = &Turn{Cluster: open(t, Options{}, endpoints...), PeerURL: c.peer}
	holds(t, one)
	one.Close()
}

// What the last look says, which is but cut short, is no reason.
func TestWhyThereIsNoTurnIsTold(t *testing.T) {
	t.Parallel()
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var taken atomic.Bool // before that it may be the one who has the turn that asks again, as an election took its answer away
	var asked atomic.Int32
	tells := answers(func(call context.Context, method string, err error) {
		if method == "LeaseGrant" && errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseExist) && taken.Load() && asked.Add(1) == 2 {
			end()
			<-call.Done()
		}
	})
	a, b, c := newNode(t, "a", tells), newNode(t, "b", tells), newNode(t, "c", tells)
	start(t, a, b, c)
	endpoints := []string{a.client, b.client, c.client}
	one := &Turn{Cluster: open(t, Options{}, endpoints...), PeerURL: a.peer, lease: lasting()}
	holds(t, one)
	defer one.Close()
	taken.Store(true)
	two := &Turn{Cluster: open(t, Options{}, endpoints...), PeerURL: b.peer}
	err := two.Apply(ctx)
	if err == nil || !strings.Contains(err.Error(), "another member of the cluster is being restarted") || asked.Load() != 2 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
}

// A member that answers, but that the leader does not hear, is none of the quorum: without a third one, nobody could write.
func TestNobodyIsAwayWhileTheLeaderDoesNotHearAnother(t *testing.T) {
	t.Parallel()
	a, b, c := newNode(t, "a"), newNode(t, "b"), newNode(t, "c")
	way := through(t, b)
	start(t, a, b, c)
	cluster := open(t, Options{}, a.client, b.client, c.client)
	turn := &Turn{Cluster: cluster, PeerURL: a.peer}
	holds(t, turn)
	turn.Close()

	way.silence(t, a, b)
	waits(t, turn, "member b (")
	way.shut(false)
	holds(t, turn)
	turn.Close()
}

// A database that is full is given a larger quota by a restart, and grants no lease for that.
func TestTurnWithAFullDatabase(t *testing.T) {
	t.Parallel()
	a, b, c := newNode(t, "a"), newNode(t, "b"), newNode(t, "c")
	start(t, a, b, c)
	endpoints := []string{a.client, b.client, c.client}
	before := &Turn{Cluster: open(t, Options{}, endpoints...), PeerURL: b.peer, lease: lasting()}
	holds(t, before)
	raise(t, a, "NOSPACE")

	turn := &Turn{Cluster: open(t, Options{}, endpoints...), PeerURL: a.peer}
	waits(t, turn, "another member of the cluster is being restarted") // which is away since before the alarm
	before.Close()
	r := holds(t, turn)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "one node at a time") {
		t.Errorf("warnings: %q", r.Warnings)
	}

	c.stop()
	turn = &Turn{Cluster: open(t, Options{}, endpoints...), PeerURL: a.peer}
	waits(t, turn, "member c (")
}

// One that is away for a moment has not gone: whoever changes the membership waits for it, and asks nobody to remove it.
func TestAMemberThatIsAwayIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(c *Cluster, a, b, learner *node) converge.Checker{
		"another member": func(c *Cluster, _, _, _ *node) converge.Checker {
			return Added{Cluster: c, PeerURL: "http://127.0.0.2:2380", Several: anyLearner}
		},
		"another voter": func(c *Cluster, _, _, l *node) converge.Checker {
			return Promoted{Cluster: c, PeerURL: l.peer, Local: l.client}
		},
		"one that goes away": func(c *Cluster, _, b, _ *node) converge.Checker {
			return Removed{Cluster: c, ID: b.id(), Local: b.client}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, d, learner := newNode(t, "a", lax, several), newNode(t, "b", lax, several), newNode(t, "d", lax, several), newNode(t, "l", lax, several)
			start(t, a, b, d)
			c := open(t, Options{}, a.client, b.client, d.client)
			holds(t, Added{Cluster: c, PeerURL: learner.peer})
			join(t, learner, a, b, d)
			holds(t, Answering{c, learner.client})
			turn := &Turn{Cluster: open(t, Options{}, a.client, b.client, d.client), PeerURL: d.peer, lease: lasting()}
			t.Cleanup(turn.Close)
			holds(t, turn)
			d.die(t, a, b)

			changed, told := make(chan *converge.Result), make(chan string, 100)
			want := change(c, a, b, learner)
			go func() { changed <- apply(t, want, patience, func(s string) { told <- s }) }()
			for note := ""; !strings.Contains(note, "is being restarted"); {
				select {
				case note = <-told:
				case r := <-changed:
					t.Fatalf("while a member was away: %+v", r)
				}
			}
			launch(t, d.config.ClusterState, []*node{a, b, d}, []*node{d})
			<-d.server.Server.ReadyNotify()
			turn.Close()
			if r := <-changed; r.Err != nil || !r.Changed {
				t.Errorf("when it was back: %+v", r)
			}
		})
	}
}

// A node whose data is lost makes room for itself, and one that it cannot reach for the moment, as it is being restarted, is no
// reason to refuse that. That one is a part of the quorum by then: the others hear it, over connections of its own.
func TestALostMemberIsReplacedWhenTheOneThatIsAwayIsBack(t *testing.T) {
	t.Parallel()
	a, b, d := newNode(t, "a"), newNode(t, "b"), newNode(t, "d")
	client, peer := strings.TrimPrefix(d.client, "http://"), strings.TrimPrefix(d.peer, "http://")
	ways := []*gate{newGate(t, address()+":2379", client), through(t, d)}
	d.config.AdvertiseClientUrls = urls(t, "http://"+ways[0].Addr().String())
	d.config.ElectionMs = 10000 // who has the turn is asked of the leader, at its peer URL: that is not to be this one
	start(t, a, b, d)
	a.lead(t, b, d)
	c := open(t, Options{}, a.client)
	turn := &Turn{Cluster: open(t, Options{}, a.client), PeerURL: d.peer, lease: lasting()}
	t.Cleanup(turn.Close)
	holds(t, turn)
	lost := b.id()
	b.stop()
	for _, way := range ways {
		_ = way.Close()
		way.cut()
	}

	changed, told := make(chan *converge.Result, 1), make(chan string, 1000)
	go func() {
		changed <- apply(t, Added{Cluster: c, PeerURL: b.peer, Blank: true}, patience, func(s string) { told <- s })
	}()
	for note := ""; !strings.Contains(note, "is being restarted"); {
		select {
		case note = <-told:
		case r := <-changed:
			t.Fatalf("while a member was away: %+v", r)
		}
	}
	newGate(t, ways[0].Addr().String(), client)
	newGate(t, ways[1].Addr().String(), peer)
	turn.Close()
	if r := <-changed; r.Err != nil || !r.Changed {
		t.Errorf("when it was back: %+v", r)
	}
	if m, found := memberOf(t, c, b); !found || !m.Learner || m.ID == lost {
		t.Errorf("in place of the lost member: %+v", m)
	}
}

// An election is no word about who is away.
func TestWhoIsAwayIsAskedAgainAfterAnElection(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	a := newNode(t, "a", intercepted(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if path.Base(info.FullMethod) == "LeaseTimeToLive" && asked.Add(1) == 1 {
			return nil, rpctypes.ErrGRPCLeaderChanged
		}
		return handle(ctx, req)
	}))
	start(t, a)
	c := open(t, Options{}, a.client)
	if err := grant(t.Context(), clientOf(t, c, a), turnLease, constants.TurnTTL); err != nil {
		t.Fatal(err)
	}
	if !c.away(t.Context(), answer{client: clientOf(t, c, a)}) {
		t.Error("who has the turn is taken for one who has not")
	}
}

func anyLearner(context.Context, Membership) bool { return true }

func TestAMemberThatCannotBeSparedNeedsNoTurn(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "a"), newNode(t, "b")
	start(t, a, b)
	turn := &Turn{Cluster: open(t, Options{}, a.client, b.client), PeerURL: a.peer}
	if d, err := turn.Check(t.Context()); err != nil || len(d) != 0 {
		t.Errorf("one of two waits for its turn: %v, %v", d, err)
	}
}

func TestAwayGateKeepsTheQuorum(t *testing.T) {
	for _, row := range []struct {
		line    string // as of members; the first one goes
		refused bool
	}{
		{"UUU", false},
		{"UUd", true},
		{"dUU", false},
		{"UUUU", false},
		{"UUUd", true},
		{"UUUUd", false},
		{"UUUdd", true},
		{"UUUl", false},
		{"UUlld", true},
	} {
		m, h := members(row.line)
		err := AwayGate(m, h, m.Members[0].PeerURLs[0])
		if (errs.StatusOf(err) == errs.Precondition) != row.refused {
			t.Errorf("%s: %v", row.line, err)
		}
	}
}
