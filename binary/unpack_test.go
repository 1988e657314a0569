package binary

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/version"
	"etcdadm/test/releaseserver"
)

func TestDefaultVersionIsCompiledIn(t *testing.T) {
	v, err := version.ParseEtcd(constants.DefaultVersion)
	if err != nil {
		t.Fatal(err)
	}
	d, ok := compiledIn(v, "amd64")
	if !ok || d.sources < 2 {
		t.Errorf("%+v, %v, want two independent sources", d, ok)
	}
	v.Suffix = "-rebuilt"
	if _, ok := compiledIn(v, "amd64"); ok {
		t.Error("a rebuild has upstream's digest")
	}
}

// memory keeps what is unpacked.
type memory map[string]*bytes.Buffer

func (m memory) create(tool string) (io.WriteCloser, error) {
	if m[tool] != nil {
		return nil, errors.New(tool + " is created twice")
	}
	m[tool] = &bytes.Buffer{}
	return nowhere{m[tool]}, nil
}

func TestUnpack(t *testing.T) {
	file, dir := releaseserver.File, releaseserver.Dir
	etcd, ctl, utl := file("top/etcd", []byte("1")), file("top/etcdctl", []byte("2")), file("top/etcdutl", []byte("3"))
	link := func(name string, kind byte, to string) releaseserver.Entry {
		return releaseserver.Entry{Header: tar.Header{Name: name, Typeflag: kind, Linkname: to}}
	}
	for _, c := range []struct {
		name    string
		entries []releaseserver.Entry
		err     string // "": unpacked
	}{
		{"upstream's shape", []releaseserver.Entry{dir("top"), file("top/README.md", []byte("x")), etcd, ctl, utl, file("top/doc/etcd", []byte("x"))}, ""},
		{"with a dot in front", []releaseserver.Entry{dir("."), dir("./top"), file("./top/etcd", []byte("1")), ctl, utl}, ""},
		{"links that are no tools", []releaseserver.Entry{link("top/latest", tar.TypeSymlink, "/etc/passwd"), etcd, ctl, utl}, ""},
		{"one is missing", []releaseserver.Entry{etcd, ctl}, "etcdutl is missing"},
		{"nothing", nil, "etcd is missing"},
		{"not in a directory", []releaseserver.Entry{file("etcd", []byte("1")), file("etcdctl", []byte("2")), file("etcdutl", []byte("3"))}, "outside of its one top directory"},
		{"two top directories", []releaseserver.Entry{etcd, ctl, file("pot/etcdutl", []byte("3"))}, "outside of its one top directory"},
		{"deeper", []releaseserver.Entry{file("top/bin/etcd", []byte("1")), ctl, utl}, "etcd is missing"},
		{"up and away", []releaseserver.Entry{etcd, ctl, utl, file("top/../../etc/cron.d/x", []byte("1"))}, "leads out"},
		{"up and back", []releaseserver.Entry{file("top/x/../etcd", []byte("1")), ctl, utl}, "leads out"},
		{"absolute", []releaseserver.Entry{etcd, ctl, utl, file("/etc/cron.d/x", []byte("1"))}, "leads out"},
		{"symbolic link", []releaseserver.Entry{link("top/etcd", tar.TypeSymlink, "/bin/sh"), ctl, utl}, "top/etcd is not a regular file"},
		{"hard link", []releaseserver.Entry{ctl, utl, link("top/etcd", tar.TypeLink, "top/etcdctl")}, "top/etcd is not a regular file"},
		{"device", []releaseserver.Entry{link("top/etcd", tar.TypeChar, ""), ctl, utl}, "top/etcd is not a regular file"},
		{"empty", []releaseserver.Entry{file("top/etcd", nil), ctl, utl}, "top/etcd is empty"},
		{"twice", []releaseserver.Entry{etcd, ctl, utl, etcd}, "top/etcd stands there twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := releaseserver.Archive(c.entries...)
			if err != nil {
				t.Fatal(err)
			}
			m := memory{}
			err = unpack(t.Context(), bytes.NewReader(data), m.create)
			if c.err != "" {
				if errs.StatusOf(err) != errs.Verification || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want status 6 and %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(m) != 3 || m["etcd"].String() != "1" || m["etcdctl"].String() != "2" || m["etcdutl"].String() != "3" {
				t.Errorf("unpacked %v", m)
			}
		})
	}
}

func TestUnpackJudgesTheWholeStream(t *testing.T) {
	data, err := releaseserver.Archive(releaseserver.File("top/etcd", []byte("1")),
		releaseserver.File("top/etcdctl", []byte("2")), releaseserver.File("top/etcdutl", []byte("3")))
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if err := inspect(t.Context(), bytes.NewReader(data[:n])); errs.StatusOf(err) != errs.Verification {
			t.Fatalf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
	flipped := bytes.Clone(data)
	flipped[len(data)-6] ^= 1 // in the check sum
	for name, b := range map[string][]byte{
		"garbage behind the stream": append(bytes.Clone(data), "garbage"...),
		"another stream behind":     append(bytes.Clone(data), compress(t, []byte("garbage"))...),
		"wrong check sum":           flipped,
		"not compressed":            []byte("etcd"),
		"something behind the end":  compress(t, append(stream(t, data), "garbage"...)),
	} {
		t.Run(name, func(t *testing.T) {
			if err := inspect(t.Context(), bytes.NewReader(b)); errs.StatusOf(err) != errs.Verification {
				t.Errorf("%v, want status 6", err)
			}
		})
	}
	t.Run("a bomb", func(t *testing.T) {
		err := untar(io.MultiReader(bytes.NewReader(stream(t, data)), zeros{}), memory{}.create)
		if errs.StatusOf(err) != errs.Verification || !strings.Contains(err.Error(), "unpacks to more than 512.0 MiB") {
			t.Errorf("%v, want status 6", err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := inspect(ctx, bytes.NewReader(data)); !errors.Is(err, context.Canceled) || errs.StatusOf(err) != errs.Interrupted {
			t.Errorf("%v", err)
		}
	})
	t.Run("an error of the writer is no fault of the archive", func(t *testing.T) {
		err := unpack(t.Context(), bytes.NewReader(data), func(string) (io.WriteCloser, error) { return nil, errors.New("disk on fire") })
		if errs.StatusOf(err) != errs.Failed {
			t.Errorf("%v", err)
		}
	})
}

// zeros never end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// stream is what an archive compresses.
func stream(t testing.TB, archive []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func compress(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzUnpack feeds the reader of tar streams: the check sum of gzip would keep the fuzzer out.
func FuzzUnpack(f *testing.F) {
	for _, name := range []string{"top/etcd", "../etcd", "/etcd", "./top/etcd"} {
		data, err := releaseserver.Archive(releaseserver.Dir("top"), releaseserver.File(name, []byte("1")),
			releaseserver.File("top/etcdctl", []byte("2")), releaseserver.File("top/etcdutl", []byte("3")))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(stream(f, data))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		m := memory{}
		err := untar(bytes.NewReader(stream), m.create)
		for tool := range m {
			if tool != "etcd" && tool != "etcdctl" && tool != "etcdutl" {
				t.Fatalf("created %q", tool)
			}
		}
		if err != nil {
			if errs.StatusOf(err) != errs.Verification {
				t.Fatal(err)
			}
			return
		}
		for _, tool := range tools {
			if m[tool] == nil || m[tool].Len() == 0 {
				t.Fatalf("no %s, and no error", tool)
			}
		}
	})
}
