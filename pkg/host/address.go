package host

import (
	"cmp"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/errs"
)

// DefaultAddress returns the address under which other nodes most likely reach this one: the first global unicast IPv4
// address of an interface that a default route uses, the cheapest route first; where there is none, the same for IPv6,
// without addresses that pass (temporary ones of RFC 8981, deprecated ones, those not yet or wrongly assigned).
func DefaultAddress() (netip.Addr, error) {
	// A kernel without one of the protocols lacks its tables; without a route of either the error below says so.
	v4, _ := os.ReadFile("/proc/net/route")
	v6, _ := os.ReadFile("/proc/net/ipv6_route")
	passing, _ := os.ReadFile("/proc/net/if_inet6")
	return chooseAddress(defaultRoutes4(string(v4)), defaultRoutes6(string(v6)), interfaceAddresses, passingAddresses(string(passing)))
}

// chooseAddress picks from the addresses of the interfaces that default routes use, in the order of the routes.
func chooseAddress(v4, v6 []string, addresses func(name string) []netip.Addr, passing map[netip.Addr]bool) (netip.Addr, error) {
	for _, name := range v4 {
		for _, a := range addresses(name) {
			if a.Is4() && a.IsGlobalUnicast() {
				return a, nil
			}
		}
	}
	for _, name := range v6 {
		for _, a := range addresses(name) {
			if a.Is6() && a.IsGlobalUnicast() && !passing[a] {
				return a, nil
			}
		}
	}
	return netip.Addr{}, errs.New(errs.Usage, "no default route leads out of an interface with a global address").
		Hint("name the address that the other members reach this node at: --bind-address ADDRESS")
}

// interfaceAddresses lists the addresses of one interface in the kernel's order: primary ones first.
func interfaceAddresses(name string) []netip.Addr {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	nets, err := i.Addrs()
	if err != nil {
		return nil
	}
	var list []netip.Addr
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			list = append(list, p.Addr().Unmap())
		}
	}
	return list
}

type route struct {
	device string
	metric uint64
}

// devices orders routes by their cost and returns their interfaces, each once.
func devices(routes []route) []string {
	slices.SortStableFunc(routes, func(a, b route) int { return cmp.Compare(a.metric, b.metric) })
	var names []string
	for _, r := range routes {
		if !slices.Contains(names, r.device) {
			names = append(names, r.device)
		}
	}
	return names
}

// defaultRoutes4 reads /proc/net/route: Iface Destination Gateway Flags RefCnt Use Metric Mask ...; the metric is
// decimal, the rest hexadecimal.
func defaultRoutes4(table string) []string {
	var routes []route
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" || !usable(f[3]) {
			continue
		}
		if metric, err := strconv.ParseUint(f[6], 10, 32); err == nil {
			routes = append(routes, route{f[0], metric})
		}
	}
	return devices(routes)
}

// defaultRoutes6 reads /proc/net/ipv6_route: destination, its prefix length, source, its prefix length, next hop,
// metric, reference count, use, flags, interface; numbers are hexadecimal.
func defaultRoutes6(table string) []string {
	const unspecified = "00000000000000000000000000000000"
	var routes []route
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 || f[0] != unspecified || f[1] != "00" || !usable(f[8]) || f[9] == "lo" {
			continue
		}
		if metric, err := strconv.ParseUint(f[5], 16, 32); err == nil {
			routes = append(routes, route{f[9], metric})
		}
	}
	return devices(routes)
}

// usable tells whether the flags of a route, in hexadecimal, are those of one that is up and leads somewhere.
func usable(flags string) bool {
	n, err := strconv.ParseUint(flags, 16, 32)
	return err == nil && n&unix.RTF_UP != 0 && n&unix.RTF_REJECT == 0
}

// passingAddresses reads /proc/net/if_inet6 (address, interface index, prefix length, scope, flags, interface; all but
// the last in hexadecimal) for the addresses that a member should not be known by.
func passingAddresses(table string) map[netip.Addr]bool {
	const passing = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	list := map[netip.Addr]bool{}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		raw, err := hex.DecodeString(f[0])
		flags, ferr := strconv.ParseUint(f[4], 16, 32)
		if a, ok := netip.AddrFromSlice(raw); ok && err == nil && ferr == nil && flags&passing != 0 {
			list[a] = true
		}
	}
	return list
}
