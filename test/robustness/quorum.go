package robustness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A guard remembers when the processes of members began and ended. On a machine that is too busy to look often it may
// learn late of an end, and never sees a member away that was not: the kernel tells when a process began.
type guard struct {
	play *Play
	stop chan struct{}
	all  sync.WaitGroup
	mu   sync.Mutex
	down []span
}

// span is a time in which the process of a member was away, between its end and the beginning of the next one.
type span struct {
	node     *Node
	from, to time.Duration // since the machine was booted
	members  int           // how many there were at its beginning
}

// endsAt notes that the next process began. By then the one before had ended, if that was noticed later.
func (s *span) endsAt(began time.Duration) {
	s.from, s.to = min(s.from, began-1), began
}

// guardQuorum watches the processes of all nodes until stop is called, which tells whether at some moment fewer members
// ran than a quorum needs. Nothing that etcdadm does may lead there, but in a cluster of one or two, which cannot spare a
// member.
func (p *Play) guardQuorum() (stop func() error) {
	g := &guard{play: p, stop: make(chan struct{})}
	for _, n := range p.Nodes {
		g.all.Go(func() { g.watch(n) })
	}
	return func() error {
		close(g.stop)
		g.all.Wait()
		return g.verdict()
	}
}

func (g *guard) watch(n *Node) {
	away := -1 // which of the spans is the one that the next process ends
	for last := false; ; {
		pid := 0
		if _, err := os.Stat(n.dataDir()); err == nil { // looking for a process costs much more
			pid = n.etcd()
		}
		if began, err := began(pid); err == nil {
			if away >= 0 {
				g.mu.Lock()
				g.down[away].endsAt(began)
				g.mu.Unlock()
				away = -1
			}
			if !g.awaitEnd(pid) {
				return
			}
			ended := now()
			members := g.play.current()
			if slices.Contains(members, n) { // and not one that is about to leave
				g.mu.Lock()
				away = len(g.down)
				g.down = append(g.down, span{n, ended, 1 << 62, len(members)})
				g.mu.Unlock()
			}
		}
		if last {
			return
		}
		select {
		case <-g.stop:
			last = true // one look more: who is back by now is not away
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// awaitEnd returns true when a process has ended, false when the guard has.
func (g *guard) awaitEnd(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return true
	}
	defer func() { _ = unix.Close(fd) }()
	for {
		select {
		case <-g.stop:
			return false
		default:
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return true
		}
	}
}

// verdict looks for a moment at which more members were away than the cluster can spare.
func (g *guard) verdict() error {
	for _, a := range g.down {
		away := 0
		for _, b := range g.down {
			if b.from <= a.from && a.from < b.to {
				away++
			}
		}
		if spare := (a.members - 1) / 2; spare > 0 && away > spare {
			return fmt.Errorf("at one moment %d of %d members were away: no quorum", away, a.members)
		}
	}
	return nil
}

func now() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return time.Duration(t.Nano())
}

// began returns when a process began, since the machine was booted (proc_pid_stat(5), field 22; ticks of 10 ms).
func began(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, errors.New("a short line")
	}
	ticks, err := strconv.ParseInt(string(fields[19]), 10, 64)
	return time.Duration(ticks) * 10 * time.Millisecond, err
}
