package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/errs"
)

// stagingSuffix marks a file that is not yet whole. The name is fixed, so that a second try overwrites the leftovers of the first.
const stagingSuffix = ".etcdadm-new"

// Staging returns the name under which the next contents of path are made: beside it, hidden, always the same.
func Staging(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+stagingSuffix)
}

// WriteFile replaces a file whole or not at all: staged beside it, synced, renamed, the directory synced. Missing
// directories above are made with mode 0755. The owner is the caller's.
func (h *Host) WriteFile(path string, data []byte, mode fs.FileMode) error {
	return h.WriteFileFor(Owner{}, path, data, mode)
}

// WriteFileFor is WriteFile for a file that belongs to somebody else.
func (h *Host) WriteFileFor(o Owner, path string, data []byte, mode fs.FileMode) error {
	f, err := h.Create(path, mode)
	if err != nil {
		return err
	}
	defer f.Discard()
	if uid, gid, ok := h.ids(o); ok {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit()
}

// WriteWatched is WriteFile for a directory of which somebody takes every file: it is staged beside that directory, and
// moved in. Where nothing can be moved in from there, it is staged in the directory, hidden.
func (h *Host) WriteWatched(path string, data []byte, mode fs.FileMode) error {
	f, err := h.create(path, Staging(filepath.Dir(path)), mode, fresh)
	if err == nil {
		defer f.Discard()
		if _, err = f.Write(data); err == nil {
			err = f.Commit()
		}
	}
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return h.WriteFile(path, data, mode)
	}
	return err
}

// StagedFile is a file in the making. It is nothing until Commit.
type StagedFile struct {
	*os.File
	h    *Host
	path string // logical
	real string
	done bool

	locked bool // until it is closed
}

// Create begins a file that takes the place of path at Commit. Like WriteFile, for what is written in pieces.
func (h *Host) Create(path string, mode fs.FileMode) (*StagedFile, error) {
	return h.create(path, Staging(path), mode, fresh)
}

// CreateLocked is Create for a file that another process may be making at the same moment, where no lock of the node keeps
// the two apart. The staged file is locked until it has its name: whoever comes second ends with status 4, and touches
// nothing. What a killed process left is not locked. On a file system without locks this is Create.
func (h *Host) CreateLocked(path string, mode fs.FileMode) (*StagedFile, error) {
	f, err := h.create(path, Staging(path), mode, freshLocked)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errs.New(errs.Locked, "%s is being written by another process", path).
			Hint("wait until the other etcdadm has ended, then run this command again")
	}
	if err == nil {
		f.locked = true
	}
	return f, err
}

func (h *Host) create(path, staging string, mode fs.FileMode, open func(string, fs.FileMode) (*os.File, error)) (*StagedFile, error) {
	if err := h.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := h.Act("stage %s", path); err != nil {
		return nil, err
	}
	f, err := open(h.Path(staging), mode)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(mode); err != nil { // the umask
		_ = f.Close()
		return nil, err
	}
	return &StagedFile{File: f, h: h, path: path, real: h.Path(path)}, nil
}

// fresh makes a file in place of what stands there.
func fresh(real string, mode fs.FileMode) (*os.File, error) {
	if err := os.Remove(real); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return newFile(real, mode)
}

// newFile opens a file for writing, and for reading too, without which NFS shares no lock.
func newFile(real string, mode fs.FileMode) (*os.File, error) {
	// O_EXCL: whatever stands there now was put there by somebody else, a link perhaps.
	return os.OpenFile(real, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
}

// freshLocked is fresh for a file that is locked while it is made, and EWOULDBLOCK when another process makes it. The
// maker shares its lock with those who read the database in the file, which bbolt locks as well; whoever would remove the
// file needs it alone. So a file that still has its name under our lock keeps it.
func freshLocked(real string, mode fs.FileMode) (*os.File, error) {
	for range 10 { // others come and go
		if err := removeUnlocked(real); err != nil {
			return nil, err
		}
		f, err := newFile(real, mode)
		switch {
		case errors.Is(err, fs.ErrExist):
			continue
		case err != nil:
			return nil, err
		}
		if err := tryLock(f, unix.LOCK_SH); !errors.Is(err, unix.EWOULDBLOCK) && isAt(f, real) {
			return f, nil
		}
		_ = f.Close() // it was taken for a leftover before it was locked
	}
	return nil, unix.EWOULDBLOCK
}

// removeUnlocked removes what stands at a path, unless it is a file that another process has locked: EWOULDBLOCK.
func removeUnlocked(real string) error {
	f, err := os.OpenFile(real, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR): // a link, or a directory: nobody's staged file
		return os.Remove(real)
	case err != nil:
		return err
	}
	defer f.Close()
	if err := tryLock(f, unix.LOCK_EX); errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	if !isAt(f, real) { // somebody was faster
		return nil
	}
	return os.Remove(real)
}

// isAt tells whether an open file still has its name.
func isAt(f *os.File, real string) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(real)
	return err == nil && os.SameFile(ours, there)
}

// Commit makes the file count, and durable.
func (f *StagedFile) Commit() error {
	if f.h.unsynced == nil {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if !f.locked {
		if err := f.Close(); err != nil {
			return err
		}
	}
	if err := f.h.Act("rename %s", f.path); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), f.real); err != nil {
		return err
	}
	f.done = true
	if f.h.unsynced != nil {
		return f.h.sync(f.real, filepath.Dir(f.real))
	}
	return f.h.sync(filepath.Dir(f.real))
}

// Discard removes the staged file, unless it was committed, and gives its lock back.
func (f *StagedFile) Discard() {
	if !f.done {
		_ = os.Remove(f.Name())
	}
	_ = f.Close()
}

// Withdraw removes a file that has its name, but not on the disk: after a Commit that failed, where there was none before.
func (f *StagedFile) Withdraw() {
	if f.done {
		_ = os.Remove(f.real)
	}
}

// MkdirAll makes a directory and those above it; those that exist stay as they are. Each new one is durable.
func (h *Host) MkdirAll(path string, mode fs.FileMode) error {
	real := h.RealPath(h.Resolved(path))
	if info, err := os.Stat(real); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: real, Err: unix.ENOTDIR}
		}
		return nil
	}
	if real != h.root {
		// Of where it really lies: the directories above a link exist already, those above its target perhaps not.
		if err := h.MkdirAll(filepath.Dir(h.Logical(real)), 0o755); err != nil {
			return err
		}
	}
	if err := h.Act("mkdir %s", path); err != nil {
		return err
	}
	if real == h.root {
		return os.MkdirAll(real, mode)
	}
	if err := os.Mkdir(real, mode); err != nil {
		if info, serr := os.Stat(real); serr == nil && info.IsDir() { // somebody else was faster
			return nil
		}
		return err
	}
	if err := os.Chmod(real, mode); err != nil {
		return err
	}
	return h.sync(filepath.Dir(real))
}

// Symlink makes link a symbolic link with the given text, in place of whatever file or link stands there, in one step.
func (h *Host) Symlink(text, link string) error {
	if err := h.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	if err := h.Act("stage %s", link); err != nil {
		return err
	}
	staging, real := h.Path(Staging(link)), h.Path(link)
	if err := os.Remove(staging); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(text, staging); err != nil {
		return err
	}
	if err := h.Act("link %s", link); err != nil {
		return err
	}
	if err := os.Rename(staging, real); err != nil {
		_ = os.Remove(staging)
		return err
	}
	return h.sync(filepath.Dir(real))
}

// Rename moves a file or directory within a file system, durably. The target must not exist, unless it is a file or an empty directory.
func (h *Host) Rename(from, to string) error {
	if err := h.Act("rename %s to %s", from, to); err != nil {
		return err
	}
	a, b := h.Path(from), h.Path(to)
	if err := os.Rename(a, b); err != nil {
		return err
	}
	return h.sync(filepath.Dir(b), filepath.Dir(a))
}

// Remove removes a file, a link or an empty directory. What is absent already is no error.
func (h *Host) Remove(path string) error {
	if err := h.Act("remove %s", path); err != nil {
		return err
	}
	real := h.Path(path)
	err := os.Remove(real)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.sync(filepath.Dir(real))
}

// RemoveAll removes path and what is below it. A link is removed, not what it leads to.
func (h *Host) RemoveAll(path string) error {
	if filepath.Clean("/"+path) == "/" {
		return fmt.Errorf("refusing to remove %s", h.root)
	}
	if err := h.Act("remove all of %s", path); err != nil {
		return err
	}
	real := h.Path(path)
	if err := os.RemoveAll(real); err != nil {
		return err
	}
	if err := h.sync(filepath.Dir(real)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Chmod sets the permission bits of what path leads to.
func (h *Host) Chmod(path string, mode fs.FileMode) error {
	if err := h.Act("chmod %s", path); err != nil {
		return err
	}
	return os.Chmod(h.RealPath(path), mode)
}

// Chown sets owner and group of what stands at path, a link itself if it is one.
func (h *Host) Chown(path string, uid, gid int) error {
	if err := h.Act("chown %s", path); err != nil {
		return err
	}
	return os.Lchown(h.Path(path), uid, gid)
}

// CopyFile copies a file of the node to another path, whole or not at all.
func (h *Host) CopyFile(from, to string, mode fs.FileMode) error {
	in, err := h.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := h.Create(to, mode)
	if err != nil {
		return err
	}
	defer out.Discard()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Commit()
}

// Together has the acts of f made durable at its end, all at once, which takes a disk little longer than one of them.
// Until then no order among them is promised to survive a loss of power: they must count for nothing yet, or go in any
// order. The host that f gets is for f alone.
func (h *Host) Together(f func(*Host) error) error {
	all, unsynced := *h, []string{}
	all.unsynced = &unsynced
	if err := f(&all); err != nil {
		return err
	}
	slices.Sort(unsynced)
	return h.sync(slices.Compact(unsynced)...)
}

// sync makes files and directories durable, at the same time; within Together, later.
func (h *Host) sync(reals ...string) error {
	if h.unsynced != nil {
		*h.unsynced = append(*h.unsynced, reals...)
		return nil
	}
	problems := make([]error, len(reals))
	var all sync.WaitGroup
	for i, real := range reals {
		all.Go(func() { problems[i] = syncDir(real) })
	}
	all.Wait()
	return errors.Join(problems...)
}

// SyncDir makes durable which names a directory has.
func (h *Host) SyncDir(path string) error { return syncDir(h.RealPath(path)) }

// SyncTree makes everything below path durable, bottom-up: files first, then the directories that name them, path last.
func (h *Host) SyncTree(path string) error {
	return syncTree(h.RealPath(path))
}

func syncTree(real string) error {
	info, err := os.Lstat(real)
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := os.ReadDir(real)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := syncTree(filepath.Join(real, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
				return err
			}
		}
	} else if !info.Mode().IsRegular() {
		return nil
	}
	return syncDir(real)
}

// syncDir syncs one directory or file.
func syncDir(real string) error {
	f, err := os.Open(real)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	// Some file systems do not sync directories, and say so.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// IsStaging tells whether a file name is that of a file in the making.
func IsStaging(name string) bool {
	return strings.HasPrefix(name, ".") && strings.HasSuffix(name, stagingSuffix)
}
