package preflight

import (
	"context"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// Contents tells what a data directory holds.
type Contents int

// The contents of data directories.
const (
	Empty      Contents = iota // absent, or empty but for what does not count
	Whole                      // the data of a member, whole
	Half                       // a write-ahead log without its database, or the reverse
	Foreign                    // files of somebody else
	Unreadable                 // for this user
)

// DataDirectory is a data directory that etcd may start with.
type DataDirectory struct {
	Host *host.Host
	Path string
	// Ours tells that a member in it is this node's own; otherwise it must hold nothing.
	Ours bool
	// Inspect tells what it holds, and for people what is missing or which files are foreign.
	Inspect func(context.Context) (Contents, string, error)
}

// Check never proposes to delete: what is in the way is set aside under a dated name.
func (d DataDirectory) Check(ctx context.Context) (converge.Diff, error) {
	contents, detail, err := d.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	if detail != "" {
		detail = " (" + detail + ")"
	}
	var e *errs.Error
	switch {
	case contents == Empty, contents == Whole && d.Ours:
		return nil, nil
	case contents == Unreadable:
		converge.Warnf(ctx, "the data directory %s is not readable for this user: what it holds is not checked", d.Path)
		return nil, nil
	case contents == Foreign:
		e = refuse("the data directory %s holds files that are not etcd's%s", d.Path, detail).
			Hint("choose another one: --data-dir DIR")
	case contents == Whole:
		e = refuse("the data directory %s holds the data of a member already", d.Path)
	default:
		e = refuse("the data directory %s holds half of a member%s: etcd must not start with it", d.Path, detail)
	}
	// A mount point or a link stays what it is: its contents are moved.
	aside := d.Host.Path(d.Path)
	info, err := d.Host.Lstat(d.Path)
	if err != nil {
		return nil, err
	}
	mounted, err := d.Host.MountPoint(d.Path)
	if err != nil {
		return nil, err
	}
	switch kept := mounted || info.Mode()&fs.ModeSymlink != 0; {
	case kept && contents == Foreign:
		return nil, e.Hint("or move them away; see: ls -la %s", quote(d.Host.RealPath(d.Path)))
	case kept:
		aside = d.Host.RealPath(d.Path) + "/member"
	}
	return nil, e.Hint("if nobody needs it any more, set it aside: mv %s %s.$(date -u +%%Y%%m%%dT%%H%%M%%SZ)", quote(aside), quote(aside))
}

// DataFileSystem is a file system on which etcd's writes are fast, and stay. A read-only one is refused, others that do
// not fit are warned of.
type DataFileSystem struct {
	Host *host.Host
	Path string
}

// unfit names file systems by their magic number of statfs(2), with what is wrong about them.
var unfit = map[int64][2]string{
	unix.TMPFS_MAGIC:           {"tmpfs", "the data is gone after a reboot"},
	unix.RAMFS_MAGIC:           {"ramfs", "the data is gone after a reboot"},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlay", "the data goes with the container; use a volume"},
	unix.NFS_SUPER_MAGIC:       {"NFS", "etcd needs the latency and the locks of a local disk"},
	unix.SMB_SUPER_MAGIC:       {"SMB", "etcd needs the latency and the locks of a local disk"},
	unix.SMB2_SUPER_MAGIC:      {"SMB", "etcd needs the latency and the locks of a local disk"},
	unix.CIFS_SUPER_MAGIC:      {"CIFS", "etcd needs the latency and the locks of a local disk"},
	unix.CEPH_SUPER_MAGIC:      {"CephFS", "etcd needs the latency and the locks of a local disk"},
	unix.V9FS_MAGIC:            {"9p", "etcd needs the latency and the locks of a local disk"},
	unix.FUSE_SUPER_MAGIC:      {"FUSE", "what etcd syncs may not have reached a disk"},
}

// Check looks at the file system that holds the directory, or would.
func (d DataFileSystem) Check(ctx context.Context) (converge.Diff, error) {
	s, err := d.Host.FileSystem(d.Path)
	if err != nil {
		return nil, err
	}
	if s.ReadOnly {
		return nil, refuse("the file system of the data directory %s is mounted read-only", d.Path).
			Hint("see: findmnt -T %s", quote(d.Host.Path(d.Path))).
			Hint("or choose another one: --data-dir DIR")
	}
	if u, ok := unfit[s.Type]; ok {
		converge.Warnf(ctx, "the data directory %s is on %s: %s", d.Path, u[0], u[1])
	}
	return nil, nil
}

// FreeSpace is room for the database twice, as when a member receives a snapshot of it, and at least constants.MinFreeSpace.
type FreeSpace struct {
	Host *host.Host
	Path string
	// Database returns the size, in bytes, of the database that will arrive; nil where there is none.
	Database func(context.Context) (int64, error)
}

// Check counts what is free for an ordinary user: etcd runs as one.
func (f FreeSpace) Check(ctx context.Context) (converge.Diff, error) {
	need := uint64(constants.MinFreeSpace)
	why := ""
	if f.Database != nil {
		size, err := f.Database(ctx)
		if err != nil {
			return nil, err
		}
		if twice := 2 * uint64(max(size, 0)); twice > need { //nolint:gosec // not negative
			need, why = twice, fmt.Sprintf(", twice the database of %s", bytesText(uint64(size))) //nolint:gosec // likewise
		}
	}
	s, err := f.Host.FileSystem(f.Path)
	if err != nil {
		return nil, err
	}
	if s.Free >= need {
		return nil, nil
	}
	return nil, refuse("the file system of the data directory %s has %s free, and needs %s%s", f.Path, bytesText(s.Free), bytesText(need), why).
		Hint("see what is full: df -h").
		Hint("or choose a directory on another disk: --data-dir DIR")
}

// bytesText writes a size with a unit and one decimal.
func bytesText(n uint64) string {
	for _, u := range []struct {
		name string
		size uint64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
