package service

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Definition is all that etcd reads once, when it starts. Certificates and keys other than the CA are no part of it:
// etcd reads them again at each TLS handshake. Nor is the bootstrap file, which matters once in a member's life.
type Definition struct {
	Service     string // Backend.Definition
	Environment []KV
	CA          []byte // the CA bundle
	Binary      string // logical path of the etcd that the link in the install directory leads to
}

// Digest is the hex SHA-256 of the definition. Two definitions have the same one exactly when no restart lies between them.
func (d Definition) Digest() string {
	sum := sha256.New()
	// Every part is preceded by its length, so that no two definitions run together to the same bytes.
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		sum.Write(n[:])
		sum.Write(b)
	}
	part([]byte(d.Service))
	part(d.CA)
	part([]byte(d.Binary))
	for _, kv := range d.Environment {
		part([]byte(kv.String()))
	}
	return hex.EncodeToString(sum.Sum(nil))
}
