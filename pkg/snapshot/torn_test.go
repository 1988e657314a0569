package snapshot

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"etcdadm/pkg/host"
)

// A database that says it has everything and knows nobody is none to go on with. One that a first start has not filled yet is
// no such database, nor is that of any member that has served.
func TestTornIsWhatKnowsNobody(t *testing.T) {
	root := t.TempDir()
	h := host.New(root, host.ReadOnly())
	torn := func(want uint64) {
		t.Helper()
		if id, torn := Torn(t.Context(), h, dataDir); id != want || torn != (want != 0) {
			t.Errorf("torn: %t, member %x, want %x", torn, id, want)
		}
	}
	torn(0) // nothing is there
	_, stop := startEtcd(t, filepath.Join(root, dataDir), "first")
	torn(0)
	stop()
	torn(0)
	m, err := Members(t.Context(), h, dataDir)
	if err != nil {
		t.Fatal(err)
	}

	database := filepath.Join(root, dataDir, "member/snap/db")
	if err := os.Remove(database); err != nil {
		t.Fatal(err)
	}
	says := func(applied uint64) {
		t.Helper()
		db, err := bbolt.Open(database, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			for _, name := range []string{"key", "members", "meta"} {
				if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
					return err
				}
			}
			return tx.Bucket([]byte("meta")).Put([]byte("consistent_index"), binary.BigEndian.AppendUint64(nil, applied))
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	says(0)
	torn(0)
	says(7)
	torn(m.MemberID)
}
