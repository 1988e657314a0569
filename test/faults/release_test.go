package faults

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/test/releaseserver"
)

// released is the version of the made-up release; no digest of it is compiled in.
const released = "3.6.99"

// server is a release server at one URL, whose behaviour can be changed.
type server struct {
	*releaseserver.Server
	url, sums string
	mode      atomic.Value
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{Server: &releaseserver.Server{Dir: t.TempDir(), Failures: 2, Pause: 10 * time.Millisecond, Pieces: 20}}
	if _, _, err := releaseserver.Publish(s.Dir, released, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	s.sums = filepath.Join(s.Dir, "v"+released, "SHA256SUMS")
	s.mode.Store("ok")
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ours := strings.CutPrefix(r.URL.Path, "/releases/"); ours {
			r.URL.Path = "/" + s.mode.Load().(string) + "/" + rest
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	s.url = front.URL + "/releases"
	return s
}

// The release server fails in every way that it knows. What is wrong is named with its URL, nothing gets a name in the
// cache or in the install directory, and when the server is well the same command succeeds.
func TestReleaseServer(t *testing.T) {
	t.Parallel()
	const source = "--release-url URL, or put the archive at " + constants.CacheDir
	type row struct {
		mode     string
		failures int    // how often a passing fault shows; 0: twice
		limit    string // of the run
		sums     bool   // the caller names the digest
		want     failure
	}
	rows := []row{
		// What passes is got over.
		{mode: "slow"}, {mode: "chunked"}, {mode: "norange"}, {mode: "redirect"},
		{mode: "e503"}, {mode: "cut"}, {mode: "reset"},
		{mode: "othersums", sums: true}, {mode: "nosums", sums: true}, {mode: "htmlsums", sums: true},
		// What stays is told.
		{mode: "e503", failures: 1000, sums: true, want: failure{errs.Failed, `tar\.gz answered 503 Service Unavailable$`, source}},
		{mode: "e404", want: failure{errs.Failed, `tar\.gz answered 404 Not Found$`, source}},
		{mode: "cut", failures: 1000, want: failure{errs.Failed, `tar\.gz: unexpected EOF$`, source}},
		{mode: "reset", failures: 1000, want: failure{errs.Failed, `tar\.gz: .*(reset by peer|unexpected EOF)$`, source}},
		{mode: "truncated", want: failure{errs.Failed, `tar\.gz: unexpected EOF$`, source}},
		{mode: "wronglength", want: failure{errs.Failed, `tar\.gz: unexpected EOF$`, source}},
		{mode: "redirectloop", want: failure{errs.Failed, `redirected more than 10 times$`, source}},
		{mode: "redirectfile", want: failure{errs.Failed, `redirected from http to file, which is refused$`, source}},
		{mode: "stall", limit: "15s", want: failure{errs.Timeout, `limit of this run expired .*archive of etcd`, "run the same command again"}},
		{mode: "silent", limit: "15s", want: failure{errs.Timeout, `limit of this run expired .*archive of etcd`, "run the same command again"}},
		// What is not what it should be is refused.
		{mode: "corrupt", want: failure{errs.Verification, `tar\.gz has the SHA-256 \w{64}, not \w{64} \(published in http`, "--sha256sums"}},
		{mode: "corrupt", sums: true, want: failure{errs.Verification, `tar\.gz has the SHA-256 \w{64}, not \w{64} \(named by the list`, "--sha256sums"}},
		{mode: "othersums", want: failure{errs.Verification, `tar\.gz has the SHA-256 \w{64}, not 0{64}`, "--sha256sums"}},
		{mode: "nosums", want: failure{errs.Verification, `there is no digest to verify http`, "--sha256sums"}},
		{mode: "htmlsums", want: failure{errs.Verification, `does not begin with a SHA-256`, "--sha256sums"}},
	}
	if full() { // the limits that are not of the caller's making
		rows = append(rows,
			row{mode: "stall", want: failure{errs.Timeout, `tar\.gz: no byte for 30s$`, source}},
			row{mode: "silent", sums: true, want: failure{errs.Timeout, `tar\.gz: no byte for 30s$`, source}})
	}
	for _, r := range rows {
		name := r.mode
		if r.want.status != errs.OK && r.failures > 0 {
			name += " for ever"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, n := newServer(t), newNode(t, "test")
			s.mode.Store(r.mode)
			if r.failures > 0 {
				s.Failures = r.failures
			}
			install := []string{"init", "phase", "install", "--version", released, "--release-url", s.url}
			if r.sums {
				install = append(install, "--sha256sums", s.sums)
			} else {
				install = append(install, "--sha256sums=")
			}
			limited := install
			if r.limit != "" {
				limited = append(limited[:len(limited):len(limited)], "--timeout", r.limit)
			}
			got := n.run(limited...)
			if r.want.status != errs.OK {
				r.want.tells(t, got)
				for _, f := range below(n.files(), "/opt", constants.CacheDir) {
					if !strings.HasSuffix(f, ".part") && strings.Contains(f, "etcd-v") || strings.HasPrefix(f, "/opt/bin/") {
						t.Errorf("%s is there", f)
					}
				}
			} else if got.Status != 0 {
				t.Fatal(got)
			}
			s.mode.Store("ok")
			n.converges(install...)
			archive := constants.CacheDir + "/v" + released + "/etcd-v" + released + "-linux-" + runtime.GOARCH + ".tar.gz"
			dir := "/opt/bin/.etcdadm/v" + released
			link := func(tool string) string { return "/opt/bin/" + tool + " -> .etcdadm/v" + released + "/" + tool }
			want := []string{
				"/opt/bin/.etcdadm", dir, dir + "/etcd", dir + "/etcdctl", dir + "/etcdutl", link("etcd"), link("etcdctl"), link("etcdutl"),
				constants.CacheDir + "/v" + released, archive, archive + ".sha256",
			}
			if got := below(n.files(), "/opt/bin", constants.CacheDir); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("the node has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}
