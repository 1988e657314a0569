package preflight

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// OpenFiles is a kernel that lets etcd have as many files open as its unit asks for.
type OpenFiles struct{ Host *host.Host }

// Check compares the limits of one process and of all.
func (o OpenFiles) Check(ctx context.Context) (converge.Diff, error) {
	for _, key := range []string{"nr_open", "file-max"} {
		text, err := o.Host.ReadFile("/proc/sys/fs/" + key)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && n < constants.OpenFiles {
			converge.Warnf(ctx, "the kernel allows %d open files (fs.%s), and etcd may need %d: sysctl -w fs.%[2]s=%[4]d", n, key, constants.OpenFiles, 1<<20)
		}
	}
	return nil, nil
}

// OneAddress is an interface without a second address that the member could be meant to have: other members compare the
// address that a connection comes from with the certificate.
type OneAddress struct{ Address netip.Addr }

// Check warns of other addresses of the same kind beside the bind address.
func (o OneAddress) Check(ctx context.Context) (converge.Diff, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		nets, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", i.Name, err)
		}
		if others, here := beside(o.Address, nets); here && len(others) > 0 {
			converge.Warnf(ctx, "%s has other addresses beside %s, which this member will be known by: %s; to choose one: --bind-address ADDRESS",
				i.Name, o.Address, join(others))
		}
	}
	return nil, nil
}

// beside returns the other global addresses of the same family, and whether the address is among those of the interface.
func beside(a netip.Addr, nets []net.Addr) (others []netip.Addr, here bool) {
	for _, n := range nets {
		p, err := netip.ParsePrefix(n.String())
		switch {
		case err != nil:
		case p.Addr() == a:
			here = true
		case p.Addr().Is4() == a.Is4() && p.Addr().IsGlobalUnicast():
			others = append(others, p.Addr())
		}
	}
	return others, here
}
