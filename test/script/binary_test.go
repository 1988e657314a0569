package script

import (
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxBinary is how large the program may be, in bytes.
const maxBinary = 26_000_000

// in runs a program in a directory, and returns what it prints.
func in(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir = dir
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v", c, err)
	}
	return strings.TrimSpace(string(out))
}

// What `make build` makes of this tree.
func TestBinaryIsStaticAndSmall(t *testing.T) {
	t.Parallel()
	in(t, "../..", "make", "build")
	bin := "../../bin/etcdadm"
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it has a segment %s: it needs a loader", p.Type)
		}
	}
	if libraries, _ := f.ImportedLibraries(); len(libraries) > 0 {
		t.Errorf("it needs the libraries %q", libraries)
	}
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxBinary {
		t.Errorf("it has %d bytes, want at most %d", info.Size(), maxBinary)
	}
}

// A clone with a tag of its own tells version, commit and date of what it was built from.
func TestBinaryKnowsWhatItWasBuiltFrom(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "clone")
	in(t, ".", "git", "clone", "--quiet", "../..", dir)
	in(t, dir, "git", "-c", "user.name=a", "-c", "user.email=a@example.com", "tag", "-a", "-m", "a release", "v9.8.7")
	in(t, dir, "make", "build")
	var told struct{ GitVersion, GitCommit, BuildDate string }
	if err := json.Unmarshal([]byte(in(t, dir, "bin/etcdadm", "version", "-o", "json")), &told); err != nil {
		t.Fatal(err)
	}
	if told.GitVersion != "v9.8.7" {
		t.Errorf("the version is %q", told.GitVersion)
	}
	if head := in(t, dir, "git", "rev-parse", "HEAD"); told.GitCommit != head {
		t.Errorf("the commit is %q, want %s", told.GitCommit, head)
	}
	if when := in(t, dir, "env", "TZ=UTC", "git", "log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"); told.BuildDate != when {
		t.Errorf("the date is %q, want that of the commit, %s", told.BuildDate, when)
	}
}
