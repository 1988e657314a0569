package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"etcdadm/pkg/errs"
)

// A join that loses the network, in whichever phase, fails and harms nobody, and succeeds when it is run again. Five
// clusters at once, each with a node that joins it.
func TestPartitionDuringJoin(t *testing.T) {
	s := begin(t, 10, current)
	first, joiners := s.Hosts[:5], s.Hosts[5:]
	clusterOf := func(joiner *Host) *Host { return first[slices.Index(joiners, joiner)] }
	if err := each(first, func(h *Host) error { return s.try(h, nil, "init") }); err != nil {
		t.Fatal(err)
	}
	for _, h := range joiners {
		s.giveCA(clusterOf(h), h)
	}
	join := func(h *Host, tell func(string), more ...string) error {
		return s.try(h, tell, append([]string{"join", client(clusterOf(h))}, more...)...)
	}

	for _, phases := range [][]string{
		{"preflight", "config", "stop", "install", "certificates"},
		{"cluster", "membership", "configure", "start", "health"},
	} {
		if err := each(joiners, func(h *Host) error {
			phase := phases[slices.Index(joiners, h)]
			var cut atomic.Bool
			err := join(h, once(phase, func() { s.Isolate(h); cut.Store(true) }), "--timeout", "25s")
			got := errs.Status(status(err))
			switch {
			case !cut.Load():
				return fmt.Errorf("%s has not come to [%s]: %w", h.Name, phase, err)
			case got != errs.Timeout && (got != errs.Failed || !strings.Contains(err.Error(), "no member of the cluster answers")):
				return fmt.Errorf("a partition at [%s]: exit status %d: %w", phase, got, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		for i, h := range first {
			put(h, "during", phases[i])
			if m := strings.Join(s.members(h), ", "); strings.Count(m, "false") != 1 || phases[i] == "certificates" && strings.Contains(m, "true") {
				t.Errorf("a partition at [%s]: the members are %s", phases[i], m)
			}
		}
		s.Heal()
	}

	// What is left to do at the end asks nobody.
	if err := each(joiners, func(h *Host) error { return join(h, once("etcdctl", func() { s.Isolate(h) })) }); err != nil {
		t.Errorf("joins that are run again, with a partition at [etcdctl]: %v", err)
	}
	s.Heal()
	for _, h := range joiners {
		s.wants(clusterOf(h), h)
		put(h, "after", h.Name)
		if got := get(clusterOf(h), "after"); got != h.Name {
			t.Errorf("%s wrote %s, and %s reads %q", h.Name, h.Name, clusterOf(h).Name, got)
		}
	}
}

// Six nodes that join at the same moment wait for each other, and all become voters.
func TestJoinsAtTheSameMoment(t *testing.T) {
	s := begin(t, 7, current)
	a, rest := s.Hosts[0], s.Hosts[1:]
	s.etcdadm(a, "init")
	s.giveCA(a, rest...)
	s.join(client(a), rest...)
	s.wants(s.Hosts...)
	s.serves(a, rest[5])
}

// The leader of the cluster dies while a node joins: what it had acknowledged is there, and the join succeeds by itself,
// or when the same command is run again.
func TestLeaderDiesDuringJoin(t *testing.T) {
	s := begin(t, 5, current)
	a, b, c := s.Hosts[0], s.Hosts[1], s.Hosts[2]
	s.etcdadm(a, "init")
	s.giveCA(a, s.Hosts[1:]...)
	s.join(client(a), b, c)
	s.wants(a, b, c)

	for i, death := range []struct {
		phase string
		of    func(*Host)
	}{{"membership", (*Host).PowerOff}, {"health", (*Host).Kill}} {
		voters, joiner := s.Hosts[:3+i], s.Hosts[3+i]
		leader := s.leader(voters)
		var endpoints []string
		for _, h := range voters {
			endpoints = append(endpoints, client(h))
		}
		join := []string{"join", strings.Join(endpoints, ",")}
		err := s.try(joiner, once(death.phase, func() {
			put(leader, "last", death.phase)
			death.of(leader)
		}), join...)
		for _, h := range voters {
			if h != leader {
				if got := get(h, "last"); got != death.phase {
					t.Errorf("the leader died at [%s]: %s reads %q", death.phase, h.Name, got)
				}
			}
		}
		leader.Start()
		if err != nil {
			if got := errs.Status(status(err)); got != errs.Timeout && got != errs.Precondition {
				t.Errorf("the leader died at [%s]: exit status %d: %v", death.phase, got, err)
			}
			s.etcdadm(joiner, join...)
		}
		s.wants(s.Hosts[:4+i]...)
		if got := get(joiner, "last"); got != death.phase {
			t.Errorf("the leader died at [%s]: the new member reads %q", death.phase, got)
		}
	}
}

// While a voter is dead no node joins: one more failure would stop the cluster. The refusal says how to remove it; then
// the node joins. The dead member that comes back stays down and says why, until it is reset.
func TestDeadVoterIsReplaced(t *testing.T) {
	s := begin(t, 4, current)
	a, b, dead, d := s.Hosts[0], s.Hosts[1], s.Hosts[2], s.Hosts[3]
	s.etcdadm(a, "init")
	s.giveCA(a, b, dead, d)
	s.join(client(a), b, dead)
	before := s.members(a)
	dead.PowerOff()

	err := s.try(d, nil, "join", client(b))
	if status(err) != int(errs.Precondition) || !strings.Contains(err.Error(), "member "+dead.Name) {
		t.Fatalf("%s is dead: join ends with %d: %v", dead.Name, status(err), err)
	}
	if after := s.members(a); !slices.Equal(before, after) {
		t.Errorf("a join was refused: the members were %q, and are %q", before, after)
	}
	_, hint, found := strings.Cut(err.Error(), "etcdctl.sh member remove ")
	if !found {
		t.Fatalf("no hint says how to remove %s: %v", dead.Name, err)
	}
	a.Run(etcdctl, "member", "remove", strings.Fields(hint)[0])
	s.etcdadm(d, "join", client(b))
	s.wants(a, b, d)

	// etcd tells by its exit status that it was removed every other time only: systemd starts it again after the others.
	dead.Start()
	if err := until("the removed member to stay down", func() bool {
		return strings.TrimSpace(dead.Run("systemctl", "show", "etcd", "--property=ActiveState", "--value")) == "inactive"
	}); err != nil {
		t.Fatal(err)
	}
	if said, err := dead.Exec("etcdadm", "status"); status(err) != int(errs.Attention) || !strings.Contains(said, "was removed from its cluster; for a new one on this node: etcdadm reset, then join") {
		t.Errorf("etcdadm status of a removed member: %v\n%s", err, said)
	}
	s.etcdadm(dead, "reset")
	if left, err := dead.Exec("ls", "-A", "/var/lib/etcd", "/etc/etcdadm", "/etc/systemd/system/etcd.service"); err == nil || left != "" {
		t.Errorf("after the reset there is still: %s", left)
	}
}

// The disk fills up while a learner receives the database: join says so when its limit expires, nobody is harmed, and the
// learner gets it as soon as there is room again.
func TestDiskFillsUpDuringSnapshot(t *testing.T) {
	s := begin(t, 2, current)
	a, b := s.Hosts[0], s.Hosts[1]
	// A log as short as this is of no use to a new member: it gets the database.
	const config, value = "/root/etcdadm.yaml", "/root/value"
	a.Write(config, 0o644, "apiVersion: etcdadm/v1\nkind: Config\nextraEnv:\n  ETCD_SNAPSHOT_COUNT: 10\n  ETCD_SNAPSHOT_CATCHUP_ENTRIES: 5\n")
	a.Write(value, 0o644, strings.Repeat("0123456789", 100_000))
	s.etcdadm(a, "init", "--config", config)
	s.giveCA(a, b)
	a.Run("sh", "-c", "for i in $(seq 60); do "+etcdctl+" put key$i <"+value+"; done")

	// etcd itself sets 128 MB aside for its log.
	err := s.try(b, once("start", func() { b.DiskLeaves(150 << 20) }), "join", client(a), "--timeout", "25s")
	if status(err) != int(errs.Timeout) || !strings.Contains(err.Error(), "likely: a disk is full") {
		t.Fatalf("the disk is full: exit status %d: %v", status(err), err)
	}
	if !strings.Contains(b.Journal("etcd"), "failed to save incoming database snapshot") {
		t.Fatal("no snapshot was on its way")
	}
	put(a, "during", "snapshot")

	b.DiskFree()
	if err := until("the learner to receive the database", func() bool { return strings.Contains(b.Journal("etcd"), "applied snapshot") }); err != nil {
		t.Fatal(err)
	}
	s.etcdadm(b, "join", client(a))
	s.wants(a, b)
	if got := get(b, "during"); got != "snapshot" {
		t.Errorf("the new member reads %q", got)
	}
}

// join has nodes join at the same moment. Each of them says once for which reason it waits, however often it tries.
func (s *story) join(endpoint string, hosts ...*Host) {
	s.t.Helper()
	if err := each(hosts, func(h *Host) error {
		told := map[string]int{}
		err := s.try(h, func(line string) { told[line]++ }, "join", endpoint)
		for line, times := range told {
			if strings.Contains(line, "waiting: ") && times > 1 {
				err = errors.Join(err, fmt.Errorf("%s says %d times: %s", h.Name, times, line))
			}
		}
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
}

// members are those that a host knows: "n1 started false", the last of which says whether it is a learner.
func (s *story) members(h *Host) []string {
	s.t.Helper()
	var got []string
	for line := range strings.Lines(h.Run(etcdctl, "member", "list")) {
		f := strings.Split(strings.TrimSpace(line), ", ")
		got = append(got, f[2]+" "+f[1]+" "+f[len(f)-1])
	}
	slices.Sort(got)
	return got
}

// leader is the one of the hosts whose member leads the cluster.
func (s *story) leader(hosts []*Host) *Host {
	s.t.Helper()
	for _, h := range hosts {
		var answers []struct {
			Status struct {
				Header struct {
					Member uint64 `json:"member_id"`
				}
				Leader uint64
			}
		}
		if err := json.Unmarshal([]byte(h.Run(etcdctl, "endpoint", "status", "-w", "json")), &answers); err != nil {
			s.t.Fatal(err)
		}
		if a := answers[0].Status; a.Leader == a.Header.Member {
			return h
		}
	}
	s.t.Fatal("nobody leads")
	return nil
}

// status is the exit status of a program of a host; -1 when it has none.
func status(err error) int {
	if err == nil {
		return 0
	}
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}
