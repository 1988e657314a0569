package binary_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"etcdadm/binary"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/test/releaseserver"
)

// cached is a new node with an archive of the version in its cache.
func cached(t *testing.T, v string) binary.Installed {
	t.Helper()
	i := binary.Installed{Source: source(t, v, "file:///nowhere"), InstallDir: "/opt/bin/"}
	cache(t, i, v)
	return i
}

func cache(t *testing.T, i binary.Installed, v string) binary.Installed {
	t.Helper()
	i.Version = parse(t, v)
	file, _, err := releaseserver.Publish(t.TempDir(), v, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	put(t, i.Host, i.CachePath(), data)
	return i
}

// tree lists what is below a directory of the node: mode, path, and the text of links.
func tree(t *testing.T, h *host.Host, dir string) []string {
	t.Helper()
	var list []string
	root := h.Path(dir)
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s", info.Mode(), strings.TrimPrefix(p, root+"/"))
		if text, err := os.Readlink(p); err == nil {
			line += " -> " + text
		}
		list = append(list, line)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return list
}

func installedTree(v string) []string {
	return []string{
		"drwxr-xr-x .etcdadm",
		"drwxr-xr-x .etcdadm/v" + v,
		"-rwxr-xr-x .etcdadm/v" + v + "/etcd", "-rwxr-xr-x .etcdadm/v" + v + "/etcdctl", "-rwxr-xr-x .etcdadm/v" + v + "/etcdutl",
		"Lrwxrwxrwx etcd -> .etcdadm/v" + v + "/etcd", "Lrwxrwxrwx etcdctl -> .etcdadm/v" + v + "/etcdctl", "Lrwxrwxrwx etcdutl -> .etcdadm/v" + v + "/etcdutl",
	}
}

func wantTree(t *testing.T, h *host.Host, want []string) {
	t.Helper()
	if d := cmp.Diff(want, tree(t, h, "/opt/bin")); d != "" {
		t.Errorf("/opt/bin (-want +have):\n%s", d)
	}
}

func TestInstall(t *testing.T) {
	i := cached(t, unlisted)
	mustRun(t, i, true)
	wantTree(t, i.Host, installedTree(unlisted))
	mustRun(t, i, false)
	for _, tool := range []string{"etcd", "etcdctl", "etcdutl"} {
		// Through the link, from outside of the root.
		b, err := os.ReadFile(filepath.Join(i.Host.Root(), "opt/bin", tool))
		if want := releaseserver.Program("amd64", tool+" "+unlisted); err != nil || string(b) != string(want) {
			t.Errorf("%s: %d bytes, %v", tool, len(b), err)
		}
	}
	v, ok, err := binary.InstalledVersion(i.Host, i.InstallDir)
	if v.String() != unlisted || !ok || err != nil {
		t.Errorf("installed version %v, %v, %v", v, ok, err)
	}
}

func TestInstallRepairs(t *testing.T) {
	release := "/opt/bin/.etcdadm/v" + unlisted
	for _, c := range []struct {
		name  string
		spoil func(*host.Host) error
	}{
		{"a program is gone", func(h *host.Host) error { return h.Remove(release + "/etcdctl") }},
		{"a program is empty", func(h *host.Host) error { return h.WriteFile(release+"/etcd", nil, 0o755) }},
		{"a program is not executable", func(h *host.Host) error { return h.Chmod(release+"/etcd", 0o644) }},
		{"a program is a directory", func(h *host.Host) error {
			return errors.Join(h.Remove(release+"/etcd"), h.MkdirAll(release+"/etcd/x", 0o755))
		}},
		{"the release is gone", func(h *host.Host) error { return h.RemoveAll(release) }},
		{"a link is gone", func(h *host.Host) error { return h.Remove("/opt/bin/etcd") }},
		{"a link leads elsewhere", func(h *host.Host) error { return h.Symlink("/bin/true", "/opt/bin/etcd") }},
		{"a file in the place of a link", func(h *host.Host) error { return h.WriteFile("/opt/bin/etcd", []byte("old"), 0o755) }},
		{"leftovers of a killed run", func(h *host.Host) error {
			return errors.Join(h.RemoveAll(release), h.WriteFile(host.Staging(release)+"/etcd", []byte("half"), 0o600),
				h.MkdirAll(host.Staging(release)+"/junk", 0o700))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := cached(t, unlisted)
			mustRun(t, i, true)
			if err := c.spoil(i.Host); err != nil {
				t.Fatal(err)
			}
			mustRun(t, i, true)
			wantTree(t, i.Host, installedTree(unlisted))
		})
	}
}

func TestOtherVersionMovesTheLinksAlone(t *testing.T) {
	i := cached(t, unlisted)
	mustRun(t, i, true)
	before, err := os.Stat(i.Host.Path("/opt/bin/.etcdadm/v" + unlisted + "/etcd"))
	if err != nil {
		t.Fatal(err)
	}
	next := cache(t, i, "3.7.3")
	mustRun(t, next, true)
	if v, _, _ := binary.InstalledVersion(i.Host, "/opt/bin"); v.String() != "3.7.3" {
		t.Errorf("installed version %v", v)
	}
	// And back, without the archive.
	if err := i.Host.Remove(i.CachePath()); err != nil {
		t.Fatal(err)
	}
	mustRun(t, i, true)
	after, err := os.Stat(i.Host.Path("/opt/bin/etcd"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("another file: %v", err)
	}
}

func TestInstallRefuses(t *testing.T) {
	t.Run("no archive", func(t *testing.T) {
		i := binary.Installed{Source: source(t, unlisted, ""), InstallDir: "/opt/bin"}
		mustFail(t, i, errs.Failed, i.CachePath()+" is absent")
	})
	t.Run("another architecture", func(t *testing.T) {
		i := cached(t, unlisted)
		data, err := releaseserver.Archive(releaseserver.File("x/etcd", releaseserver.Program("arm64", "a")),
			releaseserver.File("x/etcdctl", releaseserver.Program("arm64", "b")), releaseserver.File("x/etcdutl", releaseserver.Program("arm64", "c")))
		if err != nil {
			t.Fatal(err)
		}
		put(t, i.Host, i.CachePath(), data)
		mustFail(t, i, errs.Verification, i.CachePath(), "is a program for EM_AARCH64, not for amd64")
	})
	t.Run("no program", func(t *testing.T) {
		i := cached(t, unlisted)
		data, err := releaseserver.Archive(releaseserver.File("x/etcd", []byte("#!/bin/sh\n")),
			releaseserver.File("x/etcdctl", []byte("#!/bin/sh\n")), releaseserver.File("x/etcdutl", []byte("#!/bin/sh\n")))
		if err != nil {
			t.Fatal(err)
		}
		put(t, i.Host, i.CachePath(), data)
		mustFail(t, i, errs.Verification, "is not a program for Linux")
	})
	t.Run("a truncated archive", func(t *testing.T) {
		i := cached(t, unlisted)
		data, err := i.Host.ReadFile(i.CachePath())
		if err != nil {
			t.Fatal(err)
		}
		put(t, i.Host, i.CachePath(), data[:len(data)-10])
		mustFail(t, i, errs.Verification, i.CachePath(), "unexpected EOF")
		if _, ok, _ := binary.InstalledVersion(i.Host, "/opt/bin"); ok {
			t.Error("it is linked")
		}
	})
	t.Run("a directory in the place of a link", func(t *testing.T) {
		i := cached(t, unlisted)
		if err := i.Host.MkdirAll("/opt/bin/etcd", 0o755); err != nil {
			t.Fatal(err)
		}
		mustFail(t, i, errs.Precondition, "/opt/bin/etcd is a directory")
	})
}

func TestInstalledVersionOfOthers(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*host.Host) error
	}{
		{"nothing", func(*host.Host) error { return nil }},
		{"a file", func(h *host.Host) error { return h.WriteFile("/opt/bin/etcd", nil, 0o755) }},
		{"a link of somebody else", func(h *host.Host) error { return h.Symlink("/bin/true", "/opt/bin/etcd") }},
		{"a link to nowhere", func(h *host.Host) error { return h.Symlink(".etcdadm/v3.6.16/etcd", "/opt/bin/etcd") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := host.New(t.TempDir())
			if err := c.make(h); err != nil {
				t.Fatal(err)
			}
			if v, ok, err := binary.InstalledVersion(h, "/opt/bin"); ok || err != nil {
				t.Errorf("%v, %v, %v", v, ok, err)
			}
		})
	}
}

func TestRemovedTakesOursAlone(t *testing.T) {
	i := cached(t, unlisted)
	mustRun(t, i, true)
	others := []string{"-rwxr-xr-x etcdctl.sh", "Lrwxrwxrwx etcdutl -> /usr/bin/etcdutl", "-rwxr-xr-x jq"}
	h := i.Host
	err := errors.Join(h.WriteFile("/opt/bin/jq", nil, 0o755), h.WriteFile("/opt/bin/etcdctl.sh", nil, 0o755),
		h.Symlink("/usr/bin/etcdutl", "/opt/bin/etcdutl"), os.Symlink("x", h.Path(host.Staging("/opt/bin/etcd"))))
	if err != nil {
		t.Fatal(err)
	}
	r := binary.Removed{Host: h, InstallDir: "/opt/bin/"}
	mustRun(t, r, true)
	wantTree(t, h, others)
	mustRun(t, r, false)
	mustRun(t, binary.Removed{Host: host.New(t.TempDir()), InstallDir: "/opt/bin"}, false)
}

// killed is what a host that dies before an act throws.
type killed struct{}

// TestCrashAnywhere stops before each act in turn, runs again, and wants the same end.
func TestCrashAnywhere(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		name string
		want func(binary.Source) []converge.Resource
		tree []string
	}{
		{"install", func(s binary.Source) []converge.Resource {
			return []converge.Resource{binary.Archive{Source: s}, binary.Installed{Source: s, InstallDir: "/opt/bin"}}
		}, installedTree(unlisted)},
		{"reset", func(s binary.Source) []converge.Resource {
			return []converge.Resource{binary.Removed{Host: s.Host, InstallDir: "/opt/bin"}}
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for n := 1; ; n++ {
				root := t.TempDir()
				src := source(t, unlisted, s.Base("ok"))
				src.Host = host.New(root)
				if c.name == "reset" {
					mustRun(t, binary.Archive{Source: src}, true)
					mustRun(t, binary.Installed{Source: src, InstallDir: "/opt/bin"}, true)
				}
				acts := 0
				src.Host = host.New(root, host.Observe(func(string) {
					if acts++; acts == n {
						panic(killed{})
					}
				}))
				survived := func() (survived bool) {
					defer func() {
						if r := recover(); r != nil && r != (killed{}) {
							panic(r)
						}
					}()
					for _, w := range c.want(src) {
						if r, _ := run(t.Context(), w); r.Err != nil {
							t.Fatal(r.Err)
						}
					}
					return true
				}()
				src.Host = host.New(root)
				for _, w := range c.want(src) {
					if r, _ := run(t.Context(), w); r.Err != nil {
						t.Fatalf("killed before act %d: %v", n, r.Err)
					}
				}
				if d := cmp.Diff(c.tree, tree(t, src.Host, "/opt/bin")); d != "" {
					t.Fatalf("killed before act %d (-want +have):\n%s", n, d)
				}
				src.Host = host.New(root, host.Observe(func(act string) { t.Errorf("killed before act %d, third run: %s", n, act) }))
				for _, w := range c.want(src) {
					mustRun(t, w, false)
				}
				if survived {
					if n < 5 {
						t.Errorf("only %d acts", n-1)
					}
					return
				}
			}
		})
	}
}
