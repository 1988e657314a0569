package file_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

func TestConvergesFromEveryState(t *testing.T) {
	ctx := context.Background()
	states := map[string]func(t *testing.T, real string){
		"nothing":           func(*testing.T, string) {},
		"missing directory": func(t *testing.T, p string) { must(t, os.RemoveAll(filepath.Dir(p))) },
		"other contents":    func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte("old"), 0o640)) },
		"other mode":        func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte("new"), 0o600)) },
		"a link to a file": func(t *testing.T, p string) {
			must(t, os.WriteFile(p+".elsewhere", []byte("kept"), 0o600))
			must(t, os.Symlink(filepath.Base(p)+".elsewhere", p))
		},
		"leftover of a killed run": func(t *testing.T, p string) { must(t, os.WriteFile(host.Staging(p), []byte("ha"), 0o600)) },
	}
	for name, make := range states {
		t.Run(name, func(t *testing.T) {
			h := host.New(t.TempDir())
			must(t, os.MkdirAll(h.Path("/etc/etcd"), 0o755))
			real := h.Path("/etc/etcd/etcd.env")
			make(t, real)
			f := file.File{Host: h, Path: "/etc/etcd/etcd.env", Data: []byte("new"), Mode: 0o640}
			apply(ctx, t, f)
			info, err := os.Lstat(real)
			must(t, err)
			if data, _ := os.ReadFile(real); string(data) != "new" || info.Mode() != 0o640 {
				t.Errorf("%q with mode %s", data, info.Mode())
			}
			if data, err := os.ReadFile(real + ".elsewhere"); err == nil && string(data) != "kept" {
				t.Errorf("the file behind the link was written: %q", data)
			}
			entries, _ := os.ReadDir(filepath.Dir(real))
			for _, e := range entries {
				if host.IsStaging(e.Name()) {
					t.Errorf("left behind: %s", e.Name())
				}
			}
		})
	}
}

func TestAFileNeverReplacesADirectory(t *testing.T) {
	h := host.New(t.TempDir())
	must(t, os.MkdirAll(h.Path("/etc/etcd/etcd.env/data"), 0o755))
	f := file.File{Host: h, Path: "/etc/etcd/etcd.env", Data: []byte("new"), Mode: 0o640}
	if d, err := f.Check(context.Background()); err != nil || len(d) == 0 {
		t.Errorf("diff %v, err %v", d, err)
	}
	if err := f.Apply(context.Background()); err == nil {
		t.Error("applied over a directory")
	}
	if _, err := os.Stat(h.Path("/etc/etcd/etcd.env/data")); err != nil {
		t.Error("what was in the directory is gone")
	}
}

func TestDirKeepsWhatItHolds(t *testing.T) {
	h := host.New(t.TempDir())
	must(t, os.MkdirAll(h.Path("/var/lib/etcd/member"), 0o755))
	must(t, os.Chmod(h.Path("/var/lib/etcd"), 0o755)) // whatever the umask is
	d := file.Dir{Host: h, Path: "/var/lib/etcd", Mode: fs.FileMode(0o700)}
	apply(context.Background(), t, d)
	if info, err := os.Stat(h.Path("/var/lib/etcd")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(h.Path("/var/lib/etcd/member")); err != nil {
		t.Error(err)
	}
}

func TestSymlinkReplacesFileAndLinkButNoDirectory(t *testing.T) {
	for _, before := range []string{"", "file", "link"} {
		h := host.New(t.TempDir())
		must(t, os.MkdirAll(h.Path("/opt/bin"), 0o755))
		switch before {
		case "file":
			must(t, os.WriteFile(h.Path("/opt/bin/etcd"), nil, 0o755))
		case "link":
			must(t, os.Symlink("nowhere", h.Path("/opt/bin/etcd")))
		}
		apply(context.Background(), t, file.Symlink{Host: h, Path: "/opt/bin/etcd", Text: ".etcdadm/v1/etcd"})
	}
	h := host.New(t.TempDir())
	must(t, os.MkdirAll(h.Path("/opt/bin/etcd/x"), 0o755))
	if err := (file.Symlink{Host: h, Path: "/opt/bin/etcd", Text: "y"}).Apply(context.Background()); err == nil {
		t.Error("a link took the place of a directory")
	}
}

func TestAbsentRemovesALinkNotItsTarget(t *testing.T) {
	h := host.New(t.TempDir())
	must(t, os.MkdirAll(h.Path("/data/member"), 0o755))
	must(t, os.MkdirAll(h.Path("/var/lib"), 0o755))
	must(t, os.Symlink("/data", h.Path("/var/lib/etcd")))
	apply(context.Background(), t, file.Absent{Host: h, Paths: []string{"/var/lib/etcd", "/never/was"}})
	if _, err := os.Stat(h.Path("/data/member")); err != nil {
		t.Error("the target of the link was removed")
	}
}

// apply runs the loop on one resource: a gap, closed, and none after it.
func apply(ctx context.Context, t *testing.T, r converge.Resource) {
	t.Helper()
	before, err := r.Check(ctx)
	must(t, err)
	if len(before) == 0 {
		t.Fatal("no gap to begin with")
	}
	must(t, r.Apply(ctx))
	if after, err := r.Check(ctx); err != nil || len(after) != 0 {
		t.Fatalf("after apply: %v, %v", after, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
