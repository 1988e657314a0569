package robustness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// RunRestore loses the majority of a cluster in use, restores the cluster from a snapshot that was taken while it was in
// use, lets the others join again, and judges both epochs. More arguments for restore may be given.
func (s Setup) RunRestore(ctx context.Context, dir, version string, fault Fault, seed uint64, more ...string) (out Outcome, err error) {
	play, err := s.begin(ctx, dir, version, 3, fault, seed)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, play.Close()) }()
	c := play.Cluster
	first, others := c.Nodes[0], c.Nodes[1:]
	said, snapshot := first.beside("snapshot.db")
	if err := os.MkdirAll(filepath.Dir(snapshot), 0o755); err != nil {
		return out, err
	}
	one, err := Record(ctx, doors(c.Nodes), true, s.Rate)
	if err != nil {
		return out, err
	}
	err = play.until(
		func() error { return play.grow(3) },
		func() error { return play.do(first, "snapshot", "save", said) },
		// What is written now is lost.
		play.pause,
	)
	// The majority dies. What the dead have on their disks is for the judge only.
	copies := map[string]string{}
	for _, n := range others {
		err = errors.Join(err, n.down())
	}
	one.Abandon()
	for name, from := range dataDirs(c.Nodes) {
		copies[name] = filepath.Join(dir, "dead", name)
		err = errors.Join(err, os.CopyFS(copies[name], os.DirFS(from)))
	}
	for _, n := range others {
		err = errors.Join(err, n.lose())
	}
	if err != nil {
		return out, err
	}
	keep := s.keep(version, seed)
	if err := one.Check(copies, keep); err != nil {
		return out, fmt.Errorf("the first epoch: %w (kept in %s)", err, keep)
	}
	epoch, err := one.Until(snapshot, copies)
	if err != nil {
		return out, err
	}

	play.set(c.Nodes[:1:1])
	if err := play.do(first, append([]string{"restore", said}, more...)...); err != nil {
		return out, err
	}
	began, pairs, err := contents(ctx, first)
	if err != nil {
		return out, err
	}
	if err := errors.Join(epoch.Begins(began, pairs), watchTellsOfTheGap(ctx, first, epoch.Revision())); err != nil {
		return out, err
	}
	two, err := Record(ctx, doors(c.Nodes), false, s.Rate)
	if err != nil {
		return out, err
	}
	if err := play.until(func() error { return play.join(others[0]) }, func() error { return play.join(others[1]) }); err != nil {
		two.Abandon()
		return out, err
	}
	if err := two.Finish(ctx, doors(c.Nodes), s.within()); err != nil {
		return out, err
	}
	out = Outcome{two.Acknowledged(), play.Again, play.Struck}
	out.Writes += one.Acknowledged().Writes
	if err := whole(ctx, c.Nodes); err != nil {
		return out, err
	}
	if err := two.CheckAfter(epoch, began, dataDirs(c.Nodes), keep); err != nil {
		return out, fmt.Errorf("the second epoch: %w (kept in %s)", err, keep)
	}
	return out, nil
}

// until does one thing after the other, until one fails.
func (p *Play) until(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// contents reads everything that a cluster holds.
func contents(ctx context.Context, n *Node) (revision int64, pairs []Pair, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := talk(n)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = c.Close() }()
	all, err := c.Get(ctx, "", clientv3.WithFromKey())
	if err != nil {
		return 0, nil, err
	}
	for _, kv := range all.Kvs {
		pairs = append(pairs, Pair{string(kv.Key), string(kv.Value), kv.ModRevision})
	}
	return all.Header.Revision, pairs, nil
}

// watchTellsOfTheGap watches from a revision of the first epoch: the client has to learn that it has missed something.
func watchTellsOfTheGap(ctx context.Context, n *Node, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := talk(n)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	response := <-c.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(revision))
	if err := response.Err(); !errors.Is(err, rpctypes.ErrCompacted) {
		return errors.Join(fmt.Errorf("a watch from revision %d of the first epoch is not told that it is compacted: it got %d events", revision, len(response.Events)), err)
	}
	return nil
}
