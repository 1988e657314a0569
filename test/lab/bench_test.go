package lab

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"etcdadm/test/measure"
)

// runs is how many each median is taken of.
const runs = 5

// BenchmarkHosts measures the operations on hosts with systemd, the release installed, against an etcd that a script
// drives there. `make bench` runs it.
func BenchmarkHosts(b *testing.B) {
	ours, bare := times{}, times{}
	for range runs {
		ok := b.Run("run", func(b *testing.B) {
			s := begin(b, 6, current)
			s.byEtcdadm(ours)
			s.byHand(bare)
		})
		ok = ok && b.Run("together", func(b *testing.B) {
			s := begin(b, 3, current)
			first, rest := s.Hosts[0], s.Hosts[1:]
			s.installed(s.Hosts...)
			s.giveCA(first, rest...)
			began := time.Now()
			s.etcdadm(first, "init")
			joining := time.Now()
			if err := each(rest, func(h *Host) error { return s.try(h, nil, "join", client(first)) }); err != nil {
				b.Fatal(err)
			}
			ours.since(joining, "together")
			ours.since(began, "three")
		})
		if !ok {
			return
		}
	}
	if len(ours["together"]) == 0 { // skipped
		return
	}
	fmt.Printf("\netcd %s on hosts with systemd, medians of %d runs with their quartiles\n\n", current, runs)
	measure.Show(os.Stdout, []measure.Row{
		measure.Against("init", ours["init"], bare["init"], 0),
		measure.Against("first join", ours["first"], bare["first"], 0),
		measure.Against("second join", ours["second"], bare["second"], 1.1),
		measure.Against("reset of one of three", ours["reset"], bare["reset"], 0),
		measure.Within("two joins at the same moment", ours["together"], 2500*time.Millisecond),
		measure.Within("three nodes from nothing", ours["three"], 8*time.Second),
	})
}

// times are those of each operation.
type times map[string][]time.Duration

func (t times) since(began time.Time, what string) { t[what] = append(t[what], time.Since(began)) }

// installed brings the release, the first host's CA, and to each host what else takes no part in what is measured.
func (s *story) installed(hosts ...*Host) {
	s.t.Helper()
	if err := each(hosts, func(h *Host) error { return s.try(h, nil, "init", "phase", "install") }); err != nil {
		s.t.Fatal(err)
	}
	s.etcdadm(hosts[0], "init", "phase", "certificates")
}

// byEtcdadm measures etcdadm on the first three hosts.
func (s *story) byEtcdadm(t times) {
	a, b, c := s.Hosts[0], s.Hosts[1], s.Hosts[2]
	s.installed(a, b, c)
	s.giveCA(a, b, c)
	for _, do := range []struct {
		what string
		on   *Host
		args []string
	}{{"init", a, []string{"init"}}, {"first", b, []string{"join", client(a)}}, {"second", c, []string{"join", client(a)}}} {
		began := time.Now()
		s.etcdadm(do.on, do.args...)
		t.since(began, do.what)
	}
	time.Sleep(settled)
	began := time.Now()
	s.etcdadm(c, "reset")
	t.since(began, "reset")
}

// settled is how long etcd has its leader be connected before it lets a member go.
const settled = 6 * time.Second

// byHand measures a script on the other three, which has its certificates already and starts a transient unit.
func (s *story) byHand(t times) {
	hosts := s.Hosts[3:6]
	a := hosts[0]
	s.installed(hosts...)
	s.giveCA(a, hosts[1:]...)
	for _, h := range hosts[1:] {
		s.etcdadm(h, "join", "phase", "certificates", client(a))
	}
	var cluster []string
	for i, h := range hosts {
		cluster = append(cluster, h.Name+"=https://"+h.IPv4+":2380")
		env := []string{"NAME=" + h.Name, "IP=" + h.IPv4, "FIRST=" + a.IPv4, "CLUSTER=" + strings.Join(cluster, ",")}
		began := time.Now()
		h.Run(append(append([]string{"env"}, env...), "sh", "-ec", hand+[]string{beginByHand, joinByHand}[min(i, 1)])...)
		t.since(began, []string{"init", "first", "second"}[i])
	}
	time.Sleep(settled)
	c := hosts[2]
	began := time.Now()
	c.Run("env", "NAME="+c.Name, "IP="+c.IPv4, "FIRST="+a.IPv4, "sh", "-ec", hand+leaveByHand)
	t.since(began, "reset")
}

// What a person would type, who waits for nothing longer than needed.
const (
	hand = `
cd /etc/etcd/pki
ctl() { /opt/bin/etcdctl --cacert ca.crt --cert etcdctl-etcd-client.crt --key etcdctl-etcd-client.key --endpoints "$@"; }
own=https://$IP:2379 first=https://$FIRST:2379
start() {
	systemd-run --quiet --unit=bare --property=Type=notify --no-block /opt/bin/etcd --name "$NAME" --data-dir /var/lib/bare \
		--listen-client-urls "$own" --advertise-client-urls "$own" \
		--listen-peer-urls "https://$IP:2380" --initial-advertise-peer-urls "https://$IP:2380" \
		--initial-cluster "$CLUSTER" --initial-cluster-state "$1" --client-cert-auth --peer-client-cert-auth \
		--trusted-ca-file "$PWD/ca.crt" --cert-file "$PWD/server.crt" --key-file "$PWD/server.key" \
		--peer-trusted-ca-file "$PWD/ca.crt" --peer-cert-file "$PWD/peer.crt" --peer-key-file "$PWD/peer.key"
}
until_() { until "$@" >/dev/null 2>&1; do :; done; }
reads() { until_ ctl "$own" --dial-timeout 200ms --command-timeout 1s get x; }
`
	beginByHand = `start new; reads`
	joinByHand  = `
until_ ctl "$first" member add "$NAME" --learner --peer-urls "https://$IP:2380"
id=$(ctl "$first" member list | grep "https://$IP:2380" | cut -d, -f1)
start existing
until_ ctl "$first" member promote "$id"
reads
`
	leaveByHand = `
id=$(ctl "$first" member list | grep "https://$IP:2380" | cut -d, -f1)
ctl "$first" member remove "$id"
systemctl stop bare 2>&- || : # it may have ended already
rm -rf /var/lib/bare
`
)
