// Package host is the only way to the files, commands, processes and the lock of a node.
//
// Paths are logical and absolute ("/etc/etcd/etcd.env"); the host puts them under its root, following symbolic links
// as if the root were "/". What reads is free; what changes anything is an act: it is announced to the observer,
// and refused on a host that is only looked at. So one place proves that a dry run changes nothing, and a test can
// stop the program before any one act.
package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// Host is a node: its file system, its processes, its lock. The zero value is not usable; see New.
type Host struct {
	root     string
	readOnly bool
	observe  func(act string)
	unsynced *[]string // of Together; nil: every act is durable by itself
}

// Option changes a new Host.
type Option func(*Host)

// Observe has f called before each act, with a short description of it: "rename /etc/etcd/etcd.env".
func Observe(f func(act string)) Option { return func(h *Host) { h.observe = f } }

// ReadOnly makes every act fail: the host of a dry run, and of commands that only look.
func ReadOnly() Option { return func(h *Host) { h.readOnly = true } }

// New returns the host whose file system begins at root, an absolute path.
func New(root string, opts ...Option) *Host {
	h := &Host{root: filepath.Clean(root)}
	for _, o := range opts {
		o(h)
	}
	return h
}

// Root returns the directory under which every path of the node lies: "/" on the node itself.
func (h *Host) Root() string { return h.root }

// ReadOnly tells whether acts are refused.
func (h *Host) ReadOnly() bool { return h.readOnly }

// ErrReadOnly is returned by every act on a host that is only looked at.
var ErrReadOnly = errors.New("this host is only looked at")

// Act announces a change: of this host, or of the cluster. Whoever changes anything calls it first, and does not go on after an error.
func (h *Host) Act(format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if h.readOnly {
		return fmt.Errorf("%s: %w", what, ErrReadOnly)
	}
	if h.observe != nil {
		h.observe(what)
	}
	return nil
}

// Path returns the real path of a logical one. Links in the directories above the last element are resolved inside
// the root; the last element is not, so that the result names a link itself.
func (h *Host) Path(path string) string {
	path = filepath.Clean("/" + path)
	if h.root == "/" || path == "/" {
		return filepath.Join(h.root, path)
	}
	dir, err := securejoin.SecureJoin(h.root, filepath.Dir(path))
	if err != nil { // a loop of links: the caller's system call will say so
		return filepath.Join(h.root, path)
	}
	return filepath.Join(dir, filepath.Base(path))
}

// RealPath is Path with the last element resolved too: where the bytes are.
func (h *Host) RealPath(path string) string {
	path = filepath.Clean("/" + path)
	if h.root == "/" {
		return path
	}
	p, err := securejoin.SecureJoin(h.root, path)
	if err != nil {
		return filepath.Join(h.root, path)
	}
	return p
}

// Resolved is a logical path without the links in it: where it leads, whether or not anything is there yet.
func (h *Host) Resolved(path string) string {
	p, err := securejoin.SecureJoin(h.root, path)
	if err != nil { // a loop of links, or a directory that this user may not search: a system call will say so
		return filepath.Clean("/" + path)
	}
	return h.Logical(p)
}

// Logical turns a real path below the root back into a logical one.
func (h *Host) Logical(real string) string { return below(h.root, real) }

func below(root, real string) string {
	if root == "/" {
		return real
	}
	return filepath.Clean("/" + strings.TrimPrefix(real, root))
}

// Stat describes what path leads to.
func (h *Host) Stat(path string) (fs.FileInfo, error) { return os.Stat(h.RealPath(path)) }

// Lstat describes what stands at path, a link itself if it is one.
func (h *Host) Lstat(path string) (fs.FileInfo, error) { return os.Lstat(h.Path(path)) }

// ReadDir lists a directory, sorted by name.
func (h *Host) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(h.RealPath(path)) }

// Readlink returns the text of a link.
func (h *Host) Readlink(path string) (string, error) { return os.Readlink(h.Path(path)) }

// Exists tells whether anything stands at path. An error other than absence is returned.
func (h *Host) Exists(path string) (bool, error) {
	_, err := h.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	return err == nil, err
}

// FileSystem describes the file system that holds a path, or would hold it: the nearest existing directory above counts.
type FileSystem struct {
	Type     int64  // magic number of statfs(2)
	Free     uint64 // bytes free for an ordinary user
	Size     uint64 // bytes in all
	ReadOnly bool   // mounted so
}

// FileSystem returns the file system of a path.
func (h *Host) FileSystem(path string) (FileSystem, error) {
	for p := h.RealPath(h.Resolved(path)); ; p = filepath.Dir(p) {
		var s unix.Statfs_t
		err := unix.Statfs(p, &s)
		if errors.Is(err, unix.ENOENT) && p != "/" {
			continue
		}
		if err != nil {
			return FileSystem{}, &fs.PathError{Op: "statfs", Path: p, Err: err}
		}
		// Blocks are counted in fragments; the block size is what transfers best, on FUSE and NFS a larger one.
		unit := uint64(s.Frsize) //nolint:gosec // positive; the type differs by architecture
		if unit == 0 {
			unit = uint64(s.Bsize) //nolint:gosec // likewise
		}
		return FileSystem{
			Type:     int64(s.Type), //nolint:unconvert // likewise
			Free:     s.Bavail * unit,
			Size:     s.Blocks * unit,
			ReadOnly: s.Flags&unix.ST_RDONLY != 0,
		}, nil
	}
}

// MountPoint tells whether path leads to a directory on which a file system is mounted. The kernel's table decides:
// device numbers miss bind mounts of the same file system, and differ within one that has subvolumes.
func (h *Host) MountPoint(path string) (bool, error) {
	real, err := filepath.EvalSymlinks(h.RealPath(path))
	if err != nil {
		return false, err
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && MountPath(f[4]) == real {
			return true, nil
		}
	}
	return false, nil
}

// MountPath undoes how proc_pid_mountinfo(5), and fstab(5), write what would break their lines.
func MountPath(field string) string { return mountPath.Replace(field) }

var mountPath = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
