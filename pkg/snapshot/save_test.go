package snapshot

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// member is a server that gives the snapshot it is told to.
type member struct {
	pb.UnimplementedMaintenanceServer
	size  int64
	asked func() // for its status; may be nil
	send  func(pb.Maintenance_SnapshotServer) error
}

func (m member) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	if m.asked != nil {
		m.asked()
	}
	return &pb.StatusResponse{DbSize: m.size}, nil
}

func (m member) Snapshot(_ *pb.SnapshotRequest, s pb.Maintenance_SnapshotServer) error {
	return m.send(s)
}

func (m member) client(t *testing.T) *clientv3.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterMaintenanceServer(s, m)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{l.Addr().String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); s.Stop(); <-served })
	return c
}

// sendAll returns a function that sends bytes as etcd does, in pieces.
func sendAll(b []byte) func(pb.Maintenance_SnapshotServer) error {
	return func(s pb.Maintenance_SnapshotServer) error {
		for len(b) > 0 {
			n := min(len(b), 32<<10)
			if err := s.Send(&pb.SnapshotResponse{Blob: b[:n]}); err != nil {
				return err
			}
			b = b[n:]
		}
		return nil
	}
}

func TestSaveIsWholeAndPrivate(t *testing.T) {
	path, _ := realSnapshot(t) // made by Save
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %04o", info.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := member{size: int64(len(b)), send: sendAll(b)}.client(t)
	out := filepath.Join(t.TempDir(), "out.db")
	saved, err := Save(t.Context(), host.New(t.TempDir()), c, out)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, b) {
		t.Errorf("the file is not what was sent (%v)", err)
	}
	if saved.Path != out || !saved.Verified || saved.Size != int64(len(b)) {
		t.Errorf("got %+v", saved)
	}
	if names := hidden(t, filepath.Dir(out)); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// Whatever goes wrong, there is no file, and no leftover of one.
func TestSaveLeavesNothingOfAFailure(t *testing.T) {
	path, _ := realSnapshot(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	for _, c := range []struct {
		name   string
		size   int64
		send   func(pb.Maintenance_SnapshotServer) error
		status errs.Status
		says   string
	}{
		{"refused", 1, func(pb.Maintenance_SnapshotServer) error {
			return status.Error(codes.PermissionDenied, "etcdserver: permission denied")
		}, errs.Failed, "permission denied"},
		{"nothing", 1, func(pb.Maintenance_SnapshotServer) error { return nil }, errs.Verification, "is empty"},
		{"cut off", 1, sendAll(good[:len(good)-100]), errs.Verification, "cut off"},
		{"changed on the way", 1, sendAll(bad), errs.Verification, "does not match"},
		{"the member dies", 1, func(s pb.Maintenance_SnapshotServer) error {
			if err := sendAll(good[:4096])(s); err != nil {
				return err
			}
			return status.Error(codes.Unavailable, "transport is closing")
		}, errs.Failed, "ended the snapshot early"},
		{"the member stalls before the first byte", 1, func(s pb.Maintenance_SnapshotServer) error {
			<-s.Context().Done()
			return nil
		}, errs.Timeout, "sent nothing"},
		{"the member stalls", 1, func(s pb.Maintenance_SnapshotServer) error {
			if err := sendAll(good[:4096])(s); err != nil {
				return err
			}
			<-s.Context().Done()
			return nil
		}, errs.Timeout, "sent nothing"},
		{"no room", 1 << 62, sendAll(good), errs.Precondition, "no room"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			stall := time.Minute
			if c.status == errs.Timeout {
				stall = 100 * time.Millisecond
			}
			_, err := save(t.Context(), host.New(t.TempDir()), member{size: c.size, send: c.send}.client(t), filepath.Join(dir, "out.db"), stall)
			wantStatus(t, err, c.status)
			if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), ".etcdadm-new") {
				t.Errorf("the error is %q, want one with %q", err, c.says)
			}
			if names := hidden(t, dir); len(names) != 0 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
}

// One that takes a connection and says nothing on it has stalled as well, before there is a stream.
func TestAMemberThatNeverAnswersHasStalled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{l.Addr().String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = receive(t.Context(), c, c.Endpoints()[0], "out.db", &bytes.Buffer{}, 0, 100*time.Millisecond)
	wantStatus(t, err, errs.Timeout)
	if !strings.Contains(err.Error(), "sent nothing") {
		t.Errorf("the error is %q", err)
	}
}

// A slow member is not a stalled one: as long as bytes come, the transfer goes on.
func TestSaveWaitsForASlowMember(t *testing.T) {
	path, _ := realSnapshot(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Parallel()
	const stall, pieces = 4 * time.Second, 12 // a busy machine may stand still for a second or two
	slow := func(s pb.Maintenance_SnapshotServer) error {
		for i := range pieces { // longer in all than one stall
			time.Sleep(stall / 10)
			if err := s.Send(&pb.SnapshotResponse{Blob: b[i*len(b)/pieces : (i+1)*len(b)/pieces]}); err != nil {
				return err
			}
		}
		return nil
	}
	c := member{send: slow}.client(t)
	if _, err := save(t.Context(), host.New(t.TempDir()), c, filepath.Join(t.TempDir(), "out.db"), stall); err != nil {
		t.Fatal(err)
	}
}

// Of two saves to one file the second one ends, and the first one is whole. What a killed save left is in nobody's way.
func TestOfTwoSavesToOneFileOneIsWhole(t *testing.T) {
	path, _ := realSnapshot(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.db")
	if err := os.WriteFile(host.Staging(out), bytes.Repeat([]byte("left"), len(b)), 0o600); err != nil {
		t.Fatal(err)
	}
	begun, other := make(chan bool), make(chan bool)
	slow := member{send: func(s pb.Maintenance_SnapshotServer) error {
		if err := s.Send(&pb.SnapshotResponse{Blob: b[:1000]}); err != nil {
			return err
		}
		close(begun)
		<-other
		return sendAll(b[1000:])(s)
	}}.client(t)
	first := make(chan error, 1)
	go func() {
		_, err := save(t.Context(), host.New(t.TempDir()), slow, out, time.Minute)
		first <- err
	}()
	<-begun
	_, err = Save(t.Context(), host.New(t.TempDir()), member{send: sendAll(b)}.client(t), out)
	close(other)
	if errs.StatusOf(err) != errs.Locked || len(errs.HintsOf(err)) == 0 {
		t.Errorf("the second one: %v", err)
	}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, b) {
		t.Errorf("the file is not what was sent to the first one (%v)", err)
	}
	if names := hidden(t, filepath.Dir(out)); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

func TestSaveRefusesBeforeItAsks(t *testing.T) {
	dir := t.TempDir()
	taken, link := filepath.Join(dir, "taken.db"), filepath.Join(dir, "link.db")
	if err := os.WriteFile(taken, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}, Logger: zap.NewNop()}) // nobody is asked
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for path, want := range map[string]errs.Status{
		taken:                                 errs.Precondition,
		link:                                  errs.Precondition,
		filepath.Join(dir, "absent/out.db"):   errs.Usage,
		filepath.Join(dir, "taken.db/out.db"): errs.Usage,
	} {
		_, err := Save(t.Context(), host.New(t.TempDir()), c, path)
		wantStatus(t, err, want)
		if len(errs.HintsOf(err)) == 0 && want == errs.Precondition {
			t.Errorf("%v has no hint", err)
		}
	}
	if b, _ := os.ReadFile(taken); string(b) != "precious" {
		t.Error("the file was overwritten")
	}
}

// What got its name after the save had looked, from a save that was at its end, stays.
func TestSaveLooksAgain(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.db")
	c := member{
		asked: func() { write(t, out) },
		send:  func(pb.Maintenance_SnapshotServer) error { return status.Error(codes.Internal, "asked for a snapshot") },
	}.client(t)
	_, err := Save(t.Context(), host.New(t.TempDir()), c, out)
	wantStatus(t, err, errs.Precondition)
	if names := hidden(t, filepath.Dir(out)); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

func TestSaveIsAnAct(t *testing.T) {
	path, _ := realSnapshot(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := member{send: sendAll(b)}.client(t)
	if _, err := Save(t.Context(), host.New(t.TempDir(), host.ReadOnly()), c, filepath.Join(dir, "out.db")); err == nil {
		t.Error("a host that is only looked at was written to")
	}
	if names := hidden(t, dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestSaveTellsItsProgress(t *testing.T) {
	path, _ := realSnapshot(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := member{size: int64(len(b)), send: sendAll(b)}.client(t)
	var last converge.Event
	step := converge.Step{Name: "s", Want: converge.CheckFunc(func(ctx context.Context) (converge.Diff, error) {
		return nil, receive(ctx, c, c.Endpoints()[0], "out.db", &bytes.Buffer{}, int64(len(b)), time.Minute)
	})}
	r := converge.Run(t.Context(), []converge.Phase{{Name: "p", Steps: func(context.Context) ([]converge.Step, error) {
		return []converge.Step{step}, nil
	}}}, converge.Options{Events: func(e converge.Event) {
		if e.Kind == converge.Bytes {
			last = e
		}
	}})
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if last.Done != int64(len(b)) || last.Total != int64(len(b)) {
		t.Errorf("the last progress is %d of %d, want %d", last.Done, last.Total, len(b))
	}
}

// hidden lists a directory, hidden files too.
func hidden(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
