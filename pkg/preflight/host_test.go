package preflight

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var etcdPorts = []int{2379, 2380}

func TestClosedByFirewalld(t *testing.T) {
	for name, c := range map[string]struct {
		list string
		want []int
	}{
		"nothing open":  {"public (active)\n  target: default\n  services: ssh\n  ports: \n", etcdPorts},
		"ports":         {"public\n  ports: 2379/tcp 2380/tcp\n", nil},
		"a range":       {"public\n  ports: 2379-2380/tcp\n", nil},
		"UDP":           {"public\n  ports: 2379-2380/udp\n", etcdPorts},
		"one service":   {"public\n  services: ssh etcd-client\n  ports:\n", []int{2380}},
		"both services": {"public\n  services: etcd-client etcd-server\n", nil},
		"all accepted":  {"trusted (active)\n  target: ACCEPT\n  ports: \n", nil},
	} {
		if got := closedByFirewalld(c.list, etcdPorts); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestClosedByUFW(t *testing.T) {
	head := "Status: active\n\nTo                         Action      From\n--                         ------      ----\n"
	for name, c := range map[string]struct {
		rows string
		want []int
	}{
		"SSH only":        {"22/tcp                     ALLOW       Anywhere\n22/tcp (v6)                ALLOW       Anywhere (v6)\n", etcdPorts},
		"one":             {"2379/tcp                   ALLOW       10.0.0.0/8\n", []int{2380}},
		"a list":          {"2379,2380/tcp              ALLOW       10.0.0.0/8\n", nil},
		"a range":         {"2379:2380/tcp              ALLOW       Anywhere\n", nil},
		"from one source": {"Anywhere                   ALLOW       10.0.0.0/8\n", nil},
		"denied":          {"2379:2380/tcp              DENY        Anywhere\n", etcdPorts},
		"UDP":             {"2379:2380/udp              ALLOW       Anywhere\n", etcdPorts},
	} {
		if got := closedByUFW(head+c.rows, etcdPorts); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestClosedByNFT(t *testing.T) {
	table := func(policy, rules string) string {
		return "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy " + policy + ";\n" + rules + "\t}\n}\n"
	}
	for name, c := range map[string]struct {
		rules string
		want  []int
	}{
		"no rules":        {"", nil},
		"accepting":       {table("accept", ""), nil},
		"dropping":        {table("drop", "\t\tct state established,related accept\n\t\ttcp dport 22 accept\n"), etcdPorts},
		"one":             {table("drop", "\t\ttcp dport 2379 accept\n"), []int{2380}},
		"a set":           {table("drop", "\t\ttcp dport { 22, 2379, 2380 } accept\n"), nil},
		"a range":         {table("drop", "\t\ttcp dport 2379-2380 accept\n"), nil},
		"dropped by name": {table("drop", "\t\ttcp dport 2379-2380 drop\n"), etcdPorts},
		"UDP":             {table("drop", "\t\tudp dport 2379-2380 accept\n"), etcdPorts},
		"from a source":   {table("drop", "\t\tip saddr 10.0.0.0/8 accept\n"), nil},
		"output only":     {"table inet filter {\n\tchain output {\n\t\ttype filter hook output priority filter; policy drop;\n\t}\n}\n", nil},
	} {
		if got := closedByNFT(c.rules, etcdPorts); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestPercentile99(t *testing.T) {
	all := make([]time.Duration, 200)
	for i := range all {
		all[i] = time.Duration(200 - i)
	}
	if got := percentile99(all); got != 198 {
		t.Errorf("of 1 to 200: %d", got)
	}
	if got := percentile99(all[:1]); got != 200 {
		t.Errorf("of one: %d", got)
	}
}

func TestBeside(t *testing.T) {
	nets := func(list ...string) []net.Addr {
		var all []net.Addr
		for _, s := range list {
			ip, n, err := net.ParseCIDR(s)
			if err != nil {
				t.Fatal(err)
			}
			n.IP = ip
			all = append(all, n)
		}
		return all
	}
	own := netip.MustParseAddr("10.0.0.5")
	for name, c := range map[string]struct {
		nets   []net.Addr
		others int
		here   bool
	}{
		"alone":             {nets("10.0.0.5/24", "fe80::1/64", "fd00::1/64"), 0, true},
		"a second":          {nets("10.0.0.5/24", "10.0.0.6/24"), 1, true},
		"another interface": {nets("10.0.0.6/24"), 1, false},
		"link-local":        {nets("10.0.0.5/24", "169.254.1.1/16"), 0, true},
	} {
		if others, here := beside(own, c.nets); len(others) != c.others || here != c.here {
			t.Errorf("%s: %v, %t", name, others, here)
		}
	}
}

func TestTypesThatSELinuxRuns(t *testing.T) {
	for label, want := range map[string]bool{"bin_t": true, "usr_t": true, "etcd_exec_t": true, "default_t": false, "user_home_t": false, "tmp_t": false} {
		if runnable(label) != want {
			t.Errorf("%s: want %t", label, want)
		}
	}
}
