package preflight_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/preflight"
	"etcdadm/pkg/version"
)

func TestClock(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 300e6, time.UTC)
	at := func(d time.Duration) time.Time { return now.Add(d) }
	remote := func(d time.Duration) func(context.Context) (time.Time, error) {
		return func(context.Context) (time.Time, error) { return at(d).Truncate(time.Second), nil }
	}
	cert := func(from, to time.Duration) []preflight.Validity {
		return []preflight.Validity{{Name: "good.crt", NotBefore: at(-time.Hour), NotAfter: at(time.Hour)}, {Name: "ca.crt", NotBefore: at(from), NotAfter: at(to)}}
	}
	for name, c := range map[string]struct {
		clock preflight.Clock
		want  verdict
	}{
		"alone":                  {preflight.Clock{}, verdict{}},
		"certificates that hold": {preflight.Clock{Certificates: cert(-time.Hour, time.Hour), Built: at(-time.Hour)}, verdict{}},
		"before the program":     {preflight.Clock{Built: at(time.Hour)}, verdict{refused: "says 2026-08-01T12:00:00Z, but this etcdadm was built at 2026-08-01T13:00:00Z", hint: "timedatectl"}},
		"not valid yet":          {preflight.Clock{Certificates: cert(time.Second, time.Hour)}, verdict{refused: "ca.crt is valid from 2026-08-01T12:00:01Z", hint: "timedatectl"}},
		"expired":                {preflight.Clock{Certificates: cert(-time.Hour, -time.Second)}, verdict{refused: "ca.crt has expired at 2026-08-01T11:59:59Z", hint: "replace ca.crt"}},
		"as the cluster's":       {preflight.Clock{Remote: remote(0)}, verdict{}},
		"within the second":      {preflight.Clock{Remote: remote(-300 * time.Millisecond)}, verdict{}},
		"behind":                 {preflight.Clock{Remote: remote(3 * time.Second)}, verdict{warning: "is 2s behind that of the cluster"}},
		"ahead":                  {preflight.Clock{Remote: remote(-4 * time.Second)}, verdict{warning: "is 3s ahead of that of the cluster"}},
		"far behind":             {preflight.Clock{Remote: remote(time.Hour)}, verdict{refused: "says 2026-08-01T12:00:00Z, and that of the cluster 2026-08-01T13:00:00Z", hint: "timedatectl"}},
		"far ahead":              {preflight.Clock{Remote: remote(-time.Hour)}, verdict{refused: "says 2026-08-01T12:00:00Z, and that of the cluster 2026-08-01T11:00:00Z"}},
		"unknown": {preflight.Clock{Remote: func(context.Context) (time.Time, error) { return time.Time{}, errBroken }},
			verdict{warning: "the clock of the cluster is not known: the cluster does not answer"}},
	} {
		c.clock.Now = func() time.Time { return now }
		expect(t, name, c.clock, c.want)
	}
}

// A slow answer is no drift: it was given at some moment of the wait.
func TestClockOfASlowCluster(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	c := preflight.Clock{Now: func() time.Time { return now }, Remote: func(context.Context) (time.Time, error) {
		now = now.Add(20 * time.Second)
		return now.Add(-10 * time.Second), nil
	}}
	expect(t, "slow", c, verdict{})
}

// With a clock that is far off, TLS fails before any time is told.
func TestClockThatBreaksTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	wrong := time.Date(1969, 12, 31, 23, 0, 9, 0, time.UTC)
	s.Client().Transport.(*http.Transport).TLSClientConfig.Time = func() time.Time { return wrong }
	c := preflight.Clock{Now: func() time.Time { return wrong }, Remote: func(context.Context) (time.Time, error) {
		_, err := s.Client().Get(s.URL)
		return time.Time{}, err
	}}
	expect(t, "1969", c, verdict{refused: "is not valid at 1969-12-31T23:00:09Z", hint: "timedatectl"})
}

func TestProxy(t *testing.T) {
	for _, v := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "REQUEST_METHOD"} {
		t.Setenv(v, "")
	}
	urls := []string{"https://10.0.0.5:2380", "https://10.0.0.5:2379", "https://[fd00::6]:2380", "https://127.0.0.1:2379"}
	expect(t, "none", preflight.Proxy{URLs: urls}, verdict{})
	t.Setenv("HTTP_PROXY", "http://proxy:3128")
	expect(t, "for other URLs", preflight.Proxy{URLs: urls}, verdict{})
	t.Setenv("https_proxy", "http://user:secret@proxy:3128")
	expect(t, "for ours", preflight.Proxy{URLs: urls}, verdict{warning: "to 10.0.0.5, fd00::6: export NO_PROXY=10.0.0.5,fd00::6"})
	t.Setenv("no_proxy", "example.com,10.0.0.5")
	expect(t, "for one", preflight.Proxy{URLs: urls}, verdict{warning: "to fd00::6: export NO_PROXY=example.com,10.0.0.5,fd00::6"})
	t.Setenv("no_proxy", "example.com,10.0.0.5,fd00::6") // what the warning says
	expect(t, "for none any more", preflight.Proxy{URLs: urls}, verdict{})
	t.Setenv("https_proxy", ":// not a URL secret")
	t.Setenv("no_proxy", "")
	expect(t, "broken", preflight.Proxy{URLs: urls[:1]}, verdict{warning: "export NO_PROXY=10.0.0.5"})
}

func TestReachable(t *testing.T) {
	up := "https://" + listen(t, "127.0.0.1:0").Addr().String()
	const down = "https://127.0.0.1:1" // nobody who asks for any port is given this one
	member := func(name, peer, client string) preflight.Member {
		return preflight.Member{Name: name, ID: "1f", PeerURLs: []string{peer}, ClientURLs: []string{client}}
	}
	learner := func(m preflight.Member) preflight.Member { m.Learner = true; return m }
	alive, dead := member("alive", up, up), member("dead", down, down)
	self := member("self", "https://198.51.100.7:2380", "https://198.51.100.7:2379")
	twice := member("twice", down, down)
	twice.PeerURLs, twice.ClientURLs = append(twice.PeerURLs, up), append(twice.ClientURLs, up)
	for name, c := range map[string]struct {
		members []preflight.Member
		want    verdict
	}{
		"nobody yet":               {nil, verdict{}},
		"one":                      {[]preflight.Member{alive}, verdict{}},
		"the only one is dead":     {[]preflight.Member{dead}, verdict{refused: "0 of 1 voting members can be reached from here, 1 are needed: member dead (127.0.0.1:", hint: "2379 and 2380"}},
		"a minority is dead":       {[]preflight.Member{alive, dead, alive}, verdict{warning: "member dead (127.0.0.1:"}},
		"a majority is dead":       {[]preflight.Member{alive, dead, dead}, verdict{refused: "1 of 3 voting members"}},
		"half is dead":             {[]preflight.Member{alive, dead}, verdict{refused: "1 of 2 voting members can be reached from here, 2 are needed", hint: "TCP ports"}},
		"peer port only":           {[]preflight.Member{member("half", up, down)}, verdict{refused: "connection refused"}},
		"client port only":         {[]preflight.Member{member("half", down, up)}, verdict{refused: "connection refused"}},
		"one of its URLs":          {[]preflight.Member{twice}, verdict{}},
		"this node is not asked":   {[]preflight.Member{alive, self}, verdict{}},
		"a dead learner":           {[]preflight.Member{alive, learner(dead)}, verdict{warning: "member dead"}},
		"learners are no quorum":   {[]preflight.Member{learner(alive), dead}, verdict{refused: "0 of 1"}},
		"not started yet":          {[]preflight.Member{alive, alive, {ID: "2f", PeerURLs: []string{down}}}, verdict{warning: "unstarted member 2f"}},
		"a name that is not known": {[]preflight.Member{member("far", "https://etcd-1.invalid:2380", up)}, verdict{refused: "the name etcd-1.invalid does not resolve"}},
		"not a URL":                {[]preflight.Member{member("odd", "unix:///run/etcd", up)}, verdict{refused: "is not the URL of a member"}},
	} {
		expect(t, name, preflight.Reachable{PeerURL: self.PeerURLs[0], Members: func(context.Context) ([]preflight.Member, error) { return c.members, nil }}, c.want)
	}
	expect(t, "a majority is dead, and this node is a member", preflight.Reachable{
		PeerURL: self.PeerURLs[0], Member: true, Members: func(context.Context) ([]preflight.Member, error) { return []preflight.Member{self, dead, dead}, nil },
	}, verdict{warning: "member dead"})
}

func TestVersionSkew(t *testing.T) {
	of := func(s string) version.Etcd {
		v, err := version.ParseEtcd(s)
		must(t, err)
		return v
	}
	skew := func(members ...string) preflight.VersionSkew {
		return preflight.VersionSkew{
			Mine: of("3.6.14"),
			Members: func(context.Context) (list []version.Etcd, err error) {
				for _, m := range members {
					list = append(list, of(m))
				}
				return list, nil
			},
			Judge: func(members []version.Etcd, mine version.Etcd) error {
				for _, m := range members {
					if m.Minor < mine.Minor-1 {
						return errs.New(errs.Precondition, "%s does not fit beside %s", mine, m).Hint("--version %s", m)
					}
				}
				return nil
			},
		}
	}
	expect(t, "nobody", skew(), verdict{})
	expect(t, "the same minor", skew("3.6.14", "3.6.11"), verdict{})
	expect(t, "two minors", skew("3.6.14", "3.5.35"), verdict{warning: "etcd 3.6.14 joins a cluster that runs 3.5.35"})
	expect(t, "refused", skew("3.4.1"), verdict{refused: "3.6.14 does not fit beside 3.4.1", hint: "--version 3.4.1"})
}

// What a check needs to know and cannot learn is an error of its own, and not a verdict.
func TestUnknownIsNotAVerdict(t *testing.T) {
	members := func(context.Context) ([]preflight.Member, error) { return nil, errBroken }
	ctx := context.Background()
	_, reachable := preflight.Reachable{Members: members}.Check(ctx)
	_, name := preflight.Name{Name: "n", Members: members}.Check(ctx)
	_, skew := preflight.VersionSkew{Members: func(context.Context) ([]version.Etcd, error) { return nil, errBroken }}.Check(ctx)
	_, space := preflight.FreeSpace{Database: func(context.Context) (int64, error) { return 0, errBroken }}.Check(ctx)
	_, data := preflight.DataDirectory{Inspect: func(context.Context) (preflight.Contents, string, error) { return 0, "", errBroken }}.Check(ctx)
	for i, err := range []error{reachable, name, skew, space, data} {
		if !errors.Is(err, errBroken) || errs.StatusOf(err) == errs.Precondition {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// An interrupted check says so, and blames nobody.
func TestInterruptedIsNotUnreachable(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := preflight.Reachable{Members: func(context.Context) ([]preflight.Member, error) {
		return []preflight.Member{{Name: "m", PeerURLs: []string{"https://127.0.0.1:1"}}}, nil
	}}.Check(ctx)
	if errs.StatusOf(err) != errs.Interrupted {
		t.Errorf("%v", err)
	}
}

// cutHint returns the part of the first hint that is a command.
func cutHint(t *testing.T, err error) (text, command string) {
	t.Helper()
	hints := errs.HintsOf(err)
	if len(hints) == 0 {
		t.Fatalf("no hint: %v", err)
	}
	text, command, ok := strings.Cut(hints[0], ": ")
	if !ok {
		t.Fatalf("no command in %q", hints[0])
	}
	return text, command
}
