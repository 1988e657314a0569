package lab

import (
	"slices"
	"strings"
)

// look describes what etcdadm could change of a host: its files, its processes, and how far its etcd has come.
func (s *story) look(h *Host) []string {
	s.t.Helper()
	text := h.Run("sh", "-c", `
find /etc /var /opt /usr/local /srv /root /run/etcd* /run/systemd/transient -xdev \( -path /var/log/journal -o -path /run/etcdadm.lock \) -prune -o -printf '%p %y %m %u:%g %s %T@ %C@ %l\n' 2>/dev/null
ps -e -o pid=,ppid=,lstart=,args= --sort=pid | grep -v "$$\|exec/sh" `)
	return slices.Collect(strings.Lines(text))
}

// same tells what has changed on a host.
func (s *story) same(h *Host, before []string) {
	s.t.Helper()
	after := s.look(h)
	for _, line := range before {
		if !slices.Contains(after, line) {
			s.t.Errorf("%s: gone: %s", h.Name, line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			s.t.Errorf("%s: new: %s", h.Name, line)
		}
	}
}
