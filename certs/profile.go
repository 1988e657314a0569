package certs

import (
	"crypto/x509"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"etcdadm/pkg/errs"
)

var (
	bothUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	clientOnly = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
)

// Server is the pair of etcd's client port: for the node's name and addresses, localhost and the loopback addresses,
// and what else clients call it. It is a client's too, as etcd's HTTP gateway dials its own port with it.
//
// etcd listens on the loopback address of the same family only, so a pair that others made need not have the other one,
// nor localhost. An extra name that is neither a host name nor an address is a usage error (status 2).
func Server(base Leaf, node string, addrs []netip.Addr, extraSANs []string) (Leaf, error) {
	names, ips, err := ParseSANs(extraSANs)
	if err != nil {
		return Leaf{}, err
	}
	base.Name, base.CommonName, base.Usages = ServerName, node, bothUsages
	base.addNode(node)
	base.add([]string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()})
	base.add(nil, addrs)
	base.add(names, ips)
	base.Optional = []string{"localhost", "::1"}
	if slices.ContainsFunc(addrs, netip.Addr.Is6) {
		base.Optional[1] = "127.0.0.1"
	}
	base.Optional = slices.DeleteFunc(base.Optional, func(o string) bool {
		ip, _ := netip.ParseAddr(o)
		return slices.Contains(names, o) || slices.Contains(ips, ip)
	})
	return base, nil
}

// Peer is the pair of etcd's peer port, in both directions. Members compare the source address of a connection with
// the addresses in the certificate of whoever connects, so those that this node uses towards the others belong here.
// The marker is the name that etcd asks for with --peer-cert-allowed-hostname; "" leaves it out.
func Peer(base Leaf, node string, addrs, sources []netip.Addr, marker string) Leaf {
	base.Name, base.CommonName, base.Usages = PeerName, node, bothUsages
	base.addNode(node)
	base.add(nil, addrs)
	base.add(nil, sources)
	if marker != "" {
		base.add([]string{marker}, nil)
	}
	return base
}

// EtcdctlClient is the pair of etcdctl and of etcdadm itself.
func EtcdctlClient(base Leaf, node string) Leaf {
	base.Name, base.CommonName, base.Usages = EtcdctlName, node+"-etcdctl", clientOnly
	return base
}

// APIServerClient is the pair that a Kubernetes API server takes along.
func APIServerClient(base Leaf, node string) Leaf {
	base.Name, base.CommonName, base.Usages = APIServerName, node+"-kube-apiserver-etcd-client", clientOnly
	return base
}

// addNode adds the node's name. A member may have a name that no host can have; then it stays the common name only.
func (l *Leaf) addNode(node string) {
	if ip, err := netip.ParseAddr(node); err == nil && ip.Zone() == "" {
		l.add(nil, []netip.Addr{ip})
	} else if name, ok := hostname(node); ok && !strings.HasPrefix(name, "*") {
		l.add([]string{name}, nil)
	}
}

// add appends what is not there yet. The slices of the base are not written to.
func (l *Leaf) add(names []string, ips []netip.Addr) {
	for _, n := range names {
		if !slices.Contains(l.DNSNames, n) {
			l.DNSNames = append(slices.Clip(l.DNSNames), n)
		}
	}
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.IsValid() && !slices.Contains(l.IPs, ip) {
			l.IPs = append(slices.Clip(l.IPs), ip)
		}
	}
}

// ParseSANs sorts subject alternative names into host names (lower case, a leading "*." allowed) and addresses.
// Anything else is a usage error (status 2): networks, ports, URLs, mail addresses, addresses with a zone.
func ParseSANs(list []string) (names []string, ips []netip.Addr, err error) {
	for _, s := range list {
		s = strings.TrimSpace(s)
		if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
			ips = append(ips, ip.Unmap())
			continue
		}
		name, ok := hostname(s)
		if last := name[strings.LastIndexByte(name, '.')+1:]; !ok || strings.Trim(last, "0123456789") == "" {
			return nil, nil, errs.New(errs.Usage, "%q is neither a host name nor an IP address", s).
				Hint("give names like etcd.example.com or *.example.com, and addresses like 10.0.0.7 or fd00::7")
		}
		names = append(names, name)
	}
	return names, ips, nil
}

// label is one part of a host name. The underscore is in no RFC, and in many a name.
var label = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// hostname returns a name in the form that certificates carry: lower case, without a trailing dot.
func hostname(s string) (string, bool) {
	s = strings.TrimSuffix(strings.ToLower(s), ".")
	labels := strings.Split(s, ".")
	if labels[0] == "*" && len(labels) > 1 {
		labels = labels[1:]
	}
	for _, l := range labels {
		if !label.MatchString(l) {
			return s, false
		}
	}
	return s, len(s) <= 253
}
