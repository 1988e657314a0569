// Package binary brings a release of etcd to a node: found, downloaded, verified, unpacked and linked.
//
// An archive gets its name in the cache only after it was verified, and a release gets its directory only after it was
// unpacked whole; so whatever bears such a name is trusted, and what a killed run left behind is overwritten by the next.
package binary

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/version"
)

// Source says where a release comes from and what is trusted.
type Source struct {
	Host    *host.Host
	Version version.Etcd
	Arch    string // in Go's spelling: amd64, arm64, ppc64le, s390x

	// ReleaseURL is a base URL of upstream's layout, or the URL of one archive (it ends in .tar.gz or .tgz); https,
	// http or file. "": upstream, then its second host.
	ReleaseURL string
	// Trusted are digests by file name that the caller vouches for; nil: the compiled-in ones, else published ones.
	Trusted map[string]string
	// AcceptUnverified takes an archive for which no digest is to be found. A wrong digest is refused all the same.
	AcceptUnverified bool

	HTTP    *http.Client  // nil: one with these limits, and the proxies of the environment
	Connect time.Duration // to connect to a server; 0: constants.DownloadConnectTimeout
	Stall   time.Duration // without a byte; 0: constants.DownloadStallTimeout
	Total   time.Duration // for everything, over all tries and servers; 0: constants.DownloadTotalTimeout
	Pause   time.Duration // before the second try, doubled before each further one; 0: half a second
}

func (s Source) connect() time.Duration { return cmp.Or(s.Connect, constants.DownloadConnectTimeout) }
func (s Source) stall() time.Duration   { return cmp.Or(s.Stall, constants.DownloadStallTimeout) }
func (s Source) total() time.Duration   { return cmp.Or(s.Total, constants.DownloadTotalTimeout) }
func (s Source) pause() time.Duration   { return cmp.Or(s.Pause, 500*time.Millisecond) }

// archiveName is the name that upstream gives to the archive, and that it has in the cache wherever it came from.
func (s Source) archiveName() string {
	return fmt.Sprintf("etcd-v%s-linux-%s.tar.gz", s.Version, s.Arch)
}

// CachePath returns the logical path of the archive in the cache.
func (s Source) CachePath() string {
	return path.Join(constants.CacheDir, "v"+s.Version.String(), s.archiveName())
}

// urls returns the URLs of the archive, the preferred one first.
func (s Source) urls() ([]*url.URL, error) {
	bases := []string{constants.ReleaseURL, constants.MirrorURL}
	if s.ReleaseURL != "" {
		bases = []string{s.ReleaseURL}
	}
	var urls []*url.URL
	for _, b := range bases {
		u, err := url.Parse(b)
		if err != nil { // the text of the error may hold a password
			return nil, errs.New(errs.Usage, "the release URL is not a URL")
		}
		switch {
		case (u.Scheme == "https" || u.Scheme == "http") && u.Host != "":
		case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost"):
		default:
			return nil, errs.New(errs.Usage, "the release URL %q is neither https://, http:// nor file:///", u.Redacted())
		}
		if !isArchive(u) {
			u = u.JoinPath("v"+s.Version.String(), s.archiveName())
		}
		urls = append(urls, u)
	}
	return urls, nil
}

func isArchive(u *url.URL) bool {
	return strings.HasSuffix(u.Path, ".tar.gz") || strings.HasSuffix(u.Path, ".tgz")
}

// names are the names under which a list of digests may hold the archive of u.
func (s Source) names(u *url.URL) []string { return []string{path.Base(u.Path), s.archiveName()} }
