// Package release builds real etcd from its Go modules and lays it out as upstream lays out its downloads, so that
// everything here can be tried against real releases without leaving the machine.
//
// The mirror is made once and kept outside of the checkout:
//
//	<mirror>/SHA256SUMS                                       digests of all archives
//	<mirror>/v3.6.16/SHA256SUMS                               upstream's name and format
//	<mirror>/v3.6.16/etcd-v3.6.16-linux-amd64.tar.gz          upstream's shape
//	<mirror>/v3.6.16/bin/{etcd,etcdctl,etcdutl}               the same programs, unpacked
package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Versions are the releases that a mirror holds: the last patch of each minor that is supported, oldest first.
var Versions = []string{"3.5.35", "3.6.16", "3.7.3"}

// Programs are what a release is made of, by the path of their module below go.etcd.io/etcd.
var programs = map[string]string{"etcd": "server", "etcdctl": "etcdctl", "etcdutl": "etcdutl"}

// Recipe is part of the mirror's path: a mirror that was made in another way is not this one.
const recipe = "1"

// Mirror is a directory of releases.
type Mirror string

// CacheDir is where everything that takes long to make is kept: $ETCDADM_CACHE, or etcdadm below the user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("ETCDADM_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "etcdadm"), err
}

// Build returns a mirror with the given versions, and makes what is missing. It may be called by several processes
// at the same time and killed at any moment. Progress goes to log, a line for each step.
func Build(ctx context.Context, log io.Writer, versions ...string) (Mirror, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	m := Mirror(filepath.Join(cache, "mirror", recipe))
	if m.has(versions) {
		return m, nil
	}
	if err := os.MkdirAll(string(m), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(string(m), ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	for _, v := range versions {
		if m.has([]string{v}) {
			continue
		}
		if err := m.add(ctx, log, v); err != nil {
			return "", fmt.Errorf("etcd %s: %w", v, err)
		}
	}
	return m, nil
}

// URL is the address of the mirror for --release-url.
func (m Mirror) URL() string { return "file://" + string(m) }

// Sums is the file with the digests of all archives, for --sha256sums.
func (m Mirror) Sums() string { return filepath.Join(string(m), "SHA256SUMS") }

// Bin is the directory with the unpacked programs of a version.
func (m Mirror) Bin(version string) string { return filepath.Join(m.dir(version), "bin") }

// Archive is the archive of a version for this machine.
func (m Mirror) Archive(version string) string {
	return filepath.Join(m.dir(version), archiveName(version))
}

func (m Mirror) dir(version string) string { return filepath.Join(string(m), "v"+version) }

// has needs no lock: a version's directory appears whole, after its digest, and never changes.
func (m Mirror) has(versions []string) bool {
	for _, v := range versions {
		if _, err := os.Stat(m.Archive(v)); err != nil {
			return false
		}
	}
	return true
}

// add builds one version beside its place, and renames it there.
func (m Mirror) add(ctx context.Context, log io.Writer, version string) error {
	staging := m.dir(version) + ".new"
	if err := os.RemoveAll(staging); err != nil {
		return err
	}
	bin := filepath.Join(staging, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	if err := compile(ctx, log, version, bin); err != nil {
		return err
	}
	sum, err := pack(bin, filepath.Join(staging, archiveName(version)), version)
	if err != nil {
		return err
	}
	line := sum + "  " + archiveName(version) + "\n"
	if err := os.WriteFile(filepath.Join(staging, "SHA256SUMS"), []byte(line), 0o644); err != nil {
		return err
	}
	if err := m.list(line); err != nil {
		return err
	}
	return os.Rename(staging, m.dir(version))
}

// list puts a line into the list of all archives, in place of an older one for the same archive.
func (m Mirror) list(line string) error {
	old, err := os.ReadFile(m.Sums())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var b strings.Builder
	name := strings.Fields(line)[1]
	for l := range strings.Lines(string(old)) {
		if !strings.HasSuffix(l, "  "+name+"\n") {
			b.WriteString(l)
		}
	}
	b.WriteString(line)
	if err := os.WriteFile(m.Sums()+".new", []byte(b.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(m.Sums()+".new", m.Sums())
}

func archiveName(version string) string { return topDir(version) + ".tar.gz" }

func topDir(version string) string { return "etcd-v" + version + "-linux-" + runtime.GOARCH }

// lock waits until no other process works on the mirror. The kernel frees the lock of a process that died.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
