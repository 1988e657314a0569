package snapshot

import (
	"context"
	"path/filepath"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// Unborn is no data of a first member that was cut off while it began: its write-ahead log has no entry, so nothing was
// ever acknowledged from it, and etcd does not go on from there. It comes up as a member of nobody, and waits for ever.
type Unborn struct {
	Host    *host.Host
	DataDir string
}

func (u Unborn) walDir() string { return filepath.Join(u.DataDir, memberDir, "wal") }

// Check reads the write-ahead log, which may be that of a running etcd.
func (u Unborn) Check(ctx context.Context) (converge.Diff, error) {
	s, err := InspectDir(u.Host, u.DataDir)
	if err != nil || s.Kind != Whole {
		return nil, err
	}
	answer, err := ask(ctx, u.Host, request{Do: doEntries, Name: u.walDir(), WAL: u.Host.RealPath(u.walDir())})
	if err != nil || answer.Entries {
		return nil, err
	}
	return converge.Diff{{What: u.DataDir, Have: "what a first start left that was cut off", Want: "empty"}}, nil
}

// Apply removes it. It refuses, with status 3, the data of a running etcd, and a database that knows more than the log.
func (u Unborn) Apply(ctx context.Context) error {
	if d, err := u.Check(ctx); err != nil || len(d) == 0 { // it has begun meanwhile
		return err
	}
	if err := refuseInUse(u.Host, u.DataDir); err != nil {
		return err
	}
	database := filepath.Join(u.DataDir, memberDir, "snap/db")
	answer, err := ask(ctx, u.Host, request{Do: doEntries, Name: database, Database: u.Host.RealPath(database), WAL: u.Host.RealPath(u.walDir())})
	if err != nil {
		return err
	}
	if answer.Entries {
		return errs.New(errs.Precondition, "the data in %s is damaged: its database knows members, and its write-ahead log has no entry", u.DataDir).
			Hint("set it aside: mv %[1]s %[1]s.old; then restore: etcdadm restore FILE", u.Host.Path(u.DataDir))
	}
	return Removed(u).Apply(ctx)
}

// beginning is how many entries a first member writes before it serves anybody: who is a member, and that it leads.
const beginning = 2

// Served tells whether the member whose data it is can have acknowledged anything to anybody. One that was cut off right
// after its start has not: its log is at its beginning, and its database knows no member yet, or is no database of etcd's.
func Served(ctx context.Context, h *host.Host, dataDir string) (bool, error) {
	database := filepath.Join(dataDir, memberDir, "snap/db")
	answer, err := ask(ctx, h, request{
		Do: doEntries, Name: database, After: beginning,
		Database: h.RealPath(database), WAL: h.RealPath(filepath.Join(dataDir, memberDir, "wal")),
	})
	return answer.Entries || err != nil, err
}
