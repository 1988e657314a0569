package robustness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
	bolt "go.etcd.io/bbolt"

	"go.etcd.io/etcd/tests/v3/robustness/model"
	"go.etcd.io/etcd/tests/v3/robustness/report"
)

// A restore begins a new epoch: the cluster continues from a snapshot, with revisions that were moved up, and what was
// written after the snapshot is lost by nature. etcd's model knows of no epochs. So the second one is told to it as a
// continuation of the first up to the snapshot: requests of the first epoch as the log has them, one after the other,
// then what the clients saw in the second, with the revisions moved back.

// An Epoch is the first one, up to a snapshot.
type Epoch struct {
	requests []model.EtcdRequest
	state    model.EtcdState // what the snapshot holds
	history  []porcupine.Operation
	writes   map[string]bool // every value that a client tried to write, by key and value
	// Acknowledged is the greatest revision that any client was told, also after the snapshot.
	Acknowledged int64
}

// Until returns the first epoch, as clients recorded it and as the logs of its members (data directories by name) have
// it, up to a snapshot.
func (r *Recording) Until(snapshot string, members map[string]string) (*Epoch, error) {
	index, err := consistentIndex(snapshot)
	if err != nil {
		return nil, err
	}
	requests, err := persisted(members, index)
	if err != nil {
		return nil, err
	}
	writes := map[string]bool{}
	for _, rep := range r.reports {
		for _, op := range rep.KeyValue {
			if request := op.Input.(model.EtcdRequest); request.Type == model.Txn {
				for _, o := range request.Txn.AllOperations() {
					if o.Type == model.PutOperation {
						writes[o.Put.Key+"\x00"+o.Put.Value.Value] = true
					}
				}
			}
		}
	}
	return firstEpochOf(requests, writes, r.Acknowledged().MaxRevision), nil
}

func firstEpochOf(requests []model.EtcdRequest, writes map[string]bool, acknowledged int64) *Epoch {
	e := &Epoch{requests: requests, writes: writes, Acknowledged: acknowledged}
	// The model wants to see that the database was empty at first.
	empty := model.EtcdRequest{Type: model.Range, Range: &model.RangeRequest{RangeOptions: model.RangeOptions{Start: "key"}}}
	for i, request := range append([]model.EtcdRequest{empty}, requests...) {
		e.history = append(e.history, porcupine.Operation{ClientId: firstEpoch, Input: request, Call: int64(2*i + 1), Return: int64(2*i + 2)})
	}
	e.state = model.DeterministicModel(model.ModelKeys(e.history)).Init().(model.EtcdState)
	for i := range e.history {
		state, response := e.state.Step(e.history[i].Input.(model.EtcdRequest))
		e.state, e.history[i].Output, e.history[i].Metadata = state, response, response
	}
	return e
}

// firstEpoch is the client that repeats the first epoch; the numbers of real ones are small.
const firstEpoch = 1 << 20

// Revision is the last one that the snapshot holds.
func (e *Epoch) Revision() int64 { return e.state.Revision }

// A Pair is a key as the second epoch begins with it.
type Pair struct {
	Key, Value  string
	ModRevision int64
}

// Begins checks what is there when the second epoch begins at a revision: what the snapshot held, nothing that nobody
// tried to write, and at a revision above everything that was ever acknowledged.
func (e *Epoch) Begins(revision int64, pairs []Pair) error {
	var problems []error
	if revision <= e.Acknowledged {
		problems = append(problems, fmt.Errorf("the second epoch begins at revision %d; revision %d of the first was acknowledged", revision, e.Acknowledged))
	}
	var got, want []string
	for _, p := range pairs {
		got = append(got, fmt.Sprintf("%s=%s@%d", p.Key, p.Value, p.ModRevision))
		if !e.writes[p.Key+"\x00"+p.Value] {
			problems = append(problems, fmt.Errorf("nobody ever tried to write %s=%s", p.Key, p.Value))
		}
	}
	for i, key := range e.state.Keys {
		if v := e.state.KeyValues[i]; v != nil {
			want = append(want, fmt.Sprintf("%s=%s@%d", key, v.Value.Value, v.ModRevision))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		problems = append(problems, fmt.Errorf("the second epoch begins with\n%s\nthe snapshot held\n%s", strings.Join(got, "\n"), strings.Join(want, "\n")))
	}
	return errors.Join(problems...)
}

// CheckAfter is Check of a second epoch that follows a first one and began at a revision.
func (r *Recording) CheckAfter(e *Epoch, began int64, members map[string]string, keep string) error {
	if err := r.compacted(e.Revision(), began); err != nil {
		return err
	}
	requests, err := persisted(members, math.MaxUint64)
	if err != nil {
		return err
	}
	return r.judgeAfter(e, requests, began, members, keep)
}

// judgeAfter moves the second epoch back behind the first, and judges both as one.
func (r *Recording) judgeAfter(e *Epoch, requests []model.EtcdRequest, began int64, members map[string]string, keep string) error {
	back := began - e.Revision()
	shift := func(revision *int64) {
		if *revision >= began-back/2 {
			*revision -= back
		}
	}
	for i := range requests {
		requests[i] = shiftRequest(requests[i], shift)
	}
	reports := []report.ClientReport{{ClientID: firstEpoch, KeyValue: e.history}}
	for _, rep := range r.reports {
		moved := report.ClientReport{ClientID: rep.ClientID}
		for _, op := range rep.KeyValue {
			op.Input = shiftRequest(op.Input.(model.EtcdRequest), shift)
			response := shiftResponse(op.Output.(model.MaybeEtcdResponse), shift)
			op.Output, op.Metadata = response, response
			moved.KeyValue = append(moved.KeyValue, op)
		}
		for _, w := range rep.Watch {
			w = shiftWatch(w, shift)
			if w.Request.Revision == e.Revision() { // it began at the bump, at which nothing was written
				w.Request.Revision++
			}
			moved.Watch = append(moved.Watch, w)
		}
		reports = append(reports, moved)
	}
	return r.judge(reports, append(slices.Clone(e.requests), requests...), members, keep)
}

// compacted checks the watches of a second epoch that began at a revision from revisions before that: such a watch is
// told that they are compacted. Events would hide a gap.
func (r *Recording) compacted(snapshot, began int64) error {
	for _, rep := range r.reports {
		for _, w := range rep.Watch {
			if w.Request.Revision == 0 || w.Request.Revision > snapshot {
				continue
			}
			for _, response := range w.Responses {
				if len(response.Events) > 0 {
					return fmt.Errorf("a watch from revision %d of the first epoch got events; the second began at %d", w.Request.Revision, began)
				}
			}
		}
	}
	return nil
}

func shiftRequest(r model.EtcdRequest, shift func(*int64)) model.EtcdRequest {
	if r.Range != nil {
		ranged := *r.Range
		shift(&ranged.Revision)
		r.Range = &ranged
	}
	if r.Txn != nil {
		txn := *r.Txn
		txn.Conditions = slices.Clone(txn.Conditions)
		for i := range txn.Conditions {
			shift(&txn.Conditions[i].ExpectedRevision)
		}
		r.Txn = &txn
	}
	return r
}

func shiftResponse(r model.MaybeEtcdResponse, shift func(*int64)) model.MaybeEtcdResponse {
	shift(&r.Revision)
	shift(&r.PersistedRevision)
	if r.Range != nil {
		ranged := *r.Range
		ranged.KVs = shiftPairs(ranged.KVs, shift)
		r.Range = &ranged
	}
	if r.Txn != nil {
		txn := *r.Txn
		txn.Results = slices.Clone(txn.Results)
		for i := range txn.Results {
			txn.Results[i].KVs = shiftPairs(txn.Results[i].KVs, shift)
		}
		r.Txn = &txn
	}
	return r
}

func shiftPairs(pairs []model.KeyValue, shift func(*int64)) []model.KeyValue {
	pairs = slices.Clone(pairs)
	for i := range pairs {
		shift(&pairs[i].ModRevision)
	}
	return pairs
}

func shiftWatch(w model.WatchOperation, shift func(*int64)) model.WatchOperation {
	shift(&w.Request.Revision)
	w.Responses = slices.Clone(w.Responses)
	for i := range w.Responses {
		response := &w.Responses[i]
		shift(&response.Revision)
		response.Events = slices.Clone(response.Events)
		for j := range response.Events {
			event := &response.Events[j]
			shift(&event.Revision)
			if event.PrevValue != nil {
				old := *event.PrevValue
				shift(&old.ModRevision)
				event.PrevValue = &old
			}
		}
	}
	return w
}

// consistentIndex returns the last entry of raft's log that a snapshot holds.
func consistentIndex(snapshot string) (index uint64, err error) {
	db, err := bolt.Open(snapshot, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket([]byte("meta"))
		if meta == nil {
			return errors.New("the snapshot has no bucket meta")
		}
		value := meta.Get([]byte("consistent_index"))
		if len(value) != 8 {
			return errors.New("the snapshot has no consistent index")
		}
		index = binary.BigEndian.Uint64(value)
		return nil
	})
	return index, err
}
