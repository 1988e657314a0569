package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"

	"etcdadm/pkg/errs"
)

// KeyAlgorithm is the kind of a private key. The zero value is DefaultKeyAlgorithm.
type KeyAlgorithm string

// The algorithms that keys are made with. Existing keys may be of others.
const (
	ECDSAP256 KeyAlgorithm = "ecdsa-p256"
	ECDSAP384 KeyAlgorithm = "ecdsa-p384"
	RSA3072   KeyAlgorithm = "rsa-3072"
	RSA4096   KeyAlgorithm = "rsa-4096"

	// DefaultKeyAlgorithm handshakes fastest, and strict crypto policies accept it.
	DefaultKeyAlgorithm = ECDSAP256
)

// KeyAlgorithms lists what ParseKeyAlgorithm accepts.
func KeyAlgorithms() []string {
	return []string{string(ECDSAP256), string(ECDSAP384), string(RSA3072), string(RSA4096)}
}

// ParseKeyAlgorithm reads the name of an algorithm; "" is the default. An unknown name is a usage error.
func ParseKeyAlgorithm(s string) (KeyAlgorithm, error) {
	if s == "" {
		return DefaultKeyAlgorithm, nil
	}
	for _, known := range KeyAlgorithms() {
		if s == known {
			return KeyAlgorithm(s), nil
		}
	}
	return "", errs.New(errs.Usage, "key algorithm %q is not known", s).Hint("use one of %s", strings.Join(KeyAlgorithms(), ", "))
}

func (a KeyAlgorithm) orDefault() KeyAlgorithm {
	if a == "" {
		return DefaultKeyAlgorithm
	}
	return a
}

func (a KeyAlgorithm) generate() (crypto.Signer, error) {
	switch a.orDefault() {
	case ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSAP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, errs.New(errs.Usage, "key algorithm %q is not known", a).Hint("use one of %s", strings.Join(KeyAlgorithms(), ", "))
}

// algorithmOf names the algorithm of a public key, in the words of KeyAlgorithm also for those that we do not make.
func algorithmOf(public crypto.PublicKey) KeyAlgorithm {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return KeyAlgorithm(fmt.Sprintf("ecdsa-p%d", k.Curve.Params().BitSize))
	case *rsa.PublicKey:
		return KeyAlgorithm(fmt.Sprintf("rsa-%d", k.N.BitLen()))
	case ed25519.PublicKey:
		return "ed25519"
	}
	return KeyAlgorithm(fmt.Sprintf("%T", public))
}

// weak tells whether a key is too short, or of a kind that TLS peers refuse.
func weak(public crypto.PublicKey) bool {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return k.Curve.Params().BitSize < 256
	case *rsa.PublicKey:
		return k.N.BitLen() < 2048 // NIST SP 800-131A
	case ed25519.PublicKey:
		return false
	}
	return true
}

// samePublic tells whether two public keys are the same key.
func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
