package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"etcdadm/test/retired"
)

// retire makes members of the retired etcdadm of hosts, which run as one cluster.
func (s *story) retire(ca *retired.CA, hosts ...*Host) {
	s.t.Helper()
	var all []string
	for _, h := range hosts {
		all = append(all, h.Name+"=https://"+h.IPv4+":2380")
	}
	for _, h := range hosts {
		files, err := retired.Node{Name: h.Name, Address: h.IPv4, InitialCluster: strings.Join(all, ",")}.Files(ca)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, p := range slices.Sorted(maps.Keys(files)) {
			h.Write(p, files[p].Mode, string(files[p].Data))
		}
		h.Run("sh", "-ec", `mkdir -p /opt/bin /var/cache/etcdadm/etcd/v$0
			cp /mirror/v$0/bin/etcd /mirror/v$0/bin/etcdctl /opt/bin/
			cp /mirror/v$0/*.tar.gz /var/cache/etcdadm/etcd/v$0/
			chmod 0700 /etc/etcd /etc/etcd/pki # by a careful umask
			systemctl daemon-reload; systemctl enable --quiet etcd; systemctl start --no-block etcd`, s.version)
	}
	s.begun(hosts...)
	for i, h := range hosts {
		if err := until("etcd to serve on "+h.Name, func() bool {
			_, err := h.Exec("sh", "-c", asking(s, h)+" endpoint health")
			return err == nil
		}); err != nil {
			s.t.Fatalf("%v\n%s", err, h.Journal("etcd"))
		}
		if i > 0 { // what join had left
			h.Write("/etc/etcd/etcd.env", 0o644, retired.Node{Name: h.Name, Address: h.IPv4, InitialCluster: strings.Join(all, ","), Joined: true}.Env())
		}
	}
}

// asking is a command line of etcdctl on any host that has the certificates of one: it asks the members at their addresses.
func asking(s *story, members ...*Host) string {
	var urls []string
	for _, m := range members {
		urls = append(urls, client(m))
	}
	const pki = "/etc/etcd/pki"
	return fmt.Sprintf("/mirror/v%s/bin/etcdctl --endpoints=%s --cacert=%s/ca.crt --cert=%[3]s/etcdctl-etcd-client.crt --key=%[3]s/etcdctl-etcd-client.key",
		s.version, strings.Join(urls, ","), pki)
}

// A witness is a client that writes and reads on a host of its own, one thing after the other, until it is asked.
type witness struct {
	s       *story
	at      *Host
	members []*Host
	done    chan struct{}
}

// witness lets a host write and read, with a client certificate of the CA.
func (s *story) witness(at *Host, ca *retired.CA, members ...*Host) *witness {
	s.t.Helper()
	crt, key, err := ca.Pair("witness")
	if err != nil {
		s.t.Fatal(err)
	}
	for name, text := range map[string]string{"ca.crt": ca.Cert, "etcdctl-etcd-client.crt": crt, "etcdctl-etcd-client.key": key} {
		at.Write("/etc/etcd/pki/"+name, 0o600, text)
	}
	w := &witness{s, at, members, make(chan struct{})}
	go func() {
		defer close(w.done)
		// Of a call that meets a member as it stops nobody knows whether it was heard; the next one meets another member. So the
		// last one is one that was served, or the second of two in a row that were not.
		// A call is given more than the ten seconds that an election takes where kubespray has set its timeout.
		_, _ = at.Exec("sh", "-c", `ctl="$0 --command-timeout=15s"; while ! [ -e /root/enough ] || [ "$ok$was" = failedserved ]; do i=$((i+1)); was=$ok; ok=failed
			$ctl put key-$i $i >/dev/null 2>>/root/why && [ "$($ctl get --print-value-only key-$i 2>>/root/why)" = $i ] && ok=served
			echo $ok $i >>/root/seen; done`, asking(s, members...))
	}()
	if err := until("the witness to be served", func() bool {
		_, err := at.Exec("grep", "-qs", "served", "/root/seen")
		return err == nil
	}); err != nil {
		s.t.Fatalf("%v: %s", err, at.Run("tail", "-n3", "/root/why"))
	}
	return w
}

// ends stops the witness. What it was told to be written is there; and if the cluster served all the while, no two calls in
// a row failed.
func (w *witness) ends(always bool) {
	w.s.t.Helper()
	w.at.Run("touch", "/root/enough")
	<-w.done
	seen := strings.Split(strings.TrimSpace(w.at.Run("cat", "/root/seen")), "\n")
	stored := "\n" + w.at.Run("sh", "-c", asking(w.s, w.members...)+" get --prefix key- --keys-only "+patient)
	before, served := "", 0
	for _, line := range seen {
		result, number, _ := strings.Cut(line, " ")
		switch {
		case result == "served" && !strings.Contains(stored, "\nkey-"+number+"\n"):
			w.s.t.Errorf("what was written as key-%s is not there any more", number)
		case always && result == "failed" && before == "failed":
			w.s.t.Errorf("the cluster did not serve (%s): %s", line, w.at.Run("tail", "-n5", "/root/why"))
		}
		if before = result; result == "served" {
			served++
		}
	}
	if served < 5 || before != "served" {
		w.s.t.Errorf("the witness saw little: %d of %d calls served, the last one %s", served, len(seen), before)
	}
}

// starts counts how often systemd has started etcd on a host.
func starts(h *Host) int {
	return strings.Count(h.Run("sh", "-c", "journalctl --sync; journalctl -q -u etcd -o cat"), "Started etcd.service")
}

// things are what a takeover leaves as it is: the bytes of the certificates, and the very files of the data.
func things(h *Host) string {
	return h.Run("sh", "-c", "cd /etc/etcd/pki && sha256sum *.crt *.key") + data(h, "/var/lib/etcd")
}

// data are the files of a data directory by their inodes, without those that etcd makes and removes as it goes on.
func data(h *Host, dir string) string {
	return h.Run("sh", "-c", "stat -c '%n %i' $0 $0/member/*/* | grep -vE '[.](snap|tmp) '", dir)
}

// takeover is a command line of a takeover with the arguments that set the node up: without a version.
func (s *story) takeover(h *Host, tell func(string), args ...string) error {
	return s.call(h, tell, append(args, "--sha256sums", "/mirror/SHA256SUMS", "--release-url", "file:///nowhere")...)
}

// A member of the retired etcdadm is taken over in place: one restart, no data moved, no certificate made anew, and the
// version stays. status says so before and after, a second run has nothing to do, and reset removes all of it.
func TestTakeoverOfOneMember(t *testing.T) {
	for _, version := range []string{"3.5.35", "3.6.16"} {
		t.Run(version, func(t *testing.T) {
			s := begin(t, 2, version)
			h := s.Hosts[0]
			ca, err := retired.NewCA()
			if err != nil {
				t.Fatal(err)
			}
			s.retire(ca, h)
			w := s.witness(s.Hosts[1], ca, h)
			if out, err := h.Exec("etcdadm", "status"); err == nil || !strings.Contains(out, "is not kept by etcdadm yet") || !strings.Contains(out, "etcd        "+version+", running") {
				t.Errorf("status before: %v\n%s", err, out)
			}
			before, began := things(h), starts(h)
			if err := s.takeover(h, nil, "init"); err != nil {
				t.Fatal(err)
			}
			if got := things(h); got != before {
				t.Errorf("before the takeover\n%s\nafter it\n%s", before, got)
			}
			if got := starts(h) - began; got != 1 {
				t.Errorf("etcd was restarted %d times", got)
			}
			w.ends(false)
			if user := h.Run("sh", "-c", "stat -c %U /proc/$(systemctl show -P MainPID etcd) /var/lib/etcd/member/snap/db"); user != "etcd\netcd\n" {
				t.Errorf("etcd and its data are of %q", user)
			}
			if out := s.well(h); !strings.Contains(out, "etcd        "+version+", running") {
				t.Errorf("status after:\n%s", out)
			}
			if out := h.Run("etcdadm", "init", "-o", "json"); !strings.Contains(out, `"changed": false`) && !strings.Contains(out, `"changed":false`) {
				t.Errorf("a second run: %s", out)
			}
			h.Run("etcdadm", "reset")
			if left := h.Run("sh", "-c", "find /etc/etcd /etc/etcdadm /opt/bin /var/lib/etcd /etc/systemd/system/etcd.service 2>/dev/null | sort"); strings.Contains(left, "etcd.service") || strings.Contains(left, ".crt") || strings.Contains(left, "/opt/bin/etcd") || strings.Contains(left, "member") || strings.Contains(left, "etcd.env") {
				t.Errorf("a reset leaves\n%s", left)
			}
		})
	}
}

// A node of the retired etcdadm can be reset without having been taken over: callers exchange the program, and go on.
func TestResetOfANodeOfTheRetiredEtcdadm(t *testing.T) {
	s := begin(t, 1, current)
	h := s.Hosts[0]
	ca, err := retired.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	s.retire(ca, h)
	s.etcdadm(h, "reset")
	left := h.Run("sh", "-c", "find /etc/etcd /etc/etcdadm /opt/bin /var/lib/etcd /etc/systemd/system/etcd.service /etc/systemd/system/*/etcd.service ! -type d 2>/dev/null | sort")
	if want := "/etc/etcd/pki/ca.crt\n/etc/etcd/pki/ca.key\n"; left != want {
		t.Errorf("a reset leaves\n%s\nwant\n%s", left, want)
	}
	if state, err := h.Exec("systemctl", "is-active", "etcd"); err == nil {
		t.Errorf("etcd is %s", state)
	}
	s.etcdadm(h, "reset")
}

// Three members are taken over one after the other, each by a run that is killed somewhere and run again: the cluster
// serves all the while, and each etcd is restarted once.
func TestTakeoverOfACluster(t *testing.T) {
	s := begin(t, 4, current)
	members, other := s.Hosts[:3], s.Hosts[3]
	ca, err := retired.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	s.retire(ca, members...)
	w := s.witness(other, ca, members...)
	for i, phase := range []string{"config", "configure", "start"} {
		h := members[i]
		args := []string{"init"}
		if i > 0 {
			args = []string{"join", client(members[0])}
		}
		before, began := things(h), starts(h)
		if err := s.takeover(h, killAt(h, phase), args...); err == nil {
			if phase != "start" {
				t.Errorf("killed at [%s]: the takeover has succeeded", phase)
			}
			t.Logf("killed at [%s]: the takeover was done", phase)
		}
		if err := s.takeover(h, nil, args...); err != nil {
			t.Fatal(err)
		}
		if got := things(h); got != before {
			t.Errorf("before the takeover of %s\n%s\nafter it\n%s", h.Name, before, got)
		}
		if got := starts(h) - began; got != 1 {
			t.Errorf("killed at [%s]: etcd was restarted %d times", phase, got)
		}
	}
	w.ends(true)
	s.wants(members...)
	s.etcdadm(members[2], "reset")
	s.wants(members[:2]...)
}
