package lab

import (
	"strings"
	"testing"
)

// comesUp waits for etcd to come up on a host that has booted, with a key and its value.
func (s *story) comesUp(h *Host, key, want string) {
	s.t.Helper()
	got := ""
	if err := until("etcd on "+h.Name, func() bool {
		out, err := h.Exec("/opt/bin/etcdctl.sh", "get", "--print-value-only", key)
		got = strings.TrimSpace(out)
		return err == nil
	}); err != nil || got != want {
		s.t.Errorf("after a loss of power %s reads %q for %s, want %q (%v)", h.Name, got, key, want, err)
	}
}

// etcd that starts at boot does so also when the power goes right after that was settled.
func TestPowerOffAfterEnable(t *testing.T) {
	s := begin(t, 1, current)
	h := s.Hosts[0]
	s.etcdadm(h, "init")
	put(h, "color", "blue")
	h.Run("sh", "-c", "systemctl disable etcd && sync")
	s.etcdadm(h, "init")
	h.PowerOff()
	h.Start()
	s.comesUp(h, "color", "blue")
}

// Wherever the power goes during a restore, a second one brings the snapshot back, and what it replaced is kept.
func TestPowerOffDuringRestore(t *testing.T) {
	s := begin(t, 1, current)
	h := s.Hosts[0]
	s.etcdadm(h, "init")
	for _, phase := range []string{"stop", "data", "configure", "health"} {
		put(h, "color", phase)
		file := "/root/" + phase + ".db"
		s.etcdadm(h, "snapshot", "save", file)
		put(h, "color", "later")
		s.powerOff(h, phase, "restore", file)
		h.Start()
		s.etcdadm(h, "restore", file)
		if got := get(h, "color"); got != phase {
			t.Errorf("power off at [%s]: the restored member reads %q", phase, got)
		}
		put(h, "after", phase)
		if phase == "stop" { // what a restore that has ended made is on the disk
			h.PowerOff()
			h.Start()
			s.comesUp(h, "after", phase)
		}
		if kept := h.Run("sh", "-c", "ls -d /var/lib/etcd.* | wc -l"); strings.TrimSpace(kept) == "0" {
			t.Errorf("power off at [%s]: what was restored over is gone", phase)
		}
		// A restore that is done is done: what was written since stays.
		s.etcdadm(h, "restore", file)
		if got := get(h, "after"); got != phase {
			t.Errorf("power off at [%s]: a third restore took what was acknowledged: %q", phase, got)
		}
	}
}

// Wherever the power goes during a join or a reset, the same command run again gets to the same end, and the cluster has
// everything that it acknowledged.
func TestPowerOffDuringJoinAndReset(t *testing.T) {
	s := begin(t, 2, current)
	a, b := s.Hosts[0], s.Hosts[1]
	s.etcdadm(a, "init")
	for _, at := range []struct{ join, reset string }{
		{"certificates", "leave"}, {"membership", "stop"}, {"configure", "data"}, {"start", "certificates"}, {"health", "install"},
	} {
		s.giveCA(a, b)
		put(a, "before", at.join)
		s.powerOff(b, at.join, "join", client(a))
		b.Start()
		s.joinsAgain(a, b)
		s.wants(a, b)
		if got := get(b, "before"); got != at.join {
			t.Errorf("power off at [%s]: the member that joined reads %q", at.join, got)
		}
		put(b, "through", at.join)
		if at.join == "certificates" { // what a join that has ended made is on the disk
			b.PowerOff()
			b.Start()
			s.comesUp(b, "through", at.join)
		}

		s.powerOff(b, at.reset, "reset")
		b.Start()
		s.etcdadm(b, "reset")
		s.wants(a)
		if got := get(a, "through"); got != at.join {
			t.Errorf("power off at [%s]: the cluster reads %q, want %q", at.reset, got, at.join)
		}
		if left := b.Run("sh", "-c", "ls -d /var/lib/etcd /etc/etcd/etcd.env /etc/etcdadm /etc/systemd/system/etcd.service 2>/dev/null || true"); left != "" {
			t.Errorf("power off at [%s]: reset leaves %q", at.reset, left)
		}
	}
}

// joinsAgain runs a join again after a loss of power. etcd 3.6 may then refuse for good what it had made of its first
// start: a member that never voted begins anew, as the hint says.
func (s *story) joinsAgain(a, b *Host) {
	s.t.Helper()
	err := s.try(b, nil, "join", client(a))
	if err != nil && strings.Contains(err.Error(), "the first start of this member was cut off") {
		s.etcdadm(b, "reset")
		s.giveCA(a, b)
		err = s.try(b, nil, "join", client(a))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
