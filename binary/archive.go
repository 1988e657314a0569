package binary

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/version"
)

// Archive is the state that the cache holds the verified archive of a release.
//
// An archive that is there already is used without network, also when its digest is not upstream's: rebuilds keep
// upstream's file name. Only when the caller names the digests that it trusts must it have one of them.
type Archive struct{ Source }

// Check reads the archive once: its digest, and when nothing is known of that, the archive as a whole.
func (a Archive) Check(ctx context.Context) (converge.Diff, error) {
	known, err := a.known()
	if err != nil {
		return nil, err
	}
	gap := func(have string) (converge.Diff, error) {
		return converge.Diff{{What: a.CachePath(), Have: have, Want: "a verified archive"}}, nil
	}
	f, err := a.Host.Open(a.CachePath())
	if isAbsent(err) {
		return gap("absent")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return gap("not a regular file")
	}
	sum, err := sumReader(ctx, f)
	if err != nil {
		return nil, err
	}
	switch {
	case sum == known.sum:
		return nil, nil
	case a.Trusted != nil:
		return gap("another digest than the one " + known.by)
	}
	if sum != a.recorded() {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		if err := inspect(ctx, f); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			return gap(err.Error())
		}
	}
	if known.sum != "" {
		converge.Warnf(ctx, "%s is used as it is, although its SHA-256 is %s, not upstream's %s", a.CachePath(), sum, known.sum)
	}
	return nil, nil
}

// Apply downloads the archive, verifies it, and gives it its name.
func (a Archive) Apply(ctx context.Context) error {
	spoilt, _ := a.Host.Exists(a.CachePath()) // Apply is called because it will not do
	err := a.fetch(ctx)
	if err == nil || ctx.Err() != nil || errs.OfMachine(err) || errs.StatusOf(err) == errs.Precondition { // no other source would help
		return err
	}
	if spoilt {
		e := errs.New(errs.Verification, "%s is not what it should be, and no other could be fetched: %w", a.CachePath(), err)
		return e.Hint("put the whole archive there, or remove it and let this node reach the release server")
	}
	if errs.StatusOf(err) != errs.Verification && errs.StatusOf(err) != errs.Usage {
		e := errs.New(errs.StatusOf(err), "%w", err).
			Hint("name another source with --release-url URL, or put the archive at %s", a.CachePath())
		if cached, cerr := CachedVersions(a.Host, a.Arch); cerr == nil && len(cached) > 0 {
			e = e.Hint("or take what is in the cache, with --version: %s", join(cached))
		}
		return e
	}
	return err
}

func join(versions []version.Etcd) string {
	var list []string
	for _, v := range versions {
		list = append(list, v.String())
	}
	return strings.Join(list, ", ")
}

func (a Archive) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.total(), &limit{"not complete within", a.total()})
	defer cancel()
	urls, err := a.urls()
	if err != nil {
		return err
	}
	want, err := a.known()
	if err == nil && want.sum == "" {
		want, err = a.published(ctx, urls)
	}
	if err != nil {
		return err
	}
	if want.sum == "" && !a.AcceptUnverified {
		if err := a.probe(ctx, urls[0]); err != nil {
			return err
		}
		return errs.New(errs.Verification, "there is no digest to verify %s against", urls[0].Redacted()).
			Hint("name a list of digests that you trust: --sha256sums FILE").
			Hint("or take it as it is: --accept-risk=unverified-download")
	}
	var failures []error
	for _, u := range urls {
		err := a.fetchFrom(ctx, u, want)
		if err == nil || ctx.Err() != nil {
			return err
		}
		failures = append(failures, err)
		if errs.StatusOf(err) == errs.Precondition { // the fault is on this side
			break
		}
	}
	return worst(failures)
}

// Available tells, by a nil error, that a release server has the archive. It takes no longer than it may to connect to one.
func (s Source) Available(ctx context.Context) error {
	urls, err := s.urls()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.connect(), &limit{"no answer within", s.connect()})
	defer cancel()
	failures := make([]error, len(urls))
	var asked sync.WaitGroup
	for i, u := range urls {
		asked.Go(func() {
			if failures[i] = (Archive{s}).probe(ctx, u); failures[i] == nil {
				cancel() // the others need not be waited for
			}
		})
	}
	asked.Wait()
	if slices.Contains(failures, nil) {
		return nil
	}
	return worst(failures)
}

// probe tells whether a server has the archive at all.
func (a Archive) probe(ctx context.Context, u *url.URL) error {
	c := a.client(u)
	defer c.close()
	resp, err := c.get(ctx, u, http.Header{"Range": {"bytes=0-0"}})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// fetchFrom downloads from one server. A mismatch of halves that come from two requests gets one fresh try.
func (a Archive) fetchFrom(ctx context.Context, u *url.URL, want trust) error {
	c := a.client(u)
	defer c.close()
	d, err := c.openPart(u, want.sum != "")
	if err != nil {
		return err
	}
	defer d.part.Close()
	for again := true; ; again = false {
		resumed, err := d.run(ctx)
		if err != nil {
			return err
		}
		if err = d.verify(ctx, want); err == nil {
			return d.commit(ctx, want)
		}
		if ctx.Err() != nil {
			return err
		}
		if rerr := d.restart(); rerr != nil {
			return rerr
		}
		if !resumed || !again {
			return err
		}
		converge.Notef(ctx, "what was left of an earlier download does not fit; beginning anew")
	}
}

// verify judges what is in part.
func (d *download) verify(ctx context.Context, want trust) error {
	if _, err := d.part.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if want.sum == "" {
		if err := inspect(ctx, d.part); err != nil {
			return errs.New(errs.Verification, "%s: %w", d.url.Redacted(), err)
		}
		converge.Warnf(ctx, "%s was not verified: there is no digest for it", d.url.Redacted())
		return nil
	}
	sum, err := sumReader(ctx, d.part)
	if err != nil {
		return err
	}
	if sum != want.sum {
		return errs.New(errs.Verification, "%s has the SHA-256 %s, not %s (%s)", d.url.Redacted(), sum, want.sum, want.by).
			Hint("if it is a rebuild that you trust, name its digest with --sha256sums FILE")
	}
	want.note(ctx, d.archiveName())
	return nil
}

// commit gives the archive its name. The record of its digest for Check comes before: without the archive it says nothing.
func (d *download) commit(ctx context.Context, want trust) error {
	if err := d.part.Chmod(0o644); err != nil { // the umask, or an earlier run's
		return err
	}
	if err := d.part.Sync(); err != nil {
		return d.explainSpace(err)
	}
	if want.sum != "" {
		if err := d.Host.WriteFile(d.recordPath(), fmt.Appendf(nil, "%s  %s\n", want.sum, d.archiveName()), 0o644); err != nil {
			return err
		}
	} else if err := d.Host.Remove(d.recordPath()); err != nil { // of another archive
		return err
	}
	return d.Host.Rename(d.partPath(), d.CachePath())
}

// recordPath is the digest with which an archive was verified, in the form of sha256sum(1). It only spares Check to
// read a whole archive of which nothing else is known.
func (s Source) recordPath() string { return s.CachePath() + ".sha256" }

func (s Source) recorded() string {
	f, err := s.Host.Open(s.recordPath())
	if err != nil {
		return ""
	}
	defer f.Close()
	sums, err := ParseSums(f)
	if err != nil {
		return ""
	}
	return sumOf(sums, s.archiveName())
}

// CachedVersions returns the versions whose archives for an architecture are in the cache, oldest first.
func CachedVersions(h *host.Host, arch string) ([]version.Etcd, error) {
	entries, err := h.ReadDir(constants.CacheDir)
	if isAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var versions []version.Etcd
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), "v")
		v, err := version.ParseEtcd(name)
		if !ok || err != nil {
			continue
		}
		info, err := h.Stat(Source{Version: v, Arch: arch}.CachePath())
		if err != nil && !isAbsent(err) {
			return nil, err
		}
		if err == nil && info.Mode().IsRegular() {
			versions = append(versions, v)
		}
	}
	slices.SortStableFunc(versions, version.Etcd.Compare)
	return versions, nil
}

func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }
