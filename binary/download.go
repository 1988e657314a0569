package binary

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// maxArchive is some twenty times what a release has.
const maxArchive = 512 << 20

// download fetches an archive into the part file beside its place in the cache.
type download struct {
	*client
	url  *url.URL
	part *os.File
	size int64 // of what is in part
	// validator is the ETag or date of the bytes in part, for as long as this process lives. Without one the digest alone
	// tells whether two halves belong together.
	validator string
}

// partPath is where an archive lies until it is verified.
func (s Source) partPath() string { return s.CachePath() + ".part" }

// openPart opens the part file, with what an interrupted run left in it when that is to be kept.
func (c *client) openPart(u *url.URL, keep bool) (*download, error) {
	p := c.partPath()
	if err := c.Host.MkdirAll(path.Dir(p), 0o755); err != nil {
		return nil, err
	}
	if err := c.Host.Act("download %s", c.CachePath()); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(c.Host.Path(p), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, err
	}
	d := &download{client: c, url: u, part: f}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file", p)
	case keep && info.Size() < maxArchive:
		d.size = info.Size()
	default:
		err = d.restart()
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return d, nil
}

// restart forgets what was fetched.
func (d *download) restart() error {
	d.size, d.validator = 0, ""
	return d.part.Truncate(0)
}

// run fetches until part is complete. resumed tells that its halves come from two requests.
func (d *download) run(ctx context.Context) (resumed bool, err error) {
	best := d.size
	err = d.retry(ctx, d.url, func() (bool, error) {
		again, err := d.try(ctx)
		resumed = again || (resumed && d.size > 0)
		grew := d.size > best
		best = max(best, d.size)
		return grew, err
	})
	return resumed, err
}

// try sends one request, and appends what it brings to part.
func (d *download) try(ctx context.Context) (resumed bool, err error) {
	header := http.Header{}
	if d.size > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.size))
		if d.validator != "" {
			header.Set("If-Range", d.validator)
		}
	}
	resp, err := d.get(ctx, d.url, header)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()

	total := resp.ContentLength
	switch from, whole := contentRange(resp); {
	case resp.StatusCode == http.StatusPartialContent && from == d.size:
		converge.Notef(ctx, "going on at %s of %s from %s", mib(d.size), mib(whole), d.url.Redacted())
		resumed, total = true, whole
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && whole == d.size && d.size > 0:
		return true, nil // all of it was there
	case resp.StatusCode == http.StatusOK:
		converge.Notef(ctx, "downloading %s", d.url.Redacted())
		if err := d.restart(); err != nil {
			return false, err
		}
	default: // a range that was not asked for
		if err := d.restart(); err != nil {
			return false, err
		}
		return false, &transient{error: errs.New(errs.Failed, "%s answered %s with another range", d.url.Redacted(), resp.Status)}
	}
	d.validator = validator(resp.Header)
	if total > maxArchive {
		return resumed, d.tooLarge()
	}
	if err := d.room(total - d.size); err != nil {
		return resumed, err
	}
	return resumed, d.copy(ctx, resp.Body, total)
}

// copy appends the body to part, and tells how far it is.
func (d *download) copy(ctx context.Context, body io.Reader, total int64) error {
	if _, err := d.part.Seek(d.size, io.SeekStart); err != nil {
		return err
	}
	total = max(total, 0)
	buf := make([]byte, 128<<10)
	var told time.Time
	for {
		n, err := body.Read(buf)
		if d.size+int64(n) > maxArchive {
			return d.tooLarge()
		}
		if n > 0 {
			if _, err := d.part.Write(buf[:n]); err != nil {
				return d.explainSpace(err)
			}
			d.size += int64(n)
		}
		if now := time.Now(); err != nil || now.Sub(told) > 100*time.Millisecond {
			converge.Progress(ctx, d.size, total)
			told = now
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *download) tooLarge() error {
	return errs.New(errs.Verification, "%s is larger than %s, which no release of etcd is", d.url.Redacted(), mib(maxArchive))
}

// room refuses a download that would fill the file system.
func (d *download) room(need int64) error {
	fsys, err := d.Host.FileSystem(path.Dir(d.CachePath()))
	if err != nil {
		return err
	}
	if need > 0 && uint64(need) > fsys.Free {
		return errs.New(errs.Precondition, "%s has %s free, and the archive needs %s", path.Dir(d.CachePath()), mib(int64(fsys.Free)), mib(need)).
			Hint("free some space there, then run this command again")
	}
	return nil
}

func (d *download) explainSpace(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	_ = d.restart() // gives back what we took
	return spaceError(path.Dir(d.CachePath()), err)
}

// spaceError names the directory whose file system is full.
func spaceError(dir string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return errs.New(errs.Precondition, "%s is full: %w", dir, err).Hint("free some space there, then run this command again")
}

// contentRange reads "bytes 5-9/10" and "bytes */10" of RFC 9110 section 14.4; what is not told is -1.
func contentRange(resp *http.Response) (from, whole int64) {
	from, whole = -1, -1
	v := resp.Header.Get("Content-Range")
	if span, size, ok := strings.Cut(strings.TrimPrefix(v, "bytes "), "/"); ok {
		if _, err := fmt.Sscanf(span, "%d-", &from); err != nil {
			from = -1
		}
		if _, err := fmt.Sscanf(size, "%d", &whole); err != nil {
			whole = -1
		}
	}
	return from, whole
}

// validator returns what If-Range takes: a strong ETag, else a date.
func validator(h http.Header) string {
	if tag := h.Get("ETag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		return tag
	}
	return h.Get("Last-Modified")
}

func mib(n int64) string {
	if n < 0 {
		return "an unknown size"
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
