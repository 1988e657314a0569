package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// WorkerCommand is the hidden command of this program that calls Child.
const WorkerCommand = "snapshot-worker"

// lockLimit is how long the worker waits for a database that another process has open.
const lockLimit = 500 * time.Millisecond

// What the worker can be asked for.
const (
	doStatus  = "status"
	doRestore = "restore"
	doMembers = "members"
	doEntries = "entries"
	doOwner   = "owner"
)

// request is what the worker reads, as JSON. All paths are real ones.
type request struct {
	Do       string `json:"do"`
	Database string `json:"database"`        // the file to read; it is never written to
	Name     string `json:"name"`            // what messages call it
	WAL      string `json:"wal,omitempty"`   // the WAL directory beside it, for members, entries and owner
	After    uint64 `json:"after,omitempty"` // the entries of the WAL that do not count

	// Restore:
	DataDir  string `json:"dataDir,omitempty"` // empty, or absent
	Member   string `json:"member,omitempty"`  // the name of the one member
	PeerURL  string `json:"peerURL,omitempty"`
	Token    string `json:"token,omitempty"`
	Bump     uint64 `json:"bump,omitempty"`
	SkipHash bool   `json:"skipHash,omitempty"`
}

// reply is what the worker writes, as JSON.
type reply struct {
	Problem string `json:"problem,omitempty"` // why there is nothing else
	Busy    bool   `json:"busy,omitempty"`    // another process has the database open
	Full    bool   `json:"full,omitempty"`    // no space is left on the device

	Hash       uint32      `json:"hash,omitempty"`
	Revision   int64       `json:"revision,omitempty"`
	Keys       int         `json:"keys,omitempty"`
	Version    string      `json:"version,omitempty"`
	Membership *Membership `json:"membership,omitempty"`
	Entries    bool        `json:"entries,omitempty"` // the WAL has more of them, or the database a member
}

// Child is the worker: the process of ourselves in which databases are read, and which a corrupt one may end. It reads
// one request from stdin and writes one reply to stdout. Its error is that of the two streams.
func Child(_ context.Context, stdin io.Reader, stdout io.Writer) error {
	// A ring of pages would recurse up to the default of 1 GB.
	debug.SetMaxStack(64 << 20)
	var q request
	if err := json.NewDecoder(stdin).Decode(&q); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	var a reply
	var err error
	switch q.Do {
	case doStatus:
		a, err = inspect(q.Database)
	case doRestore:
		err = restore(q)
	case doMembers:
		a.Membership, err = members(q.Database, q.WAL)
	case doOwner:
		a.Membership = &Membership{}
		a.Membership.ClusterID, a.Membership.MemberID, err = identity(q.WAL)
	case doEntries:
		a.Entries, err = entries(q.WAL, q.After, q.Database)
	default:
		err = fmt.Errorf("%q is no request", q.Do)
	}
	if err != nil {
		a = reply{Problem: err.Error(), Busy: errors.Is(err, bbolterrors.ErrTimeout), Full: errors.Is(err, unix.ENOSPC)}
	}
	return json.NewEncoder(stdout).Encode(a)
}

// openDatabase opens a bbolt file of etcd for reading, and sees that all of it is there.
func openDatabase(path string) (*bbolt.DB, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	db, err := bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true, Timeout: lockLimit})
	if err != nil {
		return nil, err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("cut off after %d of %d bytes", info.Size(), tx.Size())
		}
		if tx.Bucket([]byte("meta")) == nil || tx.Bucket([]byte("key")) == nil {
			return errors.New("a database, but not one of etcd")
		}
		return nil
	})
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return db, nil
}

// inspect reads all of a database.
func inspect(path string) (reply, error) {
	db, err := openDatabase(path)
	if err != nil {
		return reply{}, err
	}
	if err := db.Close(); err != nil {
		return reply{}, err
	}
	s, err := snapshot.NewV3(logger()).Status(path)
	return reply{Hash: s.Hash, Revision: s.Revision, Keys: s.TotalKey, Version: s.Version}, err
}

// restore makes a data directory with one member out of a snapshot.
func restore(q request) error {
	return snapshot.NewV3(logger()).Restore(snapshot.RestoreConfig{
		SnapshotPath:        q.Database,
		OutputDataDir:       q.DataDir,
		Name:                q.Member,
		PeerURLs:            []string{q.PeerURL},
		InitialCluster:      q.Member + "=" + q.PeerURL,
		InitialClusterToken: q.Token,
		SkipHashCheck:       q.SkipHash,
		RevisionBump:        q.Bump,
		MarkCompacted:       q.Bump > 0, // without it, a bump is ignored silently
	})
}

// logger keeps what etcd says before it ends the process, one line per entry.
func logger() *zap.Logger {
	line := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{MessageKey: "msg"})
	return zap.New(zapcore.NewCore(line, zapcore.AddSync(os.Stderr), zapcore.ErrorLevel))
}

// ask has the worker do something, and turns what goes wrong, its death included, into an error for people.
func ask(ctx context.Context, h *host.Host, q request) (reply, error) {
	var a reply
	self, err := h.Self()
	if err != nil {
		return a, err
	}
	in, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	var said bytes.Buffer
	run := h.Query
	if q.Do == doRestore {
		run = h.Run
	}
	out, err := run(ctx, host.Command{
		Path: self, Args: []string{WorkerCommand}, Stdin: bytes.NewReader(in), Stderr: &said,
		Env: []string{"GOTRACEBACK=none"}, // a crash is one line
	})
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return a, ctx.Err()
	case errors.As(err, &exit):
		return a, crashed(q, exit, said.String())
	case err != nil:
		return a, err
	}
	if err := json.Unmarshal(out, &a); err != nil {
		return a, fmt.Errorf("read the reply of %s: %w", WorkerCommand, err)
	}
	switch {
	case a.Busy:
		return a, errs.New(errs.Precondition, "%s is in use by another process", q.Name).Hint("stop etcd first")
	case a.Full:
		return a, full(q.DataDir)
	case a.Problem != "" && q.Do == doRestore:
		return a, errs.New(errs.Failed, "restore %s: %s", q.Name, oneLine(a.Problem))
	case a.Problem != "":
		return a, damaged(q, oneLine(a.Problem))
	}
	return a, nil
}

// crashed explains why the worker died.
func crashed(q request, exit *exec.ExitError, said string) error {
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
		return errs.New(errs.Failed, "the process that read %s was killed, most likely for lack of memory", q.Name).
			Hint("look for the out-of-memory killer in: dmesg | grep -i oom")
	}
	if strings.Contains(said, unix.ENOSPC.Error()) {
		return full(q.DataDir)
	}
	return damaged(q, "reading it ends in "+oneLine(said))
}

// damaged is the error of a file that cannot be read: a snapshot, or a part of a data directory.
func damaged(q request, how string) error {
	if q.WAL != "" {
		return errs.New(errs.Verification, "%s is corrupt: %s", q.Name, how)
	}
	return corrupt(q.Name, "is corrupt: "+how)
}

func full(dir string) error {
	return errs.New(errs.Precondition, "no space is left for %s", dir).Hint("make room on its file system: df -h")
}

// oneLine returns the first line of a text, cut to a length that a person reads.
func oneLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	s = strings.ReplaceAll(s, "\t", " ")
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	if s == "" {
		return "a crash"
	}
	return s
}
