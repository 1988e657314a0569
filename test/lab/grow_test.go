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

// Hosts without IPv4 need no other command than hosts with it.
func TestIPv6Only(t *testing.T) {
	s := begin(t, 2, current)
	a, b := s.Hosts[0], s.Hosts[1]
	for _, h := range s.Hosts {
		h.Run("ip", "-4", "address", "flush", "dev", "eth0")
	}
	s.etcdadm(a, "init")
	s.giveCA(a, b)
	s.etcdadm(b, "join", "https://["+a.IPv6+"]:2379")
	s.wants(a, b)
	s.serves(a, b)
	if got, want := ctl(b, "member", "list"), "https://["+b.IPv6+"]:2380, https://["+b.IPv6+"]:2379"; !strings.Contains(got, want) {
		t.Errorf("the new member is not known by %s:\n%s", want, got)
	}
	s.etcdadm(a, "reset")
	s.wants(b)
	s.serves(b)
}

// A cluster is found by a name, and its members know each other by names: then a member may move to another address.
func TestNamesInsteadOfAddresses(t *testing.T) {
	s := begin(t, 3, current)
	a, b, c := s.Hosts[0], s.Hosts[1], s.Hosts[2]
	name := func(h *Host) string { return h.Name + ".example.com" }
	knowEachOther := func() {
		for _, h := range s.Hosts {
			hosts := "127.0.0.1 localhost\n" + a.IPv4 + " etcd.example.com\n"
			for _, other := range s.Hosts {
				address := other.IPv4
				if other == h {
					address = "127.0.1.1" // as Debian's installer writes it
				}
				hosts += address + " " + name(other) + "\n"
			}
			h.Write("/etc/hosts", 0o644, hosts)
		}
	}
	knowEachOther()
	s.etcdadm(a, "init", "--advertise-name", name(a), "--server-cert-extra-sans", "etcd.example.com")
	s.giveCA(a, b, c)
	s.etcdadm(b, "join", "https://etcd.example.com:2379", "--advertise-name", name(b))
	s.etcdadm(c, "join", "https://"+name(a)+":2379,https://"+name(b)+":2379") // itself by its address, beside the others
	s.wants(a, b, c)
	s.serves(a, b, c)
	for _, h := range []*Host{a, b} {
		if got, want := ctl(c, "member", "list"), "https://"+name(h)+":2380, https://"+name(h)+":2379"; !strings.Contains(got, want) {
			t.Errorf("%s is not known by %s:\n%s", h.Name, want, got)
		}
	}

	for _, h := range s.Hosts {
		s.well(h)
	}
	turn := false
	if err := s.try(a, func(line string) { turn = turn || strings.Contains(line, "the others can do without this member") }, "init", "--quota-backend-bytes", "1073741824"); err != nil {
		t.Fatal(err)
	}
	if !turn {
		t.Errorf("%s was restarted without its turn to be away", a.Name)
	}

	b.Run("ip", "-4", "address", "flush", "dev", "eth0")
	b.IPv4 = "10.77.0.99"
	b.Run("ip", "address", "add", b.IPv4+"/24", "dev", "eth0")
	knowEachOther()
	s.etcdadm(b, "join", client(c), "--bind-address", b.IPv4)
	s.wants(a, b, c)
	s.serves(b, a, c)

	s.etcdadm(b, "reset")
	s.wants(a, c)
	s.etcdadm(a, "snapshot", "save", backup)
	s.etcdadm(c, "reset", "--skip-remove-member")
	s.etcdadm(a, "restore", backup)
	s.wants(a)
	s.serves(a)
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
	// A disk that is late is waited for by whoever runs etcdadm; one that is there is seen.
	mounted.Write("/etc/fstab", 0o644, "LABEL=late /srv/late ext4 noauto 0 0\nLABEL=etcd "+dir+" ext4 noauto 0 0\n")
	s.says(mounted, 3, []string{"/etc/fstab has one for /srv/late", "mount /srv/late"}, "init", "--data-dir", "/srv/late/etcd")
	mounted.Write("/etc/systemd/system/srv-later.mount", 0o644, "[Mount]\nWhat=LABEL=later\nWhere=/srv/later\n")
	mounted.Write("/etc/systemd/system/var-lib-etcd.mount", 0o644, "[Mount]\nWhat=LABEL=etcd\nWhere="+dir+"\n")
	s.says(mounted, 3, []string{"/etc/systemd/system/srv-later.mount has one for /srv/later", "systemctl start srv-later.mount"}, "init", "--data-dir", "/srv/later/etcd")
	s.etcdadm(mounted, "init", "--dry-run")
	mounted.Run("rm", "/etc/fstab", "/etc/systemd/system/srv-later.mount", "/etc/systemd/system/var-lib-etcd.mount")
	final := strings.TrimSpace(mounted.Run("sh", "-c", "ls /var/backups/etcd/final-*.db"))
	s.etcdadm(mounted, "init", "--snapshot", final)
	rejoin(linked, mounted)
	stay("after all")
	if got := get(linked, "color"); got != "green" {
		t.Errorf("from the final snapshot %s reads %q", linked.Name, got)
	}
}
