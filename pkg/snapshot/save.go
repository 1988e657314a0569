package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// errStalled ends a transfer of which no byte came for too long.
var errStalled = errors.New("stalled")

// Save streams a snapshot from the one endpoint of a client into a file with mode 0600. The path is the caller's, not
// under the root of the host; its directory exists. The file is made beside, verified, and only then renamed into
// place: it is whole, or it is not there. A file that exists is not overwritten, status 3, nor one that another run is
// making, status 4.
func Save(ctx context.Context, h *host.Host, c *clientv3.Client, path string) (Info, error) {
	return save(ctx, h, c, path, constants.SnapshotStallTimeout)
}

func save(ctx context.Context, h *host.Host, c *clientv3.Client, path string, stall time.Duration) (Info, error) {
	if n := len(c.Endpoints()); n != 1 {
		return Info{}, fmt.Errorf("a snapshot comes from one endpoint, not from %d", n)
	}
	endpoint := c.Endpoints()[0]
	path, err := filepath.Abs(path)
	if err != nil {
		return Info{}, err
	}
	own := h.Unrooted()
	if err := vacant(own, path); err != nil {
		return Info{}, err
	}
	size, err := databaseSize(ctx, c, endpoint)
	if err != nil {
		return Info{}, err
	}
	system, err := own.FileSystem(path)
	if err != nil {
		return Info{}, err
	}
	if system.Free < uint64(size) { //nolint:gosec // a size is not negative
		return Info{}, noRoom(path, fmt.Sprintf("%s free, and the database has %s", bytesText(system.Free), bytesText(uint64(size)))) //nolint:gosec // likewise
	}
	f, err := own.CreateLocked(path, 0o600)
	if err != nil {
		return Info{}, writeError(path, err)
	}
	defer f.Discard()
	if err := vacant(own, path); err != nil { // another run may have been at its end
		return Info{}, err
	}
	if err := receive(ctx, c, endpoint, path, f, size, stall); err != nil {
		return Info{}, err
	}
	if err := f.Sync(); err != nil {
		return Info{}, writeError(path, err)
	}
	// etcd does not compare what the client wrote with what it sent.
	info, err := verify(ctx, h, f.Name(), path, false)
	if err != nil {
		return Info{}, err
	}
	if err := f.Commit(); err != nil {
		f.Withdraw() // whoever waits for a snapshot must not take this for one
		return Info{}, writeError(path, err)
	}
	return info, nil
}

// vacant sees that a file can be made at path without taking the place of another.
func vacant(own *host.Host, path string) error {
	dir := filepath.Dir(path)
	switch info, err := own.Stat(dir); {
	case absent(err):
		return errs.New(errs.Usage, "the directory %s does not exist", dir).Hint("mkdir -p %s", dir)
	case err != nil:
		return unreadable(dir, err)
	case !info.IsDir():
		return errs.New(errs.Usage, "%s is not a directory", dir)
	}
	there, err := own.Exists(path)
	if err == nil && there {
		err = errs.New(errs.Precondition, "%s exists, and is not overwritten", path).Hint("choose another name, or move it away first")
	}
	return err
}

// databaseSize asks a member how large its database is, in bytes.
func databaseSize(ctx context.Context, c *clientv3.Client, endpoint string) (int64, error) {
	limited, cancel := context.WithTimeout(ctx, constants.RequestTimeout)
	defer cancel()
	s, err := c.Status(limited, endpoint)
	switch {
	case err == nil:
		return s.DbSize, nil
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case limited.Err() != nil:
		return 0, errs.New(errs.Timeout, "etcd at %s does not answer within %s", endpoint, constants.RequestTimeout)
	}
	return 0, errs.New(errs.Failed, "etcd at %s: %s", endpoint, status.Convert(err).Message())
}

// receive writes the stream of a snapshot to w. Without a byte for as long as stall, it ends with status 5.
func receive(ctx context.Context, c *clientv3.Client, endpoint, path string, w io.Writer, size int64, stall time.Duration) error {
	live, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watchdog.Stop()

	out := &fed{Writer: w, feed: func() { watchdog.Reset(stall) }}
	stream, err := c.Snapshot(live)
	if err == nil {
		defer stream.Close()
		_, err = io.Copy(out, &counted{ctx: live, Reader: stream, total: size})
	}
	switch {
	case err == nil:
		return nil
	case out.failed:
		return writeError(path, err)
	case ending(ctx):
		<-ctx.Done()
		return ctx.Err()
	case errors.Is(context.Cause(live), errStalled):
		return errs.New(errs.Timeout, "etcd at %s sent nothing of the snapshot for %s", endpoint, stall).
			Hint("run the same command again, or name another endpoint")
	case stream == nil:
		return errs.New(errs.Failed, "etcd at %s gives no snapshot: %s", endpoint, status.Convert(err).Message())
	}
	return errs.New(errs.Failed, "etcd at %s ended the snapshot early: %s", endpoint, status.Convert(err).Message()).
		Hint("run the same command again, or name another endpoint")
}

// ending tells whether a context has ended, or is about to: a member that was told of its deadline may be ahead of it.
func ending(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && time.Until(deadline) < 10*time.Millisecond
}

// fed is a writer that keeps a watchdog quiet, and knows whether it was the writing that failed.
type fed struct {
	io.Writer
	feed   func()
	failed bool
}

func (f *fed) Write(p []byte) (int, error) {
	f.feed()
	n, err := f.Writer.Write(p)
	f.failed = err != nil
	return n, err
}

// writeError names the disk that is full.
func writeError(path string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return noRoom(path, "no space left")
	}
	if errors.Is(err, fs.ErrPermission) {
		return errs.New(errs.Usage, "%s is not writable for this user", filepath.Dir(path)).Hint("choose another directory, or run the command as root")
	}
	return err
}

func noRoom(path, why string) error {
	dir := filepath.Dir(path)
	return errs.New(errs.Precondition, "no room for the snapshot in %s: %s", dir, why).Hint("make room on its file system: df -h %s", dir)
}
