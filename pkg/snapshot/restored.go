package snapshot

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// marker is a file in the directory "member": it tells what the data was made of, and comes into place with it.
const marker = ".etcdadm-restored"

// Restored is a data directory that was made of a snapshot, as the only member of a new cluster.
//
// The data is made beside its place under a fixed name and put there by one rename. What stood there is set aside
// under a dated name, never deleted: etcd.<date> beside the data directory; or, when that is a mount point or a link,
// member.<date> in it. The identity of the cluster is drawn anew each time, so that no member of an older one fits.
type Restored struct {
	Host    *host.Host
	File    string // the snapshot: a real path, not under the root
	Info    Info   // what Verify said of File
	DataDir string
	Name    string // of the member
	PeerURL string // exactly one
	// BumpRevision is added to the revision, and all before is marked compacted, so that no watcher sees a revision go
	// back. 0 turns both off.
	BumpRevision uint64
	Now          func() time.Time // nil: time.Now
	Owner        host.Owner       // of the data; the zero value: whoever runs this
}

// Check compares what the data says it was made of. etcd may have written to it since.
func (r Restored) Check(context.Context) (converge.Diff, error) {
	made, have, err := r.made()
	if err != nil {
		return nil, err
	}
	var d converge.Diff
	if !made {
		d = append(d, converge.Change{What: r.DataDir, Have: have, Want: "restored from " + r.File})
	}
	left, err := leftovers(r.Host, r.DataDir)
	for _, path := range left {
		d = append(d, converge.Change{What: path, Have: "left over", Want: "absent"})
	}
	return d, err
}

// Apply restores. It refuses the data directory of a running etcd, a file that changed since it was verified, and a
// file system without room (see RoomFor): status 3, 6 and 3.
func (r Restored) Apply(ctx context.Context) error {
	left, err := leftovers(r.Host, r.DataDir)
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := r.Host.RemoveAll(path); err != nil {
			return err
		}
	}
	if made, _, err := r.made(); err != nil || made {
		return err
	}
	if err := refuseInUse(r.Host, r.DataDir); err != nil {
		return err
	}
	if err := RoomFor(r.Host, r.DataDir, r.Info); err != nil {
		return err
	}
	if err := r.sameFile(ctx); err != nil {
		return err
	}
	target, contents, err := replaced(r.Host, r.DataDir)
	if err != nil {
		return err
	}
	if contents {
		if err := r.Host.MkdirAll(r.DataDir, 0o700); err != nil { // a link may lead to nothing yet
			return err
		}
	}
	staging := filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".restore-"+r.Info.SHA256[:12])
	if err := r.stage(ctx, staging); err != nil {
		_ = r.Host.RemoveAll(staging) // it may fill the disk; the next run would remove it too
		return err
	}
	if err := r.setAside(ctx, target); err != nil {
		return err
	}
	if !contents {
		return r.Host.Rename(staging, target)
	}
	if err := r.Host.Rename(filepath.Join(staging, memberDir), target); err != nil {
		return err
	}
	return r.Host.Remove(staging)
}

// made tells whether the data is what it should be made of, and if not, what is there.
func (r Restored) made() (bool, string, error) {
	s, err := InspectDir(r.Host, r.DataDir)
	switch {
	case err != nil:
		return false, "", err
	case s.Kind == Unreadable:
		return false, "", unreadable(r.DataDir, fs.ErrPermission)
	case s.Kind != Whole:
		return false, s.String(), nil
	}
	have, err := r.Host.ReadFile(filepath.Join(r.DataDir, memberDir, marker))
	switch {
	case absent(err):
		return false, s.String(), nil
	case err != nil:
		return false, "", unreadable(r.DataDir, err)
	}
	want, err := r.marker()
	return bytes.Equal(have, want), "restored otherwise", err
}

// marker returns what the marker file says.
func (r Restored) marker() ([]byte, error) {
	b, err := json.MarshalIndent(struct {
		SHA256       string `json:"sha256"`
		BumpRevision uint64 `json:"bumpRevision"`
		Name         string `json:"name"`
		PeerURL      string `json:"peerURL"`
	}{r.Info.SHA256, r.BumpRevision, r.Name, r.PeerURL}, "", "  ")
	return append(b, '\n'), err
}

// sameFile sees that the file is still the one that was verified.
func (r Restored) sameFile(ctx context.Context) error {
	f, size, err := open(r.File, r.File)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := digest(ctx, f, size)
	if err != nil {
		return fmt.Errorf("read snapshot %s: %w", r.File, err)
	}
	if s.database != r.Info.SHA256 || s.matches != r.Info.Verified {
		return errs.New(errs.Verification, "snapshot %s changed since it was verified", r.File).Hint("wait until it is written, then run this command again")
	}
	return nil
}

// stage makes the data directory at staging, whole and durable.
func (r Restored) stage(ctx context.Context, staging string) error {
	if err := r.Host.MkdirAll(staging, 0o700); err != nil {
		return err
	}
	converge.Notef(ctx, "restoring %s at revision %d into %s", r.File, r.Info.Revision, r.DataDir)
	_, err := ask(ctx, r.Host, request{
		Do: doRestore, Database: r.File, Name: r.File, SkipHash: !r.Info.Verified,
		DataDir: r.Host.RealPath(staging), Member: r.Name, PeerURL: r.PeerURL, Token: rand.Text(), Bump: r.BumpRevision,
	})
	if err != nil {
		return err
	}
	text, err := r.marker()
	if err != nil {
		return err
	}
	if err := r.Host.WriteFile(filepath.Join(staging, memberDir, marker), text, 0o600); err != nil {
		return err
	}
	if err := r.Host.GiveTree(staging, r.Owner); err != nil {
		return err
	}
	return r.Host.SyncTree(staging)
}

// replaced returns what a restore sets aside and makes anew: the data directory, or only the contents that etcd has in it.
func replaced(h *host.Host, dataDir string) (target string, contents bool, err error) {
	target = filepath.Clean(dataDir)
	if contents, err = contentsOnly(h, dataDir); contents {
		target = filepath.Join(target, memberDir)
	}
	return target, contents, err
}

// Outside refuses, with status 3, a snapshot that would move away with the data that a restore sets aside: a run that was
// killed right then would not find it again. Neither the file may lie there nor a link by which it is named.
func Outside(h *host.Host, dataDir string, i Info) error {
	target, _, err := replaced(h, dataDir)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(i.Path)
	if err != nil {
		return err
	}
	own := h.Unrooted()
	moving := own.Resolved(h.RealPath(target)) + "/"
	named := filepath.Join(own.Resolved(filepath.Dir(path)), filepath.Base(path))
	if !strings.HasPrefix(named, moving) && !strings.HasPrefix(own.Resolved(path), moving) {
		return nil
	}
	return errs.New(errs.Precondition, "snapshot %s lies in %s, which a restore sets aside", i.Path, target).
		Hint("copy it to another place: mkdir -p -m 0700 %s && cp %s %s/", constants.BackupDir, path, constants.BackupDir).
		Hint("then run this command with the copy: %s", filepath.Join(constants.BackupDir, filepath.Base(path)))
}

// setAside gives what stands at target a dated name. An empty directory is no data, and just goes.
func (r Restored) setAside(ctx context.Context, target string) error {
	there, err := r.Host.Exists(target)
	if err != nil || !there {
		return err
	}
	if entries, err := r.Host.ReadDir(target); err == nil && len(entries) == 0 {
		return r.Host.Remove(target)
	}
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	return setAside(ctx, r.Host, target, now())
}

// walRoom is what etcd takes for its WAL before it writes anything: a segment of 64 MiB, and the next one.
const walRoom = 2 << 26

// RoomFor refuses, with status 3, a file system without room for a snapshot twice, as it is copied and etcd goes on to
// write, and for a WAL.
func RoomFor(h *host.Host, dataDir string, i Info) error {
	system, err := h.FileSystem(dataDir)
	if err != nil {
		return err
	}
	if need := 2*uint64(i.Size) + walRoom; system.Free < need { //nolint:gosec // a size is not negative
		return errs.New(errs.Precondition, "the file system of %s has %s free, and restoring %s needs %s",
			dataDir, bytesText(system.Free), i.Path, bytesText(need)).Hint("make room on it: df -h %s", dataDir)
	}
	return nil
}

// bytesText writes a number of bytes for people.
func bytesText(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}
