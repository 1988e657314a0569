package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/version"
)

func TestVerifyReadsTheWholeSnapshot(t *testing.T) {
	path, saved := realSnapshot(t)
	info, err := Verify(t.Context(), host.New(t.TempDir(), host.ReadOnly()), path, false)
	if err != nil {
		t.Fatal(err)
	}
	if info != saved {
		t.Errorf("Verify says %+v, Save said %+v", info, saved)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := hex.EncodeToString(b[len(b)-sha256.Size:]); info.SHA256 != want {
		t.Errorf("SHA256 is %s, the file ends in %s", info.SHA256, want)
	}
	if info.Keys != keys || info.Revision != keys+1 || info.Size != int64(len(b)) || info.Hash == 0 || !info.Verified {
		t.Errorf("got %+v", info)
	}
}

func TestVerifyRefuses(t *testing.T) {
	path, info := realSnapshot(t)
	end := int(info.Size)
	cut := func(n int) func(*testing.T) string {
		return func(t *testing.T) string {
			return edited(t, path, func(b []byte) []byte { return b[:n] })
		}
	}
	flip := func(at int) func(*testing.T) string {
		return func(t *testing.T) string {
			return edited(t, path, func(b []byte) []byte { b[at] ^= 0x10; return b })
		}
	}
	signed := func(edit func(db []byte) []byte) func(*testing.T) string {
		return func(t *testing.T) string {
			return edited(t, path, func(b []byte) []byte { return sign(edit(b[:len(b)-sha256.Size])) })
		}
	}
	special := func(make func(path string) error) func(*testing.T) string {
		return func(t *testing.T) string {
			p := filepath.Join(t.TempDir(), "special")
			if err := make(p); err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	for _, c := range []struct {
		name     string
		file     func(*testing.T) string
		skipHash bool
		status   errs.Status
		says     string
	}{
		{"missing", special(func(string) error { return nil }), false, errs.Usage, "does not exist"},
		{"a directory", special(func(p string) error { return os.Mkdir(p, 0o700) }), false, errs.Usage, "is a directory"},
		{"a pipe", special(func(p string) error { return unix.Mkfifo(p, 0o600) }), false, errs.Usage, "is not a regular file"},
		{"below a file", func(*testing.T) string { return filepath.Join(path, "x") }, false, errs.Usage, "not a directory"},
		{"empty", cut(0), false, errs.Verification, "is empty"},
		{"empty, hash skipped", cut(0), true, errs.Verification, "is empty"},
		{"one byte", cut(1), false, errs.Verification, "cut off after 1 bytes"},
		{"32 bytes", cut(32), false, errs.Verification, "cut off after 32 bytes"},
		{"32 bytes, hash skipped", cut(32), true, errs.Verification, "is corrupt"},
		{"the trailer is cut off", cut(end - 32), false, errs.Verification, "has no SHA-256 at its end"},
		{"the trailer is cut", cut(end - 1), false, errs.Verification, "is cut off"},
		{"a page is missing", cut(end - 4096), false, errs.Verification, "does not match the SHA-256"},
		{"half", cut((end / 8192) * 4096), false, errs.Verification, "has no SHA-256 at its end"},
		{"half, hash skipped", cut((end / 8192) * 4096), true, errs.Verification, "cut off after"},
		{"the first bit flipped", flip(0), false, errs.Verification, "does not match"},
		{"a bit in the middle flipped", flip(end / 2), false, errs.Verification, "does not match"},
		{"a bit of the trailer flipped", flip(end - 1), false, errs.Verification, "does not match"},
		{"text", special(func(p string) error { return os.WriteFile(p, []byte("hello\n"), 0o600) }), false, errs.Verification, "is no snapshot"},
		{"zeros with a right hash", signed(func(db []byte) []byte { return make([]byte, len(db)) }), false, errs.Verification, "is corrupt"},
		{"both meta pages broken, with a right hash", signed(func(db []byte) []byte { db[20] ^= 1; db[4096+20] ^= 1; return db }), false, errs.Verification, "is corrupt"},
		{"pages of rubbish, with a right hash", signed(func(db []byte) []byte {
			copy(db[8192:], bytes.Repeat([]byte{0xa5}, len(db)-8192))
			return db
		}), false, errs.Verification, "is corrupt"},
		{"cut, with a right hash", signed(func(db []byte) []byte { return db[:len(db)/2&^4095] }), false, errs.Verification, "cut off after"},
		{"huge and sparse", special(func(p string) error {
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(p, 256<<20+32)
		}), false, errs.Verification, "does not match"},
		{"another database", special(func(p string) error {
			db, err := bbolt.Open(p, 0o600, nil)
			if err != nil {
				return err
			}
			return db.Close()
		}), true, errs.Verification, "not one of etcd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Verify(t.Context(), host.New(t.TempDir(), host.ReadOnly()), c.file(t), c.skipHash)
			wantStatus(t, err, c.status)
			if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "goroutine") {
				t.Errorf("the error is %q, want one line with %q", err, c.says)
			}
		})
	}
}

// Whatever a file is cut to, the program that verifies it lives on and says so.
func TestVerifySurvivesAnyLength(t *testing.T) {
	path, info := realSnapshot(t)
	h := host.New(t.TempDir(), host.ReadOnly())
	for n := int64(1); n < info.Size-sha256.Size; n += info.Size/9 + 1 {
		for _, length := range []int64{n, n &^ 511, n&^4095 + sha256.Size} {
			file := edited(t, path, func(b []byte) []byte { return b[:length] })
			if _, err := Verify(t.Context(), h, file, true); errs.StatusOf(err) != errs.Verification {
				t.Errorf("cut to %d of %d bytes, hash skipped: %v", length, info.Size, err)
			}
		}
	}
}

func TestVerifyTakesACopiedDatabaseOnlyWhenTold(t *testing.T) {
	path, saved := realSnapshot(t)
	copied := edited(t, path, func(b []byte) []byte { return b[:len(b)-sha256.Size] })
	h := host.New(t.TempDir(), host.ReadOnly())
	_, err := Verify(t.Context(), h, copied, false)
	wantStatus(t, err, errs.Verification)
	if hints := strings.Join(errs.HintsOf(err), "\n"); !strings.Contains(hints, "--skip-hash-check") {
		t.Errorf("the hints do not tell the way out: %s", hints)
	}
	info, err := Verify(t.Context(), h, copied, true)
	if err != nil {
		t.Fatal(err)
	}
	if info.Verified || info.Revision != saved.Revision || info.SHA256 != saved.SHA256 {
		t.Errorf("got %+v", info)
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	path, _ := realSnapshot(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Verify(ctx, host.New(t.TempDir()), path, false)
	wantStatus(t, err, errs.Interrupted)
}

func TestTooNew(t *testing.T) {
	for _, c := range []struct {
		snapshot, server string
		status           errs.Status
	}{
		{"", "3.5.35", errs.OK},
		{"", "3.7.3", errs.OK},
		{"3.6.0", "3.5.35", errs.Precondition},
		{"3.6.0", "3.6.0", errs.OK},
		{"3.7.0", "3.6.16", errs.Precondition},
		{"3.7.0", "3.7.3", errs.OK},
		{"3.10.0", "3.9.1", errs.Precondition},
		{"4.0.0", "3.7.3", errs.Precondition},
		{"new", "3.7.3", errs.Verification},
	} {
		server, err := version.ParseEtcd(c.server)
		if err != nil {
			t.Fatal(err)
		}
		if got := errs.StatusOf(TooNew(Info{Path: "s.db", Version: c.snapshot}, server)); got != c.status {
			t.Errorf("a snapshot of %q for etcd %s: status %d, want %d", c.snapshot, c.server, got, c.status)
		}
	}
}

// etcd 3.6 and later write the version of their storage some seconds after the cluster has agreed on its own.
func TestVersionIsThatOfTheStorage(t *testing.T) {
	path, _ := realSnapshot(t)
	for _, want := range []string{"", "3.6.0", "3.7.0"} {
		info, err := Verify(t.Context(), host.New(t.TempDir()), withVersion(t, path, want), false)
		if err != nil {
			t.Fatal(err)
		}
		if info.Version != want {
			t.Errorf("the version is %q, want %q", info.Version, want)
		}
	}
}

// withVersion returns a copy of a snapshot with another storage version.
func withVersion(t *testing.T, path, v string) string {
	t.Helper()
	bare := edited(t, path, func(b []byte) []byte { return b[:len(b)-sha256.Size] })
	db, err := bbolt.Open(bare, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		if v == "" {
			return tx.Bucket([]byte("meta")).Delete([]byte("storageVersion"))
		}
		return tx.Bucket([]byte("meta")).Put([]byte("storageVersion"), []byte(v))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return edited(t, bare, sign)
}

// sign appends the SHA-256 that a snapshot ends with.
func sign(db []byte) []byte {
	sum := sha256.Sum256(db)
	return append(db[:len(db):len(db)], sum[:]...)
}

// A file passes exactly when its last 32 bytes, behind whole sectors, are the SHA-256 of what is before them.
func FuzzTrailer(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add(make([]byte, 32), false)
	f.Add(make([]byte, 511), true)
	f.Add(make([]byte, 512), true)
	f.Add(make([]byte, 544), false)
	f.Add(make([]byte, 1024), true)
	f.Fuzz(func(t *testing.T, b []byte, signed bool) {
		if signed {
			b = sign(b)
		}
		s, err := digest(t.Context(), bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		want := false
		if n := len(b) - sha256.Size; n > 0 && n%512 == 0 {
			want = sha256.Sum256(b[:n]) == [sha256.Size]byte(b[n:])
		}
		if s.matches != want {
			t.Errorf("%d bytes: matches is %v", len(b), s.matches)
		}
		if longer, err := digest(t.Context(), bytes.NewReader(b), int64(len(b))+1); err == nil {
			t.Errorf("a file that shrinks while it is read passes: %+v", longer)
		}
		_ = isDatabase(bytes.NewReader(b))
	})
}

func TestChildRefusesNonsense(t *testing.T) {
	var out bytes.Buffer
	if err := Child(t.Context(), strings.NewReader("nonsense"), &out); err == nil {
		t.Error("nonsense is taken for a request")
	}
	if err := Child(t.Context(), strings.NewReader(`{"do":"dance"}`), &out); err != nil || !strings.Contains(out.String(), "is no request") {
		t.Errorf("an unknown request: %v, %s", err, fmt.Sprint(&out))
	}
}
