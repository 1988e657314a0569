package snapshot

import (
	"context"
	"path/filepath"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// Removed is no member data, and no data directory unless something else lives in it: copies that were set aside and
// files of others stay. A mount point or a link stays too, emptied of the member.
type Removed struct {
	Host    *host.Host
	DataDir string
}

// Check lists what is there.
func (r Removed) Check(context.Context) (converge.Diff, error) {
	paths, err := leftovers(r.Host, r.DataDir)
	if err != nil {
		return nil, err
	}
	if member := filepath.Join(r.DataDir, memberDir); r.there(member) {
		paths = append(paths, member)
	}
	if bare, err := r.bare(); err != nil {
		return nil, err
	} else if bare {
		paths = append(paths, r.DataDir)
	}
	var d converge.Diff
	for _, p := range paths {
		d = append(d, converge.Change{What: p, Have: "present", Want: "absent"})
	}
	return d, nil
}

// Apply removes it. The member goes by one rename, so that a killed run never leaves half of one. The data of a
// running etcd is refused with status 3.
func (r Removed) Apply(context.Context) error {
	if err := refuseInUse(r.Host, r.DataDir); err != nil {
		return err
	}
	if err := r.clear(); err != nil {
		return err
	}
	if member := filepath.Join(r.DataDir, memberDir); r.there(member) {
		if err := r.Host.Rename(member, filepath.Join(r.DataDir, "."+memberDir+".removed")); err != nil {
			return err
		}
		if err := r.clear(); err != nil {
			return err
		}
	}
	bare, err := r.bare()
	if err != nil || !bare {
		return err
	}
	return r.Host.Remove(r.DataDir)
}

// clear removes what is on its way out.
func (r Removed) clear() error {
	paths, err := leftovers(r.Host, r.DataDir)
	if err != nil {
		return err
	}
	for _, p := range paths {
		if err := r.Host.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

func (r Removed) there(path string) bool {
	_, err := r.Host.Lstat(path)
	return err == nil
}

// bare tells whether a data directory that need not stay would be empty without the member.
func (r Removed) bare() (bool, error) {
	if !r.there(r.DataDir) {
		return false, nil
	}
	if stays, err := contentsOnly(r.Host, r.DataDir); err != nil || stays {
		return false, err
	}
	entries, err := r.Host.ReadDir(r.DataDir)
	if err != nil {
		return false, unreadable(r.DataDir, err)
	}
	for _, e := range entries {
		if e.Name() != memberDir && !isLeftover(memberDir, e.Name()) {
			return false, nil
		}
	}
	return true, nil
}
