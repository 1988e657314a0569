package binary

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"etcdadm/pkg/errs"
)

// tools are the programs of a release, in the order in which their links move: etcd, for which InstalledVersion looks, last.
var tools = []string{"etcdutl", "etcdctl", "etcd"}

// Sizes that no release comes near to: its programs have some 25 MB each.
const (
	maxTool     = 256 << 20
	maxUnpacked = 512 << 20
)

// inspect tells whether an archive holds a whole release.
func inspect(ctx context.Context, r io.Reader) error {
	return unpack(ctx, r, func(string) (io.WriteCloser, error) { return nowhere{io.Discard}, nil })
}

type nowhere struct{ io.Writer }

func (nowhere) Close() error { return nil }

// unpack reads the archive of a release and writes each of the tools to what create returns for it. Everything else
// in the archive is passed over. An archive that is not as it should be is an error of status 6.
func unpack(ctx context.Context, r io.Reader, create func(tool string) (io.WriteCloser, error)) error {
	z, err := gzip.NewReader(bufio.NewReaderSize(reader{ctx, r}, 1<<20))
	if err == nil {
		err = untar(z, create)
	} else {
		err = bad(err)
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// bad makes a fault of the archive of an error, once.
func bad(err error) error {
	if errors.As(err, new(*errs.Error)) || errs.OfMachine(err) {
		return err
	}
	return errs.New(errs.Verification, "not a whole release archive: %w", err)
}

func badf(format string, args ...any) error { return bad(fmt.Errorf(format, args...)) }

// untar takes the tools out of the one top directory of a tar stream, and reads it to its end: a compressor's check
// sum stands there.
func untar(r io.Reader, create func(tool string) (io.WriteCloser, error)) error {
	in := &source{r, maxUnpacked}
	t := tar.NewReader(in)
	var top string
	var found []string
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bad(err)
		}
		dir, tool, err := place(h, top)
		if err != nil {
			return err
		}
		top = dir
		if tool == "" {
			continue
		}
		if slices.Contains(found, tool) {
			return badf("%s stands there twice", h.Name)
		}
		found = append(found, tool)
		if err := extract(&source{t, maxTool}, tool, create); err != nil {
			return err
		}
	}
	for _, tool := range []string{"etcd", "etcdctl", "etcdutl"} {
		if !slices.Contains(found, tool) {
			return badf("%s is missing", tool)
		}
	}
	return drain(in)
}

// place returns the top directory of an entry, and the tool that it is, if any.
func place(h *tar.Header, top string) (dir, tool string, err error) {
	name := path.Clean(h.Name)
	if path.IsAbs(name) || slices.Contains(strings.Split(h.Name, "/"), "..") {
		return "", "", badf("%q leads out of it", h.Name)
	}
	if name == "." {
		return top, "", nil
	}
	dir, file, _ := strings.Cut(name, "/")
	if top != "" && dir != top {
		return "", "", badf("%q is outside of its one top directory %q", h.Name, top)
	}
	if !slices.Contains(tools, file) {
		return dir, "", nil
	}
	switch {
	case h.Typeflag != tar.TypeReg:
		return "", "", badf("%s is not a regular file", h.Name)
	case h.Size == 0:
		return "", "", badf("%s is empty", h.Name)
	case h.Size > maxTool:
		return "", "", badf("%s has %s", h.Name, mib(h.Size))
	}
	return dir, file, nil
}

func extract(r io.Reader, tool string, create func(tool string) (io.WriteCloser, error)) error {
	w, err := create(tool)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 256<<10)); err != nil {
		_ = w.Close()
		return err
	}
	return w.Close()
}

// drain reads what follows the end of a tar stream: zeros, up to the size of a record.
func drain(r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return badf("something follows its end")
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// source limits what is read, and marks its faults, which tells them from those of what is written.
type source struct {
	r    io.Reader
	left int64
}

func (s *source) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, badf("it unpacks to more than %s", mib(maxUnpacked))
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if err != nil && err != io.EOF { //nolint:errorlint // io.Reader promises io.EOF itself
		err = bad(err)
	}
	return n, err
}
