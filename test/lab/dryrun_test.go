package lab

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// member is a part of a script that asks the etcd of the host, if one runs, for its status.
const member = `
member() {
	if systemctl --quiet is-active etcd; then
		/opt/bin/etcdctl.sh --command-timeout=30s endpoint status -w json
	elif systemctl --quiet is-active handmade; then
		cd /srv/etcd/pki && ../etcdctl --command-timeout=30s --endpoints "$0" --cacert ca.crt --cert etcd.crt --key etcd.key endpoint status -w json
	fi
}
`

// look describes what etcdadm could change of a host: its files, its processes, and how far its etcd has come.
func (s *story) look(h *Host) []string {
	s.t.Helper()
	text := h.Run("sh", "-c", member+`
find /etc /var /opt /usr/local /srv /root /run/etcd* /run/systemd/transient -xdev \( -path /var/log/journal -o -path /run/etcdadm.lock \) -prune -o -printf '%p %y %m %u:%g %s %T@ %C@ %l\n' 2>/dev/null |
	sed 's|^\([^ ]*/member/snap/db f [^ ]* [^ ]* [^ ]*\).*|\1|' # etcd writes it when it likes
ps -e -o pid=,ppid=,args= | awk -v me=$$ '$1 != me && $2 != me'
member | grep -o '"\(revision\|raftIndex\)":[0-9]*'
:`, client(h))
	return slices.Collect(strings.Lines(text))
}

// settled waits until etcd has done what it does by itself: some seconds after its start the cluster agrees on a version, and
// each member on that of its storage; and the leases end of an etcdadm that was killed.
func (s *story) settled(h *Host) {
	s.t.Helper()
	err := until("the etcd of "+h.Name+" to settle", func() bool {
		return s.ask(h, "sh", "-c", member+`said=$(member) && { test -z "$said" || echo "$said" | grep -q '"storageVersion":"'"$1"; } && ! timeout 3 /opt/bin/etcdctl.sh lease list 2>/dev/null | grep -q ^65746364`, client(h), s.version[:len("3.6")]).status == 0
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// ownLog are the lines of look that etcd changes by itself, whenever its cluster elects.
var ownLog = regexp.MustCompile(`/member/wal[ /]|"raftIndex"`)

// untouched does what changes nothing of these hosts. What etcd does by itself, it does not do each time.
func (s *story) untouched(state string, hosts []*Host, do func()) {
	s.t.Helper()
	for try := 1; ; try++ {
		before := map[*Host][]string{}
		for _, h := range hosts {
			s.settled(h)
		}
		for _, h := range hosts {
			before[h] = s.look(h)
		}
		do()
		elected := false
		for _, h := range hosts {
			for _, change := range changed(before[h], s.look(h)) {
				if ownLog.MatchString(change) && try < 4 {
					elected = true
					s.t.Logf("%s: %s: %s", state, h.Name, change)
				} else {
					s.t.Errorf("%s: %s: %s", state, h.Name, change)
				}
			}
		}
		if !elected {
			return
		}
	}
}

// changed tells how two looks differ.
func changed(before, after []string) (all []string) {
	for _, line := range before {
		if !slices.Contains(after, line) {
			all = append(all, "gone: "+line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			all = append(all, "new: "+line)
		}
	}
	return all
}

// plans are what the dry runs of an ordinary user say in one state of a node: of each operation the status, and a part of
// what it tells.
type plans struct {
	init, join, reset, restore plan
}

type plan struct {
	status int
	says   string
}

// tried runs every operation on the host as nobody, dry, and sees that no host of the lab that is on is changed by it.
func (s *story) tried(state string, h *Host, endpoints string, want plans) {
	s.t.Helper()
	on := slices.DeleteFunc(slices.Clone(s.Hosts), func(other *Host) bool { return firstProcess(other.group()) == 0 })
	s.untouched(state, on, func() { s.dry(state, h, endpoints, want) })
}

// dry runs every operation on the host as nobody, dry.
func (s *story) dry(state string, h *Host, endpoints string, want plans) {
	s.t.Helper()
	for _, try := range []struct {
		plan
		args []string
	}{
		{want.init, s.with("init")},
		{want.join, s.with("join", endpoints)},
		{want.reset, []string{"reset"}},
		{want.restore, []string{"restore", "/mnt/backup.db"}},
	} {
		argv := append([]string{"setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "etcdadm"}, try.args...)
		got := s.ask(h, append(argv, "--dry-run")...)
		if got.status != try.status || !strings.Contains(got.out+got.said, try.says) {
			s.t.Errorf("%s: the dry run of %s: status %d, want %d and %q:\n%s%s", state, try.args[0], got.status, try.status, try.says, got.out, got.said)
		}
	}
}

// A dry run acts on nothing, in whatever state the node and its cluster are. It needs no root: what an ordinary user may
// not look at is said, and not guessed.
func TestDryRunOfAnOrdinaryUserActsOnNothing(t *testing.T) {
	const seen = "as far as this user can see"
	s := begin(t, 4, current)
	a, b, c, d := s.Hosts[0], s.Hosts[1], s.Hosts[2], s.Hosts[3]
	s.etcdadm(a, "init")
	put(a, "color", "blue")
	s.etcdadm(a, "snapshot", "save", "/root/backup.db")
	ready := func(h *Host) {
		h.Write("/mnt/backup.db", 0o644, a.Run("cat", "/root/backup.db"))
		h.Run("systemctl", "stop", "*.timer") // what the hour brings is not ours
	}
	for _, h := range s.Hosts {
		ready(h)
	}

	s.tried("blank", d, client(a), plans{
		init:    plan{0, "would change start/running: etcd: not running, want running"},
		join:    plan{3, "ca.crt is absent"},
		reset:   plan{0, "nothing to do\n"},
		restore: plan{0, "would change data/restored: /var/lib/etcd: absent, want restored from /mnt/backup.db"},
	})

	s.giveCA(a, b, c, d)
	s.etcdadm(b, "join", client(a))
	s.etcdadm(c, "join", client(a))
	serving := plans{
		init:    plan{0, "nothing to do, " + seen},
		join:    plan{0, "not known: membership: "},
		reset:   plan{0, "would change stop/stopped: etcd: running, want stopped"},
		restore: plan{0, "not known: data/restored: /var/lib/etcd is not readable"},
	}
	s.tried("initialised", a, client(a), serving)

	holdUp(d) // it must not be done before it is killed
	if err := s.try(d, killAt(d, "start"), "join", client(a)); err == nil {
		t.Error("a join that was killed has succeeded")
	}
	// It may have come to start etcd, and to enable it. A host that boots would wait for it.
	d.Run("sh", "-ec", "systemctl stop etcd; systemctl disable --quiet etcd; rm -r /etc/systemd/system/etcd.service.d; systemctl daemon-reload")
	half := plans{
		init:    plan{0, seen},
		join:    plan{0, "not known: membership: "},
		reset:   plan{0, "not known: leave: "},
		restore: plan{0, "not known: data/restored: "},
	}
	s.tried("half joined", d, client(a), half)

	a.Run("sh", "-ec", `id=$($0 $1 member list | sed -n 's/, started, n3, .*//p'); $0 $1 member remove "$id"`, etcdctl, patient)
	// It may be started again once or more, see TestLeaderDiesDuringJoin.
	if err := until("the etcd of the removed member to end", func() bool { return s.ask(c, "systemctl", "is-active", "etcd").out == "inactive\n" }); err != nil {
		t.Fatal(err)
	}
	s.tried("removed", c, client(a), plans{
		init:    plan{0, "would change start/running: etcd: not running"},
		join:    plan{0, "not known: membership: "},
		reset:   plan{0, "would change stop/disabled"},
		restore: plan{0, "not known: data/restored: "},
	})

	b.Run("systemctl", "stop", "etcd")
	s.tried("no quorum", a, client(a), serving)
	s.tried("no quorum, stopped", b, client(a), plans{
		init:    plan{0, "would change start/running: etcd: not running"},
		join:    plan{0, "would change start/running: etcd: not running"},
		reset:   plan{0, "would change stop/disabled"},
		restore: plan{0, "not known: data/restored: "},
	})
	b.Kill()
	s.tried("majority lost", a, client(a), serving)
	s.tried("majority lost, half joined", d, client(a), half)

	d.Skew(-24 * time.Hour)
	d.Run("systemctl", "stop", "*.timer")
	late := plan{3, "but this etcdadm was built at"}
	s.tried("wrong clock", d, client(a), plans{init: late, join: late, reset: half.reset, restore: late})

	for _, h := range []*Host{b, c} {
		h.LoseDisk()
		h.Start()
		s.prepare(h)
		ready(h)
	}
	s.handmade(c)
	taken := plan{3, "port 2379 is taken by a process of user root"}
	s.tried("foreign etcd", c, client(a), plans{init: taken, join: taken, reset: plan{0, "nothing to do\n"}, restore: taken})
	b.Write("/etc/etcd/pki/ca.crt", 0o644, c.Run("cat", "/srv/etcd/pki/ca.crt"))
	b.Write("/etc/etcd/pki/ca.key", 0o600, c.Run("cat", "/srv/etcd/pki/ca.key"))
	s.tried("cluster made by hand", b, client(c), plans{
		init:    plan{0, "would change start/running"},
		join:    plan{0, "would change membership/member: member of the cluster: not yet"},
		reset:   plan{0, "nothing to do\n"},
		restore: plan{0, "would change data/restored"},
	})
}
