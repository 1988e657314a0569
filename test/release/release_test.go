package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMirrorHoldsEachReleaseUnderItsDigest(t *testing.T) {
	m := Get(t)
	all, err := os.ReadFile(m.Sums())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range Versions {
		archive, err := os.ReadFile(m.Archive(v))
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(archive)
		line := hex.EncodeToString(digest[:]) + "  etcd-v" + v + "-linux-"
		own, err := os.ReadFile(filepath.Join(filepath.Dir(m.Archive(v)), "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		for list, text := range map[string][]byte{"its own list": own, "the list of all": all} {
			if !strings.Contains(string(text), line) {
				t.Errorf("%s: not in %s: %s", v, list, line)
			}
		}
		for program, contents := range unpack(t, archive, v) {
			unpacked, err := os.ReadFile(filepath.Join(m.Bin(v), program))
			if err != nil || !bytes.Equal(unpacked, contents) {
				t.Errorf("%s: %s beside the archive is not the one in it (%v)", v, program, err)
			}
			if err := verifyVersion(t.Context(), filepath.Join(m.Bin(v), program), v); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestVersionIsVerified(t *testing.T) {
	m := Get(t)
	if err := verifyVersion(t.Context(), filepath.Join(m.Bin(Versions[0]), "etcd"), Versions[1]); err == nil {
		t.Errorf("etcd %s passes for %s", Versions[0], Versions[1])
	}
}

func TestListKeepsOneLinePerArchive(t *testing.T) {
	m := Mirror(t.TempDir())
	for _, line := range []string{"aa  one.tar.gz\n", "bb  two.tar.gz\n", "cc  one.tar.gz\n"} {
		if err := m.list(line); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(m.Sums())
	if want := "bb  two.tar.gz\ncc  one.tar.gz\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// unpack returns the programs of an archive, and wants upstream's shape: one top directory, everything below it.
func unpack(t *testing.T, archive []byte, version string) map[string][]byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name, below := strings.CutPrefix(h.Name, topDir(version)+"/")
		if !below {
			t.Errorf("%s is not below %s", h.Name, topDir(version))
		}
		if programs[name] != "" {
			if found[name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	names := []string{}
	for n := range found {
		names = append(names, n)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"etcd", "etcdctl", "etcdutl"}) {
		t.Errorf("%s holds the programs %q", version, names)
	}
	return found
}
