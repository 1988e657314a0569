// Package robustness judges with etcd's own robustness machinery what etcdadm does to a cluster: clients read, write and
// watch while etcdadm lets members join, leave and be replaced, and afterwards etcd's model decides whether everything
// that they saw can have happened.
//
// This file is the only one that knows go.etcd.io/etcd/tests, whose interface is not stable.
package robustness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/tests/v3/robustness/client"
	"go.etcd.io/etcd/tests/v3/robustness/identity"
	"go.etcd.io/etcd/tests/v3/robustness/model"
	"go.etcd.io/etcd/tests/v3/robustness/report"
	"go.etcd.io/etcd/tests/v3/robustness/traffic"
	"go.etcd.io/etcd/tests/v3/robustness/validate"
	"go.etcd.io/raft/v3/raftpb"
)

const (
	// watchersEnd is how long the watchers may take to see the last write, where the setup says nothing else.
	watchersEnd = 2 * time.Minute
	// modelEnd is how long the model may think.
	modelEnd = 10 * time.Minute
)

// A Verdict is a no of the model: what the clients saw cannot have happened.
type Verdict struct{ error }

// Unwrap returns what the model says.
func (v Verdict) Unwrap() error { return v.error }

// upstream's 200 ms are too short on a machine that many clusters share.
func init() { traffic.RequestTimeout = time.Second }

// nop says nothing: what matters is in the verdict.
var nop = zap.NewNop()

// A Recording is the history of clients: what they asked, what they were answered, and when.
type Recording struct {
	lg       *zap.Logger
	set      *client.ClientSet
	watchers *client.ClientSet
	finish   chan struct{}
	wg       sync.WaitGroup
	base     time.Time
	reports  []report.ClientReport
}

// Record starts clients of a cluster. Each door (host:port, no TLS) leads to one member, whether it is there yet or not:
// a client for each door, and two that know all of them, write, read and watch until Finish. A cluster that is in its
// first epoch has to be empty: the model begins at revision 1. All of them together make that many requests per second.
func Record(ctx context.Context, doors []string, first bool, perSecond int) (*Recording, error) {
	// A second epoch begins with what the first has left: its operations come later than those (see Prefix).
	base := time.Now().Add(-time.Minute)
	r := &Recording{lg: nop, base: base, finish: make(chan struct{})}
	ids := identity.NewIDProvider()
	r.set, r.watchers = client.NewSet(ids, base), client.NewSet(ids, base)
	if first {
		empty, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := untilEmpty(empty, r.lg, doors, r.set); err != nil {
			return nil, err
		}
	}
	limit := rate.NewLimiter(rate.Limit(perSecond), perSecond)
	kinds := traffic.EtcdPutDeleteLease
	keys := traffic.NewKeyStore(10, "key")
	err := traffic.SimulateKeyValueTraffic(ctx, &r.wg, &traffic.KeyValue{MemberClientCount: len(doors), ClusterClientCount: 2}, doors, r.set, kinds,
		traffic.RunTrafficLoopParam{
			QPSLimiter: limit, IDs: ids, LeaseIDStorage: identity.NewLeaseIDStorage(),
			NonUniqueRequestConcurrencyLimiter: traffic.NewConcurrencyLimiter(3),
			KeyStore:                           keys, Storage: traffic.NewKubernetesStorage(), Finish: r.finish,
		})
	if err != nil {
		return nil, err
	}
	watch := traffic.Watch{MemberClientCount: len(doors), ClusterClientCount: 1, RevisionOffsetRange: traffic.Range{Min: -100, Max: 100}}
	err = traffic.SimulateWatchTraffic(ctx, &r.wg, &watch, doors, r.set, kinds, traffic.RunWatchLoopParam{
		Config: watch, QPSLimiter: limit, KeyStore: keys, Storage: traffic.NewKubernetesStorage(), Finish: r.finish, Logger: r.lg,
	})
	return r, err
}

// untilEmpty is upstream's check, which tries for ever, with the limit of the context.
func untilEmpty(ctx context.Context, lg *zap.Logger, doors []string, set *client.ClientSet) error {
	end := make(chan error, 1)
	go func() { end <- traffic.CheckEmptyDatabaseAtStart(ctx, lg, doors, set) }()
	select {
	case err := <-end:
		return err
	case <-ctx.Done():
		set.Close()
		return errors.New("no door of the cluster answers")
	}
}

// Abandon ends the clients of a cluster that is lost: nobody asks what the last write was.
func (r *Recording) Abandon() {
	close(r.finish)
	r.wg.Wait()
	r.watchers.Close()
	r.reports = slices.Concat(r.set.Reports(), r.watchers.Reports())
}

// Finish ends the clients. A last write has to succeed, and each of the final members has to show all events up to it
// within the time.
func (r *Recording) Finish(ctx context.Context, final []string, within time.Duration) error {
	close(r.finish)
	r.wg.Wait()
	last, err := r.set.NewClient(final)
	if err != nil {
		return err
	}
	if err := lastWrite(ctx, last); err != nil {
		return err
	}
	revision := make(chan int64, 1)
	revision <- report.OperationsMaxRevision(r.set.Reports())
	close(revision)
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("the watchers of %q did not see the last write within %s", final, within))
	defer cancel()
	collected := make(chan error, 1)
	go func() {
		collected <- client.CollectClusterWatchEvents(ctx, client.CollectClusterWatchEventsParam{Lg: r.lg, Endpoints: final, MaxRevisionChan: revision, ClientSet: r.watchers})
	}()
	select {
	case err = <-collected:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	r.watchers.Close()
	r.reports = slices.Concat(r.set.Reports(), r.watchers.Reports())
	return err
}

// lastWrite succeeds, or the cluster is not what it should be at the end.
func lastWrite(ctx context.Context, c *client.RecordingClient) error {
	var err error
	for try := range 12 {
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err = c.Put(once, "tombstone", fmt.Sprint(try)) // unique, so that one that fails can be found in the WAL, or not
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return fmt.Errorf("the cluster takes no write at the end: %w", err)
}

// Acknowledged is what the writes of a recording were.
type Acknowledged struct {
	Writes      int           // that succeeded
	Failed      int           // whose end the client does not know
	Gap         time.Duration // the longest time between two that succeeded
	MaxRevision int64
}

// Acknowledged sums the writes up.
func (r *Recording) Acknowledged() (a Acknowledged) {
	var returns []int64
	for _, rep := range r.reports {
		for _, op := range rep.KeyValue {
			request, response := op.Input.(model.EtcdRequest), op.Output.(model.MaybeEtcdResponse)
			a.MaxRevision = max(a.MaxRevision, response.Revision)
			switch {
			case request.IsRead():
			case response.Error != "":
				a.Failed++
			default:
				a.Writes++
				returns = append(returns, op.Return)
			}
		}
	}
	slices.Sort(returns)
	for i := 1; i < len(returns); i++ {
		a.Gap = max(a.Gap, time.Duration(returns[i]-returns[i-1]))
	}
	return a
}

// Check lets etcd's model judge a recording: it is linearizable, watches kept their promises, and reads of old revisions
// say what was. The logs of the members (data directories by name) tell which of the writes that failed for the client
// were made. When the verdict is no, the evidence goes to keep, in the form of etcd's own reports.
func (r *Recording) Check(members map[string]string, keep string) error {
	requests, err := persisted(members, math.MaxUint64)
	if err != nil {
		return err
	}
	return r.judge(r.reports, requests, members, keep)
}

func (r *Recording) judge(reports []report.ClientReport, requests []model.EtcdRequest, members map[string]string, keep string) error {
	result := validate.ValidateAndReturnVisualize(r.lg, validate.Config{}, reports, requests, modelEnd)
	verdict := result.Error()
	if verdict == nil {
		return nil
	}
	if s := result.Linearization.Status; s == validate.Success || s == validate.Failure { // it has thought to the end
		verdict = Verdict{verdict}
	}
	kept, err := report.NewTestReport(r.lg, keep, members, &report.TrafficDetail{})
	if err != nil {
		return errors.Join(verdict, err)
	}
	kept.SetClientReports(reports)
	if err := kept.Finalize(true, false); err != nil {
		return errors.Join(verdict, err)
	}
	if result.Linearization.Model.Init == nil {
		return verdict // it did not come to that
	}
	return errors.Join(verdict, porcupine.VisualizePath(result.Linearization.Model, result.Linearization.Info, filepath.Join(keep, "history.html")))
}

// persisted returns the requests in the logs of the members, up to an index of raft.
func persisted(members map[string]string, upTo uint64) ([]model.EtcdRequest, error) {
	lg := nop
	dir, err := os.MkdirTemp("", "wal-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var copies []string
	for _, name := range slices.Sorted(maps.Keys(members)) {
		out := filepath.Join(dir, name)
		if err := copyWAL(lg, members[name], out, upTo); err != nil {
			return nil, fmt.Errorf("the WAL of %s: %w", name, err)
		}
		copies = append(copies, out)
	}
	return report.PersistedRequests(lg, copies)
}

// copyWAL copies the log of a member without what etcd's reader does not know and what changes nothing: questions about
// alarms pass through the log, and reset asks them.
func copyWAL(lg *zap.Logger, from, to string, upTo uint64) error {
	state, entries, err := report.ReadWAL(lg, from)
	if err != nil {
		return err
	}
	var kept []*raftpb.Entry
	for _, e := range entries {
		if e.GetIndex() > upTo {
			break
		}
		var r pb.InternalRaftRequest
		// etcd 3.5 writes down what it knows of members in an encoding that 3.7 cannot read any more.
		if e.GetType() == raftpb.EntryNormal && (proto.Unmarshal(e.Data, &r) != nil || r.Alarm != nil) {
			e.Data = nil
		}
		kept = append(kept, e)
	}
	if err := os.MkdirAll(filepath.Join(to, "member"), 0o700); err != nil {
		return err
	}
	w, err := wal.Create(lg, filepath.Join(to, "member", "wal"), nil)
	if err != nil {
		return err
	}
	return errors.Join(w.Save(state, kept), w.Close())
}
