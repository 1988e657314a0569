package certs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"regexp"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/host"
)

// PairsDir holds what the links of a certificates directory lead to.
const PairsDir = ".pairs"

// store is where one pair lies on the disk. See the package comment for the layout.
type store struct {
	host  *host.Host
	dir   string
	name  string
	owner host.Owner // of the keys
}

func (s store) crt() string  { return path.Join(s.dir, s.name+".crt") }
func (s store) key() string  { return path.Join(s.dir, s.name+".key") }
func (s store) link() string { return path.Join(s.dir, PairsDir, s.name) }

// text is what the public link of a file says. It is relative, so that it leads there from outside of the root too.
func (s store) text(file string) string { return path.Join(PairsDir, s.name, file) }

// version names the directory of one issued pair.
func (s store) version(p pair) string {
	sum := sha256.Sum256(p.chain[0].Raw)
	return s.name + "-" + hex.EncodeToString(sum[:8])
}

var fingerprint = regexp.MustCompile(`^-[0-9a-f]{16}$`)

// owns tells whether an entry of the pairs directory is a version of this pair.
func (s store) owns(entry string) bool {
	return len(entry) > len(s.name) && entry[:len(s.name)] == s.name && fingerprint.MatchString(entry[len(s.name):])
}

// write makes the directories of versions. They count for nothing until they are pointed at.
func (s store) write(pairs ...pair) error {
	return s.host.Together(func(h *host.Host) error {
		for _, p := range pairs {
			at := path.Join(s.dir, PairsDir, s.version(p))
			if err := h.WriteFileFor(s.owner, path.Join(at, s.name+".key"), p.key.data, 0o600); err != nil {
				return err
			}
			if err := h.WriteFile(path.Join(at, s.name+".crt"), p.crt.data, 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

// point makes a version the current one. This is the swap.
func (s store) point(p pair) error {
	version := s.version(p)
	if text, err := s.host.Readlink(s.link()); err == nil && text == version {
		return nil
	}
	return s.host.Symlink(version, s.link())
}

// publish makes the public names links to the current version.
func (s store) publish() error {
	return s.host.Together(func(h *host.Host) error {
		if err := h.Symlink(s.text(s.name+".crt"), s.crt()); err != nil {
			return err
		}
		return h.Symlink(s.text(s.name+".key"), s.key())
	})
}

// replace puts a new pair in the place of an old one, so that at every moment the two files belong together if they
// did before.
func (s store) replace(old, fresh pair) error {
	linked := old.crt.linked && old.key.linked
	written, first := []pair{fresh}, fresh
	if !linked && old.usable() {
		// Two public names cannot change in one step. So they become links to the old contents first; then the one link
		// behind them changes.
		written, first = []pair{old, fresh}, old
	}
	if err := s.write(written...); err != nil {
		return err
	}
	if !linked {
		if err := s.point(first); err != nil {
			return err
		}
		if err := s.publish(); err != nil {
			return err
		}
	}
	return s.point(fresh)
}

// leftovers lists what runs that were killed, and earlier versions, left behind.
func (s store) leftovers(p pair) ([]string, error) {
	var left []string
	for _, f := range []string{host.Staging(s.crt()), host.Staging(s.key()), host.Staging(s.link())} {
		there, err := s.host.Exists(f)
		if err != nil {
			return nil, err
		}
		if there {
			left = append(left, f)
		}
	}
	entries, err := s.host.ReadDir(path.Join(s.dir, PairsDir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return left, nil
	}
	if err != nil {
		return nil, err
	}
	current := ""
	if p.crt.linked || p.key.linked {
		if current, err = s.host.Readlink(s.link()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	for _, e := range entries {
		if e.Name() == s.name && current == "" || s.owns(e.Name()) && e.Name() != current {
			left = append(left, path.Join(s.dir, PairsDir, e.Name()))
		}
	}
	return left, nil
}

// clean removes the leftovers.
func (s store) clean(p pair) error {
	left, err := s.leftovers(p)
	if err != nil {
		return err
	}
	for _, l := range left {
		if err := s.host.RemoveAll(l); err != nil {
			return err
		}
	}
	return nil
}
