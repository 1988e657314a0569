package preflight

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// DataMounted is every file system mounted on which the data directory lies. The unit of etcd mounts them before it starts
// (RequiresMountsFor=), those with the option noauto too: until then a directory that looks empty may be a mount point whose
// disk is late, and what is put there is hidden when the disk comes.
type DataMounted struct {
	Host  *host.Host
	Path  string
	Table string // the table of file systems (fstab(5))
}

// Check compares the table with what the kernel has mounted.
func (d DataMounted) Check(context.Context) (converge.Diff, error) {
	table, err := d.Host.ReadFile(d.Table)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	data := d.Host.Resolved(d.Path)
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0][0] == '#' || f[1][0] != '/' || f[2] == "swap" {
			continue
		}
		point := path.Clean(host.MountPath(f[1]))
		at := d.Host.Resolved(point)
		if at == "/" || data != at && !strings.HasPrefix(data, at+"/") {
			continue
		}
		mounted, err := d.Host.MountPoint(at)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if !mounted {
			return nil, refuse("the data directory %s is on a file system that is not mounted: %s has one for %s", d.Path, d.Host.Path(d.Table), point).
				Hint("mount %s", quote(point)).
				Hint("if it is not to be used any more, remove its line from %s", d.Host.Path(d.Table))
		}
	}
	return nil, nil
}
