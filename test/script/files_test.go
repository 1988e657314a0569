package script

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"etcdadm/pkg/errs"
	"etcdadm/test/release"
)

// A damage is what stands in the place of a file. It is given what was there.
type damaged struct {
	name string
	odd  bool // no file at all: nothing that we may replace
	make func(path string, old []byte) error
}

var damages = []damaged{
	{"a directory", true, func(path string, _ []byte) error { return os.Mkdir(path, 0o755) }},
	{"a pipe", true, func(path string, _ []byte) error { return syscall.Mkfifo(path, 0o644) }},
	{"a dead link", true, func(path string, _ []byte) error { return os.Symlink("/nowhere/at/all", path) }},
	{"a loop", true, func(path string, _ []byte) error { return os.Symlink(filepath.Base(path), path) }},
	{"empty", false, func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o644) }},
	{"cut short", false, func(path string, old []byte) error { return os.WriteFile(path, old[:len(old)/2], 0o644) }},
	{"binary", false, func(path string, _ []byte) error {
		return os.WriteFile(path, []byte("\x00\xff\xfe\x1f\x8b\n\x80"), 0o644)
	}},
}

// in puts the damage in the place of a file, which has to be there.
func (d damaged) in(t *testing.T, path string) {
	t.Helper()
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.Remove(path)
	}
	if err == nil {
		err = d.make(path, old)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// look tells what stands at a path, to see whether it was replaced.
func look(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		return err.Error()
	}
	text := ""
	if info.Mode().IsRegular() {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text = string(data)
	}
	return info.Mode().String() + text
}

// nodeOfFiles sets a node up without etcd and without its start, and returns its root and the flags that make it what it is.
func nodeOfFiles(t *testing.T) (root string, settings []string) {
	t.Helper()
	mirror := release.Get(t)
	n := newNode("a", filepath.Join(t.TempDir(), "a"))
	settings = []string{
		"--name", n.name, "--bind-address", n.address, "--init-system", "process", "--version", current,
		"--release-url", mirror.URL(), "--sha256sums", mirror.Sums(), "--skip-phases", "install,start,health,post-init-instructions",
	}
	if _, told, status := call(append([]string{"init", "--root", n.root}, settings...)); status != errs.OK {
		t.Fatal(told)
	}
	return n.root, settings
}

// copyOf returns a copy of a root, in a directory that every user may enter.
func copyOf(t *testing.T, root string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "a")
	if out, err := exec.Command("cp", "-a", root, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := open(filepath.Dir(to)); err != nil {
		t.Fatal(err)
	}
	return to
}

// bounded fails a test whose call does not come back: of a pipe that nobody writes into.
func bounded(t *testing.T, args []string) (told string, status errs.Status) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, told, status = call(args)
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Fatalf("etcdadm %s hangs", strings.Join(args, " "))
	}
	return told, status
}

// clear wants one error line that names a path, and a hint.
func clear(t *testing.T, told, path string) {
	t.Helper()
	var reasons, hints []string
	for line := range strings.Lines(told) {
		if reason, ok := strings.CutPrefix(line, "etcdadm: error: "); ok {
			reasons = append(reasons, reason)
		}
		if hint, ok := strings.CutPrefix(line, "etcdadm: hint: "); ok {
			hints = append(hints, hint)
		}
	}
	if len(reasons) != 1 || !strings.Contains(reasons[0], path) {
		t.Errorf("the errors are %q, want one that names %s", reasons, path)
	}
	if len(hints) == 0 {
		t.Error("there is no hint")
	}
}

// Whatever stands in the place of a file of the node: nothing hangs, init names it or mends it, reset names it or does
// without it, and status shows what there is.
func TestFilesOfTheNodeThatAreDamaged(t *testing.T) {
	base, settings := nodeOfFiles(t)
	for file, allowed := range map[string][]errs.Status{ // how init may end; 0: it was mended
		"etc/etcdadm/config.yaml":              {errs.OK, errs.Usage},
		"etc/etcd/pki/ca.crt":                  {errs.Precondition, errs.Verification},
		"etc/etcd/pki/ca.key":                  {errs.Precondition, errs.Verification},
		"etc/etcd/pki/server.crt":              {errs.OK, errs.Precondition},
		"etc/etcd/pki/peer.key":                {errs.OK, errs.Precondition},
		"etc/etcd/pki/etcdctl-etcd-client.crt": {errs.OK, errs.Precondition},
		"etc/etcd/etcd.env":                    {errs.OK, errs.Precondition},
		"etc/etcd/bootstrap.env":               {errs.OK, errs.Precondition},
		"etc/etcd/etcdctl.env":                 {errs.OK, errs.Precondition},
	} {
		for _, d := range damages {
			t.Run(file+" "+d.name, func(t *testing.T) {
				root := copyOf(t, base)
				path := filepath.Join(root, file)
				d.in(t, path)
				before := look(t, path)

				told, status := bounded(t, []string{"status", "--root", root})
				if status != errs.Attention {
					t.Errorf("status: %d\n%s", status, told)
				}
				told, status = bounded(t, []string{"reset", "--root", root, "--dry-run"})
				if status != errs.OK {
					if clear(t, told, "/"+file); status != errs.Usage && status != errs.Precondition && status != errs.Verification {
						t.Errorf("reset: %d\n%s", status, told)
					}
				}
				told, status = bounded(t, append([]string{"init", "--root", root}, settings...))
				if !slices.Contains(allowed, status) || d.odd && status == errs.OK {
					t.Errorf("init: %d, want one of %v\n%s", status, allowed, told)
				}
				if status != errs.OK {
					clear(t, told, "/"+file)
					if after := look(t, path); after != before {
						t.Errorf("init has failed, and made %q of %q", after, before)
					}
				}
			})
		}
		t.Run(file+" not readable", func(t *testing.T) {
			root := copyOf(t, base)
			if err := os.Chmod(filepath.Join(root, file), 0o000); err != nil {
				t.Fatal(err)
			}
			for command, statuses := range map[string][]int{"status": {10, 3}, "init": {0, 3}} {
				args := []string{"etcdadm", command, "--root", root}
				if command == "init" {
					args = append(args, "--dry-run", "--init-system", "process")
				}
				c := exec.Command("nobody", args...)
				var told bytes.Buffer
				c.Stderr = &told
				var exit *exec.ExitError
				if err := c.Run(); err != nil && !errors.As(err, &exit) {
					t.Fatal(err)
				}
				if got := c.ProcessState.ExitCode(); !slices.Contains(statuses, got) {
					t.Errorf("%s: %d, want one of %v\n%s", command, got, statuses, &told)
				} else if got == 3 {
					clear(t, told.String(), "/"+file)
				}
			}
		})
	}
}

// The same for files that an argument names.
func TestFilesOfTheCallerThatAreDamaged(t *testing.T) {
	base, _ := nodeOfFiles(t)
	for _, input := range []struct {
		name, text string
		args       []string // with FILE in the place of the path
		mends      string   // the one damage that is none
	}{
		{"etcdadm.yaml", "apiVersion: etcdadm/v1\nkind: Config\nname: a\ndataDir: [\"x\"]\n", []string{"init", "--config", "FILE"}, "empty"},
		{"SHA256SUMS", strings.Repeat("0", 64) + "  etcd-v3.6.16-linux-amd64.tar.gz\n", []string{"download", "--sha256sums", "FILE"}, ""},
		{"backup.db", strings.Repeat("x", 4096), []string{"snapshot", "verify", "FILE"}, ""},
		{"backup.db", strings.Repeat("x", 4096), []string{"restore", "FILE"}, ""},
	} {
		for _, d := range damages {
			if d.name == input.mends {
				continue
			}
			t.Run(fmt.Sprint(input.args, " ", d.name), func(t *testing.T) {
				root := copyOf(t, base)
				path := filepath.Join(filepath.Dir(root), input.name)
				if err := os.WriteFile(path, []byte(input.text), 0o644); err != nil {
					t.Fatal(err)
				}
				d.in(t, path)
				args := []string{"--root", root}
				for _, a := range input.args {
					args = append(args, strings.Replace(a, "FILE", path, 1))
				}
				told, status := bounded(t, args)
				if want := []errs.Status{errs.Usage, errs.Verification}; !slices.Contains(want, status) || d.odd && status != errs.Usage {
					t.Errorf("status %d\n%s", status, told)
				}
				clear(t, told, path)
			})
		}
	}

	// An archive in the cache that cannot be one is fetched again, as long as it is a file.
	mirror := release.Get(t)
	archive := mirror.Archive(current)
	for _, d := range damages {
		t.Run("cached archive "+d.name, func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, "var/cache/etcdadm/etcd/v"+current, filepath.Base(archive))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(strings.Repeat("x", 4096)), 0o644); err != nil {
				t.Fatal(err)
			}
			d.in(t, path)
			told, status := bounded(t, []string{"download", "--root", root, "--version", current, "--release-url", mirror.URL(), "--sha256sums", mirror.Sums()})
			if status == errs.OK {
				if told, status := bounded(t, []string{"download", "--root", root, "--version", current, "--release-url", "http://127.0.0.1:1", "--sha256sums", mirror.Sums()}); status != errs.OK {
					t.Errorf("it was not mended: %d\n%s", status, told)
				}
				return
			}
			if !d.odd || status != errs.Precondition {
				t.Errorf("status %d\n%s", status, told)
			}
			clear(t, told, filepath.Base(path))
		})
	}
}
