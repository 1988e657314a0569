package lab

import (
	"strings"
	"testing"
)

// TestContract12RootOwnedFiles: an operator, who is root, puts data and pairs back from a copy while etcd is stopped. They
// work at the next start, and etcd runs as its own user all the same.
func TestContract12RootOwnedFiles(t *testing.T) {
	s := begin(t, 1, current)
	h := s.Hosts[0]
	s.etcdadm(h, "init")
	put(h, "color", "blue")
	h.Run("sh", "-euc", `
		systemctl stop etcd
		mkdir /root/copy
		for f in server peer; do cat /etc/etcd/pki/$f.key > /root/copy/$f.key; cat /etc/etcd/pki/$f.crt > /root/copy/$f.crt; done
		cp -r --no-preserve=ownership /var/lib/etcd/member /root/copy/
		rm -r /var/lib/etcd/member /etc/etcd/pki/server.* /etc/etcd/pki/peer.*
		cp -r /root/copy/member /var/lib/etcd/
		cp /root/copy/*.crt /root/copy/*.key /etc/etcd/pki/
		chmod 0600 /etc/etcd/pki/*.key
		chown -R root:root /var/lib/etcd /etc/etcd/pki
		systemctl start etcd`)
	if got := get(h, "color"); got != "blue" {
		t.Errorf("the member reads %q", got)
	}
	put(h, "color", "green")
	if user := strings.TrimSpace(h.Run("sh", "-c", `ps -o user= -p "$(systemctl show -p MainPID --value etcd)"`)); user != "etcd" {
		t.Errorf("etcd runs as %s", user)
	}
	s.etcdadm(h, "init")
}

// TestContract02RenewalUnderSystemd: the pairs that come back belong to whom they belonged to, and the unit goes on.
func TestContract02RenewalUnderSystemd(t *testing.T) {
	s := begin(t, 2, current)
	s.cluster()
	b := s.Hosts[1]
	const describe = `cd /etc/etcd/pki; stat -Lc '%n %A %U %G' . *; systemctl show -p MainPID etcd; sha256sum ca.crt ca.key`
	before := b.Run("sh", "-euc", describe)
	served := b.Run("sh", "-c", `openssl s_client -connect 127.0.0.1:2379 </dev/null 2>/dev/null | openssl x509 -noout -serial`)
	b.Run("find", "/etc/etcd/pki", "-mindepth", "1", "-maxdepth", "1", "!", "-name", "ca.*", "-exec", "rm", "-r", "{}", "+")
	b.Run("etcdadm", "join", "phase", "certificates", "http://eks-a-etcd-dumb-url")
	if after := b.Run("sh", "-euc", describe); after != before {
		t.Errorf("there was\n%s\nand is\n%s", before, after)
	}
	if now := b.Run("sh", "-c", `openssl s_client -connect 127.0.0.1:2379 </dev/null 2>/dev/null | openssl x509 -noout -serial`); now == served || !strings.HasPrefix(now, "serial=") {
		t.Errorf("etcd serves %s, and served %s", now, served)
	}
	if !strings.Contains(before, "server.key -rw------- etcd etcd") {
		t.Errorf("the key of the server is not etcd's:\n%s", before)
	}
	s.serves(s.Hosts...)
	s.wants(s.Hosts...)
}

// TestContractResetUnderSystemd: after a stop of the service, after a join that failed, and twice.
func TestContractResetUnderSystemd(t *testing.T) {
	s := begin(t, 2, current)
	s.cluster()
	a, b := s.Hosts[0], s.Hosts[1]
	blank := func() {
		t.Helper()
		s.wants(a)
		b.Run("etcdadm", "reset") // there is nothing to reset
		if left := b.Run("sh", "-c", `ls -d /var/lib/etcd/member /etc/etcd/etcd.env /etc/etcd/pki/peer.key /opt/bin/etcd /etc/etcdadm /etc/systemd/system/etcd.service 2>/dev/null; pgrep -l etcd; true`); left != "" {
			t.Errorf("the reset left\n%s", left)
		}
	}
	// Without it the cluster has no majority, so it is started once more to leave.
	b.Run("systemctl", "stop", "etcd")
	b.Run("etcdadm", "reset")
	blank()

	// Another program has the port of its peers.
	s.giveCA(a, b)
	b.Run("systemd-run", "--unit", "squatter", "--socket-property", "ListenStream=2380", "sleep", "600")
	if err := s.try(b, nil, "join", client(a), "--ignore-preflight-errors", "Ports"); err == nil || !strings.Contains(err.Error(), "is taken by another process") {
		t.Errorf("join beside another program at its port: %v", err)
	}
	b.Run("etcdadm", "reset")
	_, _ = b.Exec("systemctl", "stop", "squatter.service") // where nobody has come to the port, there is none
	b.Run("systemctl", "stop", "squatter.socket")
	blank()
	put(a, "color", "blue")
}
