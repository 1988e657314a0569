package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/errs"
	"etcdadm/test/process"
)

// needsMounts skips a test where nothing can be mounted.
func needsMounts(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts are for root")
	}
}

// mount mounts at the path until the test has ended.
func mount(t *testing.T, at string, args ...string) {
	t.Helper()
	if out, err := exec.Command("mount", append(args, at)...).CombinedOutput(); err != nil {
		t.Fatalf("mount %s: %v\n%s", at, err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", at, err)
		}
	})
}

// small puts the root of a blank node on a disk of its own, an ext4 file system in a file, and returns what takes up room
// there: all but so many bytes.
func small(t *testing.T, n *node, free int64) (ballast string) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", image, "512M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	n.ok(os.MkdirAll(n.root, 0o755))
	mount(t, n.root, "-t", "ext4", "-o", "loop", image)
	t.Cleanup(func() { _ = process.Down(n.root) }) // it would keep the disk in use
	ballast = filepath.Join(n.root, "lost+found/ballast")
	f, err := os.Create(ballast)
	n.ok(err)
	defer f.Close()
	var s unix.Statfs_t
	n.ok(unix.Statfs(n.root, &s))
	n.ok(unix.Fallocate(int(f.Fd()), 0, 0, int64(s.Bavail)*s.Bsize-free))
	return ballast
}

// The disk is full: really so, each time after other so many bytes. Where it is full tells what fails, the download, the
// installation, a file or etcd itself; every time the way out is told, and when there is room the same command succeeds.
func TestDiskFillsUp(t *testing.T) {
	needsMounts(t)
	t.Parallel()
	reference := newNode(t, "test")
	small(t, reference, 400<<20)
	reference.must("init", "--ignore-preflight-errors", "FreeSpace")
	undisturbed := reference.files()
	var steps []int64
	for kib := int64(16); kib < 128; kib += 8 { // the first files; the ballast itself takes a block or two
		steps = append(steps, kib<<10)
	}
	for mib := int64(1); mib < 240; mib += 4 { // the archive, the programs, etcd's log and database
		steps = append(steps, mib<<20)
	}
	for _, i := range draw(t, len(steps), 4) {
		t.Run(fmt.Sprintf("%d KiB", steps[i]>>10), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "test")
			ballast := small(t, n, steps[i])
			args := []string{"init", "--ignore-preflight-errors", "FreeSpace"}
			r := n.run(args...)
			if r.Status != 0 {
				want := failure{errs.Precondition, `no space left|is full|no room|free, and the archive needs`, `df -h|free some space|make room`}
				switch {
				case strings.Contains(r.Stderr, "etcd does not stay up"):
					want = failure{errs.Failed, `a disk is full`, `make room, and etcd starts by itself`}
				case strings.Contains(r.Stderr, "etcd serves: still"): // its first start ended before it had made itself a member: it waits to be one
					want = failure{errs.Timeout, `etcd serves: still not so after`, `likely: a disk is full; make room`}
				}
				want.tells(t, r)
			}
			n.ok(os.Remove(ballast))
			n.converges(args...)
			n.voters("test")
			n.same(undisturbed)
		})
	}
}

// A file system is read-only: the root of the node, or a part of it.
func TestReadOnlyFileSystem(t *testing.T) {
	needsMounts(t)
	t.Parallel()
	for _, at := range []string{"", "/etc", "/etc/etcd/pki", "/opt/bin", "/run", "/var/cache", "/var/lib", "/var/lib/etcd", "/var/log"} {
		t.Run("at "+at, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "test")
			if at != "/opt/bin" && at != "/var/cache" {
				n.install("")
			}
			dir := n.root + at
			n.ok(os.MkdirAll(dir, 0o755))
			mount(t, dir, "--bind", dir)
			remount := func(how string) {
				if out, err := exec.Command("mount", "-o", "remount,bind,"+how, dir).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			t.Cleanup(func() { _ = process.Down(n.root) })
			remount("ro")
			r := n.run("init")
			failure{errs.Precondition, `read-only|cannot be changed`, `findmnt`}.tells(t, r)
			remount("rw")
			n.converges("init")
			n.voters("test")
		})
	}
}
