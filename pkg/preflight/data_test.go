package preflight_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/host"
	"etcdadm/pkg/preflight"
)

func TestStaticPods(t *testing.T) {
	h := host.New(t.TempDir())
	ours := func(text []byte) bool { return string(text) == "ours: ETCD_LISTEN_PEER_URLS" }
	s := preflight.StaticPods{Host: h, Dir: "/m", File: "etcd.manifest", Ours: ours}
	expect(t, "no directory", s, verdict{})
	for name, c := range map[string]struct {
		file, text string
		want       verdict
	}{
		"ours":                       {"etcd.manifest", "ours: ETCD_LISTEN_PEER_URLS", verdict{}},
		"another one under our name": {"etcd.manifest", "theirs", verdict{refused: "/m/etcd.manifest is a static pod that etcdadm did not write", hint: "move the file away"}},
		"kubeadm's":                  {"etcd.yaml", "    - --listen-peer-urls=https://10.0.0.7:2380", verdict{refused: "/m/etcd.yaml", hint: "two nodes"}},
		"of another program":         {"kube-vip.yaml", "vip", verdict{}},
		"hidden":                     {".etcd.yaml", "--listen-peer-urls", verdict{}},
	} {
		must(t, h.RemoveAll("/m"))
		must(t, h.WriteFile("/m/"+c.file, []byte(c.text), 0o600))
		expect(t, name, s, c.want)
	}
	must(t, h.RemoveAll("/m"))
	must(t, h.WriteFile("/m", nil, 0o600))
	expect(t, "a file", s, verdict{refused: "the directory of static pods cannot be read", hint: "--kubelet-pod-manifest-path"})
}

func TestDataDirectory(t *testing.T) {
	h := host.New(t.TempDir())
	must(t, h.MkdirAll("/var/lib/etcd/member", 0o700))
	holds := func(c preflight.Contents, detail string) func(context.Context) (preflight.Contents, string, error) {
		return func(context.Context) (preflight.Contents, string, error) { return c, detail, nil }
	}
	for name, c := range map[string]struct {
		contents preflight.Contents
		detail   string
		ours     bool
		want     verdict
	}{
		"empty":             {preflight.Empty, "", false, verdict{}},
		"empty, begun":      {preflight.Empty, "", true, verdict{}},
		"a member":          {preflight.Whole, "", false, verdict{refused: "/var/lib/etcd holds the data of a member already", hint: "mv "}},
		"our member":        {preflight.Whole, "", true, verdict{}},
		"half a member":     {preflight.Half, "no database", false, verdict{refused: "half of a member (no database)", hint: "mv "}},
		"half of our own":   {preflight.Half, "no WAL", true, verdict{refused: "half of a member (no WAL)"}},
		"files of others":   {preflight.Foreign, "base, pg_wal", false, verdict{refused: "(base, pg_wal)", hint: "--data-dir"}},
		"others beside our": {preflight.Foreign, "base", true, verdict{refused: "(base)"}},
		"unreadable":        {preflight.Unreadable, "", false, verdict{warning: "not readable for this user"}},
	} {
		expect(t, name, preflight.DataDirectory{Host: h, Path: "/var/lib/etcd", Ours: c.ours, Inspect: holds(c.contents, c.detail)}, c.want)
	}
}

// What the hint says is done by a shell: afterwards the directory is clean, the data is there, and a link is a link.
func TestDataDirectoryIsSetAsideByItsHint(t *testing.T) {
	for _, linked := range []bool{false, true} {
		h := host.New(filepath.Join(t.TempDir(), "the root's"))
		if linked {
			must(t, h.MkdirAll("/mnt/disk", 0o700))
			must(t, h.Symlink("/mnt/disk", "/data"))
		}
		must(t, h.WriteFile("/data/member/wal", []byte("kept"), 0o600))
		_, err := preflight.DataDirectory{Host: h, Path: "/data", Inspect: func(context.Context) (preflight.Contents, string, error) {
			return preflight.Whole, "", nil
		}}.Check(context.Background())
		_, command := cutHint(t, err)
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %s", command, out)
		}
		if there, _ := h.Exists("/data/member"); there {
			t.Errorf("linked %v: the data is still in the way", linked)
		}
		if _, err := h.Readlink("/data"); linked && err != nil {
			t.Error("the link was moved instead of what it leads to")
		}
		kept, _ := filepath.Glob(h.Root() + "/data.*/member/wal")
		inside, _ := filepath.Glob(h.Root() + "/mnt/disk/member.*/wal")
		if len(kept)+len(inside) != 1 {
			t.Errorf("linked %v: the data is at %q %q", linked, kept, inside)
		}
	}
}

func TestFileSystems(t *testing.T) {
	base := t.TempDir()
	thread(func() {
		// A table of mounts for this thread alone.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Logf("no mounts of our own here: %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		for _, c := range []struct {
			name, kind, options string
			flags               uintptr
			want                verdict
		}{
			{"ram", "ramfs", "", 0, verdict{warning: "/var/lib/etcd is on ramfs"}},
			{"temporary", "tmpfs", "size=8g", 0, verdict{warning: "/var/lib/etcd is on tmpfs: the data is gone after a reboot"}},
			{"read-only", "tmpfs", "", unix.MS_RDONLY, verdict{refused: "/var/lib/etcd is mounted read-only", hint: "findmnt -T " + base + "/read-only/var/lib/etcd"}},
			{"container", "overlay", "lowerdir=" + base + "/temporary/lower,upperdir=" + base + "/temporary/upper,workdir=" + base + "/temporary/work", 0,
				verdict{warning: "/var/lib/etcd is on overlay"}},
		} {
			dir := filepath.Join(base, c.name)
			_ = os.Mkdir(dir, 0o755)
			for _, d := range []string{"lower", "upper", "work"} {
				_ = os.Mkdir(filepath.Join(base, "temporary", d), 0o755)
			}
			if err := unix.Mount(c.kind, dir, c.kind, c.flags, c.options); err != nil {
				t.Logf("%s cannot be mounted here: %v", c.kind, err)
				continue
			}
			expect(t, c.name, preflight.DataFileSystem{Host: host.New(dir), Path: "/var/lib/etcd"}, c.want)
		}
		h := host.New(filepath.Join(base, "temporary"))
		size := func(n int64) func(context.Context) (int64, error) {
			return func(context.Context) (int64, error) { return n, nil }
		}
		expect(t, "room", preflight.FreeSpace{Host: h, Path: "/data"}, verdict{})
		expect(t, "room for a database", preflight.FreeSpace{Host: h, Path: "/data", Database: size(3 << 30)}, verdict{})
		expect(t, "no room for it twice", preflight.FreeSpace{Host: h, Path: "/data", Database: size(5 << 30)},
			verdict{refused: "/data has 8.0 GiB free, and needs 10.0 GiB, twice the database of 5.0 GiB", hint: "--data-dir"})
		if err := unix.Mount("", h.Root(), "", unix.MS_REMOUNT, "size=512m"); err != nil {
			t.Error(err)
		}
		expect(t, "no room at all", preflight.FreeSpace{Host: h, Path: "/data", Database: size(1)}, verdict{refused: "/data has 512.0 MiB free, and needs 1.0 GiB", hint: "df -h"})
	})
}
