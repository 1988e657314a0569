package lab

import (
	"strings"
	"testing"
	"time"
)

// refuses wants a join to end before it changes anything, for one reason.
func (s *story) refuses(h *Host, reason string, args ...string) {
	s.t.Helper()
	err := s.try(h, nil, args...)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), reason) {
		s.t.Errorf("etcdadm %s: %v\nwant exit status 3, for %s", strings.Join(args, " "), err, reason)
	}
}

// A host whose clock, or whose way to the others, is not what the cluster can live with does not join.
func TestJoinIsRefusedForClockAndRoute(t *testing.T) {
	s := begin(t, 3, current)
	a, b, c := s.Hosts[0], s.Hosts[1], s.Hosts[2]
	s.etcdadm(a, "init")
	s.giveCA(a, b, c)
	s.etcdadm(b, "join", client(a))

	for _, wrong := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		c.Skew(wrong)
		s.refuses(c, "[ERROR ClusterClock]", "join", client(a))
	}
	c.Skew(0)

	// To b, c speaks from a second address.
	const second = "10.77.0.99"
	c.Run("ip", "addr", "add", second+"/24", "dev", "eth0")
	c.Run("ip", "route", "add", b.IPv4+"/32", "dev", "eth0", "src", second)
	s.refuses(c, "[ERROR SourceAddress]", "join", client(a))
	s.refuses(c, second, "join", client(a))
	s.wants(a, b)

	// The certificate covers the way to every member that is named.
	s.etcdadm(c, "join", client(a)+","+client(b))
	s.wants(a, b, c)
	put(c, "color", "blue")
	if got := get(b, "color"); got != "blue" {
		t.Errorf("b reads %q", got)
	}

	// So does the one that comes after it, when all but the CA was removed, and whoever issues it.
	names := func() string {
		return c.Run("openssl", "x509", "-in", "/etc/etcd/pki/peer.crt", "-noout", "-ext", "subjectAltName")
	}
	before := names()
	for _, renew := range [][]string{{"join", "phase", "certificates", "any.invalid"}, {"init"}} {
		c.Run("find", "/etc/etcd/pki", "-mindepth", "1", "-maxdepth", "1", "!", "-name", "ca.*", "-exec", "rm", "-r", "{}", "+")
		s.etcdadm(c, renew...)
		if got := names(); got != before || !strings.Contains(got, second) {
			t.Errorf("etcdadm %s issues a peer certificate for\n%swhere the one before was for\n%s", strings.Join(renew, " "), got, before)
		}
	}
	s.says(c, 0, nil, "init", "--dry-run", "--detailed-exitcode")
	s.wants(a, b, c)
}

// A member at an address of the network serves programs of its host on loopback, too.
func TestMemberServesOnLoopback(t *testing.T) {
	s := begin(t, 1, current)
	h := s.Hosts[0]
	s.etcdadm(h, "init")
	for _, endpoint := range []string{"https://127.0.0.1:2379", client(h)} {
		h.Run("sh", "-c", ". /etc/etcd/etcdctl.env && ETCDCTL_ENDPOINTS="+endpoint+" /opt/bin/etcdctl endpoint health "+patient)
	}
}
