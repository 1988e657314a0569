package lab

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// Two nodes that join at the same moment are both learners before one of them votes: from the second voter on, etcd would
// let the next node wait for five seconds. What is the same moment on a busy machine, nobody can say: one of some tries
// shows it.
func TestBothAreAddedBeforeOneIsPromoted(t *testing.T) {
	s := begin(t, 3, current)
	a, b, c := s.Hosts[0], s.Hosts[1], s.Hosts[2]
	s.etcdadm(a, "init")
	s.giveCA(a, b, c)
	want := []string{"learner", "learner", "promoted", "promoted"}
	for try := 1; ; try++ {
		before := len(changes(a))
		if err := s.together(b, c); err != nil {
			t.Fatal(err)
		}
		s.wants(a, b, c)
		s.serves(a, b, c)
		got := changes(a)[before:]
		if slices.Equal(got, want) {
			return
		}
		if try == 8 {
			t.Fatalf("the members came as %q, want %q", got, want)
		}
		s.etcdadm(b, "reset")
		s.etcdadm(c, "reset")
		s.giveCA(a, b, c)
	}
}

// together has nodes join the cluster of the first one at the same moment, when the part that takes any time at all, such
// as to try the disk, is behind them.
func (s *story) together(joiners ...*Host) error {
	for _, phase := range []string{"preflight", "install", "certificates"} {
		if err := each(joiners, func(h *Host) error { return s.try(h, nil, "join", "phase", phase, client(s.Hosts[0])) }); err != nil {
			return err
		}
	}
	return each(joiners, func(h *Host) error { return s.try(h, nil, "join", client(s.Hosts[0]), "--skip-phases", "preflight") })
}

// changes are those of the membership that etcd on a host has in its journal, in their order.
func changes(h *Host) []string {
	var all []string
	for line := range strings.Lines(h.Run("sh", "-c", "journalctl --sync; journalctl --no-pager --output=cat --unit=etcd.service")) {
		var e struct {
			Msg     string `json:"msg"`
			Learner bool   `json:"added-peer-is-learner"`
		}
		if json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		switch {
		case e.Msg == "promote member":
			all = append(all, "promoted")
		case e.Msg == "added member" && e.Learner:
			all = append(all, "learner")
		case e.Msg == "added member":
			all = append(all, "voter")
		}
	}
	return all
}
