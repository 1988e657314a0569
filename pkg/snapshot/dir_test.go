package snapshot

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

func TestInspectDir(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []string // below the data directory; a slash at the end makes a directory
		want  State
	}{
		{"empty", []string{"/"}, State{Kind: Empty}},
		{"lost+found", []string{"lost+found/"}, State{Kind: Empty}},
		{"set aside", []string{"member.20261121T120000Z/snap/db", "member.20261121T120000Z-2/snap/db"}, State{Kind: Empty}},
		{"leftovers", []string{".member.restore-0123456789ab/member/snap/db", ".member.removed/wal/0.wal"}, State{Kind: Empty}},
		{"directories that etcd makes first", []string{"member/snap/", "member/wal.tmp/"}, State{Kind: Empty}},
		{"what etcd tries directories with", []string{".touch", "member/snap/.touch"}, State{Kind: Empty}},
		{"the guard of a pod", []string{"member/.etcdadm-guard", "member/..etcdadm-guard.etcdadm-new"}, State{Kind: Empty}},
		{"a member", []string{"member/wal/0-0.wal", "member/snap/db", "lost+found/"}, State{Kind: Whole}},
		{"a member and something else", []string{"member/wal/0-0.wal", "member/snap/db", "notes.txt"}, State{Kind: Whole}},
		{"no database", []string{"member/wal/0-0.wal"}, State{Half, "a WAL without a database"}},
		{"no WAL", []string{"member/snap/db"}, State{Half, "a database without a WAL"}},
		{"an empty WAL directory", []string{"member/snap/db", "member/wal/"}, State{Half, "a database without a WAL"}},
		{"raft snapshots alone", []string{"member/snap/1-2.snap"}, State{Half, "neither a WAL nor a database"}},
		{"a file named member", []string{"member"}, State{Kind: Empty}},
		{"others", []string{"notes.txt", "member.bak/snap/db"}, State{Foreign, "member.bak, notes.txt"}},
		{"many others", []string{"a", "b", "c", "d", "e"}, State{Foreign, "a, b, c, ..."}},
		{"another program's", []string{"postgresql.conf", "member/"}, State{Foreign, "postgresql.conf"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for _, f := range c.files {
				if strings.HasSuffix(f, "/") {
					mkdir(t, root, dataDir, f)
				} else {
					write(t, root, dataDir, f)
				}
			}
			got, err := InspectDir(host.New(root, host.ReadOnly()), dataDir)
			if err != nil || got != c.want {
				t.Errorf("got %v (%v), want %v", got, err, c.want)
			}
		})
	}
}

func TestInspectDirThatIsNone(t *testing.T) {
	root := t.TempDir()
	h := host.New(root)
	if s, err := InspectDir(h, dataDir); err != nil || s.Kind != Absent {
		t.Errorf("nothing there: %v (%v)", s, err)
	}
	link(t, root)
	if s, err := InspectDir(h, dataDir); err != nil || s.Kind != Absent {
		t.Errorf("a link to nothing: %v (%v)", s, err)
	}
	write(t, root, "/file")
	if s, err := InspectDir(h, "/file"); err != nil || s.Kind != Foreign {
		t.Errorf("a file: %v (%v)", s, err)
	}
}

// What an ordinary user may not read is called so, and not drift.
func TestUnreadable(t *testing.T) {
	root := t.TempDir()
	apply(t, restored(t, root))
	if err := os.Chmod(filepath.Join(root, dataDir), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(root, dataDir), 0o700) })
	r := restored(t, root, host.ReadOnly())
	if os.Geteuid() == 0 { // become nobody, as far as files go, on this thread
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = unix.SetfsuidRetUid(0) }()
	}
	if s, err := InspectDir(r.Host, dataDir); err != nil || s.Kind != Unreadable {
		t.Errorf("the data directory is %v (%v)", s, err)
	}
	for name, check := range map[string]func() error{
		"restored": func() error { _, err := r.Check(t.Context()); return err },
		"removed":  func() error { _, err := Removed{Host: r.Host, DataDir: dataDir}.Check(t.Context()); return err },
		"members":  func() error { _, err := Members(t.Context(), r.Host, dataDir); return err },
		"in use":   func() error { _, err := InUse(r.Host, dataDir); return err },
	} {
		if err := check(); errs.StatusOf(err) != errs.Precondition || !strings.Contains(err.Error(), "not readable for this user") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMembersOfARunningEtcdAreRefused(t *testing.T) {
	root := t.TempDir()
	_, stop := startEtcd(t, filepath.Join(root, dataDir), "first")
	h := host.New(root, host.ReadOnly())
	_, err := Members(t.Context(), h, dataDir)
	wantStatus(t, err, errs.Precondition)
	if used, err := InUse(h, dataDir); err != nil || !used {
		t.Errorf("in use: %v (%v)", used, err)
	}
	wantStatus(t, Removed{Host: host.New(root), DataDir: dataDir}.Apply(t.Context()), errs.Precondition)
	stop()
	m, err := Members(t.Context(), h, dataDir)
	if err != nil {
		t.Fatal(err)
	}
	self, ok := m.Self()
	if !ok || self.Name != "first" || len(self.PeerURLs) != 1 || len(self.ClientURLs) != 1 || m.ClusterID == 0 {
		t.Errorf("got %+v", m)
	}
	if used, err := InUse(h, dataDir); err != nil || used {
		t.Errorf("in use after it ended: %v (%v)", used, err)
	}
	if s, err := InspectDir(h, dataDir); err != nil || s.Kind != Whole {
		t.Errorf("the data of a real etcd is %s (%v)", s, err)
	}
}

func TestMembersOfBrokenData(t *testing.T) {
	root := t.TempDir()
	apply(t, restored(t, root))
	h := host.New(root)
	db, wal := filepath.Join(root, dataDir, "member/snap/db"), filepath.Join(root, dataDir, "member/wal")
	files, err := filepath.Glob(filepath.Join(wal, "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Members(t.Context(), h, dataDir)
	wantStatus(t, err, errs.Verification)
	if err := os.RemoveAll(wal); err != nil {
		t.Fatal(err)
	}
	if m, err := Members(t.Context(), h, dataDir); err != nil || m.ClusterID != 0 || len(m.Members) != 1 {
		t.Errorf("without a WAL: %+v (%v)", m, err)
	}
	if err := os.Truncate(db, 8192); err != nil {
		t.Fatal(err)
	}
	_, err = Members(t.Context(), h, dataDir)
	wantStatus(t, err, errs.Verification)
	if err := os.Remove(db); err != nil {
		t.Fatal(err)
	}
	if _, err := Members(t.Context(), h, dataDir); !absent(err) {
		t.Errorf("without a database: %v", err)
	}
}

// Killed before any act and run again, a removal ends with no member, and keeps what is not the member's.
func TestRemovedCrashAnywhere(t *testing.T) {
	for _, c := range []struct {
		name       string
		make       func(t *testing.T, root string)
		gone, kept []string
	}{
		{"a member", func(t *testing.T, root string) { wholeMember(t, root, dataDir) }, []string{dataDir}, nil},
		{"a member and leftovers", func(t *testing.T, root string) {
			wholeMember(t, root, dataDir)
			wholeMember(t, root, "/var/lib/.etcd.restore-0123456789ab")
			write(t, root, dataDir, ".member.removed/wal/0.wal")
		}, []string{dataDir, "/var/lib/.etcd.restore-0123456789ab"}, nil},
		{"copies that were set aside", func(t *testing.T, root string) {
			wholeMember(t, root, dataDir)
			wholeMember(t, root, "/var/lib/etcd.20261121T120000Z")
			write(t, root, dataDir, "member.20261121T120000Z/snap/db")
		}, []string{dataDir + "/member"}, []string{"/var/lib/etcd.20261121T120000Z/member/snap/db", dataDir + "/member.20261121T120000Z/snap/db"}},
		{"files of others", func(t *testing.T, root string) {
			wholeMember(t, root, dataDir)
			write(t, root, dataDir, "notes.txt")
		}, []string{dataDir + "/member"}, []string{dataDir + "/notes.txt"}},
		{"a link", func(t *testing.T, root string) { link(t, root); wholeMember(t, root, "/disk/etcd") },
			[]string{"/disk/etcd/member"}, []string{dataDir, "/disk/etcd"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			crashAnywhere(t, func(t *testing.T) (string, func(...host.Option) converge.Resource) {
				root := t.TempDir()
				c.make(t, root)
				return root, func(o ...host.Option) converge.Resource {
					return Removed{Host: host.New(root, o...), DataDir: dataDir}
				}
			}, func(t *testing.T, root string) {
				for _, p := range c.gone {
					if _, err := os.Lstat(filepath.Join(root, p)); !absent(err) {
						t.Errorf("%s is still there (%v)", p, err)
					}
				}
				for _, p := range c.kept {
					if _, err := os.Lstat(filepath.Join(root, p)); err != nil {
						t.Errorf("%s is gone: %v", p, err)
					}
				}
				wantAsides(t, root, "/var/lib/etcd.20261121T120000Z")
			})
		})
	}
}

// The member is moved out of its place before anything of it is deleted, so that a run that is killed while it deletes
// leaves no half of one.
func TestRemovedNeverLeavesHalfAMember(t *testing.T) {
	root := t.TempDir()
	wholeMember(t, root, dataDir)
	deleted := 0
	look := host.Observe(func(act string) {
		if !strings.HasPrefix(act, "remove all") {
			return
		}
		deleted++
		if s, err := InspectDir(host.New(root), dataDir); err != nil || s.Kind != Empty {
			t.Errorf("%s: the data directory is %s (%v)", act, s, err)
		}
	})
	apply(t, Removed{Host: host.New(root, look), DataDir: dataDir})
	if deleted == 0 {
		t.Error("nothing was deleted")
	}
}

func wholeMember(t *testing.T, root, dir string) {
	t.Helper()
	write(t, root, dir, "member/wal/0-0.wal")
	write(t, root, dir, "member/snap/db")
}

func TestRemovedOfNothing(t *testing.T) {
	root := t.TempDir()
	h := host.New(root, host.ReadOnly())
	inSync(t, Removed{Host: h, DataDir: dataDir})
	mkdir(t, root, dataDir)
	if d, err := (Removed{Host: h, DataDir: dataDir}).Check(t.Context()); err != nil || len(d) != 1 || d[0].What != dataDir {
		t.Errorf("an empty directory: %v (%v)", d, err)
	}
}
