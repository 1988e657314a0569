package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// Final is a snapshot of the database of a stopped member, in a directory: what is kept of a cluster that ends. Taken
// after etcd was stopped, it has every write that was ever acknowledged, those of the last moment too.
type Final struct {
	Host    *host.Host
	DataDir string
	Dir     string // logical
}

// Check looks for the snapshot by its name, which tells the cluster and the revision. Without a member there is nothing
// to keep. A database that has not all of what the member acknowledged, because etcd was killed, has status 3.
func (f Final) Check(ctx context.Context) (converge.Diff, error) {
	s, err := InspectDir(f.Host, f.DataDir)
	if err != nil || s.Kind != Whole {
		return nil, err
	}
	path, err := f.path(ctx)
	if err != nil {
		return nil, err
	}
	there, err := f.Host.Exists(path)
	if err != nil || there {
		return nil, err
	}
	return converge.Diff{{What: path, Have: "absent", Want: "a final snapshot"}}, nil
}

func (f Final) database() string { return filepath.Join(f.DataDir, memberDir, "snap/db") }

func (f Final) path(ctx context.Context) (string, error) {
	m, err := Members(ctx, f.Host, f.DataDir)
	if err != nil {
		return "", err
	}
	if m.Lag > 0 {
		return "", errs.New(errs.Precondition, "etcd was killed: its database lags %d entries behind its log", m.Lag).
			Hint("run etcdadm reset again: it starts etcd, which catches up, and stops it")
	}
	answer, err := ask(ctx, f.Host, request{Do: doStatus, Database: f.Host.RealPath(f.database()), Name: f.database()})
	if err != nil {
		return "", err
	}
	return filepath.Join(f.Dir, fmt.Sprintf("final-%x-%d.db", m.ClusterID, answer.Revision)), nil
}

// Apply copies the database and puts its SHA-256 behind it, which makes a snapshot of it; and verifies that before it
// gets its name.
func (f Final) Apply(ctx context.Context) error {
	if err := refuseInUse(f.Host, f.DataDir); err != nil {
		return err
	}
	path, err := f.path(ctx)
	if err != nil {
		return err
	}
	if err := f.Host.MkdirAll(f.Dir, 0o700); err != nil {
		return err
	}
	in, err := f.Host.Open(f.database())
	if err != nil {
		return err
	}
	defer in.Close()
	size, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := f.Host.Create(path, 0o600)
	if err != nil {
		return writeError(path, err)
	}
	defer out.Discard()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, sum), &counted{ctx: ctx, Reader: in, total: size.Size()}); err != nil {
		return writeError(path, err)
	}
	_, werr := out.Write(sum.Sum(nil))
	if err := errors.Join(werr, out.Sync()); err != nil {
		return writeError(path, err)
	}
	info, err := verify(ctx, f.Host, out.Name(), f.Host.Path(path), false)
	if err != nil {
		return err
	}
	converge.Notef(ctx, "the final snapshot is %s: revision %d, %d keys", info.Path, info.Revision, info.Keys)
	return out.Commit()
}
