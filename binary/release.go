package binary

import (
	"context"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

// unpack makes the release's directory: beside its place, then renamed.
func (i Installed) unpack(ctx context.Context) error {
	archive, err := i.Host.Open(i.CachePath())
	if isAbsent(err) {
		return errs.New(errs.Failed, "%s is absent", i.CachePath()).Hint("etcdadm download --version %s", i.Version)
	}
	if err != nil {
		return err
	}
	defer archive.Close()
	staging := host.Staging(i.releaseDir())
	if err := i.clear(ctx, staging); err != nil {
		return err
	}
	if err := i.Host.MkdirAll(staging, 0o755); err != nil {
		return err
	}
	if err := i.Host.Act("unpack %s", i.CachePath()); err != nil {
		return err
	}
	w := &writer{dir: i.Host.RealPath(staging)}
	err = unpack(ctx, archive, w.create)
	if serr := w.wait(); err == nil {
		err = serr
	}
	if err == nil {
		err = i.checkMachine(w.dir)
	}
	switch {
	case errs.StatusOf(err) == errs.Verification:
		return errs.New(errs.Verification, "%s: %w", i.CachePath(), err).
			Hint("remove %s, then run this command again", i.Host.Path(i.CachePath()))
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		_ = i.Host.RemoveAll(staging) // gives back what we took
		return spaceError(i.InstallDir, err)
	case err != nil:
		return err
	}
	if err := i.clear(ctx, i.releaseDir()); err != nil { // it lacks something
		return err
	}
	return i.Host.Rename(staging, i.releaseDir())
}

// clear removes what stands at path.
func (i Installed) clear(ctx context.Context, path string) error {
	return file.Absent{Host: i.Host, Paths: []string{path}}.Apply(ctx)
}

// machines are the architectures of upstream's releases, as ELF numbers them.
var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390,
}

// checkMachine tells whether the programs are for the architecture that is wanted.
func (i Installed) checkMachine(real string) error {
	for _, t := range tools {
		f, err := elf.Open(filepath.Join(real, t))
		if errs.OfMachine(err) {
			return err
		}
		if err != nil {
			return errs.New(errs.Verification, "%s is not a program for Linux: %w", t, err)
		}
		_ = f.Close()
		if f.Machine != machines[i.Arch] {
			return errs.New(errs.Verification, "%s is a program for %s, not for %s", t, f.Machine, i.Arch)
		}
	}
	return nil
}

// writer writes the programs into a directory, and syncs each while the next one is unpacked.
type writer struct {
	dir   string
	syncs sync.WaitGroup
	mu    sync.Mutex
	err   error
}

func (w *writer) create(tool string) (io.WriteCloser, error) {
	f, err := os.OpenFile(filepath.Join(w.dir, tool), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o755); err != nil { // the umask
		_ = f.Close()
		return nil, err
	}
	return &program{f, w}, nil
}

// wait returns when everything is durable.
func (w *writer) wait() error {
	w.syncs.Wait()
	if w.err != nil {
		return w.err
	}
	d, err := os.Open(w.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

type program struct {
	*os.File
	w *writer
}

func (p *program) Close() error {
	p.w.syncs.Go(func() {
		err := p.Sync()
		if cerr := p.File.Close(); err == nil {
			err = cerr
		}
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		if p.w.err == nil {
			p.w.err = err
		}
	})
	return nil
}
