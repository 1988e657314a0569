package binary

import (
	"context"
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

// Removed is the state that nothing of ours is left in the install directory: no release, and no link into one. The
// directory itself stays, and so does what others put there.
type Removed struct {
	Host       *host.Host
	InstallDir string
}

// Check lists what is left.
func (r Removed) Check(ctx context.Context) (converge.Diff, error) {
	ours, err := r.ours()
	if err != nil {
		return nil, err
	}
	return ours.Check(ctx)
}

// Apply removes the links, then the releases.
func (r Removed) Apply(ctx context.Context) error {
	ours, err := r.ours()
	if err != nil {
		return err
	}
	return ours.Apply(ctx)
}

// ours returns the paths that are ours.
func (r Removed) ours() (file.Absent, error) {
	a := file.Absent{Host: r.Host}
	releases := path.Join(r.InstallDir, constants.ReleasesDir)
	for _, t := range []string{"etcd", "etcdctl", "etcdutl"} {
		link := path.Join(r.InstallDir, t)
		a.Paths = append(a.Paths, host.Staging(link))
		text, err := r.Host.Readlink(link)
		if isAbsent(err) || errors.Is(err, unix.EINVAL) {
			continue
		}
		if err != nil {
			return a, err
		}
		if !path.IsAbs(text) {
			text = path.Join(r.InstallDir, text)
		}
		if strings.HasPrefix(path.Clean(text), releases+"/") {
			a.Paths = append(a.Paths, link)
		}
	}
	a.Paths = append(a.Paths, releases)
	return a, nil
}
