package contract

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/test/release"
)

// offline are the flags of a node that has nothing but its cache.
var offline = []string{"--init-system", "process", "--release-url", nowhere}

// installs runs the phase of init that installs, with nothing said about the release but the flags given.
func (n *node) installs(flags ...string) []string {
	return append([]string{"init", "phase", "install", "--bind-address", n.address, "--init-system", "process"}, flags...)
}

// installed wants the programs to be those of a version, in the directory of the version that they were installed as.
func (n *node) installed(version, as string) {
	n.t.Helper()
	out, err := exec.Command(n.path("/opt/bin/etcd"), "--version").Output()
	if err != nil || !strings.Contains(string(out), "etcd Version: "+version+"\n") {
		n.t.Errorf("etcd --version: %s (%v), want %s", out, err, version)
	}
	if link, err := os.Readlink(n.path("/opt/bin/etcd")); err != nil || !strings.Contains(link, "/v"+as+"/") {
		n.t.Errorf("/opt/bin/etcd leads to %s (%v), want version %s", link, err, as)
	}
}

func TestContract03CachedReleaseNeedsNoNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.preseed(current, current)
	before, err := os.Stat(n.path(cachePath(current)))
	n.check(err)
	succeeded(t, n.bare("init", "--name", n.name, "--bind-address", n.address, "--version", "v"+current, "--init-system", "process", "--release-url", nowhere))
	n.installed(current, current)
	n.serves()
	if after, err := os.Stat(n.path(cachePath(current))); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the operator's archive was touched (%v)", err)
	}
}

// Rebuilds keep upstream's file name: another digest than upstream's is a warning.
func TestContract03RebuiltReleaseIsAWarning(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write(cachePath(constants.DefaultVersion), rebuilt(t, n.mirror, current, constants.DefaultVersion), 0o644)
	r := succeeded(t, n.bare(n.installs("--version", constants.DefaultVersion, "--release-url", nowhere)...))
	said(t, r, "warning: "+cachePath(constants.DefaultVersion)+" is used as it is, although its SHA-256 is")
	n.installed(current, constants.DefaultVersion)
}

func TestContract03TruncatedArchiveIsReplacedOrNamed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	data, err := os.ReadFile(n.mirror.Archive(current))
	n.check(err)
	n.write(cachePath(current), data[:len(data)/2], 0o644)
	failed(t, n.bare(n.installs("--version", current, "--release-url", nowhere)...), errs.Verification, cachePath(current)+" is not what it should be")
	if n.exists("/opt/bin/etcd") {
		t.Error("something was installed")
	}
	succeeded(t, n.bare(n.installs("--version", current, "--release-url", n.mirror.URL())...))
	if got := n.read(cachePath(current)); got != string(data) {
		t.Error("the archive in the cache is not the whole one")
	}
}

// A complete URL of an archive may end in any name; its digest stands beside it.
func TestContractReleaseURLOfOneArchive(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	data, err := os.ReadFile(n.mirror.Archive(current))
	n.check(err)
	file := filepath.Join(t.TempDir(), "etcd-linux_eks-d-1-30.tar.gz")
	n.check(os.WriteFile(file, data, 0o600))
	url := "file://" + file
	sum := sha256.Sum256(data)
	for _, c := range []struct {
		beside string
		status errs.Status
	}{
		{"", errs.Verification}, // nobody vouches for it
		{strings.Repeat("0", 64) + "  " + filepath.Base(file) + "\n", errs.Verification},
		{hex.EncodeToString(sum[:]) + "  " + filepath.Base(file) + "\n", errs.OK},
		{hex.EncodeToString(sum[:]) + "\n", errs.OK}, // without the name
	} {
		n.check(os.RemoveAll(n.root))
		n.check(os.RemoveAll(file + ".sha256"))
		if c.beside != "" {
			n.check(os.WriteFile(file+".sha256", []byte(c.beside), 0o600))
		}
		r := n.bare(n.installs("--version", current, "--release-url", url)...)
		if c.status != errs.OK {
			failed(t, r, c.status, filepath.Base(file))
			continue
		}
		succeeded(t, r)
		n.installed(current, current)
		if !n.exists(cachePath(current)) {
			t.Error("the archive is not in the cache under upstream's name")
		}
	}
}

// A version may have any suffix, with or without a leading v; releases lie where it says.
func TestContractVersionWithASuffix(t *testing.T) {
	t.Parallel()
	const suffixed = older + "-eks-1-30-16"
	n := newNode(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "v"+suffixed, archiveName(suffixed))
	n.check(os.MkdirAll(filepath.Dir(file), 0o755))
	data := rebuilt(t, n.mirror, older, suffixed)
	n.check(os.WriteFile(file, data, 0o600))
	sum := sha256.Sum256(data)
	n.check(os.WriteFile(filepath.Join(filepath.Dir(file), "SHA256SUMS"), []byte(hex.EncodeToString(sum[:])+"  "+filepath.Base(file)+"\n"), 0o600))
	given := []string{"init", "--name", n.name, "--bind-address", n.address, "--init-system", "process", "--release-url", "file://" + dir}
	succeeded(t, n.bare(append(given, "--version", "v"+suffixed)...))
	n.installed(older, suffixed)
	n.serves()
	if r := succeeded(t, n.bare(append(given, "--version", suffixed, "-o", "json")...)); r.Changed {
		t.Errorf("the version without its v is another one: %s", r)
	}
}

func TestContract14OnlyCachedRelease(t *testing.T) {
	t.Parallel()
	for _, version := range []string{older, older + "-eks-1-30-16"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.write(cachePath(version), rebuilt(t, n.mirror, older, version), 0o644)
			given := append([]string{"init", "--name", n.name, "--bind-address", n.address}, offline...)
			said(t, succeeded(t, n.bare(given...)), "warning: etcd "+version+" is installed, the only release in the cache: no --version was given")
			n.installed(older, version)
			n.serves()
			// What was chosen once stays, whatever the cache holds later.
			n.preseed(current, current)
			r := succeeded(t, n.bare(append(given, "-o", "json")...))
			if r.Changed || strings.Contains(r.Stderr, "warning: etcd") {
				t.Errorf("the second run chose anew: %s", r)
			}
		})
	}
	t.Run("in phases", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.preseed(older, older)
		// No release is chosen by what installs none: neither is a server asked.
		certificates := succeeded(t, n.bare(append([]string{"init", "phase", "certificates", "--bind-address", n.address}, offline...)...))
		if strings.Contains(certificates.Stderr, "warning") || strings.Contains(n.read("/etc/etcdadm/config.yaml"), "version:") {
			t.Errorf("the phase certificates chose a release: %s", certificates)
		}
		succeeded(t, n.bare(n.installs("--release-url", nowhere)...))
		n.installed(older, older)
		succeeded(t, n.bare(append([]string{"init", "--bind-address", n.address}, offline...)...))
		n.serves()
	})
	t.Run("a server that never answers", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.preseed(older, older)
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		n.check(err)
		t.Cleanup(func() { _ = l.Close() })
		r := succeeded(t, n.bare(n.installs("--release-url", "http://"+l.Addr().String(), "--download-connect-timeout", "2s")...)) // to connect takes no time, and to be heard of some
		said(t, r, "no answer within 2s")
		n.installed(older, older)
	})
}

// Where another release is meant, or none can be chosen, the cache does not decide.
func TestContract14NotTheOnlyCachedRelease(t *testing.T) {
	t.Parallel()
	t.Run("with network the default is installed", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.preseed(older, older)
		dir := t.TempDir()
		file := filepath.Join(dir, "v"+constants.DefaultVersion, archiveName(constants.DefaultVersion))
		n.check(os.MkdirAll(filepath.Dir(file), 0o755))
		data := rebuilt(t, n.mirror, current, constants.DefaultVersion)
		n.check(os.WriteFile(file, data, 0o600))
		sum := sha256.Sum256(data)
		sums := filepath.Join(dir, "sums")
		n.check(os.WriteFile(sums, []byte(hex.EncodeToString(sum[:])+"  "+filepath.Base(file)+"\n"), 0o600))
		succeeded(t, n.bare(n.installs("--release-url", "file://"+dir, "--sha256sums", sums)...))
		n.installed(current, constants.DefaultVersion)
	})
	t.Run("the default is in the cache too", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.preseed(older, older)
		n.write(cachePath(constants.DefaultVersion), rebuilt(t, n.mirror, current, constants.DefaultVersion), 0o644)
		succeeded(t, n.bare(n.installs("--release-url", nowhere)...))
		n.installed(current, constants.DefaultVersion)
	})
	t.Run("two others", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.preseed(older, older)
		n.preseed(current, current)
		failed(t, n.bare(n.installs("--release-url", nowhere)...), errs.Failed, constants.DefaultVersion, "with --version: "+older+", "+current)
	})
	t.Run("one for another machine", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.write("/var/cache/etcdadm/etcd/v"+older+"/etcd-v"+older+"-linux-mips.tar.gz", []byte("x"), 0o644)
		failed(t, n.bare(n.installs("--release-url", nowhere)...), errs.Failed, constants.DefaultVersion)
	})
	t.Run("a truncated one", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		data, err := os.ReadFile(n.mirror.Archive(older))
		n.check(err)
		n.write(cachePath(older), data[:len(data)/2], 0o644)
		failed(t, n.bare(n.installs("--release-url", nowhere)...), errs.Verification, cachePath(older)+" is not what it should be")
	})
	t.Run("another version is stored", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		n.preseed(older, older)
		n.write(constants.ConfigFile, []byte("apiVersion: etcdadm/v1\nkind: Config\nversion: "+current+"\n"), 0o644)
		failed(t, n.bare(n.installs("--release-url", nowhere)...), errs.Failed, current, "with --version: "+older)
	})
}

// builds are the archives that rebuilt has made.
var builds = struct {
	sync.Mutex
	made map[string][]byte
}{made: map[string][]byte{}}

// rebuilt is a release of the mirror as somebody else's build of another version, or of the same.
func rebuilt(t *testing.T, mirror release.Mirror, version, as string) []byte {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if data := builds.made[version+as]; data != nil {
		return data
	}
	dir := t.TempDir()
	for _, argv := range [][]string{
		{"tar", "xzf", mirror.Archive(version), "-C", dir},
		{"tar", "cf", filepath.Join(dir, "rebuilt.tar.gz"), "-I", "gzip -1", "-C", dir, "--transform", "s/^etcd-v" + version + "-/etcd-v" + as + "-/", strings.TrimSuffix(archiveName(version), ".tar.gz")},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "rebuilt.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	builds.made[version+as] = data
	return data
}
