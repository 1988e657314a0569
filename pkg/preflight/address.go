package preflight

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"etcdadm/constants"
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

// Advertised is a name that leads to this host. "" is no name.
type Advertised struct {
	Name    string
	Address netip.Addr // where etcd listens
}

// Check looks the name up as this host knows it. Here it may lead to a loopback address, and elsewhere by way of another
// address: that is a warning.
func (a Advertised) Check(ctx context.Context) (converge.Diff, error) {
	if a.Name == "" {
		return nil, nil
	}
	limited, cancel := context.WithTimeout(ctx, constants.DialTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(limited, "ip", a.Name)
	if err != nil {
		return nil, refuse("the name %s, by which others are to reach this node: %s", a.Name, dialProblem(err)).
			Hint("enter it on every node and client: echo %s >> /etc/hosts", quote(a.Address.String()+" "+a.Name))
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	here := func(f netip.Addr) bool { return f == a.Address || f.IsLoopback() }
	if !slices.ContainsFunc(found, here) {
		converge.Warnf(ctx, "the name %s leads to %s, and etcd listens at %s: see that others get here", a.Name, join(found), a.Address)
	}
	return nil, nil
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
		sources := sourcesTowards(ctx, target)
		named := func(a netip.Addr) bool { return slices.Contains(s.Named, a) }
		if len(sources) > 0 && !slices.ContainsFunc(sources, named) && !slices.Contains(missing, sources[0]) {
			missing, towards = append(missing, sources[0]), append(towards, target)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	e := refuse("connections to %s leave from %s, which the peer certificate does not name", strings.Join(towards, ", "), join(missing))
	for _, a := range missing {
		e = e.Hint("use the address that leads there: --bind-address %s", a)
	}
	return nil, e.Hint("or name those members as well, so that the peer certificate covers the way to them: etcdadm join URL,URL")
}

// sourcesTowards lists the addresses of this host from which connections to a target leave: one for each address that a
// name has, as nobody tells at which of them the other side listens.
func sourcesTowards(ctx context.Context, target string) []netip.Addr {
	name, port, _ := net.SplitHostPort(target)
	found, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		return nil
	}
	var sources []netip.Addr
	for _, address := range found {
		conn, err := new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(address, port))
		if err != nil {
			continue
		}
		sources = append(sources, conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""))
		_ = conn.Close()
	}
	return sources
}

func join(addresses []netip.Addr) string {
	list := make([]string, len(addresses))
	for i, a := range addresses {
		list[i] = a.String()
	}
	return strings.Join(list, ", ")
}
