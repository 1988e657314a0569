package version

import (
	"regexp"
	"testing"

	"etcdadm/constants"
)

func TestParseEtcd(t *testing.T) {
	for in, want := range map[string]Etcd{
		"3.6.14":            {3, 6, 14, ""},
		"v3.6.14":           {3, 6, 14, ""},
		"3.5.8-eks-1-26-16": {3, 5, 8, "-eks-1-26-16"},
		"3.6.0-rc.1":        {3, 6, 0, "-rc.1"},
		"v3.5.21+build.7":   {3, 5, 21, "+build.7"},
		"3.5.21_1":          {3, 5, 21, "_1"},
		"10.20.30":          {10, 20, 30, ""},
	} {
		got, err := ParseEtcd(in)
		if got != want || err != nil {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
		if again, _ := ParseEtcd(got.String()); again != got {
			t.Errorf("%q does not survive String: %+v", in, again)
		}
	}
	if _, err := ParseEtcd(constants.DefaultVersion); err != nil {
		t.Errorf("the default version: %v", err)
	}
	for _, in := range []string{
		"", "v", "3", "3.6", "3.6.x", "vv3.6.1", "V3.6.1", " 3.6.1", "3.6.1 ", "3.6.1\n", "3.6.1-a/b", "3.6.1-../../etc", "3.6.1 -rc",
		"-3.6.1", "3.-6.1", "3.6.1foo", "3.6.99999999999999999999", "latest",
	} {
		if got, err := ParseEtcd(in); err == nil {
			t.Errorf("%q was taken for %+v", in, got)
		}
	}
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		a, b        string
		want, minor int
	}{
		{"3.6.14", "3.6.14", 0, 0},
		{"3.6.9", "3.6.14", -1, 0},
		{"3.10.0", "3.9.9", 1, 1},
		{"4.0.0", "3.99.99", 1, 1},
		{"3.5.99", "3.6.0", -1, -1},
		{"3.5.8-eks-1-26-16", "3.5.8", 0, 0},
	} {
		a, _ := ParseEtcd(c.a)
		b, _ := ParseEtcd(c.b)
		if a.Compare(b) != c.want || b.Compare(a) != -c.want {
			t.Errorf("%s and %s: %d and %d", c.a, c.b, a.Compare(b), b.Compare(a))
		}
		if a.CompareMinor(b) != c.minor || b.CompareMinor(a) != -c.minor {
			t.Errorf("minors of %s and %s: %d and %d", c.a, c.b, a.CompareMinor(b), b.CompareMinor(a))
		}
	}
}

func TestPrerelease(t *testing.T) {
	for in, want := range map[string]bool{
		"3.6.0": false, "3.6.0-rc.1": true, "3.6.0-alpha.0": true, "3.6.0-BETA1": true, "3.7.0-dev": true, "3.7.0+pre": true,
		"3.5.8-eks-1-26-16": false, "3.5.8-1ubuntu2": false, "3.5.8-k3s1": false, "3.5.8-precise1": false, "3.5.8-revision2": false,
	} {
		if v, err := ParseEtcd(in); v.Prerelease() != want || err != nil {
			t.Errorf("%s: %v, %v", in, v.Prerelease(), err)
		}
	}
}

func TestGetHasAVersionWhateverTheBuildSays(t *testing.T) {
	defer func(v, c, d string) { gitVersion, gitCommit, buildDate = v, c, d }(gitVersion, gitCommit, buildDate)
	form := regexp.MustCompile(`^v\d+\.\d+\.\d+(-.+)?$`)
	for in, want := range map[string]string{
		"v1.2.3": "v1.2.3", "v1.2.3-4-gabcdef": "v1.2.3-4-gabcdef", "": "v0.0.0-unreleased", "abcdef": "v0.0.0-unreleased", "v1": "v0.0.0-unreleased",
	} {
		gitVersion, gitCommit, buildDate = in, "c", "d"
		got := Get()
		if got.Version != want || !form.MatchString(got.Version) || got.Commit != "c" || got.BuildDate != "d" {
			t.Errorf("%q: %+v", in, got)
		}
	}
}
