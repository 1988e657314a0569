package binary_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"etcdadm/binary"
	"etcdadm/pkg/host"
	"etcdadm/pkg/version"
	"etcdadm/test/release"
)

// BenchmarkInstallFromCache compares the check of the archive, the unpacking and the links with `tar xzf` of the same
// archive. The two take turns, and each pair gives a ratio, so that a busy machine slows both; the median is reported.
func BenchmarkInstallFromCache(b *testing.B) {
	const v = "3.6.16"
	mirror := release.Get(b)
	src := binary.Source{Host: host.New(b.TempDir()), Version: version.Etcd{Major: 3, Minor: 6, Patch: 16}, Arch: runtime.GOARCH, ReleaseURL: mirror.URL()}
	if err := (binary.Archive{Source: src}).Apply(b.Context()); err != nil {
		b.Fatal(err)
	}
	var ratios, ours, theirs []float64
	for b.Loop() {
		i := binary.Installed{Source: src, InstallDir: "/opt/bin"}
		start := time.Now()
		if d, err := (binary.Archive{Source: src}).Check(b.Context()); err != nil || len(d) > 0 {
			b.Fatal(d, err)
		}
		if err := i.Apply(b.Context()); err != nil {
			b.Fatal(err)
		}
		a := time.Since(start).Seconds()

		dir := filepath.Join(src.Host.Root(), "tar")
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		if out, err := exec.Command("tar", "xzf", mirror.Archive(v), "-C", dir).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		t := time.Since(start).Seconds()
		ratios, ours, theirs = append(ratios, a/t), append(ours, a), append(theirs, t)

		for _, d := range []string{dir, src.Host.Path("/opt")} {
			if err := os.RemoveAll(d); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(median(ratios), "x-of-tar")
	b.ReportMetric(median(ours), "s-ours")
	b.ReportMetric(median(theirs), "s-tar")
}

func median(f []float64) float64 {
	slices.Sort(f)
	return f[len(f)/2]
}
