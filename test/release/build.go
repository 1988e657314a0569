package release

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// compile builds the three programs of a version into bin. etcd's modules carry replace directives, which `go install
// module@version` refuses; a module of our own that requires them is built instead.
func compile(ctx context.Context, log io.Writer, version, bin string) error {
	module, err := os.MkdirTemp("", "etcdadm-mirror-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(module)

	var mod, imports strings.Builder
	mod.WriteString("module mirror\n\ngo 1.26\n\nrequire (\n")
	imports.WriteString("//go:build mirror\n\npackage mirror\n\nimport (\n")
	for _, m := range programs {
		fmt.Fprintf(&mod, "\tgo.etcd.io/etcd/%s/v3 v%s\n", m, version)
		fmt.Fprintf(&imports, "\t_ \"go.etcd.io/etcd/%s/v3\"\n", m)
	}
	for name, text := range map[string]string{"go.mod": mod.String() + ")\n", "imports.go": imports.String() + ")\n"} {
		if err := os.WriteFile(filepath.Join(module, name), []byte(text), 0o644); err != nil {
			return err
		}
	}

	for program, m := range programs {
		fmt.Fprintf(log, "building %s %s\n", program, version)
		out := filepath.Join(bin, program)
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "go.etcd.io/etcd/"+m+"/v3")
		build.Dir = module
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
		if text, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", program, err, text)
		}
		if err := verifyVersion(ctx, out, version); err != nil {
			return err
		}
	}
	return nil
}

// verifyVersion asks a program for its version: the module's version and what the program says of itself must agree.
func verifyVersion(ctx context.Context, program, version string) error {
	arg := "version"
	if filepath.Base(program) == "etcd" {
		arg = "--version"
	}
	out, err := exec.CommandContext(ctx, program, arg).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", program, arg, err, out)
	}
	if !strings.Contains(strings.ToLower(string(out)), "version: "+version+"\n") {
		return fmt.Errorf("%s %s does not say %s but %q", program, arg, version, out)
	}
	return nil
}

// released is the time of every file in an archive: the same source gives the same archive.
var released = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// pack writes the archive of a version in upstream's shape (one top directory, owners that exist nowhere, documents
// beside the programs) and returns its SHA-256 in hex.
func pack(bin, archive, version string) (sum string, err error) {
	f, err := os.Create(archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	digest := sha256.New()
	z := gzip.NewWriter(io.MultiWriter(f, digest))
	t := tar.NewWriter(z)

	add := func(name string, mode fs.FileMode, size int64, contents io.Reader) error {
		h := &tar.Header{
			Name: topDir(version) + "/" + name, Mode: int64(mode), Size: size, Typeflag: tar.TypeReg,
			Uid: 528287, Gid: 89939, ModTime: released, Format: tar.FormatUSTAR,
		}
		if strings.HasSuffix(h.Name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(t, contents)
		return err
	}
	document := "etcd " + version + ", built from its Go modules.\n"
	for _, name := range []string{"", "README.md", "Documentation/", "Documentation/README.md", "etcd", "etcdctl", "etcdutl"} {
		switch {
		case name == "" || strings.HasSuffix(name, "/"):
			err = add(name, 0o755, 0, strings.NewReader(""))
		case programs[name] == "":
			err = add(name, 0o644, int64(len(document)), strings.NewReader(document))
		default:
			err = addFile(add, name, filepath.Join(bin, name))
		}
		if err != nil {
			return "", err
		}
	}
	for _, c := range []io.Closer{t, z, f} {
		if err := c.Close(); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}

func addFile(add func(string, fs.FileMode, int64, io.Reader) error, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return add(name, 0o755, info.Size(), f)
}
