package binary

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync"
	"time"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/version"
)

const (
	maxRedirects = 10
	maxTries     = 5                // in a row that bring nothing new
	maxPause     = 30 * time.Second // between two tries, whatever a server asks for
)

// client talks to release servers, within the limits of a Source.
type client struct {
	Source
	http http.Client
	own  *http.Transport // nil when the caller brought a client
}

func (s Source) client(u *url.URL) *client {
	c := &client{Source: s}
	if s.HTTP != nil && u.Scheme != "file" {
		c.http = *s.HTTP
	} else {
		c.own = http.DefaultTransport.(*http.Transport).Clone()
		// The trace in get gives up at the limit; these end the attempt itself.
		c.own.DialContext = (&net.Dialer{Timeout: s.connect()}).DialContext
		c.own.TLSHandshakeTimeout = s.connect()
		c.own.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
		c.http.Transport = c.own
	}
	if c.http.CheckRedirect == nil {
		c.http.CheckRedirect = checkRedirect
	}
	return c
}

func (c *client) close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

func checkRedirect(r *http.Request, via []*http.Request) error {
	from, to := via[len(via)-1].URL.Scheme, r.URL.Scheme
	switch {
	case len(via) > maxRedirects:
		return errs.New(errs.Failed, "redirected more than %d times", maxRedirects)
	case to != "https" && to != from: // never to a file of this machine, never out of TLS
		return errs.New(errs.Failed, "redirected from %s to %s, which is refused", from, to)
	}
	return nil
}

// limit is the cause with which a request is cancelled when it takes too long.
type limit struct {
	what  string
	after time.Duration
}

func (l *limit) Error() string { return fmt.Sprintf("%s %s", l.what, l.after) }

// transient is a failure that another try may not meet.
type transient struct {
	error
	after time.Duration // what the server asked us to wait
}

func (t *transient) Unwrap() error { return t.error }

// get sends one GET and returns an answer of status 200, 206 or 416. Its body fails when no byte comes for the stall limit.
func (c *client) get(ctx context.Context, u *url.URL, header http.Header) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{cancel: cancel}
	connect := &limit{"no connection within", c.connect()}
	stall := &limit{"no byte for", c.stall()}
	w.watch(connect)
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { w.watch(connect) }, // again after a redirect
		GotConn: func(httptrace.GotConnInfo) { w.watch(stall) },
	}), http.MethodGet, u.String(), nil)
	if err != nil {
		w.stop()
		return nil, err
	}
	for k := range header {
		req.Header.Set(k, header.Get(k))
	}
	req.Header.Set("User-Agent", "etcdadm/"+version.Get().Version)
	req.Header.Set("Accept-Encoding", "identity") // the archive as it is: its digest counts
	resp, err := c.http.Do(req)
	if err != nil {
		defer w.stop()
		w.late(connect)
		return nil, explain(ctx, u, err)
	}
	w.watch(stall)
	resp.Body = &body{ReadCloser: resp.Body, ctx: ctx, url: u, watchdog: w, stall: stall}
	switch code := resp.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent, code == http.StatusRequestedRangeNotSatisfiable:
		return resp, nil
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		_ = resp.Body.Close()
		return nil, &transient{errs.New(errs.Failed, "%s answered %s", u.Redacted(), resp.Status), retryAfter(resp)}
	default:
		_ = resp.Body.Close()
		return nil, &refusal{errs.New(errs.Failed, "%s answered %s", u.Redacted(), resp.Status), code}
	}
}

// refusal is an answer that stays the same however often one asks.
type refusal struct {
	error
	code int
}

func (r *refusal) Unwrap() error { return r.error }

// absent tells that a server answered, and does not have the file.
func absent(err error) bool {
	var r *refusal
	// 403 is what object stores answer for what is not there.
	return errors.As(err, &r) && (r.code == http.StatusNotFound || r.code == http.StatusGone || r.code == http.StatusForbidden)
}

// explain turns an error of net/http into one that names the URL and, when a limit expired, the limit.
func explain(ctx context.Context, u *url.URL, err error) error {
	var (
		l    *limit
		e    *errs.Error
		wrap *url.Error
		cert *tls.CertificateVerificationError
		dns  *net.DNSError
	)
	if errors.As(err, &wrap) {
		err = wrap.Err // the text of the wrapper holds the URL, perhaps with a password
	}
	switch {
	case errors.As(context.Cause(ctx), &l):
		return errs.New(errs.Timeout, "%s: %w", u.Redacted(), l)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &e):
		return errs.New(e.Status, "%s: %w", u.Redacted(), err)
	case errs.OfMachine(err):
		return errs.New(errs.StatusOf(err), "%s: %w", u.Redacted(), err)
	case errors.As(err, &cert):
		return errs.New(errs.Verification, "%s: %w", u.Redacted(), err)
	case errors.As(err, &dns) && dns.IsNotFound:
		return errs.New(errs.Failed, "%s: %w", u.Redacted(), err)
	}
	return &transient{error: errs.New(errs.Failed, "%s: %w", u.Redacted(), err)}
}

// retryAfter reads the header of RFC 9110 section 10.2.3: seconds, or a date.
func retryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(min(n, int(maxPause/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return time.Until(t)
	}
	return 0
}

// retry runs try until it succeeds or meets what another try would meet too. A try tells whether it brought something
// new: then the count begins again, and an expired limit is no reason to stop.
func (c *client) retry(ctx context.Context, u *url.URL, try func() (grew bool, err error)) error {
	pause := c.pause()
	for n := 1; ; n++ {
		grew, err := try()
		if err == nil {
			return nil
		}
		if grew {
			n, pause = 1, c.pause()
		}
		var t *transient
		passing := errors.As(err, &t)
		if ctx.Err() != nil || n == maxTries || !(passing || (grew && errs.StatusOf(err) == errs.Timeout)) {
			return err
		}
		wait := pause
		if passing {
			wait = min(max(pause, t.after), maxPause)
		}
		converge.Notef(ctx, "%s; trying again in %s", err, wait.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return explain(ctx, u, err)
		case <-time.After(wait):
		}
		pause *= 2
	}
}

// watchdog cancels a request when what it waits for does not come.
type watchdog struct {
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	limit   *limit
	since   time.Time
	timer   *time.Timer
	stopped bool
}

// watch begins to wait anew.
func (w *watchdog) watch(l *limit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	w.limit, w.since = l, time.Now()
	w.timer = time.AfterFunc(l.after, func() { w.cancel(l) })
}

// late cancels the request if a limit is over that it waits with, and its timer has yet to say so: an attempt to connect has the
// same limit, which begins later, and on a busy machine may be told of earlier.
func (w *watchdog) late(l *limit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limit == l && time.Since(w.since) >= l.after {
		w.cancel(l)
	}
}

func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
	w.cancel(nil)
}

// body is the body of an answer under a watchdog.
type body struct {
	io.ReadCloser
	ctx      context.Context //nolint:containedctx // of the one request whose body this is
	url      *url.URL
	watchdog *watchdog
	stall    *limit
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watchdog.watch(b.stall)
	}
	if err != nil && err != io.EOF { //nolint:errorlint // io.Reader promises io.EOF itself
		err = explain(b.ctx, b.url, err)
	}
	return n, err
}

func (b *body) Close() error {
	b.watchdog.stop()
	return b.ReadCloser.Close()
}
