package host

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// SyncLatencies appends to a file without a name on the file system that holds a path, syncs each time, and returns how
// long each took: appends of size bytes for as long as more, which is told of each, asks for another one, and as the limit
// allows. Nothing is left of it. It is an act all the same: the disk works.
func (h *Host) SyncLatencies(ctx context.Context, path string, size int, limit time.Duration, more func(took time.Duration) bool) ([]time.Duration, error) {
	if err := h.Act("measure the disk of %s", path); err != nil {
		return nil, err
	}
	dir := h.RealPath(path)
	for info, err := os.Stat(dir); err != nil || !info.IsDir(); info, err = os.Stat(dir) {
		dir = filepath.Dir(dir)
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "measure", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	block := make([]byte, size)
	var all []time.Duration
	for began, end := time.Now(), time.Now().Add(limit); began.Before(end) && ctx.Err() == nil; began = time.Now() {
		if _, err := unix.Write(fd, block); err != nil {
			return nil, err
		}
		if err := unix.Fdatasync(fd); err != nil {
			return nil, err
		}
		took := time.Since(began)
		all = append(all, took)
		if !more(took) {
			break
		}
	}
	return all, ctx.Err()
}
