package certs

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// Adopted is the state that the pairs of a directory, and the CA if that is wanted, count as made here, although another
// program made them: the retired etcdadm. They are judged as what others made all the same, so that they stay as long as
// they fit. What Removed removes, they are part of. It happens once: a CA that is kept for others later stays so.
func Adopted(h *host.Host, dir string, ca bool) converge.Resource { return adopted{h, dir, ca} }

type adopted struct {
	host *host.Host
	dir  string
	ca   bool
}

// adoptionPath is the file that names the keys of the pairs, one "<digest>  <name>" for each. A pair that is issued anew
// later is known by its place instead.
func adoptionPath(dir string) string { return path.Join(dir, PairsDir, "adopted") }

// wanted is what the two records should say; "" for a CA, or pairs, that are not there.
func (a adopted) wanted() (ca, leaves string, err error) {
	if a.ca {
		p, err := readCA(a.host, a.dir)
		if err != nil {
			return "", "", err
		}
		ca = digest(p)
	}
	for _, name := range LeafNames() {
		p, err := readPair(a.host, a.dir, name)
		if err != nil {
			return "", "", err
		}
		if d := digest(p); p.placed() && d != "" {
			leaves += d + "  " + name + "\n"
		}
	}
	return ca, leaves, nil
}

// Check looks whether that was done.
func (a adopted) Check(context.Context) (converge.Diff, error) {
	if there, err := a.host.Exists(adoptionPath(a.dir)); err != nil || there {
		return nil, err
	}
	ca, leaves, err := a.wanted()
	if err != nil || ca+leaves == "" {
		return nil, err
	}
	return converge.Diff{{What: a.dir, Have: "of the retired etcdadm", Want: "taken over"}}, nil
}

// Apply writes the records, that of the CA first.
func (a adopted) Apply(context.Context) error {
	ca, leaves, err := a.wanted()
	if err != nil {
		return err
	}
	if ca != "" {
		if err := a.host.WriteFile(recordPath(a.dir), []byte(ca+"\n"), 0o644); err != nil {
			return err
		}
	}
	return a.host.WriteFile(adoptionPath(a.dir), []byte(leaves), 0o644)
}

// isAdopted tells whether a pair is one that was there when the directory was taken over.
func isAdopted(h *host.Host, dir string, p pair) (bool, error) {
	record, err := h.ReadFile(adoptionPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	d := digest(p)
	return err == nil && d != "" && p.placed() && slices.Contains(strings.Split(string(record), "\n"), d+"  "+p.name), err
}

// ExtraNames are the names and addresses of a server certificate that its node does not have by itself: what its operator
// asked for. None where there is no certificate.
func ExtraNames(h *host.Host, dir, node string, addr netip.Addr) ([]string, error) {
	p, err := readPair(h, dir, ServerName)
	if err != nil || p.chain == nil {
		return nil, err
	}
	own, err := Server(Leaf{}, node, []netip.Addr{addr}, nil)
	if err != nil {
		return nil, err
	}
	var extra []string
	c := p.chain[0]
	for _, name := range c.DNSNames {
		if name, ok := hostname(name); ok && !slices.Contains(own.DNSNames, name) {
			extra = append(extra, name)
		}
	}
	for _, ip := range c.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok && !slices.Contains(own.IPs, a.Unmap()) {
			extra = append(extra, a.Unmap().String())
		}
	}
	return extra, nil
}
