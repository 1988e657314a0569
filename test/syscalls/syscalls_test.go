package syscalls

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain is also the program that is watched, and the child that it leaves behind.
func TestMain(m *testing.M) {
	Main()
	switch dir := os.Getenv("WATCHED_DIR"); {
	case dir == "":
		os.Exit(m.Run())
	case os.Getenv("WATCHED_CHILD") != "":
		child(dir)
	default:
		change(dir)
	}
}

// steps is how many files the watched program makes, each in three calls: openat, write, renameat.
const steps = 20

// change makes files, each from a thread of its own, and says so to the address that it is given.
func change(dir string) {
	for i := range steps {
		var done sync.WaitGroup
		done.Go(func() { must(step(dir, i)) })
		done.Wait()
	}
	if to := os.Getenv("WATCHED_TELLS"); to != "" {
		conn, err := net.Dial("tcp", to)
		must(err)
		_, err = conn.Write([]byte("done"))
		must(err)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "WATCHED_CHILD=1")
		must(cmd.Start())
	}
	os.Exit(0)
}

func step(dir string, i int) error {
	name := filepath.Join(dir, strconv.Itoa(i))
	f, err := os.OpenFile(name+".tmp", os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString("x"); err != nil {
		return errors.Join(err, f.Close(), os.Remove(name+".tmp"))
	}
	return errors.Join(f.Close(), os.Rename(name+".tmp", name))
}

// child goes on when its parent has ended.
func child(dir string) {
	time.Sleep(100 * time.Millisecond)
	must(os.WriteFile(filepath.Join(dir, "child"), nil, 0o600))
	os.Exit(0)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// watch runs the program with an answer to each of its calls.
func watch(t *testing.T, dir string, answer func(Call) Answer, env ...string) ([]Call, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), "WATCHED_DIR="+dir), env...)
	var mu sync.Mutex // what outlives the command goes on to ask
	var calls []Call
	err = Watch{Exe: filepath.Base(self), Ask: func(c Call) Answer {
		if !strings.HasPrefix(c.Path, dir) && !strings.HasPrefix(c.Path, "socket:") {
			return Continue // where output goes
		}
		mu.Lock()
		calls = append(calls, c)
		mu.Unlock()
		return answer(c)
	}}.Run(cmd)
	mu.Lock()
	defer mu.Unlock()
	return slices.Clone(calls), err
}

func TestEachCallIsAskedForOnce(t *testing.T) {
	dir := t.TempDir()
	calls, err := watch(t, dir, func(Call) Answer { return Continue })
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, c := range calls {
		got = append(got, c.Name+" "+c.Path)
	}
	for i := range steps {
		name := filepath.Join(dir, strconv.Itoa(i))
		want = append(want, "openat "+name+".tmp", "write "+name+".tmp", "renameat "+name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("asked for %q,\nwant %q", got, want)
	}
}

func TestAProcessDiesBeforeTheCall(t *testing.T) {
	for n := 1; n <= 3*steps; n += 7 {
		dir := t.TempDir()
		k := 0
		_, err := watch(t, dir, func(Call) Answer {
			if k++; k == n {
				return Kill
			}
			return Continue
		})
		exit := new(exec.ExitError)
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL { //nolint:forcetypeassert // it is one on Linux
			t.Fatalf("killed before call %d: %v", n, err)
		}
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if want := (n + 1) / 3; len(left) != want {
			t.Errorf("killed before call %d: it has made %d files, want %d", n, len(left), want)
		}
	}
}

func TestACallFailsAndIsNotMade(t *testing.T) {
	dir := t.TempDir()
	_, err := watch(t, dir, func(c Call) Answer {
		if c.Name == "write" && filepath.Base(c.Path) == "3.tmp" {
			return Fail(syscall.ENOSPC)
		}
		return Continue
	})
	if err == nil {
		t.Error("the program has not noticed")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 3 {
		t.Errorf("there are %q, want three files", left)
	}
}

// What outlives the command is not left without an answer.
func TestChildrenAreAnsweredToTheirEnd(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	dir := t.TempDir()
	calls, err := watch(t, dir, func(Call) Answer { return Continue }, "WATCHED_TELLS="+listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	network := 0
	for _, c := range calls {
		if strings.HasPrefix(c.Path, "socket:") {
			network++
		}
	}
	if network != 2 {
		t.Errorf("%d calls to the network were asked for, want connect and write", network)
	}
	for range 6000 {
		if _, err := os.Stat(filepath.Join(dir, "child")); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the child could not go on")
}
