package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// ClientTLS returns what a client of etcd connects with: the CA of a directory, and one of its pairs (a base name).
// The server's name stays open, for whoever dials. Status 3: a file is absent or not for this user to read; status 6:
// a file is there and does not serve.
func ClientTLS(h *host.Host, dir, leaf string) (*tls.Config, error) {
	ca, err := readCA(h, dir)
	if err != nil {
		return nil, err
	}
	p, err := readPair(h, dir, leaf)
	if err != nil {
		return nil, err
	}
	anew := fmt.Sprintf("issue them anew: rm %s %s, then etcdadm init phase certificates, or etcdadm join phase certificates URL", p.crt.real, p.key.real)
	for _, f := range []part{ca.crt, p.crt, p.key} {
		switch {
		case f.absent() && f.path == ca.crt.path: // a member may have lost it: another one would be of no use among the others
			return nil, errs.New(errs.Precondition, "%s is absent", f.path).
				Hint("on a member, bring the CA of its cluster; %s", bring(h, dir, "", "ca.crt", "ca.key")).
				Hint("on a node that is none yet: etcdadm init, or etcdadm join URL")
		case f.absent():
			return nil, errs.New(errs.Precondition, "%s is absent", f.path).
				Hint("issue the certificates of this node: etcdadm init phase certificates, or etcdadm join phase certificates URL")
		case f.hidden:
			return nil, unreadable(f.path, fs.ErrPermission)
		case f.problem != "":
			e := errs.New(errs.Verification, "%s %s", f.path, f.problem)
			if f.path == ca.crt.path {
				return nil, e.Hint("bring ca.crt from another member of the cluster")
			}
			return nil, e.Hint("%s", anew)
		}
	}
	if !p.usable() {
		return nil, errs.New(errs.Verification, "%s does not belong to %s", p.key.path, p.crt.path).Hint("%s", anew)
	}
	pool := x509.NewCertPool()
	for _, c := range ca.chain {
		pool.AddCert(c)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{p.shown()}}, nil
}

// shown is a usable pair as an endpoint of TLS shows it.
func (p pair) shown() tls.Certificate {
	c := tls.Certificate{PrivateKey: p.signs, Leaf: p.chain[0]}
	for _, x := range p.chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

// Trial returns what a client would connect with when the pair fits: with the pair as it is, or, where it does not fit, with
// one of the CA that is thrown away. It serves the question whether a server knows the CA, before a pair is replaced that
// the server knows. Whoever answers is believed: the server's own pair may be one that is about to be replaced.
//
// An error is what keeps the pair from being issued, as Check has it.
func (l Leaf) Trial() (*tls.Config, error) {
	s, err := l.survey()
	if err != nil {
		return nil, err
	}
	if len(s.problems) > 0 {
		l.Algorithm = DefaultKeyAlgorithm // a key of RSA would take its time
		if s.pair, err = l.issue(s.ca); err != nil {
			return nil, err
		}
	}
	if !s.pair.usable() {
		return nil, unreadable(s.pair.key.path, fs.ErrPermission)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, Certificates: []tls.Certificate{s.pair.shown()}}, nil //nolint:gosec // as said
}
