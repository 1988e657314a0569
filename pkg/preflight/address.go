package preflight

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"etcdadm/pkg/converge"
)

// Address is an address of this host.
type Address struct{ Address netip.Addr }

// Check compares with the interfaces. All of 127.0.0.0/8 is on a host whose loopback is.
func (a Address) Check(context.Context) (converge.Diff, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var have []string
	for _, i := range interfaces {
		nets, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", i.Name, err)
		}
		for _, n := range nets {
			p, err := netip.ParsePrefix(n.String())
			if err != nil {
				continue
			}
			if p.Addr() == a.Address || p.Addr().IsLoopback() && p.Contains(a.Address) {
				if i.Flags&net.FlagUp == 0 {
					return nil, refuse("address %s is on %s, which is down", a.Address, i.Name).Hint("ip link set %s up", quote(i.Name))
				}
				return nil, nil
			}
			if p.Addr().IsGlobalUnicast() {
				have = append(have, fmt.Sprintf("%s (%s)", p.Addr(), i.Name))
			}
		}
	}
	if len(have) == 0 {
		return nil, refuse("address %s is not on this host, which has none but loopback", a.Address).Hint("see: ip address")
	}
	e := refuse("address %s is not on this host, which has %s", a.Address, strings.Join(have, ", "))
	for _, h := range have {
		first, _, _ := strings.Cut(h, " ")
		e = e.Hint("--bind-address %s", first)
	}
	return nil, e
}

// SourceAddress is a peer certificate that names the addresses from which this host speaks to its peers. A member
// compares where a connection comes from with the certificate that is shown on it, so a host with several addresses
// can be refused although each certificate is right.
type SourceAddress struct {
	Peers []string     // peer URLs of the others
	Named []netip.Addr // what the peer certificate will name
}

// Check asks the kernel's routes; no packet is sent. Who has no route, or no address, is left to Reachable.
func (s SourceAddress) Check(ctx context.Context) (converge.Diff, error) {
	var missing []netip.Addr
	var towards []string
	for _, u := range s.Peers {
		target, err := hostPort(u)
		if err != nil {
			return nil, err
		}
		conn, err := new(net.Dialer).DialContext(ctx, "udp", target)
		if err != nil {
			continue
		}
		source := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
		_ = conn.Close()
		if !slices.Contains(s.Named, source) && !slices.Contains(missing, source) {
			missing, towards = append(missing, source), append(towards, target)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	e := refuse("connections to %s leave from %s, which the peer certificate does not name", strings.Join(towards, ", "), join(missing))
	for _, a := range missing {
		e = e.Hint("use the address that leads there: --bind-address %s", a)
	}
	return nil, e.Hint("or issue a peer certificate that names it too")
}

func join(addresses []netip.Addr) string {
	list := make([]string, len(addresses))
	for i, a := range addresses {
		list[i] = a.String()
	}
	return strings.Join(list, ", ")
}
