// Package version holds what the build says about this binary, and the order of etcd's versions.
package version

import (
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/mod/semver"
)

// Set by the linker (-X); a plain `go build` leaves them to what Go recorded.
var (
	gitVersion = ""
	gitCommit  = ""
	buildDate  = ""
)

// Info describes this binary. Dates are RFC 3339, UTC.
type Info struct {
	Version   string `json:"gitVersion" yaml:"gitVersion"`
	Commit    string `json:"gitCommit" yaml:"gitCommit"`
	BuildDate string `json:"buildDate" yaml:"buildDate"`
	GoVersion string `json:"goVersion" yaml:"goVersion"`
	Compiler  string `json:"compiler" yaml:"compiler"`
	Platform  string `json:"platform" yaml:"platform"`
}

// Get returns the description of this binary. Version has always the form vX.Y.Z, with a suffix for builds between releases.
func Get() Info {
	i := Info{
		Version: gitVersion, Commit: gitCommit, BuildDate: buildDate,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			switch {
			case s.Key == "vcs.revision" && i.Commit == "":
				i.Commit = s.Value
			case s.Key == "vcs.time" && i.BuildDate == "":
				i.BuildDate = s.Value
			}
		}
	}
	// semver takes v1 and v1.2 too, and its canonical form is whole.
	if c := semver.Canonical(i.Version); c == "" || !strings.HasPrefix(i.Version, c) {
		i.Version = "v0.0.0-unreleased"
	}
	return i
}

var etcdVersion = regexp.MustCompile(`^v?(\d+)\.(\d+)\.(\d+)([-+._][0-9A-Za-z.+_-]*)?$`)

// Etcd is a version of etcd: three numbers and what a rebuild appended to them.
type Etcd struct {
	Major, Minor, Patch int
	Suffix              string // with its separator: "-eks-1-26-16", "-rc.1", or ""
}

// ParseEtcd reads X.Y.Z with or without a leading v and with any suffix.
func ParseEtcd(s string) (Etcd, error) {
	m := etcdVersion.FindStringSubmatch(s)
	if m == nil {
		return Etcd{}, fmt.Errorf("%q is not a version of the form X.Y.Z", s)
	}
	var v Etcd
	if _, err := fmt.Sscanf(m[1]+" "+m[2]+" "+m[3], "%d %d %d", &v.Major, &v.Minor, &v.Patch); err != nil {
		return Etcd{}, fmt.Errorf("%q is not a version of the form X.Y.Z", s)
	}
	v.Suffix = m[4]
	return v, nil
}

// String returns X.Y.Z and the suffix, without a leading v.
func (v Etcd) String() string {
	return fmt.Sprintf("%d.%d.%d%s", v.Major, v.Minor, v.Patch, v.Suffix)
}

// Compare orders by the three numbers alone, as rebuilds keep the behaviour of the release that they name: -1, 0 or +1.
func (v Etcd) Compare(w Etcd) int {
	for _, d := range []int{v.Major - w.Major, v.Minor - w.Minor, v.Patch - w.Patch} {
		if d < 0 {
			return -1
		}
		if d > 0 {
			return 1
		}
	}
	return 0
}

// CompareMinor orders by major and minor: -1, 0 or +1.
func (v Etcd) CompareMinor(w Etcd) int {
	return Etcd{Major: v.Major, Minor: v.Minor}.Compare(Etcd{Major: w.Major, Minor: w.Minor})
}

var prerelease = regexp.MustCompile(`(?i)^[-+._](alpha|beta|rc|pre|dev)([^a-z]|$)`)

// Prerelease tells alpha, beta and release candidates from rebuilds with a suffix of their own.
func (v Etcd) Prerelease() bool { return prerelease.MatchString(v.Suffix) }
