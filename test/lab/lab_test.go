package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestHostsBoot(t *testing.T) {
	l := Up(t, 5)
	ids := map[string]bool{}
	for i, h := range l.Hosts {
		if got := h.Run("hostname"); got != h.Name+"\n" {
			t.Errorf("%s calls itself %q", h.Name, got)
		}
		ids[h.Run("cat", "/etc/machine-id")] = true
		if got := h.Run("systemctl", "is-system-running"); got != "running\n" {
			t.Errorf("%s is %q", h.Name, got)
		}
		next := l.Hosts[(i+1)%len(l.Hosts)]
		for _, address := range []string{next.IPv4, next.IPv6} {
			if err := until(h.Name+" to reach "+address, func() bool { return reaches(h, address) }); err != nil {
				t.Error(err)
			}
		}
		// etcdadm finds the address of a node by its default route.
		if got := h.Run("ip", "-br", "route", "show", "default"); !strings.Contains(got, "eth0") {
			t.Errorf("%s has no default route: %q", h.Name, got)
		}
	}
	if len(ids) != len(l.Hosts) {
		t.Errorf("%d hosts have %d machine ids", len(l.Hosts), len(ids))
	}
}

func TestProgramsRunOnHosts(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("from outside\n"), 0o751); err != nil {
		t.Fatal(err)
	}
	l := Up(t, 1, Mount{From: dir, To: "/mnt/given"})
	h := l.Hosts[0]

	if got := h.Run("cat", "/mnt/given/file"); got != "from outside\n" {
		t.Errorf("a mounted directory holds %q", got)
	}
	if _, err := h.Exec("touch", "/mnt/given/file"); err == nil {
		t.Error("a mounted directory is not read only")
	}
	h.Copy(filepath.Join(dir, "file"), "/usr/local/bin/deep/copy")
	if got := h.Run("stat", "-c", "%a %s", "/usr/local/bin/deep/copy"); got != "751 13\n" {
		t.Errorf("a copy has mode and size %q", got)
	}
	h.Write("/etc/written", 0o640, "text")
	if got := h.Run("cat", "/etc/written"); got != "text" {
		t.Errorf("a file holds %q", got)
	}

	out, err := h.Exec("sh", "-c", "echo out; echo why >&2; exit 3")
	var exit *exec.ExitError
	if out != "out\n" || !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "why") {
		t.Errorf("a program that fails gives %q, %v", out, err)
	}
	h.Run("logger", "--tag=story", "once upon a time")
	if err := until("the journal", func() bool { return strings.Contains(h.Journal(""), "once upon a time") }); err != nil {
		t.Error(err)
	}
}

func TestHostsComeBack(t *testing.T) {
	h := Up(t, 1).Hosts[0]
	began := func() string { return h.Run("cut", "-d ", "-f22", "/proc/1/stat") }

	h.Write("/root/kept", 0o600, "kept")
	first := began()
	h.Reboot()
	second := began()
	if first == second {
		t.Error("a reboot did not boot")
	}
	h.Run("sh", "-c", "echo -n unsynced > /root/unsynced")
	h.Kill()
	if _, err := h.Exec("true"); err == nil {
		t.Error("a dead host runs programs")
	}
	h.Start()
	if began() == second {
		t.Error("a start did not boot")
	}
	if got := h.Run("cat", "/root/kept", "/root/unsynced"); got != "keptunsynced" {
		t.Errorf("after a kill the files hold %q", got)
	}
	h.LoseDisk()
	h.Start()
	if _, err := h.Exec("stat", "/root/kept"); err == nil {
		t.Error("a new disk holds a file of the old one")
	}
}

// What was written and not synced is what a loss of power takes, and nothing else. On a busy machine the kernel may have
// written it by itself right before: such a round proves nothing.
func TestPowerOffLosesWhatIsNotSynced(t *testing.T) {
	h := Up(t, 1).Hosts[0]
	lost := 0
	for round := 0; lost < 3; round++ {
		h.Run("sh", "-ec", `
			echo synced > /root/synced; sync -f /root/synced
			echo old > /root/renamed; sync -f /root/renamed
			echo lost > /root/lost
			echo new > /root/renamed.new; mv /root/renamed.new /root/renamed`)
		h.PowerOff()
		h.Start()
		if got := h.Run("cat", "/root/synced"); got != "synced\n" {
			t.Errorf("round %d: the synced file holds %q", round, got)
		}
		file, err := h.Exec("cat", "/root/lost")
		renamed := h.Run("cat", "/root/renamed")
		switch {
		case (err != nil || file == "") && renamed != "new\n":
			lost++
		case round == 9:
			t.Fatalf("of %d rounds %d lost what was not synced; in the last one the file that was not synced holds %q, and the one that was not synced before it was renamed %q", round+1, lost, file, renamed)
		}
	}
}

func TestNetworkBreaksAndHeals(t *testing.T) {
	l := Up(t, 3)
	a, b, c := l.Hosts[0], l.Hosts[1], l.Hosts[2]
	see := func(state string, from, to *Host, want bool) {
		t.Helper()
		for _, address := range []string{to.IPv4, to.IPv6} {
			if want { // neighbours that have lost each other ask only once in a second
				if err := until(from.Name+" to reach "+address, func() bool { return reaches(from, address) }); err != nil {
					t.Errorf("%s: %v", state, err)
				}
			} else if reaches(from, address) {
				t.Errorf("%s: %s reaches %s at %s", state, from.Name, to.Name, address)
			}
		}
	}
	l.Partition(a, b)
	see("a and b are apart", a, b, false)
	see("a and b are apart", b, a, false)
	see("a and b are apart", a, c, true)
	l.Heal()
	see("healed", a, b, true)
	l.Isolate(c)
	see("c is alone", a, c, false)
	see("c is alone", c, b, false)
	see("c is alone", a, b, true)
	l.Heal()
	see("healed", c, a, true)

	// A dead host is silent: its kernel does not refuse for it.
	b.Kill()
	see("b is off", a, b, false)
	b.Start()
	see("b is back", a, b, true)
}

func TestLatency(t *testing.T) {
	l := Up(t, 2)
	a, b := l.Hosts[0], l.Hosts[1]
	const late = 60 * time.Millisecond
	if quick := quickest(t, a, b, late); quick >= late {
		t.Errorf("a connection takes %v", quick)
	}
	l.Latency(b, late)
	if slow := roundTrip(t, a, b); slow < 2*late {
		t.Errorf("with %v each way a connection takes %v", late, slow)
	}
	if err := until("a slow link to carry IPv6", func() bool { return reaches(b, a.IPv6) }); err != nil {
		t.Error(err)
	}
	l.Partition(a, b)
	if reaches(a, b.IPv4) {
		t.Error("a slow link cannot be cut")
	}
	l.Heal()
	l.Latency(b, 0)
	if quick := quickest(t, a, b, late); quick >= late {
		t.Errorf("a connection takes %v again", quick)
	}
}

func TestDisksFillUpAndSlowDown(t *testing.T) {
	h := Up(t, 1).Hosts[0]
	h.DiskFull()
	if _, err := h.Exec("dd", "if=/dev/zero", "of=/root/more", "bs=4k", "count=64"); err == nil || !strings.Contains(err.Error(), "No space left") {
		t.Errorf("a full disk takes 256 kB: %v", err)
	}
	h.DiskFree()
	h.Run("dd", "if=/dev/zero", "of=/root/more", "bs=4k", "count=64")

	write := func() time.Duration {
		began := time.Now()
		h.Run("dd", "if=/dev/zero", "of=/root/more", "bs=4k", "count=20", "oflag=dsync")
		return time.Since(began)
	}
	write()
	const stall = 100 * time.Millisecond
	h.SlowDisk(stall)
	slow := write()
	for tries := 1; tries < 20 && slow < 10*stall; tries++ { // on a busy machine they may all come between two stalls
		slow = max(slow, write())
	}
	if slow < 10*stall {
		t.Errorf("20 writes take %v to a disk that stalls for %v again and again", slow, stall)
	}
	h.Kill() // also what waits for the disk
	h.Start()
	write()
}

func TestClockIsWrong(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the vDSO of " + runtime.GOARCH + " is not known")
	}
	h := Up(t, 1).Hosts[0]
	off := func(args ...string) time.Duration {
		seconds, err := strconv.ParseInt(strings.TrimSpace(h.Run(args...)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Until(time.Unix(seconds, 0)).Round(time.Hour) // the answer may be late
	}
	for _, wrong := range []time.Duration{24 * time.Hour, -24 * time.Hour, 0} {
		h.Skew(wrong)
		if got := off("date", "+%s"); got != wrong {
			t.Errorf("a program sees a clock that is wrong by %v, not %v", got, wrong)
		}
		if got := off("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "date", "+%s"); got != wrong {
			t.Errorf("a unit sees a clock that is wrong by %v, not %v", got, wrong)
		}
	}
}

// Whoever looks for the reason of a failure finds what the hosts knew, those included that are off.
func TestEvidence(t *testing.T) {
	l := Up(t, 2)
	for _, h := range l.Hosts {
		h.Write("/etc/etcd/etcd.env", 0o600, "ETCD_NAME="+h.Name+"\n")
		h.Write("/etc/etcd/pki/peer.key", 0o600, "private")
		h.Run("sh", "-c", "mkdir -p /var/log/etcd && echo from etcd > /var/log/etcd/etcd.log; logger a word of "+h.Name+"; journalctl --sync")
	}
	l.Hosts[1].Kill()
	dir, err := l.evidence()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, h := range l.Hosts {
		for file, want := range map[string]string{
			"journal.log": "a word of " + h.Name, "etcd.log": "from etcd", "config.txt": "ETCD_NAME=" + h.Name, "disk.txt": "peer.key", "console.log": "",
		} {
			text, err := os.ReadFile(filepath.Join(dir, h.Name, file))
			if err != nil || !strings.Contains(string(text), want) {
				t.Errorf("%s of %s does not hold %q: %v\n%s", file, h.Name, want, err, text)
			}
			if strings.Contains(string(text), "private") {
				t.Errorf("%s of %s holds a private key", file, h.Name)
			}
		}
	}
}

// A lab that was killed, and one that was taken down, leave nothing that was not there before.
func TestNothingIsLeftBehind(t *testing.T) {
	if err := Up(t, 0).Down(); err != nil { // the mount of network namespaces is made once, and stays until the next boot
		t.Fatal(err)
	}
	before := picture(t)
	l := Up(t, 2)
	l.Latency(l.Hosts[1], time.Millisecond)
	l.Hosts[0].SlowDisk(time.Second)
	l.Hosts[1].Run("sh", "-c", "setsid "+leftOver+" >/dev/null 2>&1 &")
	if during := picture(t, l); len(during) < len(before)+10 {
		t.Errorf("a lab that runs shows in %d places only", len(during)-len(before))
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	nothingNew(t, "after Down", before)

	// The same in another process, which is killed with its hosts running.
	child := exec.Command(os.Args[0], "-test.run=^TestKilledLab$", "-test.v")
	child.Env = append(os.Environ(), killed+"=1", "TMPDIR="+t.TempDir())
	out, err := child.Output()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the lab in another process: %v\n%s", err, out)
	}
	dir, err := base()
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, prefix+"*", "n1")); len(left) == 0 {
		t.Error("a lab that was killed left nothing: this test proves nothing")
	}
	if err := Up(t, 0).Down(); err != nil {
		t.Fatal(err)
	}
	nothingNew(t, "after the sweep", before)
}

const (
	killed   = "LAB_KILLED"        // set: be the lab that is killed
	leftOver = "sleep 86399.98765" // a process that somebody leaves on a host
)

// TestKilledLab is the other process of TestNothingIsLeftBehind.
func TestKilledLab(t *testing.T) {
	if os.Getenv(killed) == "" {
		t.Skip("only as a part of TestNothingIsLeftBehind")
	}
	l := Up(t, 2)
	l.Latency(l.Hosts[0], time.Millisecond)
	l.Hosts[1].Skew(time.Hour)
	l.Hosts[1].SlowDisk(time.Hour)
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {}
}

// reaches tells whether a program of the host gets an answer from an address: a connection that is refused is one.
func reaches(h *Host, address string) bool {
	_, err := h.Exec("timeout", "0.5", "bash", "-c", "exec 3<>/dev/tcp/"+address+"/1")
	return err == nil || strings.Contains(err.Error(), "Connection refused")
}

// roundTrip is the time of an answer, without that of the program which asks.
func roundTrip(t *testing.T, from, to *Host) time.Duration {
	t.Helper()
	const ask = `t0=$EPOCHREALTIME; (exec 3<>/dev/tcp/%s/1) 2>/dev/null; t1=$EPOCHREALTIME; echo $(( ${t1/./} - ${t0/./} ))`
	if err := until(from.Name+" to reach "+to.IPv4, func() bool { return reaches(from, to.IPv4) }); err != nil { // and to know its neighbour
		t.Fatal(err)
	}
	us, err := strconv.Atoi(strings.TrimSpace(from.Run("bash", "-c", fmt.Sprintf(ask, to.IPv4))))
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(us) * time.Microsecond
}

// quickest is the shortest of up to 20 round trips: on a busy machine, any of them may have to wait. One below enough
// will do.
func quickest(t *testing.T, from, to *Host, enough time.Duration) time.Duration {
	t.Helper()
	best := roundTrip(t, from, to)
	for tries := 1; tries < 20 && best >= enough; tries++ {
		best = min(best, roundTrip(t, from, to))
	}
	return best
}

// picture lists what a lab could leave on the machine. Labs of other processes come and go all the while: what carries
// the id of one that is up is theirs.
func picture(t *testing.T, ours ...*Lab) map[string]bool {
	t.Helper()
	dir, err := base()
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := mountsBelow("/")
	if err != nil {
		t.Fatal(err)
	}
	tops, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, m := range mounts {
		if strings.HasPrefix(m, dir) || strings.HasPrefix(m, "/run/") {
			all["mount "+m] = true
		}
	}
	for _, d := range loopDevices(dir) {
		image, err := os.ReadFile("/sys/block/" + d + "/loop/backing_file")
		if err == nil { // it is still one
			all["loop device of "+string(image)] = true
		}
	}
	for _, top := range tops {
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.Contains(path, prefix) {
				all["cgroup "+path] = true
			}
			return nil
		})
	}
	for _, pattern := range []string{"/run/netns/*", "/run/systemd/nspawn/*/*", "/var/lib/machines/*", "/sys/class/net/*", dir + "/*", "/proc/[0-9]*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if !strings.HasPrefix(f, "/proc/") {
				all[f] = true
				continue
			}
			args, _ := os.ReadFile(f + "/cmdline")
			if len(args) == 0 {
				continue // a process that is dead, and that the machine's init has not collected yet
			}
			group, _ := os.ReadFile(f + "/cgroup")
			text := strings.ReplaceAll(string(args), "\x00", " ")
			if strings.Contains(text, dir) || strings.Contains(text, leftOver) || strings.Contains(string(group), "/"+prefix) {
				all["process "+filepath.Base(f)+" "+text+string(group)] = true
			}
		}
	}
	locks, err := filepath.Glob(filepath.Join(dir, prefix+"*.lock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range locks {
		id := strings.TrimSuffix(filepath.Base(file), ".lock")
		if !isHeld(file) {
			continue
		}
		if !slices.ContainsFunc(ours, func(l *Lab) bool { return l.id == id }) {
			maps.DeleteFunc(all, func(what string, _ bool) bool { return strings.Contains(what, id) })
		}
	}
	return all
}

// isHeld tells whether somebody has the lock of a file.
func isHeld(file string) bool {
	f, err := os.Open(file) // and does not make it, as lock would: its lab may just have gone
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// nothingNew wants the machine to be as it was. A lab of another process that goes down while the picture is taken is in
// one half of it: what is left behind stays, and is in the next one too.
func nothingNew(t *testing.T, when string, before map[string]bool) {
	t.Helper()
	var left []string
	if until("", func() bool {
		left = slices.Sorted(maps.Keys(picture(t)))
		left = slices.DeleteFunc(left, func(what string) bool { return before[what] })
		return len(left) == 0
	}) != nil {
		t.Errorf("%s there is:\n%s", when, strings.Join(left, "\n"))
	}
}
