package certs_test

import (
	"io/fs"
	"os"
	"testing"

	"etcdadm/certs"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

func TestTheDirectoryIsTraversable(t *testing.T) {
	h := host.New(t.TempDir())
	d := certs.Directory{Host: h, Dir: "/etc/etcd/pki"}
	for have, want := range map[fs.FileMode]fs.FileMode{0: 0o755, 0o640: 0o751, 0o700: 0o711, 0o755: 0o755, 0o711: 0o711, 0o2750: 0o751} {
		if err := h.RemoveAll(d.Dir); err != nil {
			t.Fatal(err)
		}
		if have != 0 {
			if err := os.MkdirAll(h.Path(d.Dir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(h.Path(d.Dir), have); err != nil {
				t.Fatal(err)
			}
		}
		if gap, err := d.Check(t.Context()); err != nil || (len(gap) == 0) != (have == want) {
			t.Errorf("%o: %s, %v", have, gap, err)
		}
		if err := d.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		info, err := h.Stat(d.Dir)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%o becomes %o (%v), want %o", have, info.Mode().Perm(), err, want)
		}
		if gap, err := d.Check(t.Context()); err != nil || len(gap) > 0 {
			t.Errorf("%o, applied: %s, %v", have, gap, err)
		}
	}
	if err := h.WriteFile("/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (certs.Directory{Host: h, Dir: "/file"}).Check(t.Context()); errs.StatusOf(err) != errs.Precondition {
		t.Errorf("a file: %v", err)
	}
}
