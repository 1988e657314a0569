package snapshot

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// TestMain lets the test binary stand in for the program whose hidden command is the worker.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == WorkerCommand {
		if err := Child(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	_ = os.RemoveAll(filepath.Dir(sample.path))
	os.Exit(code)
}

const keys = 200

var sample struct {
	once sync.Once
	path string
	info Info
}

// realSnapshot returns a snapshot of a real etcd with a few hundred keys, the same for all tests. They do not write to it.
func realSnapshot(t *testing.T) (string, Info) {
	t.Helper()
	sample.once.Do(func() {
		dir, err := os.MkdirTemp("", "etcdadm-snapshot-")
		if err != nil {
			t.Fatal(err)
		}
		client, stop := startEtcd(t, filepath.Join(dir, "data"), "first")
		defer stop()
		for i := range keys {
			if _, err := client.Put(t.Context(), fmt.Sprintf("/key/%03d", i), fmt.Sprintf("value %d", i)); err != nil {
				t.Fatal(err)
			}
		}
		sample.path = filepath.Join(dir, "real.db")
		sample.info, err = Save(t.Context(), host.New(dir), client, sample.path)
		if err != nil {
			t.Fatal(err)
		}
	})
	if sample.path == "" || sample.info.SHA256 == "" {
		t.Fatal("there is no real snapshot: an earlier test failed to make it")
	}
	return sample.path, sample.info
}

// startEtcd runs a real etcd in this process until stop, or the end of the test.
func startEtcd(t *testing.T, dataDir, name string) (*clientv3.Client, func()) {
	t.Helper()
	address := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
	peer, client := url.URL{Scheme: "http", Host: address + ":2380"}, url.URL{Scheme: "http", Host: address + ":2379"}
	c := embed.NewConfig()
	c.Name, c.Dir, c.InitialCluster = name, dataDir, name+"="+peer.String()
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.TickMs, c.ElectionMs, c.UnsafeNoFsync = 10, 100, true // no power is cut here, and etcd gives a slow disk but seconds
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	<-e.Server.ReadyNotify()
	for tries := 0; e.Server.ClusterVersion() == nil; tries++ { // the last that it writes of itself: stopped right then, its log would be ahead
		if tries == 100_000 {
			t.Fatal("the cluster has decided on no version")
		}
		time.Sleep(time.Millisecond)
	}
	cl, err := clientv3.New(clientv3.Config{Endpoints: []string{client.String()}, Logger: zap.NewNop(), DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop := func() { once.Do(func() { _ = cl.Close(); e.Close() }) }
	t.Cleanup(stop)
	return cl, stop
}

// edited returns a copy of a file, changed.
func edited(t *testing.T, path string, edit func([]byte) []byte) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "edited.db")
	if err := os.WriteFile(out, edit(b), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

func wantStatus(t *testing.T, err error, want errs.Status) {
	t.Helper()
	if got := errs.StatusOf(err); got != want {
		t.Fatalf("status %d, want %d: %v", got, want, err)
	}
}

// apply does what the loop of converge does: check, apply, check again.
func apply(t *testing.T, r converge.Resource) (changed bool) {
	t.Helper()
	result := converge.Run(t.Context(), []converge.Phase{{Name: "data", Steps: func(context.Context) ([]converge.Step, error) {
		return []converge.Step{{Name: "data/it", Short: "it", Want: r}}, nil
	}}}, converge.Options{})
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	return result.Changed
}

// killed is what stops a program before an act.
type killed struct{}

// killedBefore applies a resource and stops it before its nth act, as if the process had died there, but for the
// defers. It returns false when there was no nth act, and the work is done.
func killedBefore(t *testing.T, n int, make func(...host.Option) converge.Resource) (died bool) {
	t.Helper()
	count := 0
	r := make(host.Observe(func(act string) {
		if count++; count == n {
			t.Logf("killed before act %d: %s", n, act)
			panic(killed{})
		}
	}))
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(killed); !ok {
				panic(p)
			}
			died = true
		}
	}()
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	return false
}

// tree lists what is below a directory, two levels deep, for messages and comparison.
func tree(t *testing.T, dir string) (names []string) {
	t.Helper()
	for _, pattern := range []string{"*", "*/*", "*/*/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			rel, _ := filepath.Rel(dir, f)
			names = append(names, rel)
		}
	}
	return names
}
