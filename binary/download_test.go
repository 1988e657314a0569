package binary_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/binary"
	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/test/releaseserver"
)

func TestDownloadOverGoodAndBadServers(t *testing.T) {
	s := serve(t)
	for _, mode := range []string{"ok", "norange", "slow", "e503", "cut", "reset", "redirect"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			src := source(t, unlisted, s.Base(mode))
			mustRun(t, binary.Archive{Source: src}, true)
			inCache(t, src, archiveFile(s, unlisted))
			mustRun(t, binary.Archive{Source: src}, false)
		})
	}
}

func TestReleaseURLForms(t *testing.T) {
	s := serve(t)
	rest := "/v" + unlisted + "/etcd-v" + unlisted + "-linux-amd64.tar.gz"
	renamed := filepath.Join(s.Dir, "mine", "some-etcd.tgz")
	data, err := os.ReadFile(archiveFile(s, unlisted))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := releaseserver.Put(renamed, data); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{
		s.Base("ok"), s.Base("ok") + "/", s.Base("ok") + rest, s.Base("ok") + "/mine/some-etcd.tgz", s.Base("ok") + rest + "?token=1",
		"file://" + s.Dir, "file://" + s.Dir + rest, "file://localhost" + renamed,
	} {
		t.Run(u, func(t *testing.T) {
			src := source(t, unlisted, u)
			mustRun(t, binary.Archive{Source: src}, true)
			inCache(t, src, archiveFile(s, unlisted))
		})
	}
	for _, u := range []string{"ftp://host/etcd", "/srv/etcd", "https://", "file://elsewhere/srv", "http://[::1"} {
		t.Run("refused "+u, func(t *testing.T) {
			mustFail(t, binary.Archive{Source: source(t, unlisted, u)}, errs.Usage, "the release URL")
		})
	}
}

func TestDownloadFails(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		mode   string
		status errs.Status
		text   string
	}{
		{"corrupt", errs.Verification, "has the SHA-256"},
		{"othersums", errs.Verification, "has the SHA-256"},
		{"truncated", errs.Failed, "unexpected EOF"},
		{"wronglength", errs.Failed, "unexpected EOF"},
		{"redirectloop", errs.Failed, "redirected more than 10 times"},
		{"redirectfile", errs.Failed, "redirected from http to file"},
		{"e404", errs.Failed, "linux-amd64.tar.gz answered 404"},
		{"nosums", errs.Verification, "there is no digest to verify"},
		{"htmlsums", errs.Verification, "line 1: does not begin with a SHA-256"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			src := source(t, unlisted, s.Base(c.mode))
			mustFail(t, binary.Archive{Source: src}, c.status, c.text, s.Base(c.mode))
			if there, _ := src.Host.Exists(src.CachePath()); there {
				t.Error("there is something in the cache")
			}
		})
	}
	t.Run("too many failures", func(t *testing.T) {
		s := serve(t)
		s.Failures = 100
		mustFail(t, binary.Archive{Source: source(t, unlisted, s.Base("e503"))}, errs.Failed, "answered 503")
		if n := len(s.Requests()); n > 20 {
			t.Errorf("%d requests", n)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		err := mustFail(t, binary.Archive{Source: source(t, unlisted, offline)}, errs.Failed, "connection refused")
		if hints := strings.Join(errs.HintsOf(err), "\n"); !strings.Contains(hints, "--release-url") || !strings.Contains(hints, constants.CacheDir) {
			t.Errorf("hints %q", hints)
		}
	})
	t.Run("password in the URL", func(t *testing.T) {
		u, _ := url.Parse(s.Base("e404"))
		u.User = url.UserPassword("me", "secret")
		err := mustFail(t, binary.Archive{Source: source(t, unlisted, u.String())}, errs.Failed, "404")
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is in %q", err)
		}
	})
	t.Run("redirected out of TLS", func(t *testing.T) {
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, s.URL+r.URL.Path, http.StatusFound)
		}))
		defer srv.Close()
		src := source(t, unlisted, srv.URL+"/ok")
		src.HTTP = srv.Client()
		mustFail(t, binary.Archive{Source: src}, errs.Failed, "redirected from https to http")
	})
	t.Run("no TLS that we trust", func(t *testing.T) {
		srv := httptest.NewUnstartedServer(s)
		srv.Config.ErrorLog = nil
		srv.StartTLS()
		defer srv.Close()
		mustFail(t, binary.Archive{Source: source(t, unlisted, srv.URL+"/ok")}, errs.Verification, "certificate")
	})
}

func TestDigests(t *testing.T) {
	s := serve(t)
	right := sumOfFile(t, archiveFile(s, unlisted))
	wrong := strings.Repeat("0", 64)
	name := filepath.Base(archiveFile(s, unlisted))
	with := func(v, mode string, change func(*binary.Source)) binary.Archive {
		src := source(t, v, s.Base(mode))
		change(&src)
		return binary.Archive{Source: src}
	}
	t.Run("trusted list counts, whatever the server publishes", func(t *testing.T) {
		a := with(unlisted, "othersums", func(s *binary.Source) { s.Trusted = map[string]string{name: right} })
		mustRun(t, a, true)
	})
	t.Run("trusted list with another digest", func(t *testing.T) {
		mustFail(t, with(unlisted, "ok", func(s *binary.Source) { s.Trusted = map[string]string{name: wrong} }),
			errs.Verification, right, wrong)
	})
	t.Run("trusted list without the file", func(t *testing.T) {
		mustFail(t, with(unlisted, "ok", func(s *binary.Source) { s.Trusted = map[string]string{} }),
			errs.Verification, "has none for "+name)
	})
	t.Run("other bytes under upstream's name", func(t *testing.T) {
		err := mustFail(t, with(listed, "ok", func(*binary.Source) {}), errs.Verification, "compiled in")
		if hints := strings.Join(errs.HintsOf(err), "\n"); !strings.Contains(hints, "--sha256sums") {
			t.Errorf("hints %q", hints)
		}
	})
	t.Run("other bytes under upstream's name, trusted", func(t *testing.T) {
		a := with(listed, "ok", func(src *binary.Source) {
			src.Trusted = map[string]string{filepath.Base(archiveFile(s, listed)): sumOfFile(t, archiveFile(s, listed))}
		})
		mustRun(t, a, true)
	})
	t.Run("a digest beside the file comes first", func(t *testing.T) {
		s := serve(t)
		put(t, host.New("/"), archiveFile(s, unlisted)+".sha256", []byte(right+"\n"))
		put(t, host.New("/"), filepath.Join(s.Dir, "v"+unlisted, "SHA256SUMS"), []byte(wrong+"  "+name+"\n"))
		mustRun(t, binary.Archive{Source: source(t, unlisted, s.Base("ok"))}, true)
	})
	t.Run("nothing to verify, accepted", func(t *testing.T) {
		r := mustRun(t, with(unlisted, "nosums", func(s *binary.Source) { s.AcceptUnverified = true }), true)
		if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "was not verified") {
			t.Errorf("warnings %q", r.Warnings)
		}
	})
	t.Run("nothing to verify, accepted, but no archive", func(t *testing.T) {
		s := serve(t)
		put(t, host.New("/"), archiveFile(s, unlisted), []byte("<html>"))
		src := source(t, unlisted, s.Base("nosums"))
		src.AcceptUnverified = true
		mustFail(t, binary.Archive{Source: src}, errs.Verification, "not a whole release archive")
	})
	t.Run("a wrong digest is not accepted", func(t *testing.T) {
		mustFail(t, with(unlisted, "corrupt", func(s *binary.Source) { s.AcceptUnverified = true }), errs.Verification, "SHA-256")
	})
}

// hosts sends the requests for upstream's two hosts to a server, each in a mode of its own.
type hosts struct {
	server *releaseserver.Server
	modes  map[string]string
}

func (h hosts) RoundTrip(r *http.Request) (*http.Response, error) {
	base, err := url.Parse(h.server.Base(h.modes[r.URL.Host]))
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	file := r.URL.Path[strings.LastIndex(r.URL.Path, "/v"):]
	r.URL = base.JoinPath(file)
	r.Host = ""
	return http.DefaultTransport.RoundTrip(r)
}

func TestUpstreamAndItsMirror(t *testing.T) {
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for _, c := range []struct {
		name, github, mirror string
		status               errs.Status
		text                 string
	}{
		{"both", "ok", "ok", errs.OK, ""},
		{"mirror stands in", "e404", "ok", errs.OK, ""},
		{"mirror lacks it", "ok", "e404", errs.OK, ""},
		{"mirror has other bytes", "ok", "corrupt", errs.OK, ""},
		{"upstream has other bytes", "corrupt", "ok", errs.OK, ""},
		{"digests differ", "ok", "othersums", errs.Verification, "SHA256SUMS"},
		{"both have other bytes", "corrupt", "corrupt", errs.Verification, "storage.googleapis.com"},
		{"neither has it", "e404", "e404", errs.Failed, "github.com/etcd-io/etcd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t)
			src := source(t, unlisted, "")
			src.HTTP = &http.Client{Transport: hosts{s, map[string]string{"github.com": c.github, "storage.googleapis.com": c.mirror}}}
			if c.status != errs.OK {
				mustFail(t, binary.Archive{Source: src}, c.status, c.text)
				return
			}
			mustRun(t, binary.Archive{Source: src}, true)
			inCache(t, src, archiveFile(s, unlisted))
		})
	}
}

func TestLimitsExpire(t *testing.T) {
	s := serve(t)
	const short = 50 * time.Millisecond
	for _, c := range []struct {
		name, url, text string
		change          func(*binary.Source)
	}{
		{"connect", "http://" + fullBacklog(t), "no connection within 50ms", func(s *binary.Source) { s.Connect = short }},
		{"TLS", "https://" + mute(t), "no connection within 50ms", func(s *binary.Source) { s.Connect = short }},
		{"answer", s.Base("silent"), "no byte for 50ms", func(s *binary.Source) { s.Stall = short }},
		{"body", s.Base("stall"), "no byte for 50ms", func(s *binary.Source) { s.Stall = short }},
		{"total", s.Base("stall"), "not complete within 50ms", func(s *binary.Source) { s.Total = short }},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := source(t, unlisted, c.url)
			c.change(&src)
			mustFail(t, binary.Archive{Source: src}, errs.Timeout, c.text, c.url)
		})
	}
}

// fullBacklog returns an address where connections are neither taken nor refused.
func fullBacklog(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*unix.SockaddrInet4).Port}).String()
	for range 16 {
		c, err := net.DialTimeout("tcp", addr, time.Second) // what is not taken by then on a busy machine is not taken at all
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Skip("this kernel takes every connection")
	return ""
}

// mute returns an address where connections are taken, and nothing is said.
func mute(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestResume(t *testing.T) {
	s := serve(t)
	data, err := os.ReadFile(archiveFile(s, unlisted))
	if err != nil {
		t.Fatal(err)
	}
	ranges := func(s *releaseserver.Server) (all []string) {
		for _, r := range s.Requests() {
			if strings.HasSuffix(r.Path, ".tar.gz") {
				all = append(all, r.Range)
			}
		}
		return all
	}
	for _, c := range []struct {
		name, mode string
		part       []byte
		want       string // the Range headers
	}{
		{"nothing there", "ok", nil, ""},
		{"half of it there", "ok", data[:1000], "bytes=1000-"},
		{"all of it there", "ok", data, "bytes=" + size(data) + "-"},
		{"another half there", "ok", []byte("something else"), "bytes=14- "},
		{"more than all there", "ok", append(append([]byte{}, data...), 1), "bytes=" + size(append(data, 1)) + "- "},
		{"half of it there, no ranges", "norange", data[:1000], "bytes=1000-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t)
			src := source(t, unlisted, s.Base(c.mode))
			if c.part != nil {
				put(t, src.Host, src.CachePath()+".part", c.part)
			}
			mustRun(t, binary.Archive{Source: src}, true)
			inCache(t, src, archiveFile(s, unlisted))
			if got := strings.Join(ranges(s), " "); got != c.want {
				t.Errorf("ranges %q, want %q", got, c.want)
			}
		})
	}
	t.Run("after the connection broke", func(t *testing.T) {
		s := serve(t)
		s.Failures = 1
		src := source(t, unlisted, s.Base("cut"))
		mustRun(t, binary.Archive{Source: src}, true)
		inCache(t, src, archiveFile(s, unlisted))
		last := s.Requests()[len(s.Requests())-1]
		if last.Range == "" || last.IfRange == "" {
			t.Errorf("the last request is %+v, want Range and If-Range", last)
		}
	})
	t.Run("after an interrupt", func(t *testing.T) {
		s := serve(t)
		src := source(t, unlisted, s.Base("stall"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { // until the first half is there
			for ctx.Err() == nil {
				if info, err := os.Stat(src.Host.Path(src.CachePath() + ".part")); err == nil && info.Size() == int64(len(data)/2) {
					cancel()
				}
				time.Sleep(time.Millisecond)
			}
		}()
		r, _ := run(ctx, binary.Archive{Source: src})
		if errs.StatusOf(r.Err) != errs.Interrupted {
			t.Fatalf("%v", r.Err)
		}
		src.ReleaseURL = s.Base("ok")
		mustRun(t, binary.Archive{Source: src}, true)
		inCache(t, src, archiveFile(s, unlisted))
		if last := s.Requests()[len(s.Requests())-1]; last.Range == "" {
			t.Error("began anew")
		}
	})
}

func size(b []byte) string { return strconv.Itoa(len(b)) }

func TestRetryAfterIsHonoured(t *testing.T) {
	s := serve(t)
	s.Failures, s.RetryAfter = 1, "1"
	start := time.Now()
	mustRun(t, binary.Archive{Source: source(t, unlisted, s.Base("e503"))}, true)
	if took := time.Since(start); took < time.Second {
		t.Errorf("came back after %s", took)
	}
}

func TestProgressReachesTheEnd(t *testing.T) {
	s := serve(t)
	src := source(t, unlisted, s.Base("slow"))
	var last converge.Event
	r := converge.Run(t.Context(), []converge.Phase{{Name: "install", Steps: func(context.Context) ([]converge.Step, error) {
		return []converge.Step{{Name: "install/archive", Short: "archive", Want: binary.Archive{Source: src}}}, nil
	}}}, converge.Options{Events: func(e converge.Event) {
		if e.Kind == converge.Bytes {
			if e.Done < last.Done {
				t.Errorf("%d after %d", e.Done, last.Done)
			}
			last = e
		}
	}})
	info, err := os.Stat(archiveFile(s, unlisted))
	if err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	if last.Done != info.Size() || last.Total != info.Size() {
		t.Errorf("ended at %d of %d, want %d", last.Done, last.Total, info.Size())
	}
}

// TestProxy runs itself in a process of its own: net/http reads the environment once.
func TestProxy(t *testing.T) {
	if proxied := os.Getenv("ETCDADM_TEST_PROXIED"); proxied != "" {
		mustRun(t, binary.Archive{Source: source(t, unlisted, proxied)}, true)
		return
	}
	s := serve(t)
	for _, name := range []string{"HTTP_PROXY", "http_proxy"} {
		t.Run(name, func(t *testing.T) {
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxy$")
			c.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.Contains(strings.ToLower(kv), "_proxy=") })
			c.Env = append(c.Env, name+"="+s.URL, "ETCDADM_TEST_PROXIED=http://release.invalid/ok")
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

func TestFullFileSystemIsNamed(t *testing.T) {
	s := serve(t)
	for _, c := range []struct{ mode, text string }{{"ok", "free, and the archive needs"}, {"chunked", "is full"}} {
		t.Run(c.mode, func(t *testing.T) {
			src := source(t, unlisted, s.Base(c.mode))
			dir := src.Host.Path(constants.CacheDir)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
				t.Skipf("only root may mount: %v", err)
			}
			defer func() { _ = unix.Unmount(dir, 0) }()
			mustFail(t, binary.Archive{Source: src}, errs.Precondition, constants.CacheDir, c.text)
		})
	}
}
