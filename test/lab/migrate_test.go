package lab

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"etcdadm/test/retired"
)

// instructions are the blocks of commands below a heading of docs/migrate.md, for one host: the stories run what people
// are told to run.
func instructions(t *testing.T, heading string, h, first *Host) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/migrate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/migrate.md has no heading %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)\n```\n(.*?)```\n").FindAllStringSubmatch(section, -1) {
		block := strings.ReplaceAll(m[1], "sudo ", "")
		block = strings.ReplaceAll(block, "join https://10.0.0.7", "join https://"+first.IPv4)
		blocks = append(blocks, strings.ReplaceAll(block, "10.0.0.7", h.IPv4))
	}
	return blocks
}

// follow runs a block of commands as root types them, one after the other.
func (s *story) follow(h *Host, block string) {
	s.t.Helper()
	// The release is in the mirror, not on the network; nothing else is said for the reader.
	const offline = `export ETCDADM_RELEASE_URL=file:///mirror
		etcdadm() { case $1 in init|join) command etcdadm "$@" --sha256sums /mirror/SHA256SUMS;; *) command etcdadm "$@";; esac; }
`
	if out, err := h.Exec("sh", "-ec", offline+block); err != nil {
		s.t.Fatalf("%v\n%s\n%s", err, block, out)
	}
}

// kubespray makes members as kubespray's host mode does: user etcd, one certificate for both ports, all in /etc/ssl/etcd/ssl.
func (s *story) kubespray(ca *retired.CA, hosts ...*Host) {
	s.t.Helper()
	const ssl = "/etc/ssl/etcd/ssl/"
	var all, names []string
	for i, h := range hosts {
		all = append(all, fmt.Sprintf("etcd%d=https://%s:2380", i+1, h.IPv4))
		names = append(names, h.Name, h.IPv4)
	}
	for i, h := range hosts {
		member, key, err := ca.Pair("etcd-member-"+h.Name, append([]string{"localhost", "127.0.0.1"}, names...)...)
		if err != nil {
			s.t.Fatal(err)
		}
		h.Run("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "etcd")
		for name, text := range map[string]string{
			"ca.pem": ca.Cert, "ca-key.pem": ca.Key,
			"member-" + h.Name + ".pem": member, "member-" + h.Name + "-key.pem": key, "admin-" + h.Name + ".pem": member, "admin-" + h.Name + "-key.pem": key,
		} {
			h.Write(ssl+name, 0o600, text)
		}
		pair := "=" + ssl + "member-" + h.Name
		h.Write("/etc/etcd.env", 0o640, strings.Join([]string{
			"# Environment of etcd", "ETCD_DATA_DIR=/var/lib/etcd", "ETCD_ADVERTISE_CLIENT_URLS=" + client(h), "ETCD_INITIAL_ADVERTISE_PEER_URLS=https://" + h.IPv4 + ":2380",
			"ETCD_INITIAL_CLUSTER_STATE=new", "", "ETCD_METRICS=basic", "ETCD_LISTEN_CLIENT_URLS=" + client(h) + ",https://127.0.0.1:2379", "ETCD_ELECTION_TIMEOUT=5000",
			"ETCD_HEARTBEAT_INTERVAL=250", "ETCD_INITIAL_CLUSTER_TOKEN=k8s_etcd", "ETCD_LISTEN_PEER_URLS=https://" + h.IPv4 + ":2380", fmt.Sprintf("ETCD_NAME=etcd%d", i+1),
			"ETCD_PROXY=off", "ETCD_INITIAL_CLUSTER=" + strings.Join(all, ","), "ETCD_AUTO_COMPACTION_RETENTION=8", "ETCD_SNAPSHOT_COUNT=100000", "ETCD_ENABLE_V2=true",
			"ETCD_TRUSTED_CA_FILE=" + ssl + "ca.pem", "ETCD_CERT_FILE" + pair + ".pem", "ETCD_KEY_FILE" + pair + "-key.pem", "ETCD_CLIENT_CERT_AUTH=true",
			"ETCD_PEER_TRUSTED_CA_FILE=" + ssl + "ca.pem", "ETCD_PEER_CERT_FILE" + pair + ".pem", "ETCD_PEER_KEY_FILE" + pair + "-key.pem", "ETCD_PEER_CLIENT_CERT_AUTH=True",
			"ETCDCTL_ENDPOINTS=https://127.0.0.1:2379", "ETCDCTL_CACERT=" + ssl + "ca.pem", "ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK=True", "",
		}, "\n"))
		h.Write("/etc/systemd/system/etcd.service", 0o644, "[Unit]\nDescription=etcd\nAfter=network.target\n\n[Service]\nType=notify\nUser=etcd\nEnvironmentFile=/etc/etcd.env\n"+
			"ExecStart=/usr/local/bin/etcd\nNotifyAccess=all\nRestart=always\nRestartSec=10s\nLimitNOFILE=40000\n\n[Install]\nWantedBy=multi-user.target\n")
		h.Run("sh", "-ec", "chown -R etcd /etc/ssl/etcd/ssl; install -d -m 0700 -o etcd /var/lib/etcd")
		s.begins(h)
	}
	s.begun(hosts...)
}

// begins installs etcd where people do, and starts the unit that is there.
func (s *story) begins(h *Host) {
	s.t.Helper()
	h.Run("sh", "-ec", "cp /mirror/v$0/bin/etcd /mirror/v$0/bin/etcdctl /usr/local/bin/; systemctl daemon-reload; systemctl enable --quiet etcd; systemctl start --no-block etcd", s.version)
}

// begun waits until systemd has taken note that etcd runs. One that serves need not have said so, nor serve on every host.
func (s *story) begun(hosts ...*Host) {
	s.t.Helper()
	for _, h := range hosts {
		if err := until("etcd to be active on "+h.Name, func() bool {
			_, err := h.Exec("systemctl", "is-active", "--quiet", "etcd")
			return err == nil
		}); err != nil {
			s.t.Fatalf("%v\n%s", err, h.Journal("etcd"))
		}
	}
}

// A cluster of kubespray, of one voter or of three, goes over to etcdadm one member after the other and serves all the
// while; heartbeats stay what the others count on.
func TestMigrateFromKubespray(t *testing.T) {
	for _, voters := range []int{1, 3} {
		t.Run(fmt.Sprint(voters), func(t *testing.T) {
			s := begin(t, voters+1, "3.5.35")
			members, other := s.Hosts[:voters], s.Hosts[voters]
			ca, err := retired.NewCA()
			if err != nil {
				t.Fatal(err)
			}
			s.kubespray(ca, members...)
			w := s.witness(other, ca, members...)
			for i, h := range members {
				before, began := data(h, "/var/lib/etcd"), starts(h)
				steps := instructions(t, "From kubespray", h, members[0])
				s.follow(h, steps[0])
				s.follow(h, steps[1+min(i, 1)])
				if got := data(h, "/var/lib/etcd"); got != before {
					t.Errorf("the data of %s was\n%s\nand is\n%s", h.Name, before, got)
				}
				if got := starts(h) - began; got != 1 {
					t.Errorf("etcd was restarted %d times", got)
				}
				if env := h.Run("cat", "/etc/etcd/etcd.env"); !strings.Contains(env, "ETCD_HEARTBEAT_INTERVAL=250\n") || !strings.Contains(env, "ETCD_ELECTION_TIMEOUT=5000\n") {
					t.Errorf("the settings of %s were not kept:\n%s", h.Name, env)
				}
				if out := s.well(h); !strings.Contains(out, "etcd        3.5.35, running") {
					t.Errorf("status of %s:\n%s", h.Name, out)
				}
			}
			w.ends(voters > 1)
			// The certificates that the API servers have are as good as they were.
			for _, h := range members {
				h.Run("etcdctl", "--endpoints="+client(members[0]), "--cacert=/etc/ssl/etcd/ssl/ca.pem", "--cert=/etc/ssl/etcd/ssl/admin-"+h.Name+".pem",
					"--key=/etc/ssl/etcd/ssl/admin-"+h.Name+"-key.pem", "endpoint", "health", patient)
			}
		})
	}
}

// A member whose unit somebody wrote by hand is handed over as the manual says, and goes back as it says.
func TestMigrateFromAUnitMadeByHand(t *testing.T) {
	s := begin(t, 2, current)
	h := s.Hosts[0]
	ca, err := retired.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	crt, key, err := ca.Pair("db1", "db1", h.IPv4, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	const tls = "/etc/etcd/tls/"
	for name, text := range map[string]string{"ca.pem": ca.Cert, "ca-key.pem": ca.Key, "etcd.pem": crt, "etcd-key.pem": key} {
		h.Write(tls+name, 0o600, text)
	}
	files := func(prefix string) string {
		return fmt.Sprintf("--%strusted-ca-file %[2]sca.pem --%[1]scert-file %[2]setcd.pem --%[1]skey-file %[2]setcd-key.pem --%[1]sclient-cert-auth", prefix, tls)
	}
	h.Write("/etc/systemd/system/etcd.service", 0o644, "[Service]\nType=notify\nRestart=always\nExecStart=/usr/local/bin/etcd --name db1 --data-dir /srv/etcd --heartbeat-interval 150 "+
		"--initial-advertise-peer-urls https://"+h.IPv4+":2380 --listen-peer-urls https://"+h.IPv4+":2380 --initial-cluster db1=https://"+h.IPv4+":2380 "+
		"--advertise-client-urls "+client(h)+" --listen-client-urls "+client(h)+",https://127.0.0.1:2379 "+files("")+" "+files("peer-")+"\n\n[Install]\nWantedBy=multi-user.target\n")
	s.begins(h)
	s.begun(h)
	w := s.witness(s.Hosts[1], ca, h)
	before, began := data(h, "/srv/etcd"), starts(h)
	steps := instructions(t, "From a unit made by hand", h, h)
	s.follow(h, steps[len(steps)-1])
	if got := data(h, "/srv/etcd"); got != before {
		t.Errorf("the data was\n%s\nand is\n%s", before, got)
	}
	if got := starts(h) - began; got != 1 {
		t.Errorf("etcd was restarted %d times", got)
	}
	if env := h.Run("cat", "/etc/etcd/etcd.env"); !strings.Contains(env, "ETCD_HEARTBEAT_INTERVAL=150\n") || !strings.Contains(env, "ETCD_NAME=db1\n") {
		t.Errorf("the settings were not kept:\n%s", env)
	}
	s.follow(h, instructions(t, "The way back", h, h)[0])
	w.ends(false)
	if unit := h.Run("systemctl", "show", "-P", "ExecStart", "etcd"); !strings.Contains(unit, "--name db1") {
		t.Errorf("the old unit does not run: %s", unit)
	}
}
