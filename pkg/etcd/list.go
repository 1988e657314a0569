package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
)

// grace is for endpoints that have not answered yet when another one has: long enough to tell what is wrong with most of them.
// It is lost only to those that stay silent, and only once. Tests give more, as they keep the machine busy.
var grace = 250 * time.Millisecond

// Members returns the member list as a majority of the cluster agrees on it. Errors: status 3 when the cluster has no
// quorum or only learners answer, 5 when nobody does, 6 when certificates are what is wrong with all endpoints.
func (c *Cluster) Members(ctx context.Context) (Membership, error) {
	a, err := c.list(ctx, true, anybody)
	return a.Membership, err
}

// MembersSerializable returns the member list as one voter knows it: it may be out of date, and comes without a quorum too.
func (c *Cluster) MembersSerializable(ctx context.Context) (Membership, error) {
	a, err := c.list(ctx, false, anybody)
	return a.Membership, err
}

// answer is a member list, and who gave it: whoever changes the membership does it through the same member.
type answer struct {
	Membership
	endpoint string
	member   uint64
	client   *clientv3.Client
	stale    bool  // the list is only this member's view: no majority confirmed it
	err      error // why there is no list, or why it is stale
}

// anybody accepts an answer of any voter.
func anybody(answer) bool { return true }

// list asks the endpoint that answered last; then all that were given, at the same time; then those that their lists
// advertise, which may be out of reach from here. The first answer that the caller accepts is taken. On an error
// the answer may still hold the stale view of some voter.
func (c *Cluster) list(ctx context.Context, linearizable bool, accept func(answer) bool) (answer, error) {
	c.mu.Lock()
	good := c.good
	c.mu.Unlock()
	if good != "" {
		if a := c.ask(ctx, good, linearizable); a.err == nil && accept(a) {
			return a, nil
		}
	}
	endpoints, tried := c.o.Endpoints, map[string]bool{}
	var all []answer
	var cluster uint64
	for len(endpoints) > 0 {
		won, replies := c.race(ctx, endpoints, linearizable, func(a answer) bool {
			return (cluster == 0 || a.ClusterID == cluster) && accept(a) // whoever answers at an advertised 127.0.0.1
		})
		if cluster == 0 {
			var err error
			if cluster, err = oneCluster(replies); err != nil {
				return answer{}, err
			}
		}
		all = append(all, replies...)
		if won != nil {
			c.mu.Lock()
			c.good = won.endpoint
			c.mu.Unlock()
			return *won, nil
		}
		for _, e := range endpoints {
			tried[e] = true
		}
		endpoints = advertised(all, tried)
	}
	return c.unanswered(ctx, all)
}

// ask gets the member list from one endpoint. When no majority confirms the list, it is asked for once more without one.
func (c *Cluster) ask(ctx context.Context, endpoint string, linearizable bool) answer {
	a := answer{endpoint: endpoint}
	a.client, a.err = c.client(ctx, endpoint)
	if a.err == nil {
		a.err = c.fetch(ctx, &a, linearizable)
	}
	if a.err != nil && linearizable && ctx.Err() == nil && a.client != nil && a.client.ActiveConnection().GetState() == connectivity.Ready {
		a.stale = c.fetch(ctx, &a, false) == nil
	}
	c.note(endpoint, a.err)
	return a
}

// fetch fills in the member list. A cluster that elects a leader just now is given the time to.
func (c *Cluster) fetch(ctx context.Context, a *answer, linearizable bool) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	var opts []clientv3.OpOption
	if !linearizable {
		opts = append(opts, clientv3.WithSerializable())
	}
	for {
		resp, err := a.client.MemberList(ctx, opts...)
		if err == nil {
			a.Membership = membershipOf(resp.Header.GetClusterId(), resp.Members)
			a.member = resp.Header.GetMemberId()
			return nil
		}
		electing := errors.Is(err, rpctypes.ErrNoLeader) || errors.Is(err, rpctypes.ErrLeaderChanged)
		if !electing || pause(ctx, constants.PollInterval) != nil {
			return c.rpcProblem(ctx, a.endpoint, err)
		}
	}
}

// race asks all endpoints at the same time. It returns the first answer that is accepted, and all that came in by then or a moment later.
func (c *Cluster) race(ctx context.Context, endpoints []string, linearizable bool, accept func(answer) bool) (*answer, []answer) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replies := make(chan answer, len(endpoints))
	for _, e := range endpoints {
		go func() { replies <- c.ask(ctx, e, linearizable) }()
	}
	var won *answer
	var all []answer
	silent := map[string]bool{}
	for _, e := range endpoints {
		silent[e] = true
	}
	var late <-chan time.Time
	for range endpoints {
		select {
		case a := <-replies:
			all = append(all, a)
			delete(silent, a.endpoint)
			if won == nil && a.err == nil && accept(a) {
				won, late = &a, time.After(grace)
			}
		case <-late:
			for e := range silent {
				c.note(e, errTooLate)
			}
			return won, all
		}
	}
	return won, all
}

// advertised returns the client URLs of started voters in the lists, without those tried before.
func advertised(lists []answer, tried map[string]bool) []string {
	var out []string
	for _, a := range lists {
		for _, m := range a.Voters() {
			if !m.Started() {
				continue
			}
			for _, u := range m.ClientURLs {
				if !tried[u] {
					tried[u] = true
					out = append(out, u)
				}
			}
		}
	}
	return out
}

// oneCluster returns the id of the cluster that all lists are of. It refuses endpoints that belong to different clusters: which one is meant is not for us to guess.
func oneCluster(lists []answer) (uint64, error) {
	var first *answer
	for i := range lists {
		a := &lists[i]
		switch {
		case a.ClusterID == 0:
		case first == nil:
			first = a
		case a.ClusterID != first.ClusterID:
			return 0, errs.New(errs.Precondition, "the endpoints belong to different clusters: %s to %s, %s to %s",
				first.endpoint, hexID(first.ClusterID), a.endpoint, hexID(a.ClusterID)).
				Hint("name endpoints of one cluster only")
		}
	}
	if first == nil {
		return 0, nil
	}
	return first.ClusterID, nil
}

// unanswered is the error for a list that nobody gave, or that no majority confirmed, with the best of what there is.
func (c *Cluster) unanswered(ctx context.Context, all []answer) (answer, error) {
	if len(all) == 0 {
		return answer{}, errs.New(errs.Usage, "no endpoint of the cluster is known")
	}
	var problems []string
	var alone *answer
	learners, certificates, clocks, forbids := 0, 0, 0, 0
	for i, a := range all {
		switch {
		case errs.OfMachine(a.err): // of this one, whatever the others are like
			return answer{}, errs.New(errs.StatusOf(a.err), "%s cannot be asked: %w", a.endpoint, a.err)
		case Forbidden(a.err):
			forbids++
		case errors.Is(a.err, errLearner):
			learners++
		case errors.As(a.err, new(tlsError)):
			certificates++
			if errors.Is(a.err, errClocks) {
				clocks++
			}
		case a.stale:
			return a, errs.New(errs.Precondition, "the cluster has no quorum: %s answers, but not for a majority of its %d voters (%s)",
				a.endpoint, len(a.Voters()), said(a.err)).
				Hint("start the members that are down: a majority of the voters must be up")
		case a.err == nil: // by one that the caller does not take the word of
			alone = &all[i]
			continue
		}
		problems = append(problems, a.endpoint+": "+said(a.err))
	}
	if ending(ctx) { // that nobody has answered is but that nobody had the time to
		<-ctx.Done()
	}
	list := unheard(strings.Join(problems, "; "))
	const reach = "check that the members run, and that their client port can be reached from here"
	switch {
	case ctx.Err() != nil && learners+certificates == 0:
		return answer{}, fmt.Errorf("no endpoint of the cluster answered (%s): %w", string(list), ctx.Err())
	case forbids > 0:
		return answer{}, NotAllowed("the cluster does not tell who its members are (%w)", list)
	case alone != nil && len(problems) == 0:
		return *alone, errs.New(errs.Precondition, "no other voter of the cluster answers").Hint(reach)
	case alone != nil:
		return *alone, errs.New(errs.Precondition, "no other voter of the cluster answers (%s)", string(list)).Hint(reach)
	case learners > 0:
		return answer{}, errs.New(errs.Precondition, "no voter of the cluster answers (%w)", list).
			Hint("name the client URL of a member that votes")
	case clocks == len(all):
		return answer{}, unequalClocks("this node and the cluster do not agree on which certificates are valid now (%s)", list)
	case certificates == len(all):
		return answer{}, errs.New(errs.Verification, "no endpoint of the cluster can be trusted (%s)", list).
			Hint("every node needs certificates of the same CA")
	}
	return answer{}, errs.New(errs.Timeout, "no endpoint of the cluster answers (%w)", list).
		Hint(reach)
}

// unheard is what each endpoint said instead of an answer.
type unheard string

func (u unheard) Error() string { return string(u) }

// Unheard tells whether an error means that no voter has answered: it may be down, or be waiting for a quorum itself.
func Unheard(err error) bool {
	var u unheard
	return errors.As(err, &u)
}

// unequalClocks is the error of certificates that one side takes for valid, and the other one does not.
func unequalClocks(format string, args ...any) *errs.Error {
	return errs.New(errs.Precondition, format, args...).
		Hint("compare the clocks, date -u here and there, and set the one that is wrong: timedatectl set-ntp true").
		Hint("if both are right, see which certificate has expired: etcdadm status")
}

// errTooLate is what is said of an endpoint that was not waited for, as others had answered.
var errTooLate = errors.New("no answer yet when another endpoint had answered")

// errLearner is what a learner says when it is asked for anything about its cluster.
var errLearner = rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner)

// pause waits, or returns the error of a context that ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
