package api

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/version"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Field   string // the path of the field: "bindAddress", "extraEnv.GOGC"
	Reason  string // names the value and its state, lower case
	Hint    string // what to do, may be ""
	Warning bool   // it may stay so
}

func (p Problem) String() string { return p.Field + ": " + p.Reason }

// Verdict makes one usage error of the problems that are no warnings, or nil when there is none.
func Verdict(problems []Problem) error {
	fatal := slices.DeleteFunc(slices.Clone(problems), func(p Problem) bool { return p.Warning })
	if len(fatal) == 0 {
		return nil
	}
	reasons := make([]string, len(fatal))
	for i, p := range fatal {
		reasons[i] = p.String()
	}
	text := strings.Join(reasons, "; ")
	if len(fatal) > 1 {
		text = fmt.Sprintf("%d problems in the configuration: %s", len(fatal), text)
	}
	e := errs.New(errs.Usage, "%s", text)
	for _, p := range fatal {
		if p.Hint != "" && !slices.Contains(e.Hints, p.Hint) {
			e = e.Hint("%s", p.Hint)
		}
	}
	return e
}

// Validate judges a configuration that Default has filled. It changes nothing, looks at no host, and returns every
// problem in the order of the fields.
func (c Config) Validate() []Problem {
	v := &judge{}
	v.name(c.Name)
	if _, err := version.ParseEtcd(c.Version); err != nil {
		v.add("version", err.Error(), "for example: --version %s", constants.DefaultVersion)
	}
	v.releaseURL(c.ReleaseURL)
	v.paths(c)
	v.bindAddress(c.BindAddress)
	v.advertiseName(c.AdvertiseName)
	for _, san := range c.ServerCertExtraSANs {
		v.san(san)
	}
	v.oneOf("initSystem", c.InitSystem, InitSystems)
	v.image(c.ImageRepository)
	v.cipherSuites(c)
	for _, l := range c.DiskPriorities {
		v.diskPriority(l)
	}
	if c.InitSystem != Systemd && !slices.Equal(c.DiskPriorities, DiskPriorities) {
		v.warn("diskPriorities", "these lines are for a unit of systemd; init system "+c.InitSystem+" has none", "")
	}
	if d := c.DownloadConnectTimeout.Duration; d <= 0 {
		v.add("downloadConnectTimeout", fmt.Sprintf("%s is not a positive duration", d), "for example: --download-connect-timeout %s", constants.DownloadConnectTimeout)
	}
	v.oneOf("keyAlgorithm", c.KeyAlgorithm, KeyAlgorithms)
	v.quota(c.QuotaBackendBytes)
	for _, e := range c.JoinEndpoints {
		v.endpoint(e)
	}
	v.extraEnv(c.ExtraEnv)
	return v.problems
}

type judge struct{ problems []Problem }

func (v *judge) add(field, reason, hint string, args ...any) {
	v.problems = append(v.problems, Problem{Field: field, Reason: reason, Hint: fmt.Sprintf(hint, args...)})
}

func (v *judge) warn(field, reason, hint string) {
	v.problems = append(v.problems, Problem{Field: field, Reason: reason, Hint: hint, Warning: true})
}

func (v *judge) oneOf(field, value string, known []string) {
	if !slices.Contains(known, value) {
		v.add(field, fmt.Sprintf("%q is unknown%s", value, DidYouMean(value, known, "%s")), "the known ones are %s", strings.Join(known, ", "))
	}
}

var memberName = regexp.MustCompile(`^[A-Za-z0-9_]+((\.|-+)[A-Za-z0-9_]+)*$`)

// name: etcd separates names by "=" and "," in its initial cluster, and the certificates carry the name as common name
// (at most 64 characters: RFC 5280, ub-common-name) and as DNS name.
func (v *judge) name(s string) {
	const hint = "for example: --name etcd-1"
	switch {
	case s == "":
		v.add("name", "the member has no name, and the host has none", hint)
	case len(s) > 64:
		v.add("name", fmt.Sprintf("%q has %d characters; a certificate holds at most 64", s[:20]+"...", len(s)), hint)
	case !memberName.MatchString(s):
		v.add("name", fmt.Sprintf("%q is not a member name: letters, digits and _, with . or - between them", s), hint)
	case reserved(s):
		v.add("name", fmt.Sprintf("%q is reserved: it is what peer certificates are told by", s), hint)
	}
}

// reserved tells whether a certificate with this DNS name would pass for a peer's.
func reserved(name string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	_, parent, _ := strings.Cut(constants.PeerMarker, ".")
	return name == constants.PeerMarker || name == "*."+parent
}

func (v *judge) releaseURL(s string) {
	if s == "" {
		return
	}
	const field, hint = "releaseURL", "for example: --release-url " + constants.ReleaseURL
	u, err := url.Parse(s)
	s = withoutUser(s)
	switch {
	case err != nil || hasControl(s) || strings.ContainsRune(s, ' '):
		v.add(field, fmt.Sprintf("%q is not a URL", s), hint)
	case u.User != nil:
		v.add(field, fmt.Sprintf("%q names a user; the configuration is world-readable and holds no secrets", s),
			"put the archive into %s/v<X.Y.Z> instead, or serve it without a password", constants.CacheDir)
	case u.Scheme == "file" && (u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path)):
		v.add(field, fmt.Sprintf("%q does not name an absolute path", s), "for example: --release-url file:///srv/etcd")
	case u.Scheme == "file":
	case u.Scheme != "https" && u.Scheme != "http":
		v.add(field, fmt.Sprintf("%q begins with none of https://, http:// and file:///", s), hint)
	case u.Hostname() == "":
		v.add(field, fmt.Sprintf("%q names no host", s), hint)
	case u.Fragment != "":
		v.add(field, fmt.Sprintf("%q has a fragment", s), hint)
	case u.RawQuery != "":
		v.warn(field, "its query is kept in "+constants.ConfigFile+", which everybody on the node can read", "")
	}
}

// withoutUser leaves out of a URL, sound or not, what may be a password.
func withoutUser(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "..." + s[i:]
	}
	return s
}

func (v *judge) bindAddress(s string) {
	const field, hint = "bindAddress", "give an address of this host: --bind-address IP"
	a, err := netip.ParseAddr(s)
	switch {
	case s == "":
		v.add(field, "no address of this host was found that other members could reach", hint)
	case err != nil:
		v.add(field, fmt.Sprintf("%q is not an IP address", s), hint+"; and a name by which others know it: --advertise-name NAME")
	case a.IsUnspecified():
		v.add(field, fmt.Sprintf("%s means every address; other members need one that they can reach", a), hint)
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		v.add(field, fmt.Sprintf("%s is not the address of one host", a), hint)
	case a.Is4In6():
		v.add(field, fmt.Sprintf("%s is an IPv4 address in IPv6 form", a), "write it as --bind-address %s", a.Unmap())
	case a.Zone() != "" || a.Is6() && a.IsLinkLocalUnicast():
		v.add(field, fmt.Sprintf("%s is a link-local address; it means something else on each host", a), hint)
	}
}

var dnsName = regexp.MustCompile(`^(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)

// isDNSName tells whether certificates can carry s as a name, "*." in front of it perhaps. What ends in a number is no
// name, but a mistyped address.
func isDNSName(s string) bool {
	last := s[strings.LastIndexByte(s, '.')+1:]
	return len(s) <= 253 && dnsName.MatchString(s) && strings.Trim(last, "0123456789") != ""
}

func (v *judge) advertiseName(s string) {
	const field, hint = "advertiseName", "for example: --advertise-name etcd-1.example.com"
	_, err := netip.ParseAddr(s)
	switch {
	case s == "":
	case err == nil:
		v.add(field, fmt.Sprintf("%s is an address, which is advertised as it is", s), "--bind-address %s", s)
	case reserved(s):
		v.add(field, fmt.Sprintf("%q is reserved: it is what peer certificates are told by", s), hint)
	case strings.HasPrefix(s, "*") || !isDNSName(s):
		v.add(field, fmt.Sprintf("%q is not the DNS name of one host", s), hint)
	}
}

func (v *judge) san(s string) {
	const field, hint = "serverCertExtraSANs", "for example: --server-cert-extra-sans etcd.example.com,10.0.0.7"
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.IsUnspecified() {
			v.add(field, fmt.Sprintf("%q is not an address that a client could dial", s), hint)
		}
		return
	}
	switch {
	case reserved(s):
		v.add(field, fmt.Sprintf("%q is reserved: it is what peer certificates are told by", s), hint)
	case !isDNSName(s):
		v.add(field, fmt.Sprintf("%q is neither a DNS name nor an IP address", s), hint)
	}
}

var imageRepository = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+/[a-z0-9._-]+)?(/[a-z0-9._-]+)*$`)

func (v *judge) image(s string) {
	if !imageRepository.MatchString(s) {
		v.add("imageRepository", fmt.Sprintf("%q is not an image without tag and digest", s), "the tag is made of the version; for example: --image-repository %s", constants.DefaultImageRepository)
	}
}

func (v *judge) cipherSuites(c Config) {
	const field = "cipherSuites"
	var names []string
	for _, s := range tls.CipherSuites() {
		if slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			names = append(names, s.Name)
		}
	}
	key := "_RSA_"
	if strings.HasPrefix(c.KeyAlgorithm, "ecdsa") {
		key = "_ECDSA_"
	}
	known, fits := true, false
	for _, name := range c.CipherSuites {
		fits = fits || strings.Contains(name, key)
		is := func(s *tls.CipherSuite) bool { return s.Name == name }
		switch {
		case slices.Contains(names, name):
		case slices.ContainsFunc(tls.InsecureCipherSuites(), is):
			v.warn(field, name+" is weak", "leave it out, or leave cipherSuites empty for Go's choice")
		case slices.ContainsFunc(tls.CipherSuites(), is):
			known = false
			v.add(field, name+" belongs to TLS 1.3, whose suites cannot be chosen", "leave it out")
		default:
			known = false
			v.add(field, fmt.Sprintf("%q is unknown%s", name, DidYouMean(name, names, "%s")), "the known ones are %s", strings.Join(names, ", "))
		}
	}
	if len(c.CipherSuites) > 0 && known && !fits {
		v.warn(field, fmt.Sprintf("none of them works with a key of %s; clients of TLS 1.2 cannot connect", c.KeyAlgorithm), "add one with "+strings.Trim(key, "_")+" in its name")
	}
}

var unitLine = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*=`)

func (v *judge) diskPriority(s string) {
	if !unitLine.MatchString(s) || hasControl(s) || strings.HasSuffix(s, `\`) {
		v.add("diskPriorities", fmt.Sprintf("%q is not one line Key=value of a [Service] section", s), "for example: --disk-priorities %s", DiskPriorities[0])
	}
}

func (v *judge) quota(n int64) {
	const field = "quotaBackendBytes"
	if n < 0 {
		v.add(field, fmt.Sprintf("%d is not a size", n), "for example: --quota-backend-bytes 8589934592")
	}
	if n > 8<<30 {
		v.warn(field, fmt.Sprintf("%d is above 8 GiB, the most that etcd suggests", n), "")
	}
}

func (v *judge) endpoint(s string) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" {
		v.add("joinEndpoints", fmt.Sprintf("%q is not the client URL of a member", withoutUser(s)), "for example: https://10.0.0.1:%d", constants.ClientPort)
	}
}

var variable = regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`)

// extraEnv: which ETCD_* names there are depends on the version, and is judged where the environment is made.
func (v *judge) extraEnv(env map[string]string) {
	names := make([]string, 0, len(env))
	for name := range env {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case !variable.MatchString(name):
			v.add("extraEnv", fmt.Sprintf("%q is not the name of an environment variable", name), "names consist of A to Z, 0 to 9 and _, for example: ETCD_HEARTBEAT_INTERVAL")
		case strings.HasPrefix(name, envPrefix):
			v.add("extraEnv."+name, "variables of this prefix are for etcdadm, not for etcd", "")
		case hasControl(env[name]):
			v.add("extraEnv."+name, "the value holds a line break or another control character", "write it in one line")
		}
	}
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }
