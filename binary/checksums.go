package binary

import "etcdadm/pkg/version"

//go:generate go run ./internal/gen

// digest is what the archive of one release has for its SHA-256.
type digest struct {
	version, arch, sum string
	sources            int // independent public places that name this digest
}

// compiledIn returns the digest of upstream's archive. A version with a suffix is somebody's rebuild: it has none.
func compiledIn(v version.Etcd, arch string) (digest, bool) {
	for _, d := range digests {
		if d.version == v.String() && d.arch == arch {
			return d, true
		}
	}
	return digest{}, false
}
