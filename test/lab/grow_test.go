package lab

import (
	"errors"
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
