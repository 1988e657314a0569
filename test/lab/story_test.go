package lab

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/test/release"
	"etcdadm/test/syscalls"
)

const (
	// initSystem runs etcd on the hosts of the stories.
	initSystem = "systemd"
	// current is the version of etcd where a story does not depend on it.
	current = "3.6.16"
)

// A story is a lab whose hosts have etcdadm, and a mirror of releases.
type story struct {
	*Lab
	version, bin string
}

// begin brings up the hosts of a story. Stories are played side by side: they wait most of the time.
func begin(t testing.TB, hosts int, version string) *story {
	t.Helper()
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
	return beginOn(Up, t, hosts, version)
}

// beginOn is begin with a lab of its own kind.
func beginOn(up func(T, int, ...Mount) *Lab, t testing.TB, hosts int, version string) *story {
	t.Helper()
	mirror := release.Get(t)
	bin, err := etcdadm()
	if err != nil {
		t.Fatal(err)
	}
	s := &story{up(t, hosts, Mount{From: string(mirror), To: "/mirror"}), version, bin}
	for _, h := range s.Hosts {
		s.prepare(h)
	}
	return s
}

// prepare gives etcdadm to a host.
func (s *story) prepare(h *Host) {
	s.t.Helper()
	h.Copy(s.bin, "/usr/local/bin/etcdadm")
}

// etcdadm builds the program, once for all stories.
var etcdadm = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(built, "etcdadm")
	// The same for all builds of half a day, which Go keeps. A clock that is wrong by a day is before it all the while.
	since := time.Now().UTC().Truncate(12 * time.Hour).Format(time.RFC3339)
	build := exec.Command("go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w -X etcdadm/pkg/version.buildDate="+since, "-o", bin, "./cmd/etcdadm")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build etcdadm: %w\n%s", err, out)
	}
	return bin, nil
})

// built is a directory for what all tests need.
var built string

func TestMain(m *testing.M) {
	syscalls.Main()
	dir, err := os.MkdirTemp("", "etcdadm-lab-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built = dir
	if f := flag.Lookup("test.parallel"); f != nil {
		_ = f.Value.Set("2")
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// etcdadm runs etcdadm on a host, which has to succeed.
func (s *story) etcdadm(h *Host, args ...string) {
	s.t.Helper()
	if err := s.try(h, nil, args...); err != nil {
		s.t.Fatal(err)
	}
}

// with adds to the arguments of etcdadm where it finds the release of the story.
func (s *story) with(args ...string) []string {
	if args[0] == "init" || args[0] == "join" {
		args = append(slices.Clip(args), "--init-system", initSystem, "--version", s.version, "--release-url", "file:///mirror", "--sha256sums", "/mirror/SHA256SUMS")
	}
	return args
}

// try runs etcdadm on a host, and tells of each line that it says while it runs.
func (s *story) try(h *Host, tell func(line string), args ...string) error {
	return s.call(h, tell, s.with(args...)...)
}

// call runs etcdadm on a host with these arguments.
func (s *story) call(h *Host, tell func(line string), args ...string) error {
	argv := append([]string{"etcdadm"}, args...)
	read, write := io.Pipe()
	end := make(chan error, 1)
	go func() {
		end <- h.Program(Program{Args: argv, Err: write})
		_ = write.Close()
	}()
	var all strings.Builder
	for lines := bufio.NewReader(read); ; {
		line, err := lines.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			break // io.EOF: it has ended
		}
		if tell != nil {
			tell(line)
		}
	}
	if err := <-end; err != nil {
		return fmt.Errorf("%w\n%s", err, all.String())
	}
	return nil
}

// once returns what calls do at the first line of a phase.
func once(phase string, do func()) func(string) {
	var first sync.Once
	return func(line string) {
		if strings.HasPrefix(line, "["+phase+"]") {
			first.Do(do)
		}
	}
}

// killAt returns what kills the etcdadm on a host at the first line of a phase: from here, as a program that does it there
// may begin too late.
func killAt(h *Host, phase string) func(string) {
	return once(phase, func() {
		if pid := h.Process("etcdadm"); pid != 0 { // it may be done
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
}

// powerOff runs etcdadm on a host whose power goes at a phase. It may be done by then: what holds after it was cut off,
// holds then too.
func (s *story) powerOff(h *Host, phase string, args ...string) {
	s.t.Helper()
	off := false
	err := s.try(h, once(phase, func() { h.PowerOff(); off = true }), args...)
	switch {
	case !off:
		s.t.Fatalf("etcdadm %s on %s has not come to [%s]: %v", args[0], h.Name, phase, err)
	case err == nil:
		s.t.Logf("power off at [%s]: etcdadm %s was done", phase, args[0])
	}
}

// giveCA brings the CA of one host to others, as an operator does.
func (s *story) giveCA(from *Host, to ...*Host) {
	s.t.Helper()
	for name, mode := range map[string]os.FileMode{"ca.crt": 0o644, "ca.key": 0o600} {
		file := "/etc/etcd/pki/" + name
		text := from.Run("cat", file)
		for _, h := range to {
			h.Write(file, mode, text)
		}
	}
}

// cluster makes a cluster of all hosts.
func (s *story) cluster() {
	s.t.Helper()
	first, rest := s.Hosts[0], s.Hosts[1:]
	s.etcdadm(first, "init")
	s.giveCA(first, rest...)
	for _, h := range rest {
		s.etcdadm(h, "join", client(first))
	}
}

func client(h *Host) string { return "https://" + h.IPv4 + ":2379" }

// replace turns hosts on that got a new disk, and brings them what a join needs.
func (s *story) replace(from *Host, hosts ...*Host) {
	s.t.Helper()
	if err := each(hosts, (*Host).start); err != nil {
		s.t.Fatal(err)
	}
	for _, h := range hosts {
		s.prepare(h)
	}
	s.giveCA(from, hosts...)
}

// serves writes through each of the hosts, and reads that through all of them. The first write may have to wait until the
// cluster has a leader again.
func (s *story) serves(hosts ...*Host) {
	s.t.Helper()
	for _, writer := range hosts {
		var err error
		if until("", func() bool {
			_, err = writer.Exec(etcdctl, "--command-timeout=2s", "put", "from", writer.Name)
			return err == nil
		}) != nil {
			s.t.Fatalf("%s takes no writes: %v", writer.Name, err)
		}
		for _, reader := range hosts {
			if got := get(reader, "from"); got != writer.Name {
				s.t.Errorf("what %s wrote, %s reads as %q", writer.Name, reader.Name, got)
			}
		}
	}
}

// etcdctl is the wrapper that etcdadm installs.
const etcdctl = "/opt/bin/etcdctl.sh"

// patient lets etcdctl wait for longer than its 5 s: the machine may be busy, or the cluster electing.
const patient = "--command-timeout=30s"

// ctl asks the member on a host.
func ctl(h *Host, args ...string) string {
	return h.Run(append([]string{etcdctl, patient}, args...)...)
}

// put writes a key through the member on a host, however often it takes: of a write that meets an election etcd does not
// say whether it was made.
func put(h *Host, key, value string) {
	h.lab.t.Helper()
	var err error
	if until("", func() bool {
		_, err = h.Exec(etcdctl, patient, "put", key, value)
		return err == nil
	}) != nil {
		h.lab.t.Fatal(err)
	}
}

func get(h *Host, key string) string {
	return strings.TrimSpace(ctl(h, "get", "--print-value-only", key))
}

// revision asks the member on a host for the revision of its data.
func (s *story) revision(h *Host) int64 {
	s.t.Helper()
	var answer struct{ Header struct{ Revision int64 } }
	if err := json.Unmarshal([]byte(ctl(h, "get", "-w", "json", "color")), &answer); err != nil {
		s.t.Fatal(err)
	}
	return answer.Header.Revision
}

// wants asks each host for the members of its cluster: they are these hosts, all of them started and voters.
func (s *story) wants(voters ...*Host) {
	s.t.Helper()
	var want []string
	for _, h := range voters {
		want = append(want, h.Name+" started false")
	}
	slices.Sort(want)
	for _, h := range voters {
		got := s.members(h)
		if !slices.Equal(got, want) {
			s.t.Errorf("%s lists the members %q, want %q", h.Name, got, want)
		}
	}
}

// well waits until etcdadm finds that all is well with a member, and returns what it says. An election is none of that, and
// may come at any moment of a busy machine.
func (s *story) well(h *Host) string {
	s.t.Helper()
	var a answer
	if until("", func() bool {
		a = s.ask(h, "etcdadm", "status")
		return a.status == 0
	}) != nil {
		s.t.Fatalf("%s: etcdadm status: status %d\n%s%s", h.Name, a.status, a.out, a.said)
	}
	return a.out
}

// Wherever the power goes during init, a second init makes the member; when init has said that it is done, nothing of
// it is lost.
func TestPowerOffDuringInit(t *testing.T) {
	phases := []string{"certificates", "configure", "start", "health"}
	s := begin(t, len(phases)+1, current)
	for i, phase := range phases {
		h := s.Hosts[i]
		s.powerOff(h, phase, "init")
		h.Start()
		s.etcdadm(h, "init")
		put(h, "color", "blue")
		if got := get(h, "color"); got != "blue" {
			t.Errorf("power off at [%s]: the member reads %q", phase, got)
		}
	}

	h := s.Hosts[len(phases)]
	s.etcdadm(h, "init")
	put(h, "color", "blue")
	h.PowerOff()
	h.Start()
	s.etcdadm(h, "init")
	if got := get(h, "color"); got != "blue" {
		t.Errorf("power off after init: the member reads %q", got)
	}
}
