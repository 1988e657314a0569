package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"etcdadm/pkg/converge"
)

// problem is one reason to issue a pair anew.
type problem struct {
	change converge.Change
	soft   bool // the pair serves in spite of it: no reason to fail where nothing can be issued
}

// judge compares a pair with what is wanted, at a time. It reads nothing but its arguments.
func (l Leaf) judge(p pair, roots []*x509.Certificate, now time.Time) []problem {
	var found []problem
	crt, key := l.Name+".crt", l.Name+".key"
	add := func(soft bool, what, format string, args ...any) {
		found = append(found, problem{converge.Change{What: what, Have: fmt.Sprintf(format, args...), Want: "issued"}, soft})
	}
	if p.crt.problem != "" {
		add(false, crt, "%s", p.crt.problem)
	}
	if p.key.problem != "" {
		add(false, key, "%s", p.key.problem)
	}
	if p.crt.problem != "" {
		return found
	}
	c := p.chain[0]
	if p.signs != nil && !samePublic(c.PublicKey, p.signs.Public()) {
		add(false, key, "does not belong to %s", crt)
	}
	switch {
	case now.After(c.NotAfter):
		add(false, crt, "expired at %s", date(c.NotAfter))
	case now.Before(c.NotBefore):
		add(false, crt, "not valid before %s", date(c.NotBefore))
	default:
		if why := l.chainProblem(p, roots, now); why != "" {
			add(false, crt, "%s", why)
		} else if l.ending(c, roots, now) {
			add(true, crt, "expires at %s", date(c.NotAfter))
		}
	}
	if missing := l.missingNames(c, p.placed()); len(missing) > 0 {
		add(false, crt, "lacks %s", strings.Join(missing, ", "))
	}
	if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		add(false, crt, "lacks key usage digitalSignature")
	}
	if missing := missingUsages(c, l.Usages); len(missing) > 0 {
		add(false, crt, "lacks extended key usage %s", strings.Join(missing, ", "))
	}
	if weak(c.PublicKey) {
		add(false, key, "is weak (%s)", algorithmOf(c.PublicKey))
	}
	l.judgeIdentity(p, add)
	return found
}

// judgeIdentity judges what is an operator's choice in a pair that an operator placed, or that another program made. That
// some made client certificates of the organization system:masters is no reason to issue them anew: etcd does not look at
// it, and whoever may write to etcd rules a Kubernetes cluster that is kept in it anyway. Their next issue has none.
func (l Leaf) judgeIdentity(p pair, add func(soft bool, what, format string, args ...any)) {
	if p.placed() {
		return
	}
	c := p.chain[0]
	if c.Subject.CommonName != l.CommonName {
		add(false, l.Name+".crt", "common name is %q, not %q", c.Subject.CommonName, l.CommonName)
	}
	if have, want := algorithmOf(c.PublicKey), l.Algorithm.orDefault(); have != want && !weak(c.PublicKey) {
		add(true, l.Name+".key", "is of %s, not %s", have, want)
	}
}

// notSigned is said of a leaf of another CA.
const notSigned = "not signed by ca.crt"

// chainProblem verifies the chain up to one of the roots, once for each wanted usage.
func (l Leaf) chainProblem(p pair, roots []*x509.Certificate, now time.Time) string {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, r := range roots {
		o.Roots.AddCert(r)
	}
	for _, i := range p.chain[1:] {
		o.Intermediates.AddCert(i)
	}
	usages := l.Usages
	if len(usages) == 0 || len(missingUsages(p.chain[0], usages)) > 0 { // a usage that the leaf itself lacks is said elsewhere
		usages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	for _, u := range usages {
		o.KeyUsages = []x509.ExtKeyUsage{u}
		_, err := p.chain[0].Verify(o)
		switch a := p.chain[0].SignatureAlgorithm; {
		case err != nil && (a == x509.SHA1WithRSA || a == x509.ECDSAWithSHA1):
			return fmt.Sprintf("signed with %s, which is broken", a)
		case errors.As(err, new(x509.UnknownAuthorityError)):
			return notSigned
		}
		if err != nil {
			return "not accepted under ca.crt: " + strings.TrimPrefix(err.Error(), "x509: ")
		}
	}
	return ""
}

// ending tells whether a valid leaf should be renewed. The window is at most a third of the leaf's own life, so that
// short-lived ones are not renewed at every look; and a leaf that lives as long as its CA cannot gain anything.
func (l Leaf) ending(c *x509.Certificate, roots []*x509.Certificate, now time.Time) bool {
	window := min(l.RenewBefore, c.NotAfter.Sub(c.NotBefore)/3)
	return c.NotAfter.Sub(now) < window && c.NotAfter.Before(roots[0].NotAfter)
}

// missingNames lists the wanted names and addresses that a TLS peer would not accept the certificate for. More are fine,
// and a pair that was not issued here may lack those that nobody depends on.
func (l Leaf) missingNames(c *x509.Certificate, placed bool) []string {
	var missing []string
	lacks := func(name string) {
		if !placed || !slices.Contains(l.Optional, name) {
			missing = append(missing, name)
		}
	}
	for _, n := range l.DNSNames {
		if strings.HasPrefix(n, "*") {
			if !slices.ContainsFunc(c.DNSNames, func(have string) bool { return strings.EqualFold(have, n) }) {
				lacks(n)
			}
		} else if c.VerifyHostname(n) != nil {
			lacks(n)
		}
	}
	for _, ip := range l.IPs {
		if !slices.ContainsFunc(c.IPAddresses, func(have net.IP) bool { return have.Equal(ip.AsSlice()) }) {
			lacks(ip.String())
		}
	}
	return missing
}

var usageNames = map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "serverAuth", x509.ExtKeyUsageClientAuth: "clientAuth"}

// missingUsages lists the wanted usages that a certificate excludes. One without the extension excludes none.
func missingUsages(c *x509.Certificate, wanted []x509.ExtKeyUsage) []string {
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return nil
	}
	var missing []string
	for _, u := range wanted {
		if !slices.Contains(c.ExtKeyUsage, u) {
			missing = append(missing, usageNames[u])
		}
	}
	return missing
}
