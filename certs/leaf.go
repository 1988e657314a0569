package certs

import (
	"context"
	"crypto/x509"
	"net/netip"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// Leaf is a pair, <Name>.crt and <Name>.key, that the CA of the directory signs and that fits: names, addresses,
// usages, chain, key and time. One that does not fit is issued anew, with a new key; more names than wanted are fine.
// Server, Peer, EtcdctlClient and APIServerClient fill in what differs between the pairs of a node.
type Leaf struct {
	Host         *host.Host
	Dir          string
	Name         string // of the files
	CommonName   string
	Organization []string
	DNSNames     []string // validated: see ParseSANs
	IPs          []netip.Addr
	Optional     []string // those of the names and addresses that a pair which was not issued here may lack
	Usages       []x509.ExtKeyUsage
	Algorithm    KeyAlgorithm     // of a key that is made
	Now          func() time.Time // nil: time.Now
	RenewBefore  time.Duration    // how long before its end a leaf is renewed
	KeepExisting bool             // a pair that TLS can load is kept, whatever it says
	Owner        host.Owner       // of the key; the zero value: whoever runs this
}

// Check judges the pair. Where ca.key is not there to issue what has to be issued, the error has status 3; a CA that
// is none has status 6.
func (l Leaf) Check(ctx context.Context) (converge.Diff, error) {
	s, err := l.survey()
	if err != nil {
		return nil, err
	}
	if s.pair.key.hidden {
		converge.Notef(ctx, "%s is not for this user to read; it is taken to belong to %s.crt", s.pair.key.path, l.Name)
	}
	for _, w := range s.tolerated {
		converge.Warnf(ctx, "%s", w)
	}
	return s.diff(), nil
}

// Apply issues the pair and swaps it in, or corrects what is short of that.
func (l Leaf) Apply(context.Context) error {
	s, err := l.survey()
	if err != nil {
		return err
	}
	st := l.store()
	if len(s.problems) > 0 {
		fresh, err := l.issue(s.ca)
		if err != nil {
			return err
		}
		if err := st.replace(s.pair, fresh); err != nil {
			return err
		}
		s.pair = fresh
	} else {
		for _, m := range s.modes {
			if err := l.Host.Chmod(m.path, m.want); err != nil {
				return err
			}
		}
		if s.owner != "" {
			if err := l.Host.Give(s.pair.key.path, l.Owner); err != nil {
				return err
			}
		}
	}
	return st.clean(s.pair)
}

// issue makes a pair, and proves that it fits before anything is replaced by it.
func (l Leaf) issue(ca pair) (pair, error) {
	if ca.chain == nil || ca.signs == nil {
		return pair{}, errs.New(errs.Precondition, "%s and ca.key are not there to issue %s with", ca.crt.path, l.Name).
			Hint("%s", bring(l.Host, l.Dir, "", "ca.crt", "ca.key"))
	}
	issuer, now := ca.issuer(), clock(l.Now)
	if err := judgeCA(ca, now); err != nil {
		return pair{}, err
	}
	key, err := l.Algorithm.generate()
	if err != nil {
		return pair{}, err
	}
	fresh, err := issue(l.Name, key, request{
		commonName:   l.CommonName,
		organization: l.Organization,
		hosts:        l.hosts(),
		usages:       l.usages(),
		notBefore:    later(now.Add(-constants.Backdate), issuer.NotBefore),
		notAfter:     earlier(now.Add(constants.LeafLifetime), issuer.NotAfter),
	}, issuer, ca.signs)
	if err != nil {
		return pair{}, err
	}
	if found := l.judge(fresh, ca.roots(), now); len(found) > 0 {
		return pair{}, errs.New(errs.Verification, "the CA in %s cannot issue %s: %s", ca.crt.path, l.Name, found[0].change.Have).
			Hint("look at its constraints: openssl x509 -noout -text -in %s", ca.crt.real)
	}
	return fresh, nil
}

// hosts and usages are the wanted names and usages in cfssl's words.
func (l Leaf) hosts() []string {
	hosts := append([]string(nil), l.DNSNames...)
	for _, ip := range l.IPs {
		hosts = append(hosts, ip.Unmap().String())
	}
	return hosts
}

func (l Leaf) usages() []string {
	usages := []string{"digital signature"}
	if a := l.Algorithm; a == RSA3072 || a == RSA4096 {
		usages = append(usages, "key encipherment") // TLS 1.2 key exchange with RSA
	}
	for _, u := range l.Usages {
		switch u {
		case x509.ExtKeyUsageServerAuth:
			usages = append(usages, "server auth")
		case x509.ExtKeyUsageClientAuth:
			usages = append(usages, "client auth")
		}
	}
	return usages
}

func (l Leaf) store() store { return store{host: l.Host, dir: l.Dir, name: l.Name, owner: l.Owner} }

// roots returns what is trusted, the issuer first.
func (p pair) roots() []*x509.Certificate {
	return append([]*x509.Certificate{p.issuer()}, p.chain...)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
