package snapshot

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"google.golang.org/protobuf/proto"

	"etcdadm/pkg/host"
)

// Membership is what a data directory knows of its cluster. The database lags behind the WAL by what etcd had not
// yet committed when it ended, so a change of the last moments may be missing.
type Membership struct {
	ClusterID uint64   `json:"clusterID"` // 0 when no WAL is there
	MemberID  uint64   `json:"memberID"`  // whose data it is; 0 when no WAL is there
	Members   []Member `json:"members"`   // by id
	Removed   bool     `json:"removed"`   // the cluster let go of the member whose data it is
	Applied   uint64   `json:"applied"`   // the last entry that the database says it has
	Lag       uint64   `json:"lag"`       // entries of the WAL that the database does not have; 0 after etcd was stopped, and not killed
}

// Member is one member of a cluster as a database holds it.
type Member struct {
	ID         uint64   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	IsLearner  bool     `json:"isLearner"`
}

// Self returns the member whose data it is.
func (m Membership) Self() (Member, bool) {
	for _, member := range m.Members {
		if member.ID == m.MemberID {
			return member, true
		}
	}
	return Member{}, false
}

// Members reads the membership out of the data directory of a stopped member. A running one holds its database
// locked: status 3.
func Members(ctx context.Context, h *host.Host, dataDir string) (Membership, error) {
	database := filepath.Join(dataDir, "member/snap/db")
	if _, err := h.Stat(database); err != nil {
		return Membership{}, unreadable(dataDir, err)
	}
	answer, err := ask(ctx, h, request{
		Do: doMembers, Name: database,
		Database: h.RealPath(database), WAL: h.RealPath(filepath.Join(dataDir, "member/wal")),
	})
	if err != nil {
		return Membership{}, err
	}
	return *answer.Membership, nil
}

// Owner tells whose data it is by the WAL alone, where the database cannot be read.
func Owner(ctx context.Context, h *host.Host, dataDir string) (cluster, member uint64, err error) {
	wal := filepath.Join(dataDir, "member/wal")
	answer, err := ask(ctx, h, request{Do: doOwner, Name: wal, WAL: h.RealPath(wal)})
	if err != nil {
		return 0, 0, err
	}
	return answer.Membership.ClusterID, answer.Membership.MemberID, nil
}

// members reads what Members returns. It runs in the worker.
func members(database, walDir string) (*Membership, error) {
	db, err := openDatabase(database)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	m := &Membership{Members: []Member{}}
	err = db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte("members"))
		if bucket == nil {
			return nil // etcd ended before it was bootstrapped
		}
		return bucket.ForEach(func(_, v []byte) error {
			var member Member
			if err := json.Unmarshal(v, &member); err != nil {
				return fmt.Errorf("a record of a member is not JSON: %w", err)
			}
			m.Members = append(m.Members, member)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(m.Members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	if m.ClusterID, m.MemberID, err = identity(walDir); err != nil {
		return nil, err
	}
	if m.Removed, err = removed(db, m.MemberID); err != nil {
		return nil, err
	}
	m.Applied, m.Lag, err = lag(db, walDir)
	return m, err
}

// Torn tells whether the data of a stopped member is of a first start that was cut off while the database that it had
// received took the place of its first one, and which member's it is. etcd does that by a rename that it does not sync
// (applySnapshot in its server/v3/etcdserver/server.go, 3.6.16), after the first one was told that it has everything. That one
// knows nothing, no member either, and etcd never starts on it again. Data that cannot be read here is for etcd to judge.
func Torn(ctx context.Context, h *host.Host, dataDir string) (member uint64, torn bool) {
	m, err := Members(ctx, h, dataDir)
	if err != nil || m.MemberID == 0 || m.Applied == 0 || len(m.Members) > 0 {
		return 0, false
	}
	return m.MemberID, true
}

// removed looks for a member among those that the cluster let go of, and whose id is never given out again
// (MustDeleteMemberFromBackend in etcd's server/v3/storage/schema).
func removed(db *bbolt.DB, member uint64) (bool, error) {
	var found bool
	err := db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte("members_removed")); b != nil {
			found = b.Get([]byte(strconv.FormatUint(member, 16))) != nil
		}
		return nil
	})
	return found, err
}

// lag returns the entry that the database says it has applied, and how many more the WAL has. Of a cluster of one voter
// every entry is committed.
func lag(db *bbolt.DB, walDir string) (applied, lag uint64, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte("meta")).Get([]byte("consistent_index")); len(b) == 8 {
			applied = binary.BigEndian.Uint64(b)
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	files, err := filepath.Glob(filepath.Join(walDir, "*.wal"))
	if err != nil {
		return 0, 0, err
	}
	for _, f := range slices.Backward(files) { // the newest has none right after it was begun
		last, err := lastEntry(f)
		if err != nil {
			return 0, 0, err
		}
		if last > 0 {
			return applied, max(last, applied) - applied, nil
		}
	}
	return applied, 0, nil
}

// entries tells whether a WAL has more entries than so many, as one has of which a file was purged; or whether a database, if
// one is named, has a member.
func entries(walDir string, after uint64, database string) (bool, error) {
	files, err := filepath.Glob(filepath.Join(walDir, "*.wal"))
	if err != nil || len(files) != 1 {
		return true, err
	}
	last, err := lastEntry(files[0])
	if err != nil || last > after || database == "" {
		return last > after, err
	}
	db, err := bbolt.Open(database, 0o400, &bbolt.Options{ReadOnly: true, Timeout: lockLimit})
	if err != nil {
		return false, err
	}
	defer db.Close()
	known := false
	err = db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte("members")); b != nil {
			first, _ := b.Cursor().First()
			known = first != nil
		}
		return nil
	})
	return known, err
}

// lastEntry returns the index of the last entry in a file of a WAL; 0 when it has none. A record that was cut off by a
// crash ends the file: it was acknowledged to nobody.
func lastEntry(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var last uint64
	decoder := wal.NewDecoder(fileutil.NewFileReader(f))
	for {
		var record walpb.Record
		if err := decoder.Decode(&record); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = nil
			}
			return last, err
		}
		switch record.GetType() {
		case wal.CrcType:
			decoder.UpdateCRC(record.GetCrc())
		case wal.EntryType:
			last = wal.MustUnmarshalEntry(record.GetData()).GetIndex()
		}
	}
}

// identity reads the ids that stand at the head of each file of a WAL. Without a WAL they are 0.
func identity(walDir string) (cluster, member uint64, err error) {
	files, err := filepath.Glob(filepath.Join(walDir, "*.wal"))
	if err != nil || len(files) == 0 {
		return 0, 0, err
	}
	f, err := os.Open(files[len(files)-1]) // the newest: the oldest may be purged meanwhile
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	decoder := wal.NewDecoder(fileutil.NewFileReader(f))
	for {
		var record walpb.Record
		if err := decoder.Decode(&record); err != nil {
			return 0, 0, fmt.Errorf("the WAL does not begin with the id of its member: %w", err)
		}
		switch record.GetType() {
		case wal.CrcType:
			decoder.UpdateCRC(record.GetCrc())
		case wal.MetadataType:
			var ids etcdserverpb.Metadata
			err := proto.Unmarshal(record.GetData(), &ids)
			return ids.GetClusterID(), ids.GetNodeID(), err
		}
	}
}
