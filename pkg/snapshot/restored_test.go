package snapshot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

const (
	dataDir = "/var/lib/etcd"
	oldFile = "member/snap/db"
	bump    = 1_000_000
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// restored returns the resource under test for a root.
func restored(t *testing.T, root string, opts ...host.Option) Restored {
	path, info := realSnapshot(t)
	return Restored{
		Host: host.New(root, opts...), File: path, Info: info, DataDir: dataDir, Name: "first",
		PeerURL: "http://127.0.0.1:2380", BumpRevision: bump, Now: func() time.Time { return noon },
	}
}

// An etcd on restored data serves every key of the snapshot, and no revision that it had before.
func TestRestoredServesTheSnapshot(t *testing.T) {
	root := t.TempDir()
	r := restored(t, root)
	if !apply(t, r) {
		t.Error("nothing changed")
	}
	client, stop := startEtcd(t, filepath.Join(root, dataDir), "first")
	all, err := client.Get(t.Context(), "/key/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Kvs) != keys || string(all.Kvs[7].Value) != "value 7" {
		t.Errorf("%d keys, the eighth is %s", len(all.Kvs), all.Kvs[7])
	}
	if all.Header.Revision < r.Info.Revision+bump {
		t.Errorf("the revision is %d, that of the snapshot %d", all.Header.Revision, r.Info.Revision)
	}
	if _, err := client.Get(t.Context(), "/key/000", clientv3.WithRev(r.Info.Revision)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("a watcher of before the restore is not told: %v", err)
	}
	if _, err := client.Put(t.Context(), "/later", "x"); err != nil {
		t.Fatal(err)
	}
	inSync(t, r) // also while etcd runs, and after it has written
	stop()
	inSync(t, r)
	if apply(t, r) {
		t.Error("a second run changes something")
	}
}

func TestRestoredWithoutABumpKeepsTheRevision(t *testing.T) {
	root := t.TempDir()
	r := restored(t, root)
	r.BumpRevision = 0
	apply(t, r)
	client, _ := startEtcd(t, filepath.Join(root, dataDir), "first")
	got, err := client.Get(t.Context(), "/key/000", clientv3.WithRev(r.Info.Revision))
	if err != nil {
		t.Fatal(err)
	}
	if got.Header.Revision != r.Info.Revision {
		t.Errorf("the revision is %d, that of the snapshot %d", got.Header.Revision, r.Info.Revision)
	}
}

// Each restore makes a cluster of its own.
func TestRestoredDrawsANewIdentity(t *testing.T) {
	ids := map[uint64]bool{}
	for range 2 {
		root := t.TempDir()
		apply(t, restored(t, root))
		m, err := Members(t.Context(), host.New(root), dataDir)
		if err != nil {
			t.Fatal(err)
		}
		self, ok := m.Self()
		if !ok || len(m.Members) != 1 || self.Name != "first" || self.PeerURLs[0] != "http://127.0.0.1:2380" {
			t.Errorf("the members are %+v", m)
		}
		if ids[m.ClusterID] || ids[m.MemberID] || m.ClusterID == 0 {
			t.Errorf("the ids are not new: %+v", m)
		}
		ids[m.ClusterID], ids[m.MemberID] = true, true
	}
}

// A snapshot whose SHA-256 is missing can be restored when the caller said so at Verify.
func TestRestoredTakesACopiedDatabase(t *testing.T) {
	root := t.TempDir()
	r := restored(t, root)
	r.File = edited(t, r.File, func(b []byte) []byte { return b[:len(b)-32] })
	var err error
	if r.Info, err = Verify(t.Context(), r.Host, r.File, true); err != nil {
		t.Fatal(err)
	}
	apply(t, r)
}

func TestRestoredNeverWritesToItsSource(t *testing.T) {
	root := t.TempDir()
	r := restored(t, root)
	r.File = edited(t, r.File, bytes.Clone)
	if err := os.Chmod(r.File, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(r.File, noon, noon); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(r.File)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), r.Host, r.File, true); err != nil {
		t.Fatal(err)
	}
	apply(t, r)
	after, err := os.ReadFile(r.File)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(r.File)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) || !info.ModTime().Equal(noon) || info.Mode().Perm() != 0o400 {
		t.Error("the snapshot was touched")
	}
}

// Every way in which a data directory can stand there when a restore begins, and what must be kept of it.
var starts = []struct {
	name  string
	make  func(t *testing.T, root string)
	aside string // where the old data is afterwards; "" when there was none
}{
	{"absent", func(*testing.T, string) {}, ""},
	{"empty", func(t *testing.T, root string) { mkdir(t, root, dataDir) }, ""},
	{"a member", func(t *testing.T, root string) { write(t, root, dataDir, oldFile) }, "/var/lib/etcd.20261121T120000Z"},
	{"a member, and a copy of the same second", func(t *testing.T, root string) {
		write(t, root, dataDir, oldFile)
		mkdir(t, root, "/var/lib/etcd.20261121T120000Z")
	}, "/var/lib/etcd.20261121T120000Z-2"},
	{"leftovers of another restore", func(t *testing.T, root string) {
		write(t, root, "/var/lib/.etcd.restore-0123456789ab/", oldFile)
	}, ""},
	{"a link to nothing", func(t *testing.T, root string) { link(t, root) }, ""},
	{"a link to an empty directory", func(t *testing.T, root string) { link(t, root); mkdir(t, root, "/disk/etcd") }, ""},
	{"a link to a member", func(t *testing.T, root string) { link(t, root); write(t, root, "/disk/etcd", oldFile) },
		"/disk/etcd/member.20261121T120000Z"},
	{"a link to a member, leftovers beside", func(t *testing.T, root string) {
		link(t, root)
		write(t, root, "/disk/etcd", oldFile)
		write(t, root, "/disk/etcd/.member.restore-0123456789ab", oldFile)
		mkdir(t, root, "/disk/etcd/lost+found")
	}, "/disk/etcd/member.20261121T120000Z"},
}

// Killed before any act and run again, a restore ends in the same state: the data in place, the old data set aside
// exactly once, nothing left over, and a link still a link. A third run changes nothing.
func TestRestoredCrashAnywhere(t *testing.T) {
	for _, start := range starts {
		t.Run(start.name, func(t *testing.T) {
			crashAnywhere(t, func(t *testing.T) (string, func(...host.Option) converge.Resource) {
				root := t.TempDir()
				start.make(t, root)
				return root, func(o ...host.Option) converge.Resource { return restored(t, root, o...) }
			}, func(t *testing.T, root string) {
				s, err := InspectDir(host.New(root), dataDir)
				if err != nil || s.Kind != Whole {
					t.Errorf("the data directory is %s (%v)", s, err)
				}
				if start.aside != "" {
					old, err := os.ReadFile(filepath.Join(root, start.aside, strings.TrimPrefix(oldFile, asideBase(start.aside))))
					if err != nil || string(old) != "old" {
						t.Errorf("the old data is lost: %v; there is %v", err, tree(t, root))
					}
				}
				wantAsides(t, root, start.aside)
				if info, err := os.Lstat(filepath.Join(root, dataDir)); err != nil || (info.Mode()&os.ModeSymlink != 0) != strings.HasPrefix(start.name, "a link") {
					t.Errorf("a link did not stay one, or became one: %v, %v", info, err)
				}
			})
		})
	}
}

// asideBase returns what a path in a copy that was set aside does not begin with: the directory "member" itself was renamed.
func asideBase(aside string) string {
	if strings.HasPrefix(filepath.Base(aside), memberDir+".") {
		return memberDir + "/"
	}
	return ""
}

var dated = regexp.MustCompile(`\.\d{8}T\d{6}Z`)

// wantAsides sees that only the wanted copy holds anything, and that nothing in the making is left.
func wantAsides(t *testing.T, root, want string) {
	t.Helper()
	for _, dir := range []string{"/var/lib", "/disk/etcd"} {
		entries, _ := os.ReadDir(filepath.Join(root, dir))
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if isLeftover("etcd", e.Name()) || isLeftover(memberDir, e.Name()) {
				t.Errorf("%s is left over", path)
			}
			if dated.MatchString(e.Name()) && path != want && len(tree(t, filepath.Join(root, path))) > 0 {
				t.Errorf("%s was set aside too", path)
			}
		}
	}
}

// crashAnywhere makes a start anew for each act, kills before that act, runs again, and looks.
func crashAnywhere(t *testing.T, make func(*testing.T) (string, func(...host.Option) converge.Resource), look func(*testing.T, string)) {
	t.Helper()
	for n := 1; ; n++ {
		if n > 100 {
			t.Fatal("no end of acts")
		}
		root, resource := make(t)
		died := killedBefore(t, n, resource)
		apply(t, resource())
		look(t, root)
		if apply(t, resource(host.ReadOnly())) {
			t.Error("a third run changes something")
		}
		_ = unix.Unmount(filepath.Join(root, dataDir), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // where the test mounted one
		if err := os.RemoveAll(root); err != nil {                                           // each holds a WAL of 64 MB
			t.Fatal(err)
		}
		if !died {
			if n < 3 {
				t.Errorf("only %d acts were seen", n-1)
			}
			return
		}
	}
}

// Another snapshot, or another bump, is another state; the first one is set aside, not lost.
func TestRestoredAgainFromAnother(t *testing.T) {
	root := t.TempDir()
	first := restored(t, root)
	apply(t, first)
	second := first
	second.BumpRevision++
	if d, err := second.Check(t.Context()); err != nil || len(d) != 1 || d[0].Have != "restored otherwise" {
		t.Errorf("the gap is %v (%v)", d, err)
	}
	apply(t, second)
	there := Restored{Host: first.Host, DataDir: "/var/lib/etcd.20261121T120000Z", Info: first.Info, Name: first.Name, PeerURL: first.PeerURL, BumpRevision: bump}
	inSync(t, there)
}

func TestRestoredRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, r *Restored)
		status errs.Status
		says   string
	}{
		{"a running etcd", func(t *testing.T, r *Restored) {
			write(t, r.Host.Root(), dataDir, oldFile)
			hold(t, filepath.Join(r.Host.Root(), dataDir, oldFile))
		}, errs.Precondition, "in use by a running etcd"},
		{"too little room", func(_ *testing.T, r *Restored) { r.Info.Size = 1 << 61 }, errs.Precondition, "needs"},
		{"a file that changed", func(t *testing.T, r *Restored) {
			r.File = edited(t, r.File, func(b []byte) []byte { return sign(b[:len(b)-32-4096]) })
		}, errs.Verification, "changed since it was verified"},
		{"a file that is gone", func(t *testing.T, r *Restored) { r.File = filepath.Join(t.TempDir(), "gone.db") }, errs.Usage, "does not exist"},
		{"a host that is only looked at", func(t *testing.T, r *Restored) { r.Host = host.New(r.Host.Root(), host.ReadOnly()) }, errs.Failed, "only looked at"},
		{"a name that etcd refuses", func(_ *testing.T, r *Restored) { r.PeerURL = "nonsense" }, errs.Failed, "restore"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			r := restored(t, root)
			mkdir(t, root, "/var/lib")
			c.spoil(t, &r)
			before := tree(t, filepath.Join(root, dataDir))
			err := r.Apply(t.Context())
			wantStatus(t, err, c.status)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is %q, want one with %q", err, c.says)
			}
			if d := cmp.Diff(before, tree(t, filepath.Join(root, dataDir))); d != "" {
				t.Errorf("the data directory changed: %s", d)
			}
			if left, err := leftovers(r.Host, dataDir); err != nil || len(left) > 0 {
				t.Errorf("left over: %v (%v)", left, err)
			}
		})
	}
}

// A dry run tells the gap where nothing exists, and makes nothing.
func TestRestoredDryRun(t *testing.T) {
	root := t.TempDir()
	r := restored(t, root, host.ReadOnly())
	d, err := r.Check(t.Context())
	if err != nil || len(d) != 1 || d[0].Have != "absent" {
		t.Errorf("the gap is %v (%v)", d, err)
	}
	if names := tree(t, root); len(names) != 0 {
		t.Errorf("there is %v", names)
	}
}

// A mount point stays one, whatever a restore is killed before.
func TestRestoredOnMountPoint(t *testing.T) {
	inMountNamespace(t, func(t *testing.T) {
		disk := t.TempDir()
		crashAnywhere(t, func(t *testing.T) (string, func(...host.Option) converge.Resource) {
			root := t.TempDir()
			mkdir(t, root, dataDir)
			clean(t, disk)
			if err := unix.Mount(disk, filepath.Join(root, dataDir), "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			write(t, root, dataDir, oldFile)
			return root, func(o ...host.Option) converge.Resource { return restored(t, root, o...) }
		}, func(t *testing.T, root string) {
			if old, err := os.ReadFile(filepath.Join(disk, "member.20261121T120000Z/snap/db")); err != nil || string(old) != "old" {
				t.Errorf("the old data is lost: %v; there is %v", err, tree(t, disk))
			}
			wantAsides(t, root, "/var/lib/etcd/member.20261121T120000Z")
			if stays, err := host.New(root).MountPoint(dataDir); err != nil || !stays {
				t.Errorf("the mount point did not stay one (%v)", err)
			}
		})
	})
}

// A full disk is named, whatever it stops.
func TestFullDisk(t *testing.T) {
	inMountNamespace(t, func(t *testing.T) {
		root := t.TempDir()
		mkdir(t, root, dataDir)
		if err := unix.Mount("tmpfs", filepath.Join(root, dataDir), "tmpfs", 0, "size=512k"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Unmount(filepath.Join(root, dataDir), unix.MNT_DETACH) }()
		r := restored(t, root)
		wantStatus(t, r.Apply(t.Context()), errs.Precondition)
		err := r.stage(t.Context(), dataDir+"/staging") // as if the space had gone in the meantime
		wantStatus(t, err, errs.Precondition)
		if !strings.Contains(err.Error(), "no space is left") {
			t.Errorf("the restore says %q", err)
		}
		if err := os.RemoveAll(filepath.Join(root, dataDir, "staging")); err != nil {
			t.Fatal(err)
		}
		c := member{send: sendAll(make([]byte, 1<<20))}.client(t)
		_, err = Save(t.Context(), host.New(root), c, filepath.Join(root, dataDir, "out.db"))
		wantStatus(t, err, errs.Precondition)
		if !strings.Contains(err.Error(), "no space left") {
			t.Errorf("the save says %q", err)
		}
		if names := hidden(t, filepath.Join(root, dataDir)); len(names) != 0 {
			t.Errorf("left behind: %v", names)
		}
	})
}

// inMountNamespace runs a test in a process with mounts of its own, where the kernel lets this user have one.
func inMountNamespace(t *testing.T, test func(*testing.T)) {
	const inside = "ETCDADM_TEST_MOUNT_NAMESPACE"
	if os.Getenv(inside) != "" {
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		test(t)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, "-test.v", "-test.run=^"+t.Name()+"$")
	c.Env = append(os.Environ(), inside+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	out, err := c.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skip("this user may not have mounts of its own:", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func inSync(t *testing.T, c converge.Checker) {
	t.Helper()
	if d, err := c.Check(context.Background()); err != nil || len(d) > 0 {
		t.Errorf("not in sync: %v (%v)", d, err)
	}
}

// hold locks a file as a running etcd does.
func hold(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, elem ...string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(elem...), 0o700); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, elem ...string) {
	t.Helper()
	mkdir(t, filepath.Dir(filepath.Join(elem...)))
	if err := os.WriteFile(filepath.Join(elem...), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// link makes the data directory a link to another place, which it does not make.
func link(t *testing.T, root string) {
	t.Helper()
	mkdir(t, root, "/disk")
	mkdir(t, root, filepath.Dir(dataDir))
	if err := os.Symlink("/disk/etcd", filepath.Join(root, dataDir)); err != nil {
		t.Fatal(err)
	}
}

func clean(t *testing.T, dir string) {
	t.Helper()
	for _, name := range hidden(t, dir) {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// A snapshot that would move away with the data is refused, by whatever name it is called; any other is not.
func TestOutsideRefusesWhatWouldMoveAway(t *testing.T) {
	for _, c := range []struct {
		name    string
		linked  bool              // the data directory is a link, so that only "member" in it moves
		links   map[string]string // where they lie, and where they lead
		file    string
		refused bool
	}{
		{name: "beside the data", file: "/var/lib/backup.db"},
		{name: "in the data directory", file: dataDir + "/backup.db", refused: true},
		{name: "the database of the member", file: dataDir + "/" + oldFile, refused: true},
		{name: "data that was set aside", file: dataDir + ".20261121T120000Z/" + oldFile},
		{name: "data that another node left", file: "/srv/copied/" + oldFile},
		{name: "a link into the data", links: map[string]string{"/srv/latest.db": dataDir + "/backup.db"}, file: "/srv/latest.db", refused: true},
		{name: "a link in the data", links: map[string]string{dataDir + "/latest.db": "/srv/backup.db"}, file: dataDir + "/latest.db", refused: true},
		{name: "through a link to the data", links: map[string]string{"/srv/etcd": dataDir}, file: "/srv/etcd/backup.db", refused: true},
		{name: "beside what moves in a linked directory", linked: true, file: dataDir + "/backup.db"},
		{name: "set aside in a linked directory", linked: true, file: dataDir + "/member.20261121T120000Z/snap/db"},
		{name: "in what moves in a linked directory", linked: true, file: dataDir + "/" + oldFile, refused: true},
		{name: "where a linked directory leads", linked: true, file: "/disk/etcd/" + oldFile, refused: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			if c.linked {
				mkdir(t, root, "/disk/etcd")
				mkdir(t, root, filepath.Dir(dataDir))
				if err := os.Symlink("../../disk/etcd", filepath.Join(root, dataDir)); err != nil {
					t.Fatal(err)
				}
			}
			write(t, root, dataDir, oldFile)
			for from, to := range c.links {
				mkdir(t, root, filepath.Dir(from))
				if err := os.Symlink(filepath.Join(root, to), filepath.Join(root, from)); err != nil {
					t.Fatal(err)
				}
			}
			err := Outside(host.New(root), dataDir, Info{Path: filepath.Join(root, c.file)})
			if !c.refused {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantStatus(t, err, errs.Precondition)
			if hints := errs.HintsOf(err); len(hints) != 2 || !strings.Contains(hints[0], " cp "+filepath.Join(root, c.file)+" ") {
				t.Errorf("the hints are %q", hints)
			}
		})
	}
}

// Restored data belongs to the user that etcd runs as from the moment that it is in its place.
func TestRestoredDataBelongsToItsOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	r := restored(t, t.TempDir())
	for name, text := range map[string]string{"/etc/passwd": "etcd:x:501:502::/:/bin/false\n", "/etc/group": "etcd:x:502:\n"} {
		if err := r.Host.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.Owner = host.Owner{Name: "etcd"}
	apply(t, r)
	for _, name := range []string{dataDir, filepath.Join(dataDir, "member/wal"), filepath.Join(dataDir, oldFile), filepath.Join(dataDir, "member", marker)} {
		if info, err := r.Host.Lstat(name); err != nil || !r.Host.Owns(r.Owner, info) {
			t.Errorf("%s does not belong to etcd: %v", name, err)
		}
	}
	inSync(t, r)
}
