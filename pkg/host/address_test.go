package host

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"etcdadm/pkg/errs"
)

const routeHead = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"

func TestDefaultRoutes4(t *testing.T) {
	for name, c := range map[string]struct {
		table string
		want  []string
	}{
		"none":                  {routeHead + "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", nil},
		"empty":                 {"", nil},
		"one":                   {routeHead + "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", []string{"eth0"}},
		"without a gateway":     {routeHead + "wg0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n", []string{"wg0"}},
		"the cheapest first":    {routeHead + "wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\neth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n", []string{"eth0", "wlan0"}},
		"an interface once":     {routeHead + "eth0\t00000000\t010200C0\t0003\t0\t0\t1\t00000000\t0\t0\t0\neth0\t00000000\t020200C0\t0003\t0\t0\t2\t00000000\t0\t0\t0\n", []string{"eth0"}},
		"unreachable":           {routeHead + "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n", nil},
		"half of the internet":  {routeHead + "tun0\t00000000\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n", nil},
		"not a table":           {"eth0 00000000\n\n<html>\n", nil},
		"a metric out of bound": {routeHead + "eth0\t00000000\t010200C0\t0003\t0\t0\tx\t00000000\t0\t0\t0\n", nil},
	} {
		if diff := cmp.Diff(c.want, defaultRoutes4(c.table)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestDefaultRoutes6(t *testing.T) {
	const none = "00000000000000000000000000000000"
	line := func(metric, flags, device string) string {
		return none + " 00 " + none + " 00 fd000000000000000000000000000001 " + metric + " 00000002 00000000 " + flags + "     " + device + "\n"
	}
	for name, c := range map[string]struct {
		table string
		want  []string
	}{
		"one":                     {line("00000400", "00000003", "eth0"), []string{"eth0"}},
		"the cheapest first":      {line("00000400", "00000003", "eth0") + line("00000064", "00450003", "eth1"), []string{"eth1", "eth0"}},
		"the kernel's own reject": {line("ffffffff", "00200200", "lo"), nil},
		"loopback":                {none + " 00 " + none + " 00 " + none + " 00000400 00000002 00000000 00000001       lo\n", nil},
		"a network":               {"fd" + none[2:] + " 40 " + none + " 00 " + none + " 00000100 00000001 00000000 00000001     eth0\n", nil},
		"a short line":            {none + " 00\n", nil},
	} {
		if diff := cmp.Diff(c.want, defaultRoutes6(c.table)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestChooseAddress(t *testing.T) {
	hosts := map[string][]netip.Addr{
		"eth0": addresses("169.254.1.1 fe80::1 10.0.0.5 10.0.0.6 fd00::5"),
		"eth1": addresses("192.168.7.4"),
		"six":  addresses("fe80::2 fd00::a fd00::b"),
		"down": nil,
	}
	passing := passingAddresses("fd00000000000000000000000000000a 02 40 00 01      six\nfd00000000000000000000000000000b 02 40 00 80      six\nshort\n")
	for name, c := range map[string]struct {
		v4, v6, want string
	}{
		"the first that is global":         {"eth0 eth1", "", "10.0.0.5"},
		"the first route":                  {"eth1 eth0", "eth0", "192.168.7.4"},
		"the next route":                   {"down eth1", "", "192.168.7.4"},
		"IPv4 first":                       {"eth1", "six", "192.168.7.4"},
		"IPv6 where there is no IPv4":      {"", "eth0", "fd00::5"},
		"an IPv6 address that stays":       {"", "six", "fd00::b"},
		"IPv4 routes lead out without one": {"six", "six", "fd00::b"},
		"none":                             {"", "", "invalid IP"},
		"no address":                       {"down", "down", "invalid IP"},
	} {
		got, err := chooseAddress(strings.Fields(c.v4), strings.Fields(c.v6), func(n string) []netip.Addr { return hosts[n] }, passing)
		if got.String() != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if failed := errs.StatusOf(err) == errs.Usage && len(errs.HintsOf(err)) == 1; failed != !got.IsValid() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever machine this is: the address is one of its own, or the error names the flag.
func TestDefaultAddress(t *testing.T) {
	a, err := DefaultAddress()
	if err != nil {
		if len(errs.HintsOf(err)) == 0 || !strings.Contains(errs.HintsOf(err)[0], "--bind-address") {
			t.Errorf("%v", err)
		}
		return
	}
	if !a.IsGlobalUnicast() || a.IsLoopback() {
		t.Errorf("%s is not global", a)
	}
}

func TestParseListeners(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the table is one of a little-endian machine")
	}
	table := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0200007F:094C 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 1234 1 0000000000000000 100 0 0 10 0
   1: 0200007F:094C 0300007F:8000 01 00000000:00000000 00:00000000 00000000   998        0 1235 1 0000000000000000 20 4 30 10 -1
   2: 00000000000000000000000001000000:094B 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0
   3: 0000000000000000FFFF00000500000A:094B 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 78 1 0 100 0 0 10 0
   4: 02:094C 00000000:0000 0A 0 0 0 0 0 0 0
`
	want := []Listener{
		{Address: netip.MustParseAddrPort("127.0.0.2:2380"), UID: 998, inode: "1234"},
		{Address: netip.MustParseAddrPort("[::1]:2379"), inode: "77"},
		{Address: netip.MustParseAddrPort("10.0.0.5:2379"), inode: "78"},
	}
	if diff := cmp.Diff(want, parseListeners(table), cmp.AllowUnexported(Listener{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func addresses(list string) []netip.Addr {
	var a []netip.Addr
	for s := range strings.FieldsSeq(list) {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}
