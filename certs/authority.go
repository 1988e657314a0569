package certs

import (
	"context"
	"io/fs"
	"path"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// Authority is the CA of a certificates directory: ca.crt, and ca.key wherever leaves are issued.
//
// An existing CA is used and never replaced: RSA or ECDSA, any name, any path length, its key in PKCS#8, PKCS#1 or
// SEC1. ca.crt may be a bundle; all of it is trusted, as etcd does, and the certificate that ca.key belongs to (the
// first one where there is no key) is the one that issues.
type Authority struct {
	Host       *host.Host
	Dir        string
	Algorithm  KeyAlgorithm     // of a key that is made
	CommonName string           // of a CA that is made; "": "etcd-ca"
	Now        func() time.Time // nil: time.Now
	From       string           // host of a node that has the CA, for the hint; "": a placeholder
	Otherwise  string           // a hint for whoever has no copy of a CA that has to be given; "": none
}

// Created is the CA as the first node has it: made when there is none, validated when there is one.
func (a Authority) Created() converge.Resource { return created{a} }

// Given is the CA as every other node has it, and the first one from then on that it is a member: brought there by
// somebody, or made before, and validated.
//
// Check of both returns status 3 for a CA that is missing, incomplete or not yet valid by this clock, and status 6 for
// one that cannot be one.
func (a Authority) Given() converge.Checker { return given{a} }

type given struct{ Authority }

func (g given) Check(ctx context.Context) (converge.Diff, error) {
	ca, err := readCA(g.Host, g.Dir)
	if err != nil {
		return nil, err
	}
	if ca.crt.absent() && ca.key.absent() {
		e := errs.New(errs.Precondition, "%s is absent: the CA of the cluster has to be brought to this node", ca.crt.path).
			Hint("%s", g.bring("ca.crt", "ca.key"))
		if g.Otherwise != "" {
			e = e.Hint("%s", g.Otherwise)
		}
		return nil, e
	}
	return nil, g.judge(ctx, ca)
}

type created struct{ Authority }

func (c created) Check(ctx context.Context) (converge.Diff, error) {
	ca, err := readCA(c.Host, c.Dir)
	if err != nil {
		return nil, err
	}
	if !ca.crt.absent() || !ca.key.absent() && !c.begun(ca) {
		return nil, c.judge(ctx, ca)
	}
	if ca.key.absent() {
		if err := c.noLeaves(); err != nil {
			return nil, err
		}
	}
	return converge.Diff{{What: "ca.crt", Have: absentText, Want: "issued"}}, nil
}

// noLeaves refuses to invent a CA where leaves of another one lie: the rest of their cluster would not know it.
func (c created) noLeaves() error {
	for _, name := range LeafNames() {
		p, err := readPair(c.Host, c.Dir, name)
		if err != nil {
			return err
		}
		if p.chain != nil {
			return errs.New(errs.Precondition, "%s is absent, but %s was issued by a CA", path.Join(c.Dir, "ca.crt"), p.crt.path).
				Hint("%s", c.bring("ca.crt", "ca.key")).
				Hint("or, for a new CA, remove the pairs of the old one: rm %s", c.Host.Path(path.Join(c.Dir, "*.crt")))
		}
	}
	return nil
}

// Apply makes the CA. The key is announced in a record before it exists, so that a run that is killed before the
// certificate is there can be told from a key that somebody brought alone. The certificate is the last act.
func (c created) Apply(context.Context) error {
	ca, err := readCA(c.Host, c.Dir)
	if err != nil {
		return err
	}
	key := ca.signs
	if key == nil {
		if key, err = c.Algorithm.generate(); err != nil {
			return err
		}
	}
	now := clock(c.Now)
	cn := c.CommonName
	if cn == "" {
		cn = "etcd-ca"
	}
	fresh, err := issue(CAName, key, request{
		commonName: cn,
		usages:     []string{"cert sign", "crl sign"},
		ca:         true,
		notBefore:  now.Add(-constants.Backdate),
		notAfter:   now.Add(constants.CALifetime),
	}, nil, key)
	if err != nil {
		return err
	}
	if ca.signs == nil {
		if err := c.Host.WriteFile(recordPath(c.Dir), []byte(digest(fresh)+"\n"), 0o644); err != nil {
			return err
		}
		if err := c.Host.WriteFile(ca.key.path, fresh.key.data, 0o600); err != nil {
			return err
		}
	}
	return c.Host.WriteFile(ca.crt.path, fresh.crt.data, 0o644)
}

// begun tells whether the key alone is what a run of ours left when it was killed.
func (c created) begun(ca pair) bool {
	made, err := madeHere(c.Host, c.Dir, ca)
	return err == nil && made && ca.signs != nil
}

// judge says what is wrong with a CA that is there, and warns when it ends soon.
func (a Authority) judge(ctx context.Context, ca pair) error {
	switch {
	case ca.crt.absent() && ca.key.hidden:
		return unreadable(ca.key.path, fs.ErrPermission)
	case ca.crt.absent():
		return errs.New(errs.Precondition, "%s is there without ca.crt", ca.key.path).Hint("%s", a.bring("ca.crt"))
	case ca.crt.problem != "":
		return errs.New(errs.Verification, "%s %s", ca.crt.path, ca.crt.problem).Hint("%s", a.bring("ca.crt"))
	case ca.key.problem != "" && !ca.key.absent():
		return keyError(ca.key)
	case ca.key.hidden:
		converge.Notef(ctx, "%s is not for this user to read; it is taken to belong to ca.crt", ca.key.path)
	}
	now := clock(a.Now)
	if err := judgeCA(ca, now); err != nil {
		return err
	}
	if m := ca.key.mode.Perm(); m&0o007 != 0 {
		converge.Warnf(ctx, "%s is open to every user (mode %04o): chmod 600 %s", ca.key.path, m, ca.key.real)
	}
	if end := ca.issuer().NotAfter; end.Sub(now) < constants.RenewBefore {
		converge.Warnf(ctx, "the CA in %s ends at %s, and every certificate with it", ca.crt.path, date(end))
	}
	return nil
}

func (a Authority) bring(files ...string) string { return bring(a.Host, a.Dir, a.From, files...) }
