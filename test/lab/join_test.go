package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"etcdadm/pkg/errs"
)

// A join that loses the network, in whichever phase, fails and harms nobody, and succeeds when it is run again. Five
// clusters at once, each with a node that joins it.
func TestPartitionDuringJoin(t *testing.T) {
	s := begin(t, 10, current)
	first, joiners := s.Hosts[:5], s.Hosts[5:]
	clusterOf := func(joiner *Host) *Host { return first[slices.Index(joiners, joiner)] }
	began := time.Now()
	if err := each(first, func(h *Host) error { return s.try(h, nil, "init") }); err != nil {
		t.Fatal(err)
	}
	limit := enough(began)
	for _, h := range joiners {
		s.giveCA(clusterOf(h), h)
	}
	join := func(h *Host, tell func(string), more ...string) error {
		return s.try(h, tell, append([]string{"join", client(clusterOf(h))}, more...)...)
	}

	// A join goes on until the network is gone, and may have come further than to its phase by then.
	said := make([]string, len(joiners))
	came := func(i int, phase string) bool { return strings.Contains(said[i], "\n["+phase+"]") }
	for _, phases := range [][]string{
		{"preflight", "config", "stop", "install", "certificates"}, // all of them end soon by themselves
		{"cluster", "membership", "configure", "start", "health"},
	} {
		if err := each(joiners, func(h *Host) error {
			i := slices.Index(joiners, h)
			phase, cut := phases[i], false
			isolate := once(phase, func() { s.Isolate(h); cut = true })
			err := join(h, func(line string) { said[i] += line; isolate(line) }, "--timeout", limit)
			got := errs.Status(status(err))
			switch {
			case !cut:
				return fmt.Errorf("%s has not come to [%s]: %w", h.Name, phase, err)
			case err == nil && came(i, "health"):
				t.Logf("a partition at [%s]: the join was done", phase)
			case got != errs.Timeout && (got != errs.Failed || !strings.Contains(err.Error(), "no member of the cluster answers")):
				return fmt.Errorf("a partition at [%s]: exit status %d: %w", phase, got, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		for i, h := range first {
			if came(i, "health") { // it may vote by then, and one of two that is cut off takes the quorum with it
				continue
			}
			put(h, "during", phases[i])
			if m := strings.Join(s.members(h), ", "); strings.Count(m, "false") != 1 || strings.Contains(m, "true") && !came(i, "membership") {
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

// The leader loses its power while a node joins. With a dead voter one more failure would stop the cluster: join refuses,
// and says how to remove the dead one; then it succeeds. What comes back stays down, says why, and may join anew when it
// is reset. The next leader dies meanwhile, and is back soon. Nothing that a leader acknowledged before is lost.
func TestLeaderDiesDuringJoin(t *testing.T) {
	s := begin(t, 4, current)
	a, b, c, d := s.Hosts[0], s.Hosts[1], s.Hosts[2], s.Hosts[3]
	s.etcdadm(a, "init")
	s.giveCA(a, b, c, d)
	s.join(client(a), b, c) // at the same moment
	s.wants(a, b, c)

	join := func(h *Host, tell func(string), voters ...*Host) error {
		var endpoints []string
		for _, v := range voters {
			endpoints = append(endpoints, client(v))
		}
		return s.try(h, tell, "join", strings.Join(endpoints, ","))
	}
	dead, up := s.leader(a, b, c)
	written := s.writes(up[0])
	err := join(d, once("membership", dead.PowerOff), a, b, c)
	const remove = "etcdctl.sh member remove "
	if !strings.Contains(fmt.Sprint(err), remove) { // there was no leader yet to tell who the members are
		err = join(d, nil, up...)
	}
	_, hint, _ := strings.Cut(fmt.Sprint(err), remove)
	if status(err) != int(errs.Precondition) || !strings.Contains(fmt.Sprint(err), "member "+dead.Name) || hint == "" {
		t.Fatalf("the leader %s has died at [membership]: exit status %d: %v", dead.Name, status(err), err)
	}
	if err := until("the cluster to let the dead go", func() bool {
		_, err := up[0].Exec(etcdctl, "member", "remove", strings.Fields(hint)[0])
		return err == nil || strings.Contains(err.Error(), "member not found") // the answer to a try before may be lost
	}); err != nil {
		t.Fatal(err)
	}
	if err := join(d, nil, up...); err != nil {
		t.Fatal(err)
	}
	up = append(up, d)
	s.wants(up...)

	// Its cluster tells it. Only every other time does etcd say so by its exit status, and is not started again.
	dead.Start()
	if err := until("the removed member to stay down", func() bool {
		return strings.TrimSpace(dead.Run("systemctl", "show", "etcd", "--property=ActiveState", "--value")) == "inactive"
	}); err != nil {
		t.Fatal(err)
	}
	said, err := dead.Exec("etcdadm", "status")
	if status(err) != int(errs.Attention) || !strings.Contains(said, "was removed from its cluster; for a new one on this node: etcdadm reset, then join") {
		t.Errorf("etcdadm status of a removed member: %v\n%s", err, said)
	}
	s.etcdadm(dead, "reset")
	if left, err := dead.Exec("ls", "-A", "/var/lib/etcd", "/etc/etcdadm", "/etc/systemd/system/etcd.service"); err == nil || left != "" {
		t.Errorf("after the reset there is still: %s", left)
	}

	s.giveCA(d, dead)
	leader, others := s.leader(up...)
	last := written()
	written = s.writes(others[0])
	err = join(dead, once("health", leader.Kill), up...)
	leader.Start()
	if err != nil {
		t.Logf("the leader has died at [health]: %v", err)
		if got := errs.Status(status(err)); got != errs.Timeout && got != errs.Precondition {
			t.Errorf("the leader has died at [health]: exit status %d", got)
		}
		if err := join(dead, nil, up...); err != nil {
			t.Fatal(err)
		}
	}
	s.wants(s.Hosts...)
	last = max(last, written())
	for _, h := range s.Hosts {
		if got, err := strconv.Atoi(get(h, "last")); err != nil || got < last {
			t.Errorf("%d was acknowledged, and %s reads %d: %v", last, h.Name, got, err)
		}
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
	began := time.Now()
	s.etcdadm(a, "init", "--config", config)
	limit := enough(began)
	s.giveCA(a, b)
	a.Run("sh", "-c", "for i in $(seq 60); do "+etcdctl+" "+patient+" put key$i <"+value+"; done")

	// etcd itself sets 128 MB aside for its log. That has to come later: it is held up until then.
	start := holdUp(b)
	err := s.try(b, once("configure", func() { b.DiskLeaves(150 << 20); start() }), "join", client(a), "--timeout", limit)
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

// enough is a --timeout within which joins come to their last phase: a minute, or what a busy machine needs that took so
// long for an init.
func enough(began time.Time) string {
	return max(time.Minute, 6*time.Since(began)).String()
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

// writes has a member write the time, again and again. The function that it returns ends that, and returns the last one
// that was acknowledged.
func (s *story) writes(h *Host) (end func() int) {
	s.t.Helper()
	ended, last := make(chan struct{}), make(chan int)
	go func() {
		acknowledged := 0
		for {
			select {
			case <-ended:
				last <- acknowledged
				return
			default:
			}
			now := int(time.Now().UnixNano())
			if _, err := h.Exec(etcdctl, "--command-timeout=2s", "put", "last", strconv.Itoa(now)); err == nil {
				acknowledged = now
			}
		}
	}()
	end = sync.OnceValue(func() int { close(ended); return <-last })
	s.t.Cleanup(func() { end() })
	return end
}

// members are those that a host knows: "n1 started false", the last of which says whether it is a learner.
func (s *story) members(h *Host) []string {
	s.t.Helper()
	var got []string
	var list string
	if err := until("the cluster of "+h.Name+" to tell its members", func() bool { // it may be electing
		var err error
		list, err = h.Exec(etcdctl, "member", "list")
		return err == nil
	}); err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(list) {
		f := strings.Split(strings.TrimSpace(line), ", ")
		got = append(got, f[2]+" "+f[1]+" "+f[len(f)-1])
	}
	slices.Sort(got)
	return got
}

// leader is the one of the hosts whose member leads the cluster, and the others. It waits for the end of an election.
func (s *story) leader(hosts ...*Host) (leader *Host, others []*Host) {
	s.t.Helper()
	if err := until("a leader", func() bool {
		leader, others = s.leads(hosts)
		return leader != nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return leader, others
}

// leads asks the hosts, one after the other, whether their members lead. It returns nil when none does, or, where
// leadership has moved meanwhile, when two do.
func (s *story) leads(hosts []*Host) (leader *Host, others []*Host) {
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
		if err := json.Unmarshal([]byte(ctl(h, "endpoint", "status", "-w", "json")), &answers); err != nil {
			s.t.Fatal(err)
		}
		switch a := answers[0].Status; {
		case a.Leader != a.Header.Member:
			others = append(others, h)
		case leader != nil:
			return nil, nil
		default:
			leader = h
		}
	}
	return leader, others
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
