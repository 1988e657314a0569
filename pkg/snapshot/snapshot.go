// Package snapshot takes, verifies and restores snapshots of etcd, and holds a member's data directory as a desired state.
//
// A snapshot file is etcd's database (a bbolt file) followed by the SHA-256 of it, 32 bytes. Everything that reads a
// database runs in a process of its own, see Child: etcd's library maps the file into memory, and a corrupt or
// truncated one ends the process that looks at it.
package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/version"
)

// Info describes a snapshot file.
type Info struct {
	Path     string `json:"path" yaml:"path"`
	SHA256   string `json:"sha256" yaml:"sha256"`     // of the database, hex: what the last 32 bytes of the file hold
	Verified bool   `json:"verified" yaml:"verified"` // false only when the caller asked to skip the hash, and it is missing or wrong
	Hash     uint32 `json:"hash" yaml:"hash"`         // CRC-32C over buckets, keys and values, as `etcdutl snapshot status` prints it
	Revision int64  `json:"revision" yaml:"revision"`
	Keys     int    `json:"keys" yaml:"keys"`       // live keys
	Size     int64  `json:"size" yaml:"size"`       // bytes of the file
	Version  string `json:"version" yaml:"version"` // storage version X.Y.0, written by etcd 3.6 and later; "" for 3.5
}

// Verify checks a snapshot file whole: its length, its SHA-256, and the database inside. Path is the caller's, not
// under the root of the host. With skipHash a missing or wrong SHA-256 passes (a database that was copied from a data
// directory has none), a broken database does not. A path that leads to no file has status 2, a bad file status 6.
func Verify(ctx context.Context, h *host.Host, path string, skipHash bool) (Info, error) {
	return verify(ctx, h, path, path, skipHash)
}

// verify checks the file at path, and calls it name.
func verify(ctx context.Context, h *host.Host, path, name string, skipHash bool) (Info, error) {
	info := Info{Path: name}
	f, size, err := open(path, name)
	if err != nil {
		return info, err
	}
	defer f.Close()
	info.Size = size
	if size == 0 {
		return info, corrupt(name, "is empty")
	}
	sum, err := digest(ctx, f, size)
	if err != nil {
		return info, fmt.Errorf("read snapshot %s: %w", name, err)
	}
	info.SHA256, info.Verified = sum.database, sum.matches
	switch {
	case sum.matches || skipHash:
	case size%512 == 0 && isDatabase(f):
		return info, errs.New(errs.Verification, "snapshot %s has no SHA-256 at its end: it is cut off, or a copy of member/snap/db", name).
			Hint("take a snapshot with: etcdadm snapshot save FILE").
			Hint("a database that was copied from a stopped member passes with --skip-hash-check")
	case !sum.trailer:
		return info, corrupt(name, fmt.Sprintf("is no snapshot of etcd, or is cut off after %d bytes", size))
	default:
		return info, corrupt(name, "does not match the SHA-256 at its end")
	}
	answer, err := ask(ctx, h, request{Do: doStatus, Database: path, Name: name})
	if err != nil {
		return info, err
	}
	info.Hash, info.Revision, info.Keys, info.Version = answer.Hash, answer.Revision, answer.Keys, answer.Version
	if !info.Verified {
		converge.Warnf(ctx, "the SHA-256 of snapshot %s is not verified", name)
	}
	return info, nil
}

// TooNew refuses, with status 3, a snapshot that a newer minor of etcd has written than the one that is to read it.
// etcd 3.5 would take it silently, and could not be upgraded later.
func TooNew(i Info, server version.Etcd) error {
	if i.Version == "" {
		return nil // etcd 3.5 writes no version, and every release that we install reads it
	}
	v, err := version.ParseEtcd(i.Version)
	if err != nil {
		return errs.New(errs.Verification, "snapshot %s names the version %q of its storage", i.Path, i.Version)
	}
	if v.CompareMinor(server) <= 0 {
		return nil
	}
	return errs.New(errs.Precondition, "snapshot %s is of etcd %d.%d, newer than etcd %s", i.Path, v.Major, v.Minor, server).
		Hint("choose a release of etcd %d.%d with --version, or a snapshot of etcd %d.%d", v.Major, v.Minor, server.Major, server.Minor)
}

// open opens a regular file and nothing else: to open a pipe would wait for its writer.
func open(path, name string) (*os.File, int64, error) {
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() {
		var f *os.File
		if f, err = os.Open(path); err == nil {
			return f, info.Size(), nil
		}
	}
	switch {
	case err == nil && info.IsDir():
		return nil, 0, errs.New(errs.Usage, "snapshot %s is a directory", name).Hint("name the snapshot file itself")
	case err == nil:
		return nil, 0, errs.New(errs.Usage, "snapshot %s is not a regular file", name)
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, errs.New(errs.Usage, "snapshot %s does not exist", name).Hint("take one with: etcdadm snapshot save FILE")
	case errors.Is(err, fs.ErrPermission):
		return nil, 0, errs.New(errs.Usage, "snapshot %s is not readable for this user", name).Hint("run the command as root")
	}
	return nil, 0, errs.New(errs.Usage, "snapshot %s: %w", name, err)
}

// sums is what the bytes of a file say about themselves.
type sums struct {
	database string // SHA-256 of the database, hex
	trailer  bool   // the length leaves room for a SHA-256 behind whole sectors
	matches  bool   // it is there, and right
}

// digest reads the first size bytes of a file once. etcd tells a file with a SHA-256 by its length: a database is a
// multiple of 512 bytes long (hasChecksum in etcd's client/v3/snapshot).
func digest(ctx context.Context, r io.ReaderAt, size int64) (sums, error) {
	var s sums
	s.trailer = size > sha256.Size && size%512 == sha256.Size
	length := size
	if s.trailer {
		length -= sha256.Size
	}
	h := sha256.New()
	n, err := io.Copy(h, &counted{ctx: ctx, Reader: io.NewSectionReader(r, 0, length), total: length})
	if err != nil {
		return s, err
	}
	if n != length {
		return s, io.ErrUnexpectedEOF
	}
	sum := h.Sum(nil)
	s.database = hex.EncodeToString(sum)
	if s.trailer {
		var want [sha256.Size]byte
		if n, err := r.ReadAt(want[:], length); n < len(want) {
			return s, err
		}
		s.matches = [sha256.Size]byte(sum) == want
	}
	return s, nil
}

// isDatabase tells whether a file begins like a bbolt file: behind the page header of 16 bytes stands the magic number,
// in the byte order of the machine, and every machine that etcd supports but s390x is little-endian.
func isDatabase(r io.ReaderAt) bool {
	var b [4]byte
	_, err := r.ReadAt(b[:], 16)
	return err == nil && (b == [4]byte{0xed, 0xda, 0x0c, 0xed} || b == [4]byte{0xed, 0x0c, 0xda, 0xed})
}

// corrupt is the error of a file that is no good, whatever is done with it.
func corrupt(name, how string) error {
	return errs.New(errs.Verification, "snapshot %s %s", name, how).
		Hint("copy it again from where it was taken, or use another snapshot")
}

// counted is a reader that ends with its context, and tells how far it is about once per MiB.
type counted struct {
	ctx context.Context
	io.Reader
	done, told, total int64
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.Reader.Read(p)
	c.done += int64(n)
	if c.done-c.told >= 1<<20 || (err == io.EOF && c.done > c.told) {
		c.told = c.done
		converge.Progress(c.ctx, c.done, max(c.total, c.done))
	}
	return n, err
}
