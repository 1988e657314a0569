package certs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// Directory is the directory of the certificates, traversable for everybody: etcd does not run as a root that may go where
// no mode lets it. A caller may have made it without a thought of that. What else its mode says stays.
type Directory struct {
	Host *host.Host
	Dir  string
}

const traversable = fs.FileMode(0o111)

// Check looks at the directory that the path leads to.
func (d Directory) Check(context.Context) (converge.Diff, error) {
	info, err := d.Host.Stat(d.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return converge.Diff{{What: d.Dir, Have: "absent", Want: "a directory"}}, nil
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, errs.New(errs.Precondition, "%s is not a directory", d.Dir).Hint("name one for the certificates: --certs-dir DIR")
	case info.Mode().Perm()&traversable != traversable:
		return converge.Diff{{What: d.Dir, Have: fmt.Sprintf("mode %04o", info.Mode().Perm()), Want: fmt.Sprintf("%04o", info.Mode().Perm()|traversable)}}, nil
	}
	return nil, nil
}

// Apply makes the directory, or opens it.
func (d Directory) Apply(context.Context) error {
	if err := d.Host.MkdirAll(d.Dir, 0o755); err != nil {
		return err
	}
	info, err := d.Host.Stat(d.Dir)
	if err != nil || info.Mode().Perm()&traversable == traversable {
		return err
	}
	return d.Host.Chmod(d.Dir, info.Mode().Perm()|traversable)
}
