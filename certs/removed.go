package certs

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// Removed is a certificates directory without what etcdadm made: its pairs, their leftovers, and the CA if it was
// made here and is not CAKept. What an operator placed stays, and so does a directory that is not empty then.
func Removed(h *host.Host, dir string) converge.Resource { return removed{h, dir} }

type removed struct {
	host *host.Host
	dir  string
}

// Check lists what would go.
func (r removed) Check(context.Context) (converge.Diff, error) {
	paths, err := r.doomed()
	var d converge.Diff
	for _, p := range paths {
		d = append(d, converge.Change{What: p, Have: "present", Want: absentText})
	}
	return d, err
}

// Apply removes it, the files before what tells whose they are.
func (r removed) Apply(context.Context) error {
	paths, err := r.doomed()
	if err != nil {
		return err
	}
	for _, p := range paths {
		remove := r.host.RemoveAll
		if p == r.dir { // only if it is still empty
			remove = r.host.Remove
		}
		if err := remove(p); err != nil {
			return err
		}
	}
	return nil
}

// doomed lists what goes, in the order in which it goes: leaves, CA certificate, CA key, the record of the CA, and the
// directories that are empty then. A run that is killed in between leaves nothing that a new init would stumble over.
func (r removed) doomed() ([]string, error) {
	names, err := r.list(r.dir)
	if err != nil || names == nil {
		return nil, err
	}
	inner, err := r.list(path.Join(r.dir, PairsDir))
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, name := range LeafNames() {
		s := store{host: r.host, dir: r.dir, name: name}
		adopted, err := r.adopted(name)
		if err != nil {
			return nil, err
		}
		for _, f := range []string{name + ".crt", name + ".key"} {
			if text, err := r.host.Readlink(path.Join(r.dir, f)); err == nil && text == s.text(f) || adopted && slices.Contains(names, f) {
				gone = append(gone, f)
			}
		}
		for _, e := range inner {
			if e == name || s.owns(e) {
				gone = append(gone, path.Join(PairsDir, e))
			}
		}
	}
	made, err := CAMadeHere(r.host, r.dir)
	if err != nil {
		return nil, err
	}
	if made {
		for _, f := range []string{"ca.crt", "ca.key"} {
			if slices.Contains(names, f) {
				gone = append(gone, f)
			}
		}
	}
	for _, e := range names {
		if r.staging(e) {
			gone = append(gone, e)
		}
	}
	record := path.Base(recordPath(r.dir))
	for _, e := range inner {
		if host.IsStaging(e) || e == path.Base(adoptionPath(r.dir)) || e == record {
			gone = append(gone, path.Join(PairsDir, e))
		}
	}
	gone = r.emptied(gone, names, inner)
	for i, g := range gone {
		gone[i] = path.Join(r.dir, g)
	}
	return gone, nil
}

// adopted tells whether a pair was taken over. Of one that is half removed, by a run that was killed, the key is left.
func (r removed) adopted(name string) (bool, error) {
	p, err := readPair(r.host, r.dir, name)
	if err != nil {
		return false, err
	}
	return isAdopted(r.host, r.dir, p)
}

// emptied appends the directories that hold nothing else.
func (r removed) emptied(gone, names, inner []string) []string {
	left := func(dir string, entries []string) bool {
		return slices.ContainsFunc(entries, func(e string) bool { return !slices.Contains(gone, path.Join(dir, e)) })
	}
	if slices.Contains(names, PairsDir) && !left(PairsDir, inner) {
		gone = append(gone, PairsDir)
	}
	if left("", names) {
		return gone
	}
	// A link to a directory and a mount point are somebody's choice of place.
	if info, err := r.host.Lstat(r.dir); err != nil || !info.IsDir() {
		return gone
	}
	if mount, err := r.host.MountPoint(r.dir); err != nil || mount {
		return gone
	}
	return append(gone, "")
}

// staging tells whether a name in the directory is that of one of our files in the making.
func (r removed) staging(entry string) bool {
	if !host.IsStaging(entry) {
		return false
	}
	return slices.ContainsFunc(append(LeafNames(), CAName), func(n string) bool {
		return strings.HasPrefix(entry, "."+n+".crt") || strings.HasPrefix(entry, "."+n+".key")
	})
}

// list returns the names in a directory, nil when it is absent, and an empty slice when it is empty.
func (r removed) list(dir string) ([]string, error) {
	entries, err := r.host.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}
