package crash

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"etcdadm/test/process"
	"etcdadm/test/release"
	"etcdadm/test/syscalls"
)

// The environment of TestKilledBeforeAnyCall.
const (
	sweepSeed = "SWEEP_SEED" // draws the calls that are tried without the next one
	sweepWhat = "SWEEP"      // "all": every call that is not on record yet; a number: that call
	sweepFor  = "SWEEP_FOR"  // for all calls: no try begins after that time, such as 1h
)

// drawn is how many calls of each story are tried when not all of them are.
const drawn = 1

// The program that users run may be killed before any of its system calls that change a file or talk to the network.
func TestKilledBeforeAnyCall(t *testing.T) {
	s := newSweep(t)
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			s.play(t, story)
		})
	}
}

// A directory has its mode from the moment in which it is made, whatever the umask: the run that goes on after a kill takes
// it as it is.
func TestADirectoryHasItsModeAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, release.Get(t))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	made, last := 0, ""
	ask := func(c syscalls.Call) syscalls.Answer {
		if info, err := os.Stat(last); err == nil && info.Mode().Perm() != 0o755 {
			t.Errorf("%s is made with mode %s", last, info.Mode())
		}
		if last = ""; c.Name == "mkdirat" {
			last = c.Path
			made++
		}
		return syscalls.Continue
	}
	install := append([]string{"init", "phase", "install"}, w.test.settings(current)...)
	w.must(w.test.runBy(syscalls.Watch{Exe: filepath.Base(self), Ask: ask}.Run, install))
	if made < 5 {
		t.Errorf("only %d directories were made", made)
	}
}

// A run that ends between the change of a name and its sync, killed or by an error, leaves what looks done and is not on the
// disk: the next one finds nothing to do there, and syncs it before it believes so, with the links that systemctl may have
// made meanwhile.
func TestWhatAKilledRunDidIsSynced(t *testing.T) {
	t.Parallel()
	mirror := release.Get(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]syscalls.Answer{"killed": syscalls.Kill, "failed": syscalls.Fail(syscall.EIO)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, mirror)
			at := func(dir string) string { return filepath.Join(w.test.root, dir) }
			dirs := []string{at("etc/etcdadm"), at("etc"), at("etc/systemd/system/multi-user.target.wants")}
			if err := os.MkdirAll(dirs[2], 0o755); err != nil {
				t.Fatal(err)
			}
			config := append([]string{"init", "phase", "config"}, w.test.settings(current)...)
			last := ""
			end := func(c syscalls.Call) syscalls.Answer {
				if c.Name == "fsync" && last == "renameat" {
					return answer
				}
				last = c.Name
				return syscalls.Continue
			}
			if r := w.test.runBy(syscalls.Watch{Exe: filepath.Base(self), Ask: end}.Run, config); !r.Killed && r.Status == 0 {
				t.Fatalf("it has succeeded: %+v", r)
			}
			for _, want := range []bool{true, false} {
				synced := map[string]bool{}
				ask := func(c syscalls.Call) syscalls.Answer {
					synced[c.Path] = synced[c.Path] || c.Name == "fsync"
					return syscalls.Continue
				}
				if r := w.must(w.test.runBy(syscalls.Watch{Exe: filepath.Base(self), Ask: ask}.Run, config)); r.Changed {
					t.Errorf("the run has ended too early: %+v", r.Changes())
				}
				for _, dir := range dirs {
					if synced[dir] != want {
						t.Errorf("%s was synced: %t, want %t", dir, synced[dir], want)
					}
				}
			}
		})
	}
}

// sweep is all stories with the built etcdadm.
type sweep struct {
	ctx    context.Context // ends when no more tries are to begin
	mirror release.Mirror
	bin    string // the built etcdadm
	record string // the directory that tells which calls were tried; "": none is kept
	what   string
	seed   uint64
	slots  chan struct{} // one for each try that goes on

	mu    sync.Mutex
	total tally
}

// tally counts what a sweep has done.
type tally struct{ stories, calls, rows, tried, red int }

func (c tally) String() string {
	return fmt.Sprintf("%d calls in %d rows, %d tried, %d red", c.calls, c.rows, c.tried, c.red)
}

func newSweep(t *testing.T) *sweep {
	t.Helper()
	s := &sweep{ctx: t.Context(), mirror: release.Get(t), what: os.Getenv(sweepWhat), seed: uint64(time.Now().UnixNano())}
	beside, err := strconv.Atoi(flag.Lookup("test.parallel").Value.String())
	if err != nil {
		t.Fatal(err)
	}
	s.slots = make(chan struct{}, beside)
	s.bin = filepath.Join(t.TempDir(), "etcdadm")
	// As `make build` does, but without what it says of itself: another commit of the same code is the same program.
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", s.bin, "etcdadm/cmd/etcdadm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build etcdadm: %v\n%s", err, out)
	}
	switch s.what {
	case "":
		if given := os.Getenv(sweepSeed); given != "" {
			var err error
			if s.seed, err = strconv.ParseUint(given, 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%s=%d draws the same calls", sweepSeed, s.seed)
	case "all":
		s.begin(t)
	}
	return s
}

// begin finds the record of this program, and sees to it that a sweep can be stopped.
func (s *sweep) begin(t *testing.T) {
	t.Helper()
	cache, err := release.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(s.bin)
	if err != nil {
		t.Fatal(err)
	}
	s.record = filepath.Join(cache, "sweep", fmt.Sprintf("%x", sha256.Sum256(program))[:16])
	if err := os.MkdirAll(s.record, 0o755); err != nil {
		t.Fatal(err)
	}
	stop := context.CancelFunc(func() {})
	if given := os.Getenv(sweepFor); given != "" {
		limit, err := time.ParseDuration(given)
		if err != nil {
			t.Fatal(err)
		}
		s.ctx, stop = context.WithTimeout(s.ctx, limit)
	}
	// An etcd that is watched dies with this process: its tries come to their end first.
	ctx, restore := signal.NotifyContext(s.ctx, os.Interrupt, syscall.SIGTERM)
	s.ctx = ctx
	fmt.Println("sweep: what is tried is kept in", s.record)
	t.Cleanup(func() {
		fmt.Printf("sweep: %d stories: %s\n", s.total.stories, s.total)
		restore()
		stop()
	})
}

// point is a system call of an undisturbed run.
type point struct {
	command int    // the command line of the story that makes it, from 0
	n       int    // which one of that command it is, from 1
	what    string // "renameat /etc/etcd/etcd.env"
}

// undisturbed runs a story with nobody in its way: the calls that it makes, and the end to reach.
func (s *sweep) undisturbed(t *testing.T, story story) (points []point, want map[string]string) {
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	w := s.world(t, story)
	for i, args := range story.calls(w) {
		r, made := w.test.watched(args, 0)
		w.must(r)
		for k, what := range made {
			points = append(points, point{i, k + 1, what})
		}
	}
	want = story.reached(w)
	w.end()
	if len(points) < 10 {
		t.Fatalf("the operation makes %d calls only: %v", len(points), points)
	}
	return points, want
}

// play runs a story undisturbed, and then once for each call that is due.
func (s *sweep) play(t *testing.T, story story) {
	points, want := s.undisturbed(t, story)
	done := s.done(t, story)
	count := tally{stories: 1, calls: len(points), rows: len(rows(points)), tried: len(done)}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.total.stories++
		s.total.calls += count.calls
		s.total.rows += count.rows
		s.total.tried += count.tried
		s.total.red += count.red
		s.say(t, "%s: %s", story.name, count)
	})
	// In their order, which parallel tests would not keep.
	var tries sync.WaitGroup
	for _, n := range s.due(story, points) {
		if done[n] {
			continue
		}
		s.slots <- struct{}{}
		if s.ctx.Err() != nil {
			<-s.slots
			break
		}
		tries.Go(func() {
			defer func() { <-s.slots }()
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				hit := "no call"
				defer func() {
					s.mu.Lock()
					defer s.mu.Unlock()
					count.tried++
					switch {
					case t.Failed():
						count.red++
						s.say(t, "RED %s, killed before call %d of %d, %s; again: make sweep STORY='%s' N=%d", story.name, n, len(points), hit, story.name, n)
					case s.record != "":
						s.keep(t, story, n, hit)
					}
				}()
				s.try(t, story, points[n-1], want, &hit)
			})
		})
	}
	tries.Wait()
}

// try kills the story at a point, tells which call was hit, and wants the story to converge.
func (s *sweep) try(t *testing.T, story story, p point, want map[string]string, hit *string) {
	w := s.world(t, story)
	killed := false
	for i, args := range story.calls(w) {
		if i != p.command {
			w.must(w.test.run(args))
			continue
		}
		r, made := w.test.watched(args, p.n)
		if len(made) >= p.n {
			*hit = made[p.n-1]
		} else {
			t.Logf("it has ended after %d calls: what goes over the network differs from run to run", len(made))
		}
		// Where the call was that of the process in which snapshots are read, etcdadm says that it has failed.
		if killed = len(made) >= p.n && (r.Killed || r.Status != 0); killed {
			t.Logf("killed before %s", *hit)
			break
		}
		w.must(r)
	}
	story.converges(w, killed, want)
	w.end()
}

func (s *sweep) world(t *testing.T, story story) *world {
	t.Helper()
	w := newWorld(t, s.mirror)
	w.bin = s.bin
	story.prepare(w)
	return w
}

// watched runs etcdadm, kills it before its n-th call, never for 0, and returns the calls up to that one. A call is one
// of etcdadm or of what it starts of itself to read snapshots; the supervisor of etcd is no part of the operation.
func (n *node) watched(args []string, at int) (process.Result, []string) {
	n.w.t.Helper()
	var mu sync.Mutex
	var calls []string
	ended := false
	ask := func(c syscalls.Call) syscalls.Answer {
		mu.Lock()
		defer mu.Unlock()
		operation := len(c.Args) < 2 || c.Args[1] != "supervise"
		named := !strings.HasSuffix(c.Path, " (deleted)") // a file without a name leaves nothing
		if ended || at > 0 && len(calls) == at || !operation || !named {
			return syscalls.Continue
		}
		calls = append(calls, c.Name+" "+cmp.Or(strings.TrimPrefix(n.w.same(c.Path), "DIR/test"), "/"))
		if len(calls) == at {
			return syscalls.Kill
		}
		return syscalls.Continue
	}
	r := n.runBy(syscalls.Watch{Exe: filepath.Base(n.w.bin), Ask: ask}.Run, args)
	mu.Lock()
	defer mu.Unlock()
	ended = true
	return r, calls
}

// rows are the numbers of the calls that do the same to the same file one after the other, such as the writes of a
// download.
func rows(points []point) [][]int {
	var all [][]int
	for i, p := range points {
		if i == 0 || p.what != points[i-1].what || p.command != points[i-1].command {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], i+1)
	}
	return all
}

// due are the calls to try, from 1, in their order: all of them, the beginnings of rows first, and shuffled, so that a
// sweep that is stopped has been everywhere; or some that are drawn, each row as likely as the others.
func (s *sweep) due(story story, points []point) []int {
	all := rows(points)
	if n, err := strconv.Atoi(s.what); err == nil {
		return []int{min(max(n, 1), len(points))}
	}
	if s.what == "all" {
		var first, rest []int
		for _, row := range all {
			first, rest = append(first, row[0]), append(rest, row[1:]...)
		}
		rand.Shuffle(len(first), func(i, j int) { first[i], first[j] = first[j], first[i] })
		return append(first, rest...)
	}
	name := fnv.New64()
	_, _ = name.Write([]byte(story.name))
	random := rand.New(rand.NewPCG(s.seed, name.Sum64()))
	var some []int
	for range drawn {
		row := all[random.IntN(len(all))]
		some = append(some, row[random.IntN(len(row))])
	}
	slices.Sort(some)
	return slices.Compact(some)
}

// done are the calls of a story that are on record.
func (s *sweep) done(t *testing.T, story story) map[int]bool {
	t.Helper()
	done := map[int]bool{}
	if s.record == "" {
		return done
	}
	text, err := os.ReadFile(s.recordOf(story))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		number, _, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.Atoi(number); err == nil {
			done[n] = true
		}
	}
	return done
}

// keep puts a call on record. What is red is not: it is tried again.
func (s *sweep) keep(t *testing.T, story story, n int, hit string) {
	t.Helper()
	f, err := os.OpenFile(s.recordOf(story), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, n, hit); err != nil {
		t.Fatal(err)
	}
}

func (s *sweep) recordOf(story story) string { return filepath.Join(s.record, story.name) }

// say tells something at once in a sweep, which takes hours, and with the test otherwise.
func (s *sweep) say(t *testing.T, format string, args ...any) {
	t.Helper()
	if s.record != "" {
		fmt.Printf("sweep: "+format+"\n", args...)
		return
	}
	t.Logf(format, args...)
}

// Each call is tried once, the beginning of each row before the rest of any, and what is on record is known again.
func TestASweepLeavesNoCallOut(t *testing.T) {
	s := &sweep{record: t.TempDir(), what: "all"}
	story := story{name: "a story"}
	var points []point
	for i, what := range []string{"mkdirat /a", "write /a/b", "write /a/b", "write /a/b", "renameat /a/b", "write /a/b"} {
		points = append(points, point{0, i + 1, what})
	}
	points = append(points, point{1, 1, "write /a/b"}) // of the next command
	due := s.due(story, points)
	slices.Sort(due[:5])
	if want := []int{1, 2, 5, 6, 7, 3, 4}; !slices.Equal(due, want) {
		t.Errorf("tries %v, want %v", due, want)
	}
	s.keep(t, story, 5, "renameat /a/b")
	s.keep(t, story, 2, "write /a/b")
	if done := s.done(t, story); !done[2] || !done[5] || len(done) != 2 {
		t.Errorf("on record are %v, want 2 and 5", done)
	}
}
