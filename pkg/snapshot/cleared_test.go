package snapshot

import (
	"os"
	"path/filepath"
	"testing"

	"etcdadm/pkg/host"
)

// What killed runs left goes; the member stays, and so do copies that were set aside, and the file of an etcd that starts.
func TestClearedIsWithoutLeftovers(t *testing.T) {
	root := t.TempDir()
	c := Cleared{Host: host.New(root), DataDir: dataDir}
	inSync(t, c) // nothing is there
	stay := []string{"member/snap/db", "member/wal/0.wal", "member.20260102T030405Z/snap/db", touchFile}
	for _, p := range append(stay, ".member.removed/snap/db", ".member.restore-0123456789ab/member/snap/db") {
		path := filepath.Join(root, dataDir, p)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, nil, 0o600))
	}
	must(t, os.MkdirAll(filepath.Join(root, filepath.Dir(dataDir), ".etcd.restore-0123456789ab"), 0o700))
	if !apply(t, c) {
		t.Error("nothing was left")
	}
	inSync(t, c)
	for _, p := range stay {
		if _, err := os.Stat(filepath.Join(root, dataDir, p)); err != nil {
			t.Error(err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(root, filepath.Dir(dataDir), ".etcd*")); err != nil || len(left) > 0 {
		t.Errorf("%q, %v", left, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What is set aside is whole under a dated name, and no member any more.
func TestSetAsideKeepsWhatWasThere(t *testing.T) {
	root := t.TempDir()
	h := host.New(root)
	s := SetAside{Host: h, DataDir: dataDir}
	inSync(t, s)
	must(t, os.MkdirAll(filepath.Join(root, dataDir, "member/wal"), 0o700))
	must(t, os.WriteFile(filepath.Join(root, dataDir, "member/wal/0.wal"), []byte("kept"), 0o600))
	if !apply(t, s) {
		t.Error("nothing was there")
	}
	inSync(t, s)
	if state, err := InspectDir(h, dataDir); err != nil || state.Kind != Empty {
		t.Errorf("%v, %v", state, err)
	}
	kept, err := filepath.Glob(filepath.Join(root, dataDir, "member.*Z/wal/0.wal"))
	if err != nil || len(kept) != 1 {
		t.Errorf("kept %q, %v", kept, err)
	}
}
