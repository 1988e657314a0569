package lab

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"etcdadm/pkg/errs"
)

// answer is what a program of a host said, to a caller that minds how it ends.
type answer struct {
	status    int
	out, said string // standard output, standard error
}

// ask runs a program on a host.
func (s *story) ask(h *Host, args ...string) answer {
	s.t.Helper()
	var out, said bytes.Buffer
	err := h.Program(Program{Args: args, Out: &out, Err: &said})
	var exit interface{ ExitCode() int }
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	a := answer{out: out.String(), said: said.String()}
	if err != nil {
		a.status = exit.ExitCode()
	}
	return a
}

// argv is a call of etcdadm.
func (s *story) argv(args ...string) []string { return append([]string{"etcdadm"}, s.with(args...)...) }

// says runs etcdadm on a host, which has to end with the status, and to say all that.
func (s *story) says(h *Host, status int, all []string, args ...string) {
	s.t.Helper()
	a := s.ask(h, s.argv(args...)...)
	if a.status != status {
		s.t.Errorf("%s: etcdadm %s: status %d, want %d\n%s%s", h.Name, strings.Join(args, " "), a.status, status, a.out, a.said)
	}
	for _, want := range all {
		if !strings.Contains(a.out+a.said, want) {
			s.t.Errorf("%s: etcdadm %s does not say %q:\n%s%s", h.Name, strings.Join(args, " "), want, a.out, a.said)
		}
	}
}

// A wrong clock is named before it does harm: where the certificates or the others tell that it is wrong. When it is
// right again, the same command succeeds.
func TestTheClockIsWrong(t *testing.T) {
	const day = 24 * time.Hour
	const hint = "timedatectl set-ntp true"
	s := begin(t, 3, current)
	a, b, c := s.Hosts[0], s.Hosts[1], s.Hosts[2]

	// The certificates of the cluster are a month old: they do not tell of a clock that is wrong by a day.
	a.Skew(-30 * day)
	s.etcdadm(a, "init", "phase", "certificates")
	a.Skew(0)
	s.etcdadm(a, "init")
	s.giveCA(a, b)

	for _, c := range []struct {
		wrong time.Duration
		says  string
	}{
		{day, "do not agree on which certificates are valid now"},
		{-day, "but this etcdadm was built at"},
		{-60 * day, "and the CA in /etc/etcd/pki/ca.crt begins at"},
	} {
		b.Skew(c.wrong)
		s.says(b, 3, []string{c.says, hint}, "join", client(a))
		if state := s.ask(b, "systemctl", "is-active", "etcd").out; state != "inactive\n" {
			t.Errorf("the clock is wrong by %v: etcd is %s", c.wrong, state)
		}
	}
	s.wants(a)
	b.Skew(0)
	s.etcdadm(b, "join", client(a))
	s.wants(a, b)

	// A member whose clock jumps: by its status, and by that of the others.
	b.Skew(-day)
	s.says(b, 10, []string{"attention: the clock of this node says", "are not valid yet", hint}, "status")
	s.says(a, 10, []string{"ahead of that of member n2", hint}, "status")
	s.says(b, 3, []string{hint}, "join", client(a))
	b.Skew(day)
	s.says(b, 10, []string{"ahead of that of member n1", hint}, "status")
	s.says(b, 3, []string{"and that of the cluster", hint}, "join", client(a))
	b.Skew(0)
	s.well(b)
	s.wants(a, b)

	// A first node has nobody to compare with: a clock that is behind is older than etcdadm. One that is ahead is seen when
	// it is right again, and the CA is not valid yet.
	c.Skew(-day)
	s.says(c, 3, []string{"but this etcdadm was built at", hint}, "init")
	c.Skew(day)
	s.etcdadm(c, "init")
	c.Skew(0)
	s.says(c, 10, []string{"the CA in /etc/etcd/pki/ca.crt begins at", "certificates of it are not valid yet", hint}, "status")
	s.says(c, 3, []string{hint, "the CA was made under a wrong one"}, "init")
}

// holder is the process that a refusal for the lock names.
var holder = regexp.MustCompile(`locked by process (\d+)`)

// beside runs another etcdadm on the host while one that runs there waits for etcd, whose start is held up. The other has to be
// refused with the name of that one, which is given to meet.
func (s *story) beside(h *Host, meet func(pid string), args ...string) error {
	start := holdUp(h)
	return s.try(h, once("start", func() {
		defer start()
		a := s.ask(h, s.argv("init")...)
		m := holder.FindStringSubmatch(a.said)
		if a.status != 4 || m == nil {
			s.t.Errorf("%s: another etcdadm beside etcdadm %s: status %d: %s", h.Name, strings.Join(args, " "), a.status, a.said)
			return
		}
		if line := s.ask(h, "ps", "-o", "args=", "-p", m[1]).out; !strings.HasPrefix(line, "etcdadm "+args[0]) {
			s.t.Errorf("%s: the lock is said to be held by process %s, which is %q", h.Name, m[1], line)
		}
		meet(m[1])
	}), args...)
}

// holdUp has etcd on a host wait with each start until the returned function was called.
func holdUp(h *Host) (start func()) {
	h.Write("/etc/systemd/system/etcd.service.d/late.conf", 0o644, "[Service]\nExecStartPre=+sh -c 'until test -e /run/go; do sleep 0.05; done'\n")
	return func() { h.Run("touch", "/run/go") }
}

func TestTwoAtOnce(t *testing.T) {
	s := begin(t, 3, current)
	a, b, c := s.Hosts[0], s.Hosts[1], s.Hosts[2]

	// On one node the first one wins, and the second one is told of it.
	if err := s.beside(a, func(string) {}, "init"); err != nil {
		t.Error(err)
	}
	s.says(a, 0, []string{"nothing to do"}, "init")
	s.wants(a)

	// A lock never outlives its holder.
	s.giveCA(a, b, c)
	kill := func(pid string) { b.Run("kill", "-KILL", pid) }
	if err := s.beside(b, kill, "join", client(a)); err == nil {
		t.Error("a join that was killed has succeeded")
	}
	s.etcdadm(b, "join", client(a))
	s.wants(a, b)

	// On two nodes both win. The one that leaves does so when the one that comes has been told of it as a member, and its
	// etcd has not begun: there that is held up.
	start := holdUp(c)
	err := s.try(c, once("start", func() {
		if err := s.try(b, once("stop", start), "reset"); err != nil {
			t.Error(err)
		}
	}), "join", client(a))
	if err != nil {
		t.Error(err)
	}
	s.wants(a, c)
	put(a, "color", "blue")
	if got := get(c, "color"); got != "blue" {
		t.Errorf("after a join and a reset at once the new member reads %q", got)
	}
}

// handmade begins a cluster on the hosts as people do without etcdadm: openssl, flags, a unit for the day. The members have
// names of their own, and their certificates do not carry ours.
func (s *story) handmade(hosts ...*Host) {
	s.t.Helper()
	names := []string{"alpha", "beta"}
	var cluster []string
	for i, h := range hosts {
		cluster = append(cluster, names[i]+"=https://"+h.IPv4+":2380")
	}
	for i, h := range hosts {
		h.Run("sh", "-ec", `mkdir -p /srv/etcd/pki && tar -xzf "/mirror/v$0/etcd-v$0-linux-"*.tar.gz -C /srv/etcd --strip-components=1`, s.version)
		if i == 0 {
			h.Run("sh", "-ec", `cd /srv/etcd/pki
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 3650 -subj "/O=handmade/CN=our etcd" 2>&1`)
		} else {
			for _, file := range []string{"ca.crt", "ca.key"} {
				h.Write("/srv/etcd/pki/"+file, 0o600, hosts[0].Run("cat", "/srv/etcd/pki/"+file))
			}
		}
		h.Run("sh", "-ec", `cd /srv/etcd/pki
openssl req -newkey rsa:2048 -nodes -keyout etcd.key -out etcd.csr -subj "/CN=$0" 2>&1
printf 'subjectAltName=IP:%s,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' "$1" >etcd.ext
openssl x509 -req -in etcd.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile etcd.ext -out etcd.crt 2>&1`, names[i], h.IPv4)
		h.Run("systemd-run", "--quiet", "--unit=handmade", "--property=Type=notify", "--no-block", "/srv/etcd/etcd",
			"--name", names[i], "--data-dir", "/srv/etcd/data",
			"--listen-client-urls", "https://"+h.IPv4+":2379", "--advertise-client-urls", "https://"+h.IPv4+":2379",
			"--listen-peer-urls", "https://"+h.IPv4+":2380", "--initial-advertise-peer-urls", "https://"+h.IPv4+":2380",
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-token", "handmade",
			"--cert-file", "/srv/etcd/pki/etcd.crt", "--key-file", "/srv/etcd/pki/etcd.key",
			"--trusted-ca-file", "/srv/etcd/pki/ca.crt", "--client-cert-auth",
			"--peer-cert-file", "/srv/etcd/pki/etcd.crt", "--peer-key-file", "/srv/etcd/pki/etcd.key",
			"--peer-trusted-ca-file", "/srv/etcd/pki/ca.crt", "--peer-client-cert-auth")
	}
	for _, h := range hosts {
		if err := until("the handmade etcd of "+h.Name, func() bool { return s.ask(h, handmadeCtl(h, "endpoint", "health")...).status == 0 }); err != nil {
			s.t.Fatal(err)
		}
	}
}

// handmadeCtl is a call of etcdctl beside a handmade etcd.
func handmadeCtl(h *Host, args ...string) []string {
	return append([]string{"/srv/etcd/etcdctl", "--endpoints", client(h), "--cacert", "/srv/etcd/pki/ca.crt",
		"--cert", "/srv/etcd/pki/etcd.crt", "--key", "/srv/etcd/pki/etcd.key"}, args...)
}

// An etcd of others is left alone by init, and joined by join.
func TestClusterMadeByHand(t *testing.T) {
	s := begin(t, 3, current)
	a, b, c := s.Hosts[0], s.Hosts[1], s.Hosts[2]
	s.handmade(a, b)
	var written answer
	if until("", func() bool { // both are well, and may elect all the same
		written = s.ask(a, handmadeCtl(a, "put", "color", "blue", patient)...)
		return written.status == 0
	}) != nil {
		t.Fatal(written.said)
	}

	pid := strings.TrimSpace(a.Run("systemctl", "show", "--value", "--property=MainPID", "handmade"))
	a.Run("systemctl", "stop", "*.timer") // what the hour brings is not ours
	s.untouched("an etcd of others", []*Host{a}, func() {
		s.says(a, 3, []string{fmt.Sprintf("port 2379 is taken by pid %s (etcd)", pid), "ps -fp " + pid}, "init")
	})

	for _, file := range []string{"ca.crt", "ca.key"} {
		c.Write("/etc/etcd/pki/"+file, 0o600, a.Run("cat", "/srv/etcd/pki/"+file))
	}
	s.says(c, 0, []string{"accepts any certificate of the CA on its peer port"}, "join", client(a)+","+client(b))
	if got := get(c, "color"); got != "blue" {
		t.Errorf("the member that joined by etcdadm reads %q", got)
	}
	c.Reboot()
	put(c, "color", "green")
	a.Run("systemctl", "stop", "handmade")
	if got := strings.TrimSpace(b.Run(handmadeCtl(b, "get", "--print-value-only", "color", patient)...)); got != "green" {
		t.Errorf("a member made by hand reads %q", got)
	}
	put(c, "color", "red")
	s.says(c, 0, []string{"nothing to do"}, "join", client(a)+","+client(b))
}

// A full disk ends etcd. When there is room again it comes back, without anybody's help and with all that it acknowledged,
// and until then status says what is the matter.
func TestEtcdComesBackWhenTheDiskHasRoom(t *testing.T) {
	s := begin(t, 1, current)
	h := s.Hosts[0]
	starts := func() int {
		n, _ := strconv.Atoi(strings.TrimSpace(h.Run("systemctl", "show", "--property=NRestarts", "--value", "etcd")))
		return n
	}

	// Nor is an etcd given up, after a start of ours, that does not stay up at first, and that systemd starts again.
	start := holdUp(h)
	err := s.try(h, once("start", func() {
		h.Run("mv", "/etc/etcd/pki/server.key", "/root/")
		start()
		if err := until("etcd to fail", func() bool { return starts() > 0 }); err != nil {
			t.Error(err)
		}
		h.Run("mv", "/root/server.key", "/etc/etcd/pki/")
	}), "init")
	if err != nil {
		t.Fatal(err)
	}
	s.wants(h)

	const value = "/root/value"
	h.Write(value, 0o644, strings.Repeat("0123456789", 100_000))
	h.DiskFull()
	before, last := starts(), ""
	for i := range 500 {
		key := fmt.Sprintf("key%d", i)
		if _, err := h.Exec("sh", "-c", etcdctl+" put "+key+" <"+value); err == nil {
			last = key
		} else if starts() > before { // and not a machine that is busy
			break
		}
	}
	if err := until("etcd to fail again and again", func() bool { return starts() > before+2 }); err != nil {
		t.Fatal(err)
	}
	s.says(h, int(errs.Attention), []string{"likely: a disk is full"}, "status")
	h.DiskFree()
	s.comesUp(h, "after", "")
	if last != "" && len(get(h, last)) != 1_000_000 {
		t.Errorf("%s was acknowledged, and is gone", last)
	}
	put(h, "after", "room")
}
