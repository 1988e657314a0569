package certs

import (
	"fmt"
	"net/netip"
	"path"
	"time"

	"etcdadm/pkg/host"
)

// Description is what status tells about one certificate file.
type Description struct {
	Name      string    `json:"name" yaml:"name"` // base name: "server"
	Path      string    `json:"path" yaml:"path"` // logical, of the .crt
	Subject   string    `json:"subject,omitempty" yaml:"subject,omitempty"`
	Issuer    string    `json:"issuer,omitempty" yaml:"issuer,omitempty"`
	Serial    string    `json:"serial,omitempty" yaml:"serial,omitempty"` // hex
	Algorithm string    `json:"algorithm,omitempty" yaml:"algorithm,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero" yaml:"notBefore,omitempty"` // UTC
	NotAfter  time.Time `json:"notAfter,omitzero" yaml:"notAfter,omitempty"`   // UTC
	SANs      []string  `json:"sans,omitempty" yaml:"sans,omitempty"`
	Placed    bool      `json:"placed" yaml:"placed"`                       // by an operator, not issued here
	Problem   string    `json:"problem,omitempty" yaml:"problem,omitempty"` // "" when it serves; "absent" when there is none
}

// Addresses are those that the certificate of a pair names; none where there is no certificate.
func Addresses(h *host.Host, dir, leaf string) ([]netip.Addr, error) {
	p, err := readPair(h, dir, leaf)
	if err != nil || p.chain == nil {
		return nil, err
	}
	var list []netip.Addr
	for _, ip := range p.chain[0].IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			list = append(list, a.Unmap())
		}
	}
	return list, nil
}

// Describe reads the CA and all pairs of a directory, the CA first. It judges what can be judged without knowing how
// the node should be: files, key, chain and time. An absent ca.key is no problem.
func Describe(h *host.Host, dir string, now time.Time) ([]Description, error) {
	ca, err := readCA(h, dir)
	if err != nil {
		return nil, err
	}
	made, err := madeHere(h, dir, ca)
	if err != nil {
		return nil, err
	}
	d := describe(ca)
	d.Placed = !ca.crt.absent() && !made
	if d.Problem == "" {
		switch {
		case ca.key.problem != "" && !ca.key.absent():
			d.Problem = "ca.key " + ca.key.problem
		default:
			if err := judgeCA(ca, now); err != nil {
				d.Problem = err.Error()
			}
		}
	}
	list := []Description{d}
	for _, name := range LeafNames() {
		p, err := readPair(h, dir, name)
		if err != nil {
			return nil, err
		}
		d := describe(p)
		d.Placed = !p.crt.absent() && p.placed()
		if d.Problem == "" {
			d.Problem = plainProblem(p, ca, now)
		}
		list = append(list, d)
	}
	return list, nil
}

// plainProblem judges a leaf against nothing but its CA and the clock.
func plainProblem(p, ca pair, now time.Time) string {
	if ca.chain == nil {
		return "ca.crt " + ca.crt.problem
	}
	c := p.chain[0]
	// Wanting what the certificate says itself leaves the other reasons.
	same := Leaf{Name: p.name, CommonName: c.Subject.CommonName, Organization: c.Subject.Organization, Algorithm: algorithmOf(c.PublicKey)}
	for _, found := range same.judge(p, ca.roots(), now) {
		return found.change.What + " " + found.change.Have
	}
	return ""
}

func describe(p pair) Description {
	d := Description{Name: p.name, Path: p.crt.path, Problem: p.crt.problem}
	if p.chain == nil {
		if !p.crt.absent() {
			d.Problem = path.Base(p.crt.path) + " " + p.crt.problem
		}
		return d
	}
	c := p.chain[0]
	d.Subject, d.Issuer = c.Subject.String(), c.Issuer.String()
	d.Serial, d.Algorithm = fmt.Sprintf("%x", c.SerialNumber), string(algorithmOf(c.PublicKey))
	d.NotBefore, d.NotAfter = c.NotBefore.UTC(), c.NotAfter.UTC()
	d.SANs = append(d.SANs, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		d.SANs = append(d.SANs, ip.String())
	}
	return d
}
