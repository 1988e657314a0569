package binary_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"etcdadm/binary"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/version"
	"etcdadm/test/releaseserver"
)

// TestMain wants everything to have ended with the tests, in its own time.
func TestMain(m *testing.M) {
	status := m.Run()
	if status == 0 {
		var err error
		for end := time.Now().Add(time.Minute); time.Now().Before(end); { // it tries for half a second itself
			if err = goleak.Find(); err == nil {
				break
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

// unlisted is a version of which no digest is compiled in; listed is one of which there is.
const (
	unlisted = "3.6.16"
	listed   = "3.6.14"
)

// serve publishes both versions for amd64 and starts a server of them.
func serve(t *testing.T) *releaseserver.Server {
	t.Helper()
	dir := t.TempDir()
	for _, v := range []string{unlisted, listed} {
		if _, _, err := releaseserver.Publish(dir, v, "amd64"); err != nil {
			t.Fatal(err)
		}
	}
	s, err := releaseserver.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// source is a Source for a new node.
func source(t *testing.T, v, url string) binary.Source {
	t.Helper()
	return binary.Source{
		Host: host.New(t.TempDir()), Version: parse(t, v), Arch: "amd64", ReleaseURL: url,
		Pause: time.Millisecond, Connect: 10 * time.Second, Stall: 10 * time.Second, Total: time.Minute,
	}
}

func parse(t *testing.T, v string) version.Etcd {
	t.Helper()
	parsed, err := version.ParseEtcd(v)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// archiveFile is the real file of a published version.
func archiveFile(s *releaseserver.Server, v string) string {
	return filepath.Join(s.Dir, "v"+v, "etcd-v"+v+"-linux-amd64.tar.gz")
}

// run brings a node to a state and returns the result with all that was noted.
func run(ctx context.Context, want converge.Checker) (*converge.Result, string) {
	var notes strings.Builder
	r := converge.Run(ctx, []converge.Phase{{Name: "install", Steps: func(context.Context) ([]converge.Step, error) {
		return []converge.Step{{Name: "install/release", Short: "release", Want: want}}, nil
	}}}, converge.Options{Events: func(e converge.Event) {
		if e.Kind == converge.Note {
			notes.WriteString(e.Text + "\n")
		}
	}})
	return r, notes.String()
}

// mustRun fails the test unless the state is reached, with a change or without.
func mustRun(t *testing.T, want converge.Checker, changed bool) *converge.Result {
	t.Helper()
	r, notes := run(t.Context(), want)
	if r.Err != nil {
		t.Fatalf("%v\n%s", r.Err, notes)
	}
	if r.Changed != changed {
		t.Fatalf("changed is %v, want %v\n%s", r.Changed, changed, notes)
	}
	return r
}

// mustFail fails the test unless the run ends with the status, and with an error that holds each of the texts.
func mustFail(t *testing.T, want converge.Checker, status errs.Status, texts ...string) error {
	t.Helper()
	r, notes := run(t.Context(), want)
	if errs.StatusOf(r.Err) != status {
		t.Fatalf("status %d, want %d: %v\n%s", errs.StatusOf(r.Err), status, r.Err, notes)
	}
	for _, text := range texts {
		if !strings.Contains(r.Err.Error(), text) {
			t.Errorf("error %q, want %q in it", r.Err, text)
		}
	}
	return r.Err
}

func sumOfFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// inCache fails the test unless the cache holds exactly the file.
func inCache(t *testing.T, s binary.Source, file string) {
	t.Helper()
	cached := s.Host.Path(s.CachePath())
	if have, want := sumOfFile(t, cached), sumOfFile(t, file); have != want {
		t.Errorf("the cache has %s, want %s", have, want)
	}
	info, err := os.Stat(cached)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o644 {
		t.Errorf("mode %v, want 0644", info.Mode())
	}
	if _, err := os.Stat(cached + ".part"); err == nil {
		t.Error("the part file is still there")
	}
}

// put writes a file of the node.
func put(t *testing.T, h *host.Host, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.Path(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.Path(path), data, 0o644); err != nil {
		t.Fatal(err)
	}
}
