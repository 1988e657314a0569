package binary_test

import (
	"os"
	"path"
	"strings"
	"testing"

	"etcdadm/binary"
	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// offline is a URL that nobody answers: nobody who asks for any port is given this one.
const offline = "http://127.0.0.1:1/ok"

func TestOperatorsArchiveIsUsedWithoutNetwork(t *testing.T) {
	s := serve(t)
	for _, v := range []string{unlisted, listed} {
		t.Run(v, func(t *testing.T) {
			data, err := os.ReadFile(archiveFile(s, v))
			if err != nil {
				t.Fatal(err)
			}
			src := source(t, v, offline)
			put(t, src.Host, src.CachePath(), data)
			r := mustRun(t, binary.Archive{Source: src}, false)
			if warned := len(r.Warnings) == 1 && strings.Contains(r.Warnings[0], "not upstream's"); warned != (v == listed) {
				t.Errorf("warnings %q", r.Warnings)
			}
			if _, err := os.Stat(src.Host.Path(src.CachePath() + ".part")); err == nil {
				t.Error("a download was begun")
			}
		})
	}
}

func TestSpoiltArchiveIsFetchedAgainOrNamed(t *testing.T) {
	s := serve(t)
	data, err := os.ReadFile(archiveFile(s, unlisted))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"truncated", data[:len(data)/2]},
		{"empty", nil},
		{"not an archive", []byte("<html>")},
		{"one bit wrong", append(append([]byte{}, data[:5000]...), append([]byte{data[5000] ^ 1}, data[5001:]...)...)},
		{"garbage behind", append(append([]byte{}, data...), "more"...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := source(t, unlisted, offline)
			put(t, src.Host, src.CachePath(), c.data)
			mustFail(t, binary.Archive{Source: src}, errs.Verification, src.CachePath(), "connection refused")
			src.ReleaseURL = s.Base("ok")
			mustRun(t, binary.Archive{Source: src}, true)
			inCache(t, src, archiveFile(s, unlisted))
		})
	}
}

func TestTrustedDigestIsAskedOfTheCacheToo(t *testing.T) {
	s := serve(t)
	src := source(t, unlisted, s.Base("ok"))
	mustRun(t, binary.Archive{Source: src}, true)
	src.Trusted = map[string]string{path.Base(src.CachePath()): strings.Repeat("0", 64)}
	mustFail(t, binary.Archive{Source: src}, errs.Verification, src.CachePath())
	src.Trusted = map[string]string{path.Base(src.CachePath()): sumOfFile(t, archiveFile(s, unlisted))}
	mustRun(t, binary.Archive{Source: src}, false)
}

// The record of a download spares the next check to unpack the archive; it must not hide that the archive changed.
func TestRecordIsNoProof(t *testing.T) {
	s := serve(t)
	src := source(t, unlisted, s.Base("ok"))
	mustRun(t, binary.Archive{Source: src}, true)
	put(t, src.Host, src.CachePath(), []byte("other"))
	mustRun(t, binary.Archive{Source: src}, true)
	inCache(t, src, archiveFile(s, unlisted))
}

func TestCachedVersions(t *testing.T) {
	h := host.New(t.TempDir())
	if v, err := binary.CachedVersions(h, "amd64"); len(v) != 0 || err != nil {
		t.Errorf("%v, %v", v, err)
	}
	for _, f := range []string{
		"v3.6.9/etcd-v3.6.9-linux-amd64.tar.gz", "v3.6.10/etcd-v3.6.10-linux-amd64.tar.gz",
		"v3.5.8-eks-1-26-16/etcd-v3.5.8-eks-1-26-16-linux-amd64.tar.gz",
		"v3.6.11/etcd-v3.6.11-linux-arm64.tar.gz", "v3.6.12/etcd-v3.6.12-linux-amd64.tar.gz.part",
		"3.6.13/etcd-v3.6.13-linux-amd64.tar.gz", "notes",
	} {
		put(t, h, constants.CacheDir+"/"+f, []byte("x"))
	}
	versions, err := binary.CachedVersions(h, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range versions {
		got = append(got, v.String())
	}
	if want := "3.5.8-eks-1-26-16 3.6.9 3.6.10"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestDryRunOfBothActsOnNothing(t *testing.T) {
	s := serve(t)
	src := source(t, unlisted, s.Base("ok"))
	src.Host = host.New(t.TempDir(), host.ReadOnly())
	for _, c := range []converge.Resource{binary.Archive{Source: src}, binary.Installed{Source: src, InstallDir: "/opt/bin"}} {
		d, err := c.Check(t.Context())
		if err != nil || len(d) == 0 {
			t.Errorf("%T: %v, %v, want a gap", c, d, err)
		}
		if err := c.Apply(t.Context()); err == nil {
			t.Errorf("%T: applied to a host that is only looked at", c)
		}
	}
	if e, err := os.ReadDir(src.Host.Root()); err != nil || len(e) != 0 {
		t.Errorf("%v, %v", e, err)
	}
}
