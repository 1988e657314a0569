package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/errs"
)

// maxInput is the size of the largest file of a caller that is read whole, in bytes.
const maxInput = 2 << 20

// ReadFile returns the contents of a file. What is no file is an error with status 3, as with Open.
func (h *Host) ReadFile(path string) ([]byte, error) {
	f, err := h.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Open opens a file for reading. Absence is fs.ErrNotExist; but a link that leads nowhere, a directory and a pipe, whose
// writer nobody would wait for, stand in the place of a file: an error with status 3, and nothing that may be replaced.
func (h *Host) Open(path string) (*os.File, error) {
	// Path, for the link itself: RealPath of one that leads nowhere is the file that is missing.
	f, err := open(h.RealPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		if to, lerr := h.Readlink(path); lerr == nil {
			return nil, errs.New(errs.Precondition, "%s is a link to %s, which does not exist", h.Path(path), to).
				Hint("bring back what it leads to, or remove the link: rm %s", h.Path(path))
		}
	}
	if err != nil {
		return nil, err
	}
	return f, refuseOdd(f)
}

// ReadInput returns the contents of a file that an argument of the caller names: of a regular file, of a device like
// /dev/stdin, or of a pipe without a name, as shells make it of <(...).
func ReadInput(path string) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil || s.Type != unix.PIPEFS_MAGIC {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if info.Mode()&fs.ModeCharDevice == 0 {
			if err := refuseOdd(f); err != nil {
				return nil, err
			}
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxInput+1))
	if err == nil && len(data) > maxInput {
		err = fmt.Errorf("%s has more than %d bytes", path, maxInput)
	}
	return data, err
}

// open opens a real path, and does not wait for the writer of a pipe.
func open(real string) (*os.File, error) {
	f, err := os.OpenFile(real, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, errs.New(errs.Precondition, "%s cannot be read: %w", real, fs.ErrPermission).Hint("run this command as root")
	case errors.Is(err, unix.ELOOP):
		return nil, errs.New(errs.Precondition, "%s is a link that leads to itself", real).Hint("remove the link: rm %s", real)
	}
	return f, err
}

// refuseOdd closes what is no regular file, and says what it is.
func refuseOdd(f *os.File) error {
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		return nil
	}
	_ = f.Close()
	if err != nil {
		return err
	}
	what := "not a regular file"
	switch {
	case info.IsDir():
		what = "a directory, not a file"
	case info.Mode()&fs.ModeNamedPipe != 0:
		what = "a named pipe, not a file"
	case info.Mode()&fs.ModeDevice != 0:
		what = "a device, not a file"
	}
	return errs.New(errs.Precondition, "%s is %s", f.Name(), what).Hint("move it away: mv %s %s", f.Name(), filepath.Clean(f.Name())+".aside")
}
