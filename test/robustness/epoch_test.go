package robustness

import (
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"

	"go.etcd.io/etcd/tests/v3/robustness/model"
	"go.etcd.io/etcd/tests/v3/robustness/report"
)

func put(key, value string) model.EtcdRequest {
	return model.EtcdRequest{Type: model.Txn, Txn: &model.TxnRequest{OperationsOnSuccess: []model.EtcdOperation{
		{Type: model.PutOperation, Put: model.PutOptions{Key: key, Value: model.ValueOrHash{Value: value}}},
	}}}
}

// twoWrites is a first epoch of which the snapshot holds a=1 (revision 2) and b=2 (revision 3); revision 5 was acknowledged.
func twoWrites() *Epoch {
	return firstEpochOf([]model.EtcdRequest{put("a", "1"), put("b", "2")}, map[string]bool{"a\x001": true, "b\x002": true, "c\x003": true}, 5)
}

func TestEpochBegins(t *testing.T) {
	right := []Pair{{"a", "1", 2}, {"b", "2", 3}}
	for name, test := range map[string]struct {
		revision int64
		pairs    []Pair
		wrong    string // "": nothing is
	}{
		"as it should":        {1000, right, ""},
		"a write is missing":  {1000, right[:1], "the snapshot held"},
		"an older value":      {1000, []Pair{{"a", "1", 2}, {"b", "1", 3}}, "the snapshot held"},
		"out of nowhere":      {1000, append(right[:2:2], Pair{"x", "9", 4}), "nobody ever tried to write x=9"},
		"after the snapshot":  {1000, append(right[:2:2], Pair{"c", "3", 4}), "the snapshot held"},
		"a revision twice":    {5, right, "revision 5 of the first was acknowledged"},
		"a revision backward": {3, right, "revision 5 of the first was acknowledged"},
	} {
		err := twoWrites().Begins(test.revision, test.pairs)
		switch {
		case test.wrong == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)):
			t.Errorf("%s: %v, want %q", name, err, test.wrong)
		}
	}
}

// readOf is a client of the second epoch that reads a key and finds a value that was written at a revision.
func readOf(key, value string, modRevision, revision int64) porcupine.Operation {
	response := model.MaybeEtcdResponse{EtcdResponse: model.EtcdResponse{Revision: revision, Range: &model.RangeResponse{Count: 1, KVs: []model.KeyValue{
		{Key: key, ValueRevision: model.ValueRevision{Value: model.ValueOrHash{Value: value}, ModRevision: modRevision, Version: 1}},
	}}}}
	return porcupine.Operation{
		Input: model.EtcdRequest{Type: model.Range, Range: &model.RangeRequest{RangeOptions: model.RangeOptions{Start: key}}},
		Call:  1000, Output: response, Return: 2000, Metadata: response,
	}
}

func TestSecondEpochContinuesTheFirst(t *testing.T) {
	const began = 1003 // revision 3, moved up by 1000
	for name, test := range map[string]struct {
		op    porcupine.Operation
		wrong bool
	}{
		"reads what the first wrote":      {readOf("b", "2", 3, began), false},
		"reads something else":            {readOf("b", "7", 3, began), true},
		"reads at a revision of nobody's": {readOf("b", "2", 3, began+4), true},
	} {
		r := &Recording{lg: nop, reports: []report.ClientReport{{ClientID: 1, KeyValue: []porcupine.Operation{test.op}}}}
		err := r.judgeAfter(twoWrites(), nil, began, nil, t.TempDir())
		if (err != nil) != test.wrong {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A watch from the revision at which the second epoch begins gets what is written after it: at that one itself nothing was.
func TestWatchFromTheBeginningOfAnEpoch(t *testing.T) {
	const began = 1003
	written := func(key string, revision int64) model.WatchEvent {
		return model.WatchEvent{PersistedEvent: model.PersistedEvent{Revision: revision, IsCreate: true, Event: model.Event{Type: model.PutOperation, Key: key, Value: model.ValueOrHash{Value: "3"}}}}
	}
	write := func(key string, revision int64) porcupine.Operation {
		response := model.MaybeEtcdResponse{EtcdResponse: model.EtcdResponse{Revision: revision, Txn: &model.TxnResponse{Results: []model.EtcdOperationResult{{}}}}}
		return porcupine.Operation{Input: put(key, "3"), Call: 1000 * (revision - began), Output: response, Return: 1000*(revision-began) + 500, Metadata: response}
	}
	for name, test := range map[string]struct {
		first model.WatchEvent
		wrong bool
	}{
		"the next write":     {written("c", began+1), false},
		"the one after that": {written("d", began+2), true},
	} {
		watch := model.WatchOperation{
			Request:   model.WatchRequest{Revision: began, WithPrefix: true},
			Responses: []model.WatchResponse{{Events: []model.WatchEvent{test.first}, Revision: test.first.Revision}},
		}
		r := &Recording{lg: nop, reports: []report.ClientReport{{
			ClientID: 1, KeyValue: []porcupine.Operation{write("c", began+1), write("d", began+2)}, Watch: []model.WatchOperation{watch},
		}}}
		err := r.judgeAfter(twoWrites(), []model.EtcdRequest{put("c", "3"), put("d", "3")}, began, nil, t.TempDir())
		if (err != nil) != test.wrong {
			t.Errorf("%s comes first: %v", name, err)
		}
	}
}

func TestWatchAcrossEpochsGetsNoEvents(t *testing.T) {
	event := model.WatchResponse{Events: []model.WatchEvent{{PersistedEvent: model.PersistedEvent{Revision: 1004}}}}
	for name, test := range map[string]struct {
		from  int64
		wrong bool
	}{"of the first": {2, true}, "of the second": {1004, false}} {
		r := &Recording{lg: nop, reports: []report.ClientReport{{Watch: []model.WatchOperation{{Request: model.WatchRequest{Revision: test.from}, Responses: []model.WatchResponse{event}}}}}}
		if err := r.compacted(3, 1003); (err != nil) != test.wrong {
			t.Errorf("a watch from a revision %s: %v", name, err)
		}
	}
}
