package certs

import (
	"crypto"
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/cloudflare/cfssl/config"
	"github.com/cloudflare/cfssl/csr"
	cflog "github.com/cloudflare/cfssl/log"
	"github.com/cloudflare/cfssl/signer"
	"github.com/cloudflare/cfssl/signer/local"
)

// request is what a certificate shall say.
type request struct {
	commonName   string
	organization []string
	hosts        []string // validated: cfssl makes mail addresses and URIs of what looks like them
	usages       []string // in cfssl's words
	ca           bool
	notBefore    time.Time
	notAfter     time.Time
}

// issue makes a pair for a key. Without an issuer the certificate signs itself.
//
// cfssl's initca.NewFromSigner cannot backdate, so a CA takes the same way as a leaf: its signer accepts an explicit
// validity. A policy of one profile, the default, leaves no name that could be misspelt into another.
func issue(name string, key crypto.Signer, r request, issuer *x509.Certificate, issuerKey crypto.Signer) (pair, error) {
	req := &csr.CertificateRequest{CN: r.commonName, Hosts: r.hosts}
	for _, o := range r.organization {
		req.Names = append(req.Names, csr.Name{O: o})
	}
	csrPEM, err := csr.Generate(key, req)
	if err != nil {
		return pair{}, err
	}
	policy := &config.Signing{Default: &config.SigningProfile{
		Usage:        r.usages,
		Expiry:       r.notAfter.Sub(r.notBefore),
		ExpiryString: r.notAfter.Sub(r.notBefore).String(),
		// Path length 0: it signs leaves, not other CAs.
		CAConstraint: config.CAConstraint{IsCA: r.ca, MaxPathLenZero: r.ca},
	}}
	// No algorithm named: crypto/x509 picks the SHA-2 one that suits the issuer's key.
	s, err := local.NewSigner(issuerKey, issuer, x509.UnknownSignatureAlgorithm, policy)
	if err != nil {
		return pair{}, err
	}
	crt, err := s.Sign(signer.SignRequest{Request: string(csrPEM), NotBefore: r.notBefore, NotAfter: r.notAfter})
	if err != nil {
		return pair{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return pair{}, err
	}
	p := pair{name: name, crt: part{data: crt, linked: true, mode: 0o644}, key: part{data: keyPEM, linked: true, mode: 0o600}}
	p.parse()
	return p, nil
}

// cfssl logs to stderr unless it is told otherwise. What it says beside its errors is for debugging.
func init() { cflog.SetLogger(cfsslLog{}) }

type cfsslLog struct{}

func (cfsslLog) Debug(s string)   { slog.Debug(s, "from", "cfssl") }
func (cfsslLog) Info(s string)    { slog.Debug(s, "from", "cfssl") }
func (cfsslLog) Warning(s string) { slog.Debug(s, "from", "cfssl") }
func (cfsslLog) Err(s string)     { slog.Debug(s, "from", "cfssl") }
func (cfsslLog) Crit(s string)    { slog.Debug(s, "from", "cfssl") }
func (cfsslLog) Emerg(s string)   { slog.Debug(s, "from", "cfssl") }
