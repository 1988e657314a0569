package service

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/host"
)

// begins is how long a new process may take to become etcd, on a machine that is busy with others that start.
var begins = 10 * time.Second

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

// startedWith returns the environment that a process of etcd was started with. A new process shows that of whoever made it
// until it becomes etcd, and none at all for an instant in between (proc(5) has no bounds for it yet): one without a digest
// is looked at again until it is no longer new. An error is a process that has ended, or that is not ours to look into.
func startedWith(ctx context.Context, h *host.Host, pid int) (map[string]string, error) {
	for deadline := time.Now().Add(begins); ; {
		env, err := h.Environ(pid)
		if err != nil || env[constants.DigestVariable] != "" || time.Now().After(deadline) {
			return env, err
		}
		if since, err := h.Started(pid); err != nil || time.Since(since) > begins {
			return env, err
		}
		if err := pause(ctx, lookAgain); err != nil {
			return nil, err
		}
	}
}

// otherProgram tells whether a process runs another program than the one that a path leads to. A run that was killed may have
// moved the link to it, and etcd been started again from there with the settings of before, which look as wanted when the link
// is moved back. What cannot be seen is not judged; nor is a script, whose process is that of another program anyway.
func otherProgram(h *host.Host, pid int, at string) bool {
	path, runs, err := h.Program(pid)
	if err != nil || path == h.Resolved(at) {
		return false
	}
	f, err := h.Open(at)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 2)
	if _, err := io.ReadFull(f, head); err != nil || string(head) == "#!" {
		return false
	}
	there, err := f.Stat()
	return err == nil && !os.SameFile(runs, there) // under another name, as in a container
}
