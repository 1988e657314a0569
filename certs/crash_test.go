package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// death is a run that ends before its nth act. It is a panic, so deferred calls still run; what they tidied away, files
// in the making, is put back, as a process that is killed runs none.
type death struct {
	root   string
	staged map[string][]byte // real path
}

// dieAt returns a host on root on which the nth act is never done; n 0 lets all be done, and counts.
func dieAt(root string, n int, count *int) *host.Host {
	*count = 0
	return host.New(root, host.Observe(func(string) {
		if *count++; *count != n {
			return
		}
		d := death{root, map[string][]byte{}}
		_ = filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() && host.IsStaging(e.Name()) {
				d.staged[p], err = os.ReadFile(p)
			}
			return err
		})
		panic(d)
	}))
}

// survive runs f and tells whether it came to its end.
func survive(t *testing.T, f func()) (lived bool) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			d, ok := r.(death)
			if !ok {
				panic(r)
			}
			for p, data := range d.staged {
				must(t, os.WriteFile(p, data, 0o600))
			}
			lived = false
		}
	}()
	f()
	return true
}

// TestCrashAnywhere: a run that dies before its nth act and is run again ends where an undisturbed one does, and the
// third run changes nothing. In between no server would load a certificate with the key of another.
func TestCrashAnywhere(t *testing.T) {
	tests := []struct {
		name  string
		begin func(t *testing.T, h *host.Host, n *node)
		goal  func(n node) []converge.Step
	}{
		{"blank", func(*testing.T, *host.Host, *node) {}, onePair},
		{"renewed", func(t *testing.T, _ *host.Host, n *node) {
			must(t, run(twoPairs(*n)...).Err)
			n.now = noon.Add(340 * 24 * time.Hour)
		}, onePair},
		{"placed, then replaced", func(t *testing.T, h *host.Host, n *node) {
			ca := foreign(t, caTemplate(), nil, nil)
			ca.place(t, h, CAName)
			foreign(t, caTemplate(), nil, &ca).place(t, h, ServerName)
		}, onePair},
		{"one file deleted", func(t *testing.T, h *host.Host, n *node) {
			must(t, run(twoPairs(*n)...).Err)
			must(t, h.Remove(dir+"/server.crt"))
			must(t, h.Remove(dir+"/peer.key"))
		}, twoPairs},
		{"reset", func(t *testing.T, _ *host.Host, n *node) { must(t, run(twoPairs(*n)...).Err) }, removal},
		{"reset beside an operator's", func(t *testing.T, h *host.Host, n *node) {
			foreign(t, caTemplate(), nil, nil).place(t, h, CAName)
			place(t, h, "notes", []byte("mine"), 0o600)
			must(t, run(twoPairs(*n)...).Err)
		}, removal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			origin := host.New(t.TempDir())
			n := newNode(origin)
			tt.begin(t, origin, &n)
			run0 := func(nth int) (root string, died bool, acts int) {
				root = t.TempDir()
				must(t, os.CopyFS(root, os.DirFS(origin.Root())))
				fixModes(t, origin.Root(), root)
				n := n
				n.base.Host = dieAt(root, nth, &acts)
				died = !survive(t, func() { must(t, run(tt.goal(n)...).Err) })
				return root, died, acts
			}
			whole, _, acts := run0(0)
			want := snapshot(t, host.New(whole))
			if acts == 0 {
				t.Fatal("nothing to do")
			}
			for nth := 1; nth <= acts; nth++ {
				root, died, _ := run0(nth)
				if !died {
					t.Fatalf("act %d of %d was not reached", nth, acts)
				}
				for _, name := range LeafNames() {
					p, err := readPair(host.New(root), dir, name)
					must(t, err)
					if p.chain != nil && p.signs != nil && !p.usable() {
						t.Errorf("killed before act %d: %s.crt and %s.key do not belong together", nth, name, name)
					}
				}
				again := n
				again.base.Host = host.New(root)
				if r := run(tt.goal(again)...); r.Err != nil {
					t.Fatalf("killed before act %d, run again: %v", nth, r.Err)
				}
				if got := snapshot(t, again.base.Host); got != want {
					t.Errorf("killed before act %d, run again:\n%s\nwant\n%s", nth, got, want)
				}
				again.base.Host = host.New(root, host.ReadOnly())
				if r := run(tt.goal(again)...); r.Err != nil || r.Changed {
					t.Errorf("killed before act %d, third run: changed %v, %v", nth, r.Changed, r.Err)
				}
			}
			t.Logf("%d acts", acts)
		})
	}
}

// twoPairs is enough to see how one pair stands beside another, and onePair to see all of its acts.
func twoPairs(n node) []converge.Step { return n.steps()[:3] }
func onePair(n node) []converge.Step  { return n.steps()[:2] }

func removal(n node) []converge.Step {
	return []converge.Step{{Name: "certificates/removed", Short: "certificates", Want: Removed(n.base.Host, dir)}}
}

// fixModes gives a copy the modes of its original: os.CopyFS lets the umask decide.
func fixModes(t *testing.T, from, to string) {
	t.Helper()
	must(t, filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		return os.Chmod(filepath.Join(to, rel), info.Mode().Perm())
	}))
}

// TestHalfMadeCAIsFinished with the key that is there.
func TestHalfMadeCAIsFinished(t *testing.T) {
	root := t.TempDir()
	var acts int
	n := newNode(dieAt(root, 0, &acts))
	must(t, n.ca().Created().Apply(context.Background()))
	root = t.TempDir()
	n.base.Host = dieAt(root, acts, &acts) // the last act: ca.crt
	if survive(t, func() { _ = n.ca().Created().Apply(context.Background()) }) {
		t.Fatal("it was not killed")
	}
	n.base.Host = host.New(root)
	key := file(t, n.base.Host, "ca.key")
	converged(t, n.ca().Created())
	if !bytes.Equal(key, file(t, n.base.Host, "ca.key")) {
		t.Error("the key changed")
	}
}

// TestReadersSeeMatchingPairs: while a pair is issued again and again, the two files behind the link always belong
// together, and so do those that a reader of the two public names gets, unless the link was swapped between the two.
func TestReadersSeeMatchingPairs(t *testing.T) {
	for _, placed := range []bool{false, true} {
		h, n := set(t)
		if placed {
			p, err := readPair(h, dir, ServerName)
			must(t, err)
			must(t, h.RemoveAll(dir+"/.pairs/server"))
			place(t, h, "server.crt", p.crt.data, 0o644)
			place(t, h, "server.key", p.key.data, 0o600)
		}
		var stop atomic.Bool
		var loads atomic.Int64
		behind := make(chan error, 1)
		public := make(chan error, 1)
		go func() { behind <- readLink(h, &stop, &loads) }()
		go func() { public <- readNames(h, &stop, &loads) }()
		for i := range 50 {
			n.now = n.now.Add(340 * 24 * time.Hour)
			if i == 10 { // the CA of ten years has had its time
				must(t, h.Remove(dir+"/ca.key"))
				must(t, h.Remove(dir+"/ca.crt"))
				foreignCA := caTemplate()
				foreignCA.NotAfter = noon.Add(100 * 365 * 24 * time.Hour)
				foreign(t, foreignCA, nil, nil).place(t, h, CAName)
			}
			must(t, n.leaf(ServerName).Apply(context.Background()))
			for next := loads.Load() + 2; loads.Load() < next && len(behind)+len(public) == 0; { // a busy machine may let nobody read
				time.Sleep(time.Millisecond)
			}
		}
		stop.Store(true)
		if err := <-behind; err != nil {
			t.Errorf("placed %v: behind the link: %v", placed, err)
		}
		if err := <-public; err != nil {
			t.Errorf("placed %v: %v", placed, err)
		}
	}
}

// readLink loads the pair of the directory that the link leads to. A directory that a swap has just removed is no pair.
func readLink(h *host.Host, stop *atomic.Bool, loads *atomic.Int64) error {
	for !stop.Load() {
		at, err := filepath.EvalSymlinks(h.Path(dir + "/.pairs/server"))
		if err != nil {
			continue
		}
		_, err = tls.LoadX509KeyPair(at+"/server.crt", at+"/server.key")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		loads.Add(1)
	}
	return nil
}

// readNames loads the pair as etcd does, by two names. Between them the link may be swapped, to one that it has never been.
func readNames(h *host.Host, stop *atomic.Bool, loads *atomic.Int64) error {
	link := func() string {
		text, _ := os.Readlink(h.Path(dir + "/.pairs/server")) // there is none as long as the pair is as it was placed
		return text
	}
	for !stop.Load() {
		before := link()
		_, err := tls.LoadX509KeyPair(h.Path(dir+"/server.crt"), h.Path(dir+"/server.key"))
		if err != nil && link() == before {
			return err
		}
		if err == nil {
			loads.Add(1)
		}
	}
	return nil
}
