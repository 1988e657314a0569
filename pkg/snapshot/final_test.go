package snapshot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

func TestFinalHasEveryWriteThatWasAcknowledged(t *testing.T) {
	root := t.TempDir()
	h := host.New(root)
	dataDir := filepath.Join(root, "var/lib/etcd")
	f := Final{Host: h, DataDir: "/var/lib/etcd", Dir: constants.BackupDir}
	inSync(t, f) // no member: nothing to keep

	var revision int64
	write := func(n int) {
		c, stop := startEtcd(t, dataDir, "a")
		defer stop()
		for i := range n {
			r, err := c.Put(context.Background(), fmt.Sprintf("key-%d", i), "value")
			if err != nil {
				t.Fatal(err)
			}
			revision = r.Header.Revision
		}
	}
	write(10)
	database := filepath.Join(dataDir, "member/snap/db")
	before, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	write(20)
	if !apply(t, f) {
		t.Error("nothing was kept")
	}
	inSync(t, f)
	kept, err := filepath.Glob(filepath.Join(root, constants.BackupDir, fmt.Sprintf("final-*-%d.db", revision)))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept %q, %v", kept, err)
	}
	info, err := Verify(context.Background(), h, kept[0], false)
	if err != nil || info.Revision != revision || info.Keys != 20 || !info.Verified {
		t.Errorf("%+v, %v; want revision %d and 20 keys", info, err, revision)
	}
	if mode, err := os.Stat(kept[0]); err != nil || mode.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", mode.Mode(), err)
	}

	// An etcd that is killed leaves writes in its log that its database does not have yet.
	if err := os.WriteFile(database, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := Members(context.Background(), h, "/var/lib/etcd"); err != nil || m.Lag < 20 {
		t.Errorf("the database lags %d entries behind (%v), want 20 and more", m.Lag, err)
	}
	_, err = f.Check(context.Background())
	wantStatus(t, err, errs.Precondition)
	wantStatus(t, f.Apply(context.Background()), errs.Precondition)
}
