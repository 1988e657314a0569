package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lookupLimit is how long a directory service may take to tell an account.
const lookupLimit = 10 * time.Second

// User returns the user id of an account, or fs.ErrNotExist.
func (h *Host) User(name string) (int, error) { return h.account("passwd", name) }

// Group returns the group id of a group, or fs.ErrNotExist.
func (h *Host) Group(name string) (int, error) { return h.account("group", name) }

// account reads /etc/passwd and /etc/group; both begin with name:password:id. On the machine itself accounts may come
// from elsewhere (nsswitch.conf(5)), which only the C library knows: getent asks it.
func (h *Host) account(database, name string) (int, error) {
	if name == Root.Name { // in the kernel's own terms, also where there is no table
		return 0, nil
	}
	table, err := h.ReadFile("/etc/" + database)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if id, ok := accountID(string(table), name); ok {
		return id, nil
	}
	if h.root == "/" {
		ctx, cancel := context.WithTimeout(context.Background(), lookupLimit)
		defer cancel()
		if out, err := h.Query(ctx, Command{Path: "getent", Args: []string{database, name}}); err == nil {
			if id, ok := accountID(string(out), name); ok {
				return id, nil
			}
		}
	}
	return 0, fmt.Errorf("%s in %s: %w", name, database, fs.ErrNotExist)
}

func accountID(table, name string) (int, bool) {
	for line := range strings.Lines(table) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) > 2 && f[0] == name {
			if id, err := strconv.Atoi(f[2]); err == nil && id >= 0 {
				return id, true
			}
		}
	}
	return 0, false
}

// Owner is the user and the group of one name, to whom files are given. The zero value stands for whoever runs this.
type Owner struct{ Name string }

// Root is who may do everything.
var Root = Owner{"root"}

// ids returns the ids of an owner to whom files can be given: not while the account is absent, and by root alone.
func (h *Host) ids(o Owner) (uid, gid int, ok bool) {
	if o.Name == "" || os.Geteuid() != 0 {
		return 0, 0, false
	}
	uid, uerr := h.User(o.Name)
	gid, gerr := h.Group(o.Name)
	return uid, gid, uerr == nil && gerr == nil
}

// Owns tells whether a file belongs to an owner. Where files cannot be given to it, there is nothing to be said against
// the owner that they have.
func (h *Host) Owns(o Owner, info fs.FileInfo) bool {
	uid, gid, ok := h.ids(o)
	stat, known := info.Sys().(*syscall.Stat_t)
	return !ok || !known || int(stat.Uid) == uid && int(stat.Gid) == gid
}

// Give gives what path leads to, and nothing below it, to an owner.
func (h *Host) Give(path string, o Owner) error {
	uid, gid, ok := h.ids(o)
	if !ok {
		return nil
	}
	if err := h.Act("chown %s", path); err != nil {
		return err
	}
	return os.Chown(h.RealPath(path), uid, gid)
}

// GiveTree gives a directory and all below it to an owner: links themselves, not what they lead to.
func (h *Host) GiveTree(path string, o Owner) error {
	uid, gid, ok := h.ids(o)
	if !ok {
		return nil
	}
	if err := h.Act("chown all of %s", path); err != nil {
		return err
	}
	return filepath.WalkDir(h.RealPath(path), func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, uid, gid)
	})
}
