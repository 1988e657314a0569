// Package certs holds the certificates of a node as desired states: the CA, and the pairs that it signs.
//
// A pair is <name>.crt and <name>.key in one directory. Those that are issued here are links into a hidden directory,
// so that one rename swaps certificate and key together: etcd reads both at each TLS handshake.
//
//	server.crt            -> .pairs/server/server.crt
//	server.key            -> .pairs/server/server.key
//	.pairs/server         -> server-<fingerprint>        the link that a renewal swaps
//	.pairs/server-<fingerprint>/{server.crt,server.key}
//
// A pair of regular files was placed by an operator or an older tool. It stays as it is for as long as it fits.
// The CA is never swapped, and lies there as regular files always.
package certs

import (
	"time"

	"etcdadm/pkg/errs"
)

// The base names of the pairs. Callers of etcdadm know the files by them.
const (
	CAName        = "ca"
	ServerName    = "server"
	PeerName      = "peer"
	EtcdctlName   = "etcdctl-etcd-client"
	APIServerName = "apiserver-etcd-client"
)

// LeafNames returns the names of the pairs that the CA signs.
func LeafNames() []string { return []string{ServerName, PeerName, EtcdctlName, APIServerName} }

func clock(now func() time.Time) time.Time {
	if now == nil {
		now = time.Now
	}
	return now().UTC()
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// unreadable is the error of a file that stands there and that this user may not read.
func unreadable(path string, err error) error {
	return errs.New(errs.Precondition, "%s cannot be read: %w", path, err).Hint("run this command as root")
}
