package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
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

// A member that etcd had just begun has acknowledged nothing: there is nothing of it that a reset would have to keep.
func TestServedIsWhatMayHaveAcknowledged(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries uint64
		members bool
		want    bool
	}{
		{"a log without an entry", 0, false, false},
		{"who is a member, and that it leads", 2, false, false},
		{"the first thing that somebody may have asked for", 3, false, true},
		{"a database that knows a member", 1, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			h := host.New(root)
			mkdir(t, root, dataDir, "member/snap/")
			w, err := wal.Create(zap.NewNop(), filepath.Join(root, dataDir, "member/wal"), []byte{8, 1, 16, 1})
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.entries {
				term, index := uint64(1), i+1
				if err := w.Save(&raftpb.HardState{Term: &term, Commit: &index}, []*raftpb.Entry{{Term: &term, Index: &index}}); err != nil {
					t.Fatal(err)
				}
			}
			db, derr := bbolt.Open(filepath.Join(root, dataDir, "member/snap/db"), 0o600, nil)
			if err := errors.Join(derr, w.Close()); err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bbolt.Tx) error {
				if !c.members {
					return nil
				}
				b, err := tx.CreateBucket([]byte("members"))
				if err != nil {
					return err
				}
				return b.Put([]byte("1"), []byte("{}"))
			})
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			if got, err := Served(t.Context(), h, dataDir); err != nil || got != c.want {
				t.Errorf("served: %t, %v; want %t", got, err, c.want)
			}
		})
	}
}
