package binary

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// trust is a digest, and who says so. Without a digest, nobody says anything.
type trust struct {
	sum, by string
}

// known returns the digest that is known without asking anybody: the caller's, else the compiled-in one.
func (s Source) known() (trust, error) {
	if s.Trusted == nil {
		if d, ok := compiledIn(s.Version, s.Arch); ok {
			return trust{d.sum, fmt.Sprintf("compiled in (independent sources: %d)", d.sources)}, nil
		}
		return trust{}, nil
	}
	urls, err := s.urls()
	if err != nil {
		return trust{}, err
	}
	sum := sumOf(s.Trusted, s.names(urls[0])...)
	if sum == "" {
		return trust{}, errs.New(errs.Verification, "the list of trusted digests has none for %s", s.archiveName()).
			Hint("add the line `<sha256>  %s` to the file of --sha256sums", s.archiveName())
	}
	return trust{sum, "named by the list of trusted digests"}, nil
}

// published returns the digest that stands beside the archive at its source: in <url>.sha256, or in SHA256SUMS. Of
// upstream's two hosts both are asked, and must agree if both answer.
func (s Source) published(ctx context.Context, urls []*url.URL) (trust, error) {
	var found trust
	var failures []error
	for _, u := range urls {
		t, err := s.beside(ctx, u)
		switch {
		case err != nil && ctx.Err() != nil:
			return trust{}, err
		case err != nil:
			failures = append(failures, err)
		case t.sum == "":
		case found.sum != "" && found.sum != t.sum:
			return trust{}, errs.New(errs.Verification, "%s has the digest %s as %s, but %s as %s",
				s.archiveName(), found.sum, found.by, t.sum, t.by).
				Hint("find out which of them is right, and name the digest with --sha256sums FILE")
		default:
			found = t
		}
	}
	if found.sum != "" || s.AcceptUnverified || len(failures) == 0 {
		return found, nil
	}
	return trust{}, worst(failures)
}

// beside asks one source. A source that publishes no digest is no error.
func (s Source) beside(ctx context.Context, u *url.URL) (trust, error) {
	places := []*url.URL{u.JoinPath("..", "SHA256SUMS")}
	if s.ReleaseURL != "" { // upstream has no such files
		own := *u
		own.Path, own.RawPath = u.Path+".sha256", ""
		places = append([]*url.URL{&own}, places...)
	}
	c := s.client(u)
	defer c.close()
	var failures []error
	for _, p := range places {
		sums, err := c.sums(ctx, p)
		switch {
		case err == nil:
			if sum := sumOf(sums, s.names(u)...); sum != "" {
				return trust{sum, "published in " + p.Redacted()}, nil
			}
		case ctx.Err() != nil:
			return trust{}, err
		case !absent(err):
			failures = append(failures, err)
		}
	}
	if len(failures) > 0 {
		return trust{}, worst(failures)
	}
	return trust{}, nil
}

// sums fetches a list of digests.
func (c *client) sums(ctx context.Context, u *url.URL) (map[string]string, error) {
	var sums map[string]string
	err := c.retry(ctx, u, func() (bool, error) {
		resp, err := c.get(ctx, u, nil)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		sums, err = ParseSums(resp.Body)
		if err != nil && !errors.As(err, new(*errs.Error)) {
			err = errs.New(errs.Verification, "%s is no list of digests: %w", u.Redacted(), err).
				Hint("see what is there: curl -fL %s; or name the digests with --sha256sums FILE", u.Redacted())
		}
		return false, err
	})
	return sums, err
}

// worst makes one error of several: a wrong digest counts most, then what may go better another time.
func worst(failures []error) error {
	if len(failures) == 1 {
		return failures[0]
	}
	text, status := "", errs.Failed
	var hints []string
	for i, f := range failures {
		if i > 0 {
			text += "; "
		}
		text += f.Error()
		hints = append(hints, errs.HintsOf(f)...)
		switch s := errs.StatusOf(f); {
		case s == errs.Verification, s == errs.Timeout && status != errs.Verification:
			status = s
		case status == errs.Failed:
			status = s
		}
	}
	e := errs.New(status, "%s", text)
	e.Hints = hints
	return e
}

// sumReader returns the SHA-256 of what r holds, in hexadecimal digits.
func sumReader(ctx context.Context, r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, reader{ctx, r}, make([]byte, 256<<10)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// reader ends with the context's error when the context ends.
type reader struct {
	ctx context.Context //nolint:containedctx // of the one call that reads
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// note tells who vouches for an archive.
func (t trust) note(ctx context.Context, name string) {
	converge.Notef(ctx, "%s is genuine: its SHA-256 is the one %s", name, t.by)
}
