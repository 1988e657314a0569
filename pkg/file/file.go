// Package file holds files, directories and links as desired states.
package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// File is a regular file with given contents and permission bits.
type File struct {
	Host *host.Host
	Path string
	Data []byte
	Mode fs.FileMode
}

// Check compares contents and permissions. It never shows the contents.
func (f File) Check(context.Context) (converge.Diff, error) {
	info, err := f.Host.Lstat(f.Path)
	if absent(err) {
		return gap(f.Path, "absent", "written"), nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return gap(f.Path, kind(info.Mode()), "a regular file"), nil
	}
	var d converge.Diff
	if info.Mode().Perm() != f.Mode {
		d = append(d, converge.Change{What: f.Path, Have: fmt.Sprintf("mode %04o", info.Mode().Perm()), Want: fmt.Sprintf("%04o", f.Mode)})
	}
	data, err := f.Host.ReadFile(f.Path)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(data, f.Data) {
		d = append(d, converge.Change{What: f.Path, Have: "other contents", Want: "written"})
	}
	return d, nil
}

// Apply replaces the file whole. What stands there and is no file is not removed: that is an error.
func (f File) Apply(context.Context) error {
	if info, err := f.Host.Lstat(f.Path); err == nil && info.IsDir() {
		real := f.Host.Path(f.Path)
		return errs.New(errs.Precondition, "%s is a directory, not a file", f.Path).Hint("move it away: mv %s %s.aside", real, real)
	}
	return f.Host.WriteFile(f.Path, f.Data, f.Mode)
}

// Dir is a directory with given permission bits. A link to a directory is one too.
type Dir struct {
	Host  *host.Host
	Path  string
	Mode  fs.FileMode
	Owner host.Owner // the zero value: whoever has it
}

// Check looks at the directory that the path leads to.
func (d Dir) Check(context.Context) (converge.Diff, error) {
	info, err := d.Host.Stat(d.Path)
	if absent(err) {
		return gap(d.Path, "absent", "a directory"), nil
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return gap(d.Path, kind(info.Mode()), "a directory"), nil
	}
	if info.Mode().Perm() != d.Mode {
		return gap(d.Path, fmt.Sprintf("mode %04o", info.Mode().Perm()), fmt.Sprintf("%04o", d.Mode)), nil
	}
	if !d.Host.Owns(d.Owner, info) {
		return gap(d.Path, "another owner", d.Owner.Name), nil
	}
	return nil, nil
}

// Apply makes the directory, or corrects its mode and owner.
func (d Dir) Apply(context.Context) error {
	if err := d.Host.MkdirAll(d.Path, d.Mode); err != nil {
		return err
	}
	if err := d.Host.Chmod(d.Path, d.Mode); err != nil {
		return err
	}
	return d.Host.Give(d.Path, d.Owner)
}

// Symlink is a symbolic link with a given text.
type Symlink struct {
	Host *host.Host
	Path string
	Text string
}

// Check compares the text of the link.
func (s Symlink) Check(context.Context) (converge.Diff, error) {
	info, err := s.Host.Lstat(s.Path)
	if absent(err) {
		return gap(s.Path, "absent", "a link to "+s.Text), nil
	}
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		return gap(s.Path, kind(info.Mode()), "a link to "+s.Text), nil
	}
	text, err := s.Host.Readlink(s.Path)
	if err != nil {
		return nil, err
	}
	if text != s.Text {
		return gap(s.Path, "a link to "+text, "a link to "+s.Text), nil
	}
	return nil, nil
}

// Apply puts the link in place of a file or link in one step.
func (s Symlink) Apply(context.Context) error { return s.Host.Symlink(s.Text, s.Path) }

// Absent is nothing at any of the paths. A directory goes with what is below it; a link goes, not what it leads to.
type Absent struct {
	Host  *host.Host
	Paths []string
}

// Check lists what is there.
func (a Absent) Check(context.Context) (converge.Diff, error) {
	var d converge.Diff
	for _, p := range a.Paths {
		there, err := a.Host.Exists(p)
		if err != nil {
			return nil, err
		}
		if there {
			d = append(d, converge.Change{What: p, Have: "present", Want: "absent"})
		}
	}
	return d, nil
}

// Apply removes what is there.
func (a Absent) Apply(context.Context) error {
	for _, p := range a.Paths {
		there, err := a.Host.Exists(p)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		if err := a.Host.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }

func gap(what, have, want string) converge.Diff {
	return converge.Diff{{What: what, Have: have, Want: want}}
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "a regular file"
	case m.IsDir():
		return "a directory"
	case m&fs.ModeSymlink != 0:
		return "a link"
	}
	return "a special file"
}
