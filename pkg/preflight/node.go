package preflight

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// Root is a user who may change the node: root, or, under a root directory of its own, whoever may write there. A host
// that is only looked at asks for neither.
type Root struct{ Host *host.Host }

// Check asks the kernel.
func (r Root) Check(context.Context) (converge.Diff, error) {
	uid := os.Geteuid()
	if r.Host.ReadOnly() || uid == 0 {
		return nil, nil
	}
	if r.Host.Root() == "/" {
		return nil, refuse("this user (id %d) is not root", uid).
			Hint("run it as root, for example with sudo").
			Hint("to see what would be done, any user may add --dry-run")
	}
	dir, err := r.Host.Root(), error(nil)
	for ; ; dir = filepath.Dir(dir) { // what does not exist yet is made in the nearest directory that does
		if err = unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			break
		}
	}
	if err != nil {
		return nil, refuse("%s is not writable for this user (id %d): %w", dir, uid, err).
			Hint("choose a directory of your own with --root, or run it as root")
	}
	return nil, nil
}

// Architecture is one that etcd supports. On others it refuses to start.
type Architecture struct{ Arch string } // in Go's words: amd64, arm64 ...

// architectures is what etcd starts on without being told to (checkSupportArch in its etcdmain), and is released for.
var architectures = []string{"amd64", "arm64", "ppc64le", "s390x"}

// Check looks it up.
func (a Architecture) Check(context.Context) (converge.Diff, error) {
	if slices.Contains(architectures, a.Arch) {
		return nil, nil
	}
	return nil, refuse("etcd does not support the architecture %s", a.Arch).
		Hint("use a machine of one of: %s", strings.Join(architectures, ", "))
}

// Name is a member name that tells this node from the others.
type Name struct {
	Name    string
	PeerURL string // of this node: its own unfinished or running member may bear the name
	// Members tells who is in the cluster already; nil where there is none yet.
	Members func(context.Context) ([]Member, error)
}

// Check refuses what every host is called, and what another member is called: etcd would merge the two in its initial cluster.
func (n Name) Check(ctx context.Context) (converge.Diff, error) {
	if first, _, _ := strings.Cut(strings.ToLower(n.Name), "."); first == "localhost" || first == "" {
		return nil, refuse("the name of this node is %q, which does not tell it from others", n.Name).
			Hint("name it: --name NAME").
			Hint("or name the host: hostnamectl set-hostname NAME")
	}
	if n.Members == nil {
		return nil, nil
	}
	members, err := n.Members(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.Name == n.Name && !slices.Contains(m.PeerURLs, n.PeerURL) {
			return nil, refuse("the name %s is taken by the member at %s", n.Name, strings.Join(m.PeerURLs, ",")).
				Hint("choose another: --name NAME").
				Hint("if this node replaces that member, remove it first: etcdctl member remove %s", m.ID)
		}
	}
	return nil, nil
}

// Gate is the verdict of a table of versions.
type Gate struct {
	Refused  string   // the reason, or ""
	Warnings []string // what to know about a version that is not refused
}

// Check passes the verdict on.
func (g Gate) Check(ctx context.Context) (converge.Diff, error) {
	if g.Refused != "" {
		return nil, refuse("%s", g.Refused).Hint("choose another version, for example --version %s", constants.DefaultVersion)
	}
	for _, w := range g.Warnings {
		converge.Warnf(ctx, "%s", w)
	}
	return nil, nil
}
