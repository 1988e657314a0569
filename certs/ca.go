package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// judgeCA says why a parsed CA cannot issue at a time. A key that is absent or hidden is not held against it.
func judgeCA(ca pair, now time.Time) error {
	c := ca.issuer()
	if ca.signs != nil && !samePublic(c.PublicKey, ca.signs.Public()) {
		return errs.New(errs.Verification, "%s does not belong to ca.crt", ca.key.path).
			Hint("bring ca.crt and ca.key of the same CA to %s", path.Dir(ca.crt.real))
	}
	reason := ""
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		reason = "is not the certificate of a CA"
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		reason = "is not for signing certificates: its key usage lacks keyCertSign"
	case weak(c.PublicKey):
		reason = fmt.Sprintf("has a weak key (%s)", algorithmOf(c.PublicKey))
	}
	if reason != "" {
		return errs.New(errs.Verification, "%s %s (subject %q)", ca.crt.path, reason, c.Subject).
			Hint("look at it: openssl x509 -noout -text -in %s", ca.crt.real)
	}
	if now.Before(c.NotBefore) {
		return errs.New(errs.Precondition, "the clock says %s, and the CA in %s begins at %s", date(now), ca.crt.path, date(c.NotBefore)).
			Hint("set the clock of this node, and keep it set: timedatectl set-ntp true").
			Hint("if it is right, the CA was made under a wrong one: bring another, or wait until then")
	}
	if now.After(c.NotAfter) {
		return errs.New(errs.Verification, "the CA in %s expired at %s; the clock says %s", ca.crt.path, date(c.NotAfter), date(now)).
			Hint("if the clock is right, bring a new CA and remove the pairs that the old one signed")
	}
	return nil
}

func keyError(key part) error {
	e := errs.New(errs.Verification, "%s %s", key.path, key.problem)
	if key.problem == errEncrypted.Error() {
		return e.Hint("store it without a passphrase: openssl pkey -in %[1]s -out %[1]s.plain && mv %[1]s.plain %[1]s", key.real)
	}
	return e.Hint("bring the key that belongs to ca.crt")
}

// issuer returns the certificate that leaves are issued by.
func (p pair) issuer() *x509.Certificate {
	if p.signs != nil {
		for _, c := range p.chain {
			if samePublic(c.PublicKey, p.signs.Public()) {
				return c
			}
		}
	}
	return p.chain[0]
}

// bring is a command that copies files of the CA from another node.
func bring(h *host.Host, dir, from string, files ...string) string {
	if from == "" {
		from = "EXISTING-NODE"
	}
	if strings.Contains(from, ":") { // IPv6
		from = "[" + from + "]"
	}
	var sources []string
	for _, f := range files {
		sources = append(sources, "root@"+from+":"+path.Join(dir, f))
	}
	to := h.RealPath(dir)
	return fmt.Sprintf("from a node that has it: mkdir -p %s && scp -p %s %s/", to, strings.Join(sources, " "), to)
}

func readCA(h *host.Host, dir string) (pair, error) { return readPair(h, dir, CAName) }

// recordPath is the file that names the key of a CA that was made here. Its name goes with ca.crt and ca.key: callers
// renew by removing all but ca.*.
func recordPath(dir string) string { return path.Join(dir, PairsDir, "ca.made") }

// CAMadeHere tells whether the CA of a directory was made on this node, and not brought there by an operator.
func CAMadeHere(h *host.Host, dir string) (bool, error) {
	ca, err := readCA(h, dir)
	if err != nil {
		return false, err
	}
	return madeHere(h, dir, ca)
}

func madeHere(h *host.Host, dir string, ca pair) (bool, error) {
	record, err := h.ReadFile(recordPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	d := digest(ca)
	return d != "" && d == strings.TrimSpace(string(record)), nil
}

// digest is the SHA-256 of a pair's public key in hex; "" when there is none to read.
func digest(p pair) string {
	var der []byte
	var err error
	switch {
	case p.chain != nil:
		der, err = x509.MarshalPKIXPublicKey(p.chain[0].PublicKey)
	case p.signs != nil:
		der, err = x509.MarshalPKIXPublicKey(p.signs.Public())
	default:
		return ""
	}
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
