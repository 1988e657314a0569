package binary

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
	"etcdadm/pkg/version"
)

// Installed is the state that a release is unpacked in a directory of its own, and that the links in the install
// directory lead there. The links are relative, so that they also lead there from outside of the host's root.
//
// Releases that were installed before stay, for the way back; only the links move.
type Installed struct {
	Source
	InstallDir string
}

// releaseDir is <install dir>/.etcdadm/v<X.Y.Z>.
func (i Installed) releaseDir() string { return path.Join(i.InstallDir, i.linkDir()) }

// linkDir is the release's directory as the links name it.
func (i Installed) linkDir() string {
	return path.Join(constants.ReleasesDir, "v"+i.Version.String())
}

func (i Installed) link(tool string) file.Symlink {
	return file.Symlink{Host: i.Host, Path: path.Join(i.InstallDir, tool), Text: path.Join(i.linkDir(), tool)}
}

// Check looks for the programs and at the links. It does not read the programs: their directory got its name after
// they had been unpacked whole.
func (i Installed) Check(ctx context.Context) (converge.Diff, error) {
	d, err := i.missing()
	if err != nil {
		return nil, err
	}
	for _, t := range tools {
		gap, err := i.link(t).Check(ctx)
		if err != nil {
			return nil, err
		}
		d = append(d, gap...)
	}
	return d, nil
}

// missing looks for the programs of the release.
func (i Installed) missing() (converge.Diff, error) {
	var d converge.Diff
	for _, t := range tools {
		p := path.Join(i.releaseDir(), t)
		have := ""
		info, err := i.Host.Lstat(p)
		switch {
		case isAbsent(err):
			have = "absent"
		case err != nil:
			return nil, err
		case !info.Mode().IsRegular():
			have = "not a regular file"
		case info.Size() == 0:
			have = "empty"
		case info.Mode().Perm()&0o111 != 0o111:
			have = fmt.Sprintf("mode %04o", info.Mode().Perm())
		default:
			continue
		}
		d = append(d, converge.Change{What: p, Have: have, Want: "unpacked"})
	}
	return d, nil
}

// Apply unpacks the cached archive, unless the release is there, and moves the links.
func (i Installed) Apply(ctx context.Context) error {
	missing, err := i.missing()
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		if err := i.unpack(ctx); err != nil {
			return err
		}
	}
	for _, t := range tools {
		l := i.link(t)
		gap, err := l.Check(ctx)
		if err != nil {
			return err
		}
		if len(gap) == 0 {
			continue
		}
		if info, err := i.Host.Lstat(l.Path); err == nil && info.IsDir() {
			return errs.New(errs.Precondition, "%s is a directory, where a link to etcd's program belongs", l.Path).
				Hint("move it away, or choose another directory with --install-dir DIR")
		}
		if err := l.Apply(ctx); err != nil {
			return err
		}
	}
	return nil
}

// InstalledVersion returns the version to which the link of etcd in the install directory leads; false when no release
// of ours is linked there.
func InstalledVersion(h *host.Host, installDir string) (version.Etcd, bool, error) {
	link := path.Join(installDir, "etcd")
	text, err := h.Readlink(link)
	if isAbsent(err) || errors.Is(err, unix.EINVAL) { // EINVAL: no link
		return version.Etcd{}, false, nil
	}
	if err != nil {
		return version.Etcd{}, false, err
	}
	dir, ok := strings.CutPrefix(path.Dir(text), constants.ReleasesDir+"/v")
	v, perr := version.ParseEtcd(dir)
	if !ok || perr != nil {
		return version.Etcd{}, false, nil //nolint:nilerr // a link of somebody else
	}
	if _, err := h.Stat(link); isAbsent(err) { // it leads nowhere
		return version.Etcd{}, false, nil
	} else if err != nil {
		return version.Etcd{}, false, err
	}
	return v, true, nil
}
