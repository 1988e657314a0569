package etcd

import (
	"context"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

func TestOneNodeAtATimeIsAdmitted(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a")
	start(t, a)
	c := open(t, Options{}, a.client)
	revision := a.server.Server.KV().Rev()
	const lives = 10 * time.Second // when nobody renews it
	mine, other := Admission{lease: lease{ttl: lives}}, Admission{}
	t.Cleanup(mine.Close)
	t.Cleanup(other.Close)
	if err := mine.Take(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), lives+2*time.Second)
	defer cancel()
	if err := other.Take(short, c); errs.StatusOf(err) != errs.Timeout || !strings.Contains(err.Error(), "another node joins") || len(errs.HintsOf(err)) == 0 {
		t.Errorf("an admission that another node has: status %d: %v", errs.StatusOf(err), err)
	}
	if err := mine.Take(t.Context(), c); err != nil {
		t.Errorf("an admission that one has: %v", err)
	}
	mine.Close()
	if err := other.Take(t.Context(), c); err != nil {
		t.Errorf("an admission that was given back: %v", err)
	}
	other.Close()
	other.Close()
	if now := a.server.Server.KV().Rev(); now != revision {
		t.Errorf("the revision was %d, and is %d", revision, now)
	}
}

func TestAdmissionEndsWithItsHolder(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a")
	start(t, a)
	c := open(t, Options{}, a.client)
	var dead, next Admission
	if err := dead.Take(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	dead.stop() // as with its process, when that is killed
	dead.kept.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := next.Take(ctx, c); err != nil {
		t.Errorf("after the holder has died: %v", err)
	}
	next.Close()
	if c.admitting(t.Context(), answer{client: clientOf(t, c, a)}) {
		t.Error("an admission that was given back is taken")
	}
}

func TestPromotionWaitsForWhoIsBeingAdded(t *testing.T) {
	t.Parallel()
	a, b, d := newNode(t, "a", several), newNode(t, "b", several), newNode(t, "d", several)
	start(t, a)
	c := open(t, Options{}, a.client)
	first, second := &Admission{lease: lasting()}, &Admission{lease: lasting()}
	t.Cleanup(second.Close)
	holds(t, Added{Cluster: c, PeerURL: b.peer, Admission: first, Several: anyLearner})
	join(t, b, a)
	holds(t, Answering{c, b.client})

	added := make(chan *converge.Result)
	go func() {
		added <- apply(t, Added{Cluster: open(t, Options{}, a.client), PeerURL: d.peer, Admission: second, Several: anyLearner}, patience, nil)
	}()
	select {
	case r := <-added:
		t.Fatalf("a member was added while another one was: %+v", r)
	case <-time.After(10 * soon):
	}
	// The one who has the admission gives it back: at no moment does it look as if nobody came next.
	for tries := 0; !waitingFor(t, c, a, queueLease); tries++ {
		if tries == 10_000 {
			t.Fatal("nobody says that a node waits for the admission")
		}
		time.Sleep(soon)
	}
	first.Close()
	if r := <-added; r.Err != nil {
		t.Fatal(r.Err)
	}
	if waitingFor(t, c, a, queueLease) {
		t.Error("nobody waits any more, and the lease says so")
	}

	waits, promoted := make(chan string, 10), make(chan *converge.Result)
	go func() {
		promoted <- apply(t, Promoted{Cluster: c, PeerURL: b.peer, Local: b.client}, patience, func(s string) { waits <- s })
	}()
	for note := ""; !strings.Contains(note, "another node is being added"); {
		select {
		case note = <-waits:
		case r := <-promoted:
			t.Fatalf("promoted while another one was: %+v", r)
		}
	}
	if m, err := c.Members(t.Context()); err != nil || len(m.Learners()) != 2 || len(m.Voters()) != 1 {
		t.Errorf("members %+v, %v", m, err)
	}
	join(t, d, a, b)
	holds(t, Answering{c, d.client})
	second.Close()
	if r := <-promoted; r.Err != nil {
		t.Error(r.Err)
	}
	holds(t, Promoted{Cluster: c, PeerURL: d.peer, Local: d.client})
}

// An addition that the members are not known to agree on is not asked for, though the one that is asked would accept it.
func TestNoSecondLearnerWhereMembersMayDiffer(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", several)
	start(t, a)
	c := open(t, Options{}, a.client)
	holds(t, Added{Cluster: c, PeerURL: "http://127.0.0.2:2380"})
	r := apply(t, Added{Cluster: c, PeerURL: "http://127.0.0.3:2380", Several: func(context.Context, Membership) bool { return false }}, 2*time.Second, nil)
	if r.Err == nil {
		t.Error("a second learner was added")
	}
	if m, err := c.Members(t.Context()); err != nil || len(m.Learners()) != 1 {
		t.Errorf("members %+v, %v", m, err)
	}
}

// A learner that has yet to start is judged by how it was started, as soon as nobody else can be about to start it; and it is
// left the admission that it needs for that.
func TestNoSecondLearnerBesideOneThatHasYetToStart(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "a", several), newNode(t, "b", several)
	start(t, a)
	c := open(t, Options{}, a.client)
	holds(t, Added{Cluster: c, PeerURL: b.peer})
	up := func(ctx context.Context, m Membership) bool { return len(Silent(m.Members, c.Health(ctx, m))) == 0 }
	mine, other := &Admission{lease: lasting()}, &Admission{lease: lasting()}
	t.Cleanup(mine.Close)
	t.Cleanup(other.Close)
	added := make(chan *converge.Result)
	refused := make(chan string, 100)
	go func() {
		added <- apply(t, Added{Cluster: open(t, Options{}, a.client), PeerURL: "http://127.0.0.3:2380", Admission: mine, Several: up}, patience,
			func(s string) { refused <- s })
	}()
	select {
	case why := <-refused:
		if !strings.Contains(why, "not known to allow another one") {
			t.Errorf("waits: %s", why)
		}
	case r := <-added:
		t.Fatalf("a second learner was added: %+v", r)
	}
	if err := other.Take(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	join(t, b, a)
	holds(t, Answering{c, b.client})
	other.Close()
	if r := <-added; r.Err != nil {
		t.Error(r.Err)
	}
}

// lasting is a lease that is not lost because a busy machine renews it late. Whoever was not told that it was granted waits for
// its end.
func lasting() lease { return lease{ttl: time.Minute} }

// waitingFor tells whether a lease is there.
func waitingFor(t *testing.T, c *Cluster, n *node, id clientv3.LeaseID) bool {
	t.Helper()
	l, err := clientOf(t, c, n).TimeToLive(t.Context(), id)
	return err == nil && l.TTL > 0
}

func clientOf(t *testing.T, c *Cluster, n *node) *clientv3.Client {
	t.Helper()
	cl, err := c.client(t.Context(), n.client)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func several(n *node) { n.config.MaxLearners = constants.MaxLearners }
