package host_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"etcdadm/pkg/host"
)

// accounts returns a host with a user and a group of different ids, and links that lead out of a directory.
func accounts(t *testing.T, opts ...host.Option) (*host.Host, host.Owner) {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0::/:/bin/sh\netcdx:x:7:7::/:/bin/false\netcd:x:501:7::/:/bin/false\n", "etc/group": "root:x:0:\netcd:x:502:\n",
		"data/member/db": "", "elsewhere": "",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755), os.WriteFile(filepath.Join(root, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../elsewhere", filepath.Join(root, "data/link")); err != nil {
		t.Fatal(err)
	}
	return host.New(root, opts...), host.Owner{Name: "etcd"}
}

func TestAccountsAreThoseOfTheRoot(t *testing.T) {
	h, _ := accounts(t)
	if uid, err := h.User("etcd"); err != nil || uid != 501 {
		t.Errorf("user %d, %v", uid, err)
	}
	if gid, err := h.Group("etcd"); err != nil || gid != 502 {
		t.Errorf("group %d, %v", gid, err)
	}
	if _, err := h.User("nobody"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a user of this machine is one of the root: %v", err)
	}
}

func TestFilesAreGivenAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	h, etcd := accounts(t)
	owns := func(path string, want bool) {
		t.Helper()
		info, err := h.Lstat(path)
		if err != nil || h.Owns(etcd, info) != want {
			t.Errorf("%s belongs to etcd: %t (%v)", path, !want, err)
		}
	}
	if err := h.WriteFileFor(etcd, "/data/key", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	owns("/data/key", true)
	if err := h.Give("/data", etcd); err != nil {
		t.Fatal(err)
	}
	owns("/data", true)
	owns("/data/member", false)
	if err := h.GiveTree("/data", etcd); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"/data/member/db": true, "/data/link": true, "/elsewhere": false} {
		owns(path, want)
	}
	if err := os.Symlink("data", h.Path("/alias")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(h.Path("/data"), 0, 0), h.Give("/alias", etcd)); err != nil {
		t.Fatal(err)
	}
	owns("/data", true)
	owns("/alias", false)
	// Whoever does not exist owns nothing, and nothing is held against the owner that there is.
	stranger := host.Owner{Name: "stranger"}
	info, err := h.Lstat("/elsewhere")
	if err != nil || !h.Owns(stranger, info) || h.Give("/elsewhere", stranger) != nil {
		t.Errorf("a file is given to nobody: %v", err)
	}
}

func TestAReadOnlyHostGivesNothingAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	h, etcd := accounts(t, host.ReadOnly())
	for what, err := range map[string]error{"Give": h.Give("/data", etcd), "GiveTree": h.GiveTree("/data", etcd)} {
		if !errors.Is(err, host.ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
