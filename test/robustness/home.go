package robustness

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/test/lab"
	"etcdadm/test/process"
)

// A home is the machine that a node is. There are two kinds: a directory, with processes of this machine, and a host of
// the lab, with systemd.
type home interface {
	// root is the root directory of the node, as this machine sees it.
	root() string
	// run runs etcdadm until it ends.
	run(ctx context.Context, out, problems io.Writer, args ...string) error
	// kill ends the etcdadm that runs, and tells whether one does.
	kill() bool
	// etcd is the process of the member, 0 when there is none.
	etcd() int
	// down ends the member, and whatever would start it again.
	down() error
	// lose ends the node, and gives it an empty disk.
	lose() error
	// beside is a file on the disk of the member's data, which neither reset nor lose takes away: what etcdadm calls it,
	// and where it is on this machine.
	beside(name string) (said, real string)
	// sync has the disk keep what was written to it from here.
	sync() error
}

// rooted is a node that is a directory.
type rooted struct {
	dir     string
	cluster *Cluster
	running atomic.Pointer[os.Process]
}

func (r *rooted) root() string { return r.dir }

func (r *rooted) run(ctx context.Context, out, problems io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, r.cluster.bin, append([]string{"--root", r.dir}, args...)...)
	cmd.Stdout, cmd.Stderr = out, problems
	cmd.Env = append(os.Environ(), r.cluster.env...)
	// What it starts and leaves behind holds its streams: nobody waits for those.
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	r.running.Store(cmd.Process)
	defer r.running.Store(nil)
	return cmd.Wait()
}

func (r *rooted) kill() bool {
	p := r.running.Load()
	return p != nil && p.Kill() == nil
}

func (r *rooted) etcd() int { return process.Etcd(r.dir) }

func (r *rooted) down() error { return process.Down(r.dir) }

func (r *rooted) lose() error { return errors.Join(r.down(), os.RemoveAll(r.dir), r.image()) }

// image gives an empty node what the image of a machine brings: etcd is installed. So a cluster costs the unpacking of
// one release (on its first node) and not of each node. Where links are not possible, etcdadm installs it.
func (r *rooted) image() error {
	install := filepath.Join(r.dir, "opt/bin")
	release := filepath.Join(constants.ReleasesDir, "v"+r.cluster.version)
	if err := os.MkdirAll(filepath.Join(install, release), 0o755); err != nil {
		return err
	}
	for _, program := range []string{"etcd", "etcdctl", "etcdutl"} {
		to := filepath.Join(release, program)
		if err := os.Link(filepath.Join(r.cluster.mirror.Bin(r.cluster.version), program), filepath.Join(install, to)); err != nil {
			return os.RemoveAll(install)
		}
		if err := os.Symlink(to, filepath.Join(install, program)); err != nil {
			return err
		}
	}
	return nil
}

func (r *rooted) beside(name string) (said, real string) {
	return r.dir + "-" + name, r.dir + "-" + name
}

func (r *rooted) sync() error { return nil }

// hosted is a node that is a host of the lab.
type hosted struct {
	*lab.Host
	exe string
	off sync.Mutex // held while the host is off
}

const besideHosted = "/var/lib/beside"

func (h *hosted) root() string { return h.Path("/") }

func (h *hosted) run(ctx context.Context, out, problems io.Writer, args ...string) error {
	h.off.Lock()   // who wants to work on a host that is off waits until it has booted
	h.off.Unlock() //nolint:staticcheck // see above
	defer context.AfterFunc(ctx, func() { h.kill() })()
	return h.Program(lab.Program{Args: append([]string{h.exe}, args...), Out: out, Err: problems})
}

func (h *hosted) kill() bool {
	p := h.Process(filepath.Base(h.exe))
	return p != 0 && syscall.Kill(p, syscall.SIGKILL) == nil
}

func (h *hosted) etcd() int { return h.Process("etcd") }

func (h *hosted) down() error {
	h.Kill()
	return nil
}

func (h *hosted) lose() error {
	h.off.Lock()
	defer h.off.Unlock()
	h.Kill()
	kept, err := os.MkdirTemp("", "beside-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(kept) }()
	_, real := h.beside("")
	if err := os.CopyFS(kept, os.DirFS(real)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	h.LoseDisk()
	h.Start()
	return os.CopyFS(real, os.DirFS(kept))
}

func (h *hosted) beside(name string) (said, real string) {
	said = filepath.Join(besideHosted, name)
	return said, h.Path(said)
}

func (h *hosted) sync() error {
	f, err := os.Open(h.Path("/var"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.Syncfs(int(f.Fd()))
}
