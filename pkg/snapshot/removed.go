package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

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
func (r Removed) Apply(ctx context.Context) error {
	if r.there(filepath.Join(r.DataDir, memberDir)) {
		if err := Condemned(r).Apply(ctx); err != nil {
			return err
		}
	}
	if err := r.clear(); err != nil {
		return err
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
	return removeAll(r.Host, paths)
}

func removeAll(h *host.Host, paths []string) error {
	for _, p := range paths {
		if err := h.RemoveAll(p); err != nil {
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
		if e.Name() != memberDir && e.Name() != touchFile && !isLeftover(memberDir, e.Name()) {
			return false, nil
		}
	}
	return true, nil
}

// Condemned is a data directory whose member, if there was one, is on its way out: nothing starts on it any more. It is
// what a reset decides first, so that one that was killed is known by it.
type Condemned struct {
	Host    *host.Host
	DataDir string
}

func (c Condemned) member() string { return filepath.Join(c.DataDir, memberDir) }
func (c Condemned) out() string    { return filepath.Join(c.DataDir, "."+memberDir+".removed") }

// Check looks for the member.
func (c Condemned) Check(context.Context) (converge.Diff, error) {
	if _, err := c.Host.Lstat(c.member()); err == nil {
		return converge.Diff{{What: c.member(), Have: "present", Want: "given up"}}, nil
	} else if !absent(err) {
		return nil, unreadable(c.DataDir, err)
	}
	return nil, nil
}

// Apply renames it. The data of a running etcd is refused with status 3.
func (c Condemned) Apply(context.Context) error {
	if err := refuseInUse(c.Host, c.DataDir); err != nil {
		return err
	}
	if earlier, err := IsCondemned(c.Host, c.DataDir); err != nil {
		return err
	} else if earlier {
		if err := c.Host.RemoveAll(c.out()); err != nil {
			return err
		}
	}
	return c.Host.Rename(c.member(), c.out())
}

// SetAside is a data directory without a member: what is there gets a dated name beside it.
type SetAside struct {
	Host    *host.Host
	DataDir string
}

// Check looks for the member.
func (s SetAside) Check(ctx context.Context) (converge.Diff, error) { return Condemned(s).Check(ctx) }

// Apply renames it. The data of a running etcd is refused with status 3.
func (s SetAside) Apply(ctx context.Context) error {
	if err := refuseInUse(s.Host, s.DataDir); err != nil {
		return err
	}
	return setAside(ctx, s.Host, filepath.Join(s.DataDir, memberDir), time.Now())
}

func setAside(ctx context.Context, h *host.Host, path string, now time.Time) error {
	aside, err := setAsideName(h, path, now)
	if err != nil {
		return err
	}
	if err := h.Rename(path, aside); err != nil {
		return err
	}
	converge.Notef(ctx, "the data that was there is set aside as %s", aside)
	return nil
}

// Cleared is a data directory in which, and beside which, nothing is left of runs that were killed.
type Cleared struct {
	Host    *host.Host
	DataDir string
}

// Check lists what is left, as far as this user may see it.
func (c Cleared) Check(context.Context) (converge.Diff, error) {
	paths, err := c.paths()
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	var d converge.Diff
	for _, p := range paths {
		d = append(d, converge.Change{What: p, Have: "present", Want: "absent"})
	}
	return d, err
}

// Apply removes it.
func (c Cleared) Apply(context.Context) error {
	paths, err := c.paths()
	if err != nil {
		return err
	}
	return removeAll(c.Host, paths)
}

// paths are those of the leftovers but for the file of an etcd that may be about to start.
func (c Cleared) paths() ([]string, error) {
	paths, err := leftovers(c.Host, c.DataDir)
	return slices.DeleteFunc(paths, func(p string) bool { return filepath.Base(p) == touchFile }), err
}

// IsCondemned tells whether a reset has given the member up, and was killed before all of it was gone.
func IsCondemned(h *host.Host, dataDir string) (bool, error) {
	there, err := h.Exists(Condemned{h, dataDir}.out())
	if err != nil {
		return false, unreadable(dataDir, err)
	}
	return there, nil
}

// IsRestored tells whether the member in a data directory was made of a snapshot by Restored.
func IsRestored(h *host.Host, dataDir string) (bool, error) {
	there, err := h.Exists(filepath.Join(dataDir, memberDir, marker))
	if err != nil {
		return false, unreadable(dataDir, err)
	}
	return there, nil
}
