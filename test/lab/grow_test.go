package lab

import (
	"errors"
	"strings"
	"testing"

	"etcdadm/test/release"
)

// Three nodes make a cluster that serves through each of them, and without any one of them. Each comes back by itself,
// also when the power fails for all of them at the same moment, and then nothing is lost.
func TestThreeNodesFromNothing(t *testing.T) {
	for _, version := range release.Versions {
		t.Run(version, func(t *testing.T) {
			s := begin(t, 3, version)
			a, b, c := s.Hosts[0], s.Hosts[1], s.Hosts[2]
			s.cluster()
			s.wants(a, b, c)
			s.serves(a, b, c)

			a.Kill()
			s.serves(b, c)
			a.Start()
			b.Reboot()
			s.serves(a, b, c)

			put(c, "color", "blue")
			if err := errors.Join(each(s.Hosts, (*Host).powerOff), each(s.Hosts, (*Host).start)); err != nil {
				t.Fatal(err)
			}
			for _, h := range s.Hosts {
				if got := get(h, "color"); got != "blue" {
					t.Errorf("after a loss of power %s reads %q", h.Name, got)
				}
			}
			s.wants(a, b, c)
			s.serves(a, b, c)
		})
	}
}

// A data directory that is a file system of its own, and one that is a link to such a place, stay what they are through
// all that happens to the member. The last one that is reset leaves a snapshot, from which the cluster comes back.
func TestDataDirectoryIsAMountOrALink(t *testing.T) {
	const dir, target = "/var/lib/etcd", "/srv/disk/etcd"
	s := begin(t, 2, current)
	mounted, linked := s.Hosts[0], s.Hosts[1]
	mounted.AddDisk(dir)
	linked.AddDisk("/srv/disk")
	linked.Run("ln", "-s", target, dir)
	stay := func(when string) {
		t.Helper()
		if _, err := mounted.Exec("mountpoint", dir); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if got, err := linked.Exec("readlink", dir); got != target+"\n" {
			t.Errorf("%s the link leads to %q: %v", when, got, err)
		}
	}
	rejoin := func(h, to *Host) {
		t.Helper()
		s.giveCA(to, h)
		s.etcdadm(h, "join", client(to))
		s.wants(mounted, linked)
	}

	s.cluster()
	stay("after init and join")
	for h, mount := range map[*Host]string{mounted: "var-lib-etcd.mount", linked: "srv-disk.mount"} {
		if after := h.Run("systemctl", "show", "--property=After", "etcd.service"); !strings.Contains(after, mount) {
			t.Errorf("etcd on %s does not wait for %s: %s", h.Name, mount, after)
		}
	}
	mounted.Reboot()
	linked.Reboot()
	put(mounted, "color", "blue")

	for i, h := range s.Hosts {
		other := s.Hosts[1-i]
		s.etcdadm(h, "snapshot", "save", backup)
		put(h, "color", "lost")
		s.etcdadm(other, "reset", "--skip-remove-member")
		s.etcdadm(h, "restore", backup)
		stay("after a restore on " + h.Name)
		rejoin(other, h)
		if got := get(other, "color"); got != "blue" {
			t.Errorf("after a restore on %s, %s reads %q", h.Name, other.Name, got)
		}
	}

	put(linked, "color", "green")
	s.etcdadm(linked, "reset")
	s.etcdadm(mounted, "reset")
	stay("after reset")
	for h, data := range map[*Host]string{mounted: dir, linked: target} {
		if left := h.Run("ls", data); strings.Contains(left, "member\n") {
			t.Errorf("after reset %s of %s holds %q", data, h.Name, left)
		}
	}
	final := strings.TrimSpace(mounted.Run("sh", "-c", "ls /var/backups/etcd/final-*.db"))
	s.etcdadm(mounted, "init", "--snapshot", final)
	rejoin(linked, mounted)
	stay("after all")
	if got := get(linked, "color"); got != "green" {
		t.Errorf("from the final snapshot %s reads %q", linked.Name, got)
	}
}
