package snapshot

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// A first start that was cut off, by a full disk say, leaves a log without an entry. That goes; the data of a member that
// has begun stays, and so does a database that knows more than its log.
func TestUnbornIsNotWhatHasBegun(t *testing.T) {
	root := t.TempDir()
	dataDir := filepath.Join(root, "var/lib/etcd")
	u := Unborn{Host: host.New(root), DataDir: "/var/lib/etcd"}
	inSync(t, u) // nothing is there

	_, stop := startEtcd(t, dataDir, "a")
	inSync(t, u) // also while it runs
	stop()
	inSync(t, u)

	cutOff := func() {
		t.Helper()
		dir := filepath.Join(dataDir, "member/wal")
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		w, err := wal.Create(zap.NewNop(), dir, []byte{8, 1, 16, 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cutOff()
	wantStatus(t, u.Apply(context.Background()), errs.Precondition)

	database := filepath.Join(dataDir, "member/snap/db")
	if err := os.Remove(database); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(database, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"meta", "key", "members"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !apply(t, u) {
		t.Error("what was cut off stays")
	}
	inSync(t, u)
	if s, err := InspectDir(u.Host, u.DataDir); err != nil || s.Kind != Absent {
		t.Errorf("%v, %v", s, err)
	}
}
