package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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

const (
	// What etcd appends to its log for a small write, and how often it is tried.
	syncSize, syncCount = 2300, 2000
	// syncFirst are enough when not one of them is slow: of a disk of which one in a hundred is, that is to be expected
	// less than once in a hundred times.
	syncFirst = 500
	// The limits of the first tries and of the others are for disks that are much too slow.
	syncFirstLimit, syncLimit = 500 * time.Millisecond, 1500 * time.Millisecond
	// syncWarned is what etcd's documentation asks of the 99th percentile of fdatasync.
	syncWarned = 10 * time.Millisecond
)

// DiskLatency is a disk that is fast enough for etcd's log. It is the one check that writes, as there is no other way to
// know: into a file without a name, of which nothing stays. A host that is only looked at is not measured.
type DiskLatency struct {
	Host *host.Host
	Path string
}

// Check measures, and warns.
func (d DiskLatency) Check(ctx context.Context) (converge.Diff, error) {
	if d.Host.ReadOnly() {
		return nil, nil
	}
	all, err := d.Host.SyncLatencies(ctx, d.Path, syncFirst, syncSize, syncFirstLimit)
	if err == nil && len(all) > 0 && slices.Max(all) > syncWarned {
		var more []time.Duration
		more, err = d.Host.SyncLatencies(ctx, d.Path, syncCount-syncFirst, syncSize, syncLimit)
		all = append(all, more...)
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EROFS): // other checks name such file systems
		return nil, nil
	case err != nil:
		converge.Warnf(ctx, "the latency of the disk of %s cannot be measured: %v", d.Path, err)
		return nil, nil
	case len(all) == 0:
		return nil, nil
	}
	if p99 := percentile99(all); p99 > syncWarned {
		converge.Warnf(ctx, "the disk of %s takes %s for a sync (99th percentile of %d), and etcd needs %s: give it a local SSD of its own",
			d.Path, p99.Round(100*time.Microsecond), len(all), syncWarned)
	}
	return nil, nil
}

// percentile99 is the value that one in a hundred exceeds.
func percentile99(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)*99-1)/100]
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
