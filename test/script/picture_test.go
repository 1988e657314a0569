package script

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// picture is what a node looks like from outside.
type picture struct {
	files map[string]string // by path: mode, time, and what is in it
	etcd  int               // the process
}

// take leaves out what a running etcd writes, and the file that etcdadm locks, with the directories made for it.
func (n *node) take() (*picture, error) {
	p := &picture{files: map[string]string{}, etcd: n.etcd()}
	err := filepath.WalkDir(n.root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(n.root, path)
		switch {
		case p.etcd != 0 && strings.HasPrefix(rel, "var/lib/etcd/member/"), strings.HasPrefix(rel, "var/log/etcd/"), rel == "run/etcdadm.lock", rel == "run", rel == ".":
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		entry := info.Mode().String() + " " + info.ModTime().Format(time.RFC3339Nano)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			text, err := os.Readlink(path)
			if err != nil {
				return err
			}
			entry += " " + text
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			entry += fmt.Sprintf(" %x", sha256.Sum256(data))
		}
		p.files[rel] = entry
		return nil
	})
	return p, err
}

func remember(ts *testscript.TestScript, neg bool, args []string) {
	for _, n := range named(ts, neg, args) {
		p, err := n.take()
		ts.Check(err)
		n.remembered = p
	}
}

func unchanged(ts *testscript.TestScript, neg bool, args []string) {
	for _, n := range named(ts, neg, args) {
		if n.remembered == nil {
			ts.Fatalf("nothing is remembered of %s", n.name)
		}
		now, err := n.take()
		ts.Check(err)
		if d := cmp.Diff(n.remembered.files, now.files); d != "" {
			ts.Fatalf("files of %s have changed (-remembered +now):\n%s", n.name, d)
		}
		if n.remembered.etcd != now.etcd {
			ts.Fatalf("etcd on %s was process %d and is %d", n.name, n.remembered.etcd, now.etcd)
		}
	}
}
