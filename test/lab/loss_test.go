package lab

import (
	"testing"

	"etcdadm/constants"
	"etcdadm/test/release"
)

const backup = "/root/backup.db"

// A node that has lost its disk is made anew under its name and address. When most have lost theirs, the one that is
// left begins the cluster anew from a snapshot, and the others join it as they did at first.
func TestDisksAreLost(t *testing.T) {
	for _, version := range release.Versions {
		t.Run(version, func(t *testing.T) {
			s := begin(t, 3, version)
			a, b, c := s.Hosts[0], s.Hosts[1], s.Hosts[2]
			s.cluster()
			put(a, "color", "blue")
			c.LoseDisk()
			s.serves(a, b)
			put(b, "color", "green")
			s.replace(a, c)
			s.etcdadm(c, "join", client(a)+","+client(b))
			s.wants(a, b, c)
			if got := get(c, "color"); got != "green" {
				t.Errorf("the new member reads %q", got)
			}

			s.etcdadm(c, "snapshot", "save", backup)
			before := s.revision(c)
			put(c, "color", "lost")
			a.LoseDisk()
			b.LoseDisk()
			s.etcdadm(c, "restore", backup)
			s.replace(c, a, b)
			s.etcdadm(a, "join", client(c))
			s.etcdadm(b, "join", client(c))
			s.wants(a, b, c)
			for _, h := range s.Hosts {
				if got := get(h, "color"); got != "green" {
					t.Errorf("after the restore %s reads %q", h.Name, got)
				}
				if after := s.revision(h); after < before+constants.RestoreRevisionBump {
					t.Errorf("the revision of %s was %d before the restore, and is %d: watchers cannot tell", h.Name, before, after)
				}
			}
			s.serves(a, b, c)
		})
	}
}
