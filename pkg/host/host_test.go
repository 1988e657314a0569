package host_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// childVariable makes this test program one of the children below instead.
const childVariable = "HOST_TEST_CHILD"

var children = map[string]func(args []string) error{
	"act":   actAndDie,
	"lock":  lockAndWait,
	"mount": mountAndLook,
}

func TestMain(m *testing.M) {
	if child := os.Getenv(childVariable); child != "" {
		if err := children[child](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is this test program as another process.
func child(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), childVariable+"="+name)
	c.Stderr = os.Stderr
	return c
}

// acts are what the tests have killed, each with what stands there before and after.
var acts = map[string]struct {
	before func(root string) error
	do     func(h *host.Host) error
	after  map[string]string
}{
	"write a new file": {
		do:    func(h *host.Host) error { return h.WriteFile("/etc/etcd/etcd.env", []byte("new"), 0o640) },
		after: map[string]string{"etc": "drwxr-xr-x", "etc/etcd": "drwxr-xr-x", "etc/etcd/etcd.env": "-rw-r----- new"},
	},
	"replace a file": {
		before: write("f", "old", 0o644),
		do:     func(h *host.Host) error { return h.WriteFile("/f", []byte("new"), 0o600) },
		after:  map[string]string{"f": "-rw------- new"},
	},
	"replace a link by a file": {
		before: func(root string) error {
			return errors.Join(write("kept", "kept", 0o644)(root), os.Symlink("kept", filepath.Join(root, "f")))
		},
		do:    func(h *host.Host) error { return h.WriteFile("/f", []byte("new"), 0o600) },
		after: map[string]string{"f": "-rw------- new", "kept": "-rw-r--r-- kept"},
	},
	"replace a file in a watched directory": {
		before: func(root string) error {
			d := filepath.Join(root, "d")
			return errors.Join(os.Mkdir(d, 0o755), os.Chmod(d, 0o755), write("d/f", "old", 0o644)(root))
		},
		do:    func(h *host.Host) error { return h.WriteWatched("/d/f", []byte("new"), 0o600) },
		after: map[string]string{"d": "drwxr-xr-x", "d/f": "-rw------- new"},
	},
	"write a file that others may be making": {
		do: func(h *host.Host) error {
			f, err := h.CreateLocked("/f", 0o600)
			if err != nil {
				return err
			}
			defer f.Discard()
			if _, err := f.WriteString("new"); err != nil {
				return err
			}
			return f.Commit()
		},
		after: map[string]string{"f": "-rw------- new"},
	},
	"copy a file": {
		before: write("from", "data", 0o600),
		do:     func(h *host.Host) error { return h.CopyFile("/from", "/to", 0o640) },
		after:  map[string]string{"from": "-rw------- data", "to": "-rw-r----- data"},
	},
	"make a link": {
		do:    func(h *host.Host) error { return h.Symlink("../releases/v2/etcd", "/bin/etcd") },
		after: map[string]string{"bin": "drwxr-xr-x", "bin/etcd": "link ../releases/v2/etcd"},
	},
	"turn a link": {
		before: func(root string) error { return os.Symlink("v1", filepath.Join(root, "etcd")) },
		do:     func(h *host.Host) error { return h.Symlink("v2", "/etcd") },
		after:  map[string]string{"etcd": "link v2"},
	},
	"replace a file by a link": {
		before: write("etcd", "binary", 0o755),
		do:     func(h *host.Host) error { return h.Symlink("v2", "/etcd") },
		after:  map[string]string{"etcd": "link v2"},
	},
	"make a directory where a link leads": {
		before: func(root string) error { return os.Symlink("/disk/etcd", filepath.Join(root, "data")) },
		do:     func(h *host.Host) error { return h.MkdirAll("/data", 0o700) },
		after:  map[string]string{"data": "link /disk/etcd", "disk": "drwxr-xr-x", "disk/etcd": "drwx------"},
	},
}

// actAndDie does one of the acts under a root, and is killed before its nth announcement.
func actAndDie(args []string) error {
	root, name := args[0], args[1]
	left := 0
	if _, err := fmt.Sscan(args[2], &left); err != nil {
		return err
	}
	return acts[name].do(host.New(root, host.Observe(func(string) {
		if left--; left == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})))
}

// A process that is killed before any act leaves what was there, and the next one arrives at the same end.
func TestKilledBeforeEachAct(t *testing.T) {
	for name, a := range acts {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				if n > 20 {
					t.Fatal("no end of acts")
				}
				root := t.TempDir()
				if a.before != nil {
					must(t, a.before(root))
				}
				before := tree(t, root)
				err := child(t, "act", root, name, fmt.Sprint(n)).Run()
				for path, is := range tree(t, root) {
					if was, ok := before[path]; is != was && is != a.after[path] && !host.IsStaging(filepath.Base(path)) {
						t.Errorf("killed before act %d: %s is %q, was %q (there: %v)", n, path, is, was, ok)
					}
				}
				for path := range before {
					if _, err := os.Lstat(filepath.Join(root, path)); err != nil {
						t.Errorf("killed before act %d: %v", n, err)
					}
				}
				for range 2 { // the second time over what is right already
					must(t, a.do(host.New(root)))
					if diff := cmp.Diff(a.after, tree(t, root)); diff != "" {
						t.Errorf("killed before act %d and run again (-want +got):\n%s", n, diff)
					}
				}
				if err == nil { // it was not killed any more
					if n == 1 {
						t.Error("not one act was announced")
					}
					return
				}
			}
		})
	}
}

// What is done together is made durable at the end: what is gone by then cannot be, and that is an error.
func TestTogetherIsDurableAtTheEnd(t *testing.T) {
	h := host.New(t.TempDir())
	write := func(then func()) error {
		return h.Together(func(h *host.Host) error {
			for _, p := range []string{"/a/1", "/a/2", "/b/3"} {
				if err := h.WriteFile(p, []byte(p), 0o600); err != nil {
					return err
				}
			}
			then()
			return nil
		})
	}
	if err := write(func() {}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/a/1", "/a/2", "/b/3"} {
		if data, err := h.ReadFile(p); err != nil || string(data) != p {
			t.Errorf("%s holds %q, %v", p, data, err)
		}
	}
	if err := write(func() { _ = os.Remove(h.Path("/a/2")) }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was removed behind its back is durable: %v", err)
	}
	if err := h.Together(func(*host.Host) error { return errors.New("no") }); err == nil || err.Error() != "no" {
		t.Errorf("the error of what is done is %v", err)
	}
}

func TestStagedFileIsNothingUntilCommit(t *testing.T) {
	root := t.TempDir()
	h := host.New(root)
	must(t, write("f", "old", 0o644)(root))
	f, err := h.Create("/f", 0o600)
	must(t, err)
	if _, err := f.WriteString("half"); err != nil {
		t.Fatal(err)
	}
	if b, _ := h.ReadFile("/f"); string(b) != "old" {
		t.Errorf("before Commit the file holds %q", b)
	}
	f.Discard()
	if diff := cmp.Diff(map[string]string{"f": "-rw-r--r-- old"}, tree(t, root)); diff != "" {
		t.Errorf("after Discard (-want +got):\n%s", diff)
	}
	must(t, h.WriteFile("/f", []byte("new"), 0o600))
	f.Discard() // again, and late: it must not take the new file away
	if b, _ := h.ReadFile("/f"); string(b) != "new" {
		t.Errorf("a late Discard left %q", b)
	}
}

// Of two who make the same file, the second one ends, and takes nothing away from the first.
func TestCreateLockedHasOneMakerAtATime(t *testing.T) {
	root := t.TempDir()
	h := host.New(root)
	first, err := h.CreateLocked("/f", 0o600)
	must(t, err)
	_, err = first.WriteString("half")
	must(t, err)
	_, err = h.CreateLocked("/f", 0o600)
	if errs.StatusOf(err) != errs.Locked || len(errs.HintsOf(err)) == 0 {
		t.Errorf("the second one got %v", err)
	}
	_, err = first.WriteString(" and half")
	must(t, err)
	must(t, first.Commit())
	first.Discard()
	if diff := cmp.Diff(map[string]string{"f": "-rw------- half and half"}, tree(t, root)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// What nobody holds goes, and where a link leads stays.
	for name, leave := range map[string]func(real string) error{
		"a file of a run that was killed": func(real string) error { return os.WriteFile(real, []byte("a longer leftover"), 0o600) },
		"a link":                          func(real string) error { return os.Symlink("f", real) },
	} {
		must(t, leave(h.Path(host.Staging("/g"))))
		g, err := h.CreateLocked("/g", 0o600)
		must(t, err)
		_, err = g.WriteString("new")
		must(t, err)
		must(t, g.Commit())
		g.Discard()
		if diff := cmp.Diff(map[string]string{"f": "-rw------- half and half", "g": "-rw------- new"}, tree(t, root)); diff != "" {
			t.Errorf("over %s (-want +got):\n%s", name, diff)
		}
	}
}

// Whoever gets to make the file has it alone until the end, however many come at the same time.
func TestCreateLockedAtOnce(t *testing.T) {
	root := t.TempDir()
	var all sync.WaitGroup
	var made atomic.Int32
	for n := range 6 {
		all.Go(func() {
			h, mine := host.New(root), strconv.Itoa(n)
			for i := range 30 {
				f, err := h.CreateLocked("/f", 0o600)
				if errs.StatusOf(err) == errs.Locked {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				made.Add(1)
				_, err = f.WriteString(mine)
				if b, rerr := os.ReadFile(f.Name()); err != nil || string(b) != mine {
					t.Errorf("the file of %s holds %q: %v, %v", mine, b, err, rerr)
				}
				if i%2 == 0 {
					if err := f.Commit(); err != nil {
						t.Error(err)
					}
				}
				f.Discard()
			}
		})
	}
	all.Wait()
	if made.Load() == 0 {
		t.Error("nobody made the file")
	}
	for name := range tree(t, root) {
		if name != "f" {
			t.Errorf("%s is left", name)
		}
	}
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	root := t.TempDir()
	h := host.New(root)
	must(t, h.WriteFile("/etc/etcd/ca.crt", []byte("x"), 0o644))
	want := map[string]string{"etc": "drwxr-xr-x", "etc/etcd": "drwxr-xr-x", "etc/etcd/ca.crt": "-rw-r--r-- x"}
	if diff := cmp.Diff(want, tree(t, root)); diff != "" {
		t.Error(diff)
	}
}

func TestLinksStayInsideTheRoot(t *testing.T) {
	links := map[string]string{
		"absolute":  "/mnt/pki",
		"relative":  "../mnt/pki",
		"too high":  "../../../../../../../../../mnt/pki",
		"in stages": "/stage",
	}
	for name, text := range links {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			h := host.New(root)
			must(t, os.MkdirAll(filepath.Join(root, "mnt/pki"), 0o755))
			must(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
			must(t, os.Symlink("/mnt/pki", filepath.Join(root, "stage")))
			must(t, os.Symlink(text, filepath.Join(root, "etc/pki")))

			must(t, h.WriteFile("/etc/pki/ca.crt", []byte("inside"), 0o644))
			if b, err := os.ReadFile(filepath.Join(root, "mnt/pki/ca.crt")); string(b) != "inside" {
				t.Fatalf("not written inside the root: %v", err)
			}
			if b, err := h.ReadFile("/etc/pki/ca.crt"); string(b) != "inside" {
				t.Errorf("read %q, %v", b, err)
			}
			if got := h.Logical(h.RealPath("/etc/pki/ca.crt")); got != "/mnt/pki/ca.crt" {
				t.Errorf("the real path is %s", got)
			}
			if got := h.Logical(h.Path("/etc/pki")); got != "/etc/pki" {
				t.Errorf("the path of the link itself is %s", got)
			}
			must(t, h.Chmod("/etc/pki", 0o711))
			if info, _ := os.Stat(filepath.Join(root, "mnt/pki")); info.Mode().Perm() != 0o711 {
				t.Errorf("chmod changed something else: mnt/pki has %s", info.Mode())
			}
			must(t, h.RemoveAll("/etc/pki"))
			if there, err := h.Exists("/mnt/pki/ca.crt"); !there || err != nil {
				t.Error("removing a link removed what it leads to")
			}
		})
	}
}

// A link to a place that is still to be made counts as that place.
func TestLinkToNothingYet(t *testing.T) {
	for name, root := range map[string]string{"the machine": "/", "another root": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			h, dir, target := host.New(root), "/var", "/disk/deep/etcd"
			if root == "/" {
				var err error
				dir, err = filepath.EvalSymlinks(t.TempDir())
				must(t, err)
				target = dir + target
			}
			must(t, os.MkdirAll(h.Path(dir), 0o755))
			must(t, os.Symlink(target, h.Path(dir+"/link")))
			if got := h.Resolved(dir + "/link/below"); got != target+"/below" {
				t.Errorf("the link leads to %s", got)
			}
			must(t, os.Symlink("/proc/nothing", h.Path(dir+"/other")))
			if system, err := h.FileSystem(dir + "/other"); err != nil || (system.Type == unix.PROC_SUPER_MAGIC) != (root == "/") {
				t.Errorf("the file system of a link to nothing in /proc: %+v, %v", system, err)
			}
			must(t, h.MkdirAll(dir+"/link", 0o700))
			if info, err := os.Lstat(h.Path(target)); err != nil || info.Mode().Perm() != 0o700 || !info.IsDir() {
				t.Errorf("behind the link there is %v, %v", info, err)
			}
		})
	}
}

func TestNothingOutsideOfTheRootIsTouched(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	must(t, write("victim", "untouched", 0o600)(outside))
	root := t.TempDir()
	h := host.New(root)
	// The last element, a directory on the way, and the name of the file in the making lead outside.
	must(t, os.Symlink(victim, filepath.Join(root, "file")))
	must(t, os.Symlink(outside, filepath.Join(root, "dir")))
	must(t, os.Symlink(victim, host.Staging(filepath.Join(root, "staged"))))

	if b, err := h.ReadFile("/file"); err == nil {
		t.Errorf("read %q from outside", b)
	}
	if b, err := h.ReadFile("/dir/victim"); err == nil {
		t.Errorf("read %q from outside", b)
	}
	for _, path := range []string{"/file", "/dir/victim", "/staged", "/../../../etcdadm-escaped"} {
		must(t, h.WriteFile(path, []byte("new"), 0o644))
		must(t, h.Symlink("new", path))
		must(t, h.Remove(path))
	}
	_ = h.Chmod("/dir", 0o777)
	must(t, h.RemoveAll("/dir"))
	if diff := cmp.Diff(map[string]string{"victim": "-rw------- untouched"}, tree(t, outside)); diff != "" {
		t.Errorf("outside of the root (-want +got):\n%s", diff)
	}
	if _, err := os.Lstat("/etcdadm-escaped"); err == nil {
		t.Error("a path left the root")
	}
	if err := h.RemoveAll("/a/.."); err == nil {
		t.Error("the root itself was removed")
	}
}

func TestLoopOfLinksIsAnError(t *testing.T) {
	root := t.TempDir()
	h := host.New(root)
	must(t, os.Symlink("/b", filepath.Join(root, "a")))
	must(t, os.Symlink("/a", filepath.Join(root, "b")))
	if _, err := h.ReadFile("/a/f"); err == nil {
		t.Error("read through a loop")
	}
	if err := h.WriteFile("/a/f", nil, 0o600); err == nil {
		t.Error("wrote through a loop")
	}
}

func TestReadOnlyHostRefusesEveryAct(t *testing.T) {
	for _, exists := range []bool{true, false} {
		root := filepath.Join(t.TempDir(), "root")
		if exists {
			must(t, os.Mkdir(root, 0o755))
			must(t, write("f", "old", 0o644)(root))
		}
		h := host.New(root, host.ReadOnly())
		ctx := context.Background()
		for name, act := range map[string]func() error{
			"WriteFile":    func() error { return h.WriteFile("/f", nil, 0o600) },
			"WriteWatched": func() error { return h.WriteWatched("/d/f", nil, 0o600) },
			"Create":       func() error { _, err := h.Create("/f", 0o600); return err },
			"CreateLocked": func() error { _, err := h.CreateLocked("/f", 0o600); return err },
			"MkdirAll":     func() error { return h.MkdirAll("/d", 0o755) },
			"Symlink":      func() error { return h.Symlink("x", "/l") },
			"Rename":       func() error { return h.Rename("/f", "/g") },
			"Remove":       func() error { return h.Remove("/f") },
			"RemoveAll":    func() error { return h.RemoveAll("/f") },
			"Chmod":        func() error { return h.Chmod("/f", 0o777) },
			"Chown":        func() error { return h.Chown("/f", 1, 1) },
			"Run":          func() error { _, err := h.Run(ctx, host.Command{Path: "true"}); return err },
			"Detach":       func() error { _, err := h.Detach(host.Command{Path: "true"}, "/log"); return err },
			"Signal":       func() error { return h.Signal(os.Getpid(), syscall.SIGKILL) },
			"Act":          func() error { return h.Act("MemberAdd") },
		} {
			if err := act(); !errors.Is(err, host.ErrReadOnly) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if exists {
			if diff := cmp.Diff(map[string]string{"f": "-rw-r--r-- old"}, tree(t, root)); diff != "" {
				t.Error(diff)
			}
		} else if _, err := os.Lstat(root); err == nil {
			t.Error("a host that is only looked at made its root")
		}
	}
}

func TestAbsenceIsNoErrorToRemove(t *testing.T) {
	h := host.New(t.TempDir())
	must(t, h.WriteFile("/file", nil, 0o600))
	for _, path := range []string{"/nothing", "/no/thing", "/file/below"} {
		if err := h.Remove(path); err != nil {
			t.Errorf("Remove: %v", err)
		}
		if there, err := h.Exists(path); there || err != nil {
			t.Errorf("Exists(%s) = %v, %v", path, there, err)
		}
	}
	if err := h.RemoveAll("/no/thing"); err != nil {
		t.Errorf("RemoveAll: %v", err)
	}
}

func TestFileSystemOfWhatIsNotThereYet(t *testing.T) {
	h := host.New(t.TempDir())
	here, err := h.FileSystem("/")
	must(t, err)
	if here.Size == 0 || here.Free > here.Size || here.ReadOnly {
		t.Errorf("%+v", here)
	}
	below, err := h.FileSystem("/var/lib/etcd")
	must(t, err)
	if below.Type != here.Type || below.Size != here.Size {
		t.Errorf("of the absent directory %+v, of its root %+v", below, here)
	}
	proc, err := host.New("/proc").FileSystem("/sys/nothing")
	must(t, err)
	if proc.Type != unix.PROC_SUPER_MAGIC {
		t.Errorf("type of /proc: %#x", proc.Type)
	}
}

func TestMountPoint(t *testing.T) {
	root := t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "plain"), 0o755))
	must(t, os.Symlink("/proc", filepath.Join(root, "link")))
	must(t, os.Symlink("/proc/self/task", filepath.Join(root, "into")))
	for path, want := range map[string]bool{"/proc": true, root + "/plain": false, root + "/link": true, root + "/into": false} {
		if got, err := host.New("/").MountPoint(path); got != want || err != nil {
			t.Errorf("MountPoint(%s) = %v, %v", path, got, err)
		}
	}
	if _, err := host.New(root).MountPoint("/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of an absent directory: %v", err)
	}
	if got, err := host.New(root).MountPoint("/link"); got || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link left the root: %v, %v", got, err)
	}
}

// A bind mount of the same file system, under a name that the kernel's table escapes.
func TestMountPointOfBindMount(t *testing.T) {
	c := child(t, "mount", t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		}
	}
	if err := c.Start(); err != nil {
		t.Skipf("no mount namespaces here: %v", err)
	}
	must(t, c.Wait())
}

func mountAndLook(args []string) error {
	root := args[0]
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	h := host.New(root)
	for _, name := range []string{"/a disk", `/back\slash`, "/read only"} {
		if err := errors.Join(h.MkdirAll(name, 0o755), h.Symlink(name, "/link")); err != nil {
			return err
		}
		if mounted, err := h.MountPoint("/link"); mounted || err != nil {
			return fmt.Errorf("before the mount: %v, %w", mounted, err)
		}
		if err := unix.Mount(root, root+name, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if mounted, err := h.MountPoint("/link"); !mounted || err != nil {
			return fmt.Errorf("%s is not seen as mounted: %w", name, err)
		}
		if err := h.WriteWatched(name+"/f", []byte("data"), 0o600); err != nil { // nothing is moved across a mount
			return err
		}
		if data, err := os.ReadFile(filepath.Join(root, "f")); string(data) != "data" || err != nil {
			return fmt.Errorf("%s/f holds %q: %w", name, data, err)
		}
	}
	if err := unix.Mount("", root+"/read only", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if s, err := h.FileSystem("/read only/below"); !s.ReadOnly || err != nil {
		return fmt.Errorf("the read-only mount is %+v: %w", s, err)
	}
	return nil
}

// Whoever watches a directory sees a file come that is whole, under its own name, and nothing else.
func TestAWatchedDirectorySeesOneMove(t *testing.T) {
	h := host.New(t.TempDir())
	must(t, h.MkdirAll("/d", 0o755))
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.InotifyAddWatch(fd, h.Path("/d"), unix.IN_ALL_EVENTS&^(unix.IN_OPEN|unix.IN_CLOSE|unix.IN_ACCESS))
	must(t, err)
	for _, data := range []string{"first", "second"} {
		must(t, h.WriteWatched("/d/etcd.manifest", []byte(data), 0o600))
		b := make([]byte, 4096)
		n, err := unix.Read(fd, b)
		must(t, err)
		mask, length := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
		name := strings.TrimRight(string(b[16:16+length]), "\x00")
		if n != 16+int(length) || mask != unix.IN_MOVED_TO || name != "etcd.manifest" {
			t.Errorf("%s: %d bytes of events, the first with mask %#x of %s", data, n, mask, name)
		}
		if got, err := h.ReadFile("/d/etcd.manifest"); string(got) != data || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// tree describes everything below a directory: mode and contents, or the text of a link.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	got := map[string]string{}
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		is := info.Mode().String()
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			text, _ := os.Readlink(path)
			is = "link " + text
		case info.Mode().IsRegular():
			data, _ := os.ReadFile(path)
			is += " " + string(data)
		}
		got[strings.TrimPrefix(path, root+"/")] = is
		return nil
	}))
	return got
}

func write(name, data string, mode fs.FileMode) func(root string) error {
	return func(root string) error {
		path := filepath.Join(root, name)
		return errors.Join(os.WriteFile(path, []byte(data), mode), os.Chmod(path, mode))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnnouncedBeforeItHappens(t *testing.T) {
	root := t.TempDir()
	must(t, write("f", "old", 0o644)(root))
	var heard []string
	h := host.New(root, host.Observe(func(act string) {
		b, _ := os.ReadFile(filepath.Join(root, "f"))
		heard = append(heard, act+": "+string(b))
	}))
	must(t, h.WriteFile("/f", []byte("new"), 0o600))
	must(t, h.Remove("/f"))
	if want := []string{"stage /f: old", "rename /f: old", "remove /f: new"}; !slices.Equal(heard, want) {
		t.Errorf("heard %q", heard)
	}
}
