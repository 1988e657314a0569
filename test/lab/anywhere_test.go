package lab

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"etcdadm/pkg/host"
	"etcdadm/test/release"
	"etcdadm/test/syscalls"
)

// The environment of TestPowerOffAnywhere.
const (
	everyCall = "POWER_ALL"  // set: every call, but for those that were tried before with the same program
	seed      = "POWER_SEED" // of the calls that are drawn otherwise
)

// operation is a command that loses the power, on the last host of its lab.
type operation struct {
	name   string
	hosts  int
	before func(*story) // what it begins with, on the disks
	ready  func(*story) // and when the hosts have booted
	args   func(*story) []string
	holds  func(*story) // at the end, beside the files
	syncs  string       // a directory of etcd that has to be on the disk by then; "": none
	aside  string       // what the power may have had set aside, beside the end of a run that nobody disturbed; "": nothing
}

var operations = []operation{
	{
		name: "init", hosts: 1,
		before: func(*story) {},
		args:   func(*story) []string { return []string{"init"} },
		holds:  func(s *story) { s.serves(s.Hosts...) },
	},
	{
		name: "join", hosts: 2,
		before: func(s *story) {
			s.etcdadm(s.Hosts[0], "init")
			s.giveCA(s.Hosts[0], s.Hosts[1])
			put(s.Hosts[0], "color", "blue")
			// A log that is longer than this reaches the new member as a snapshot (memorySnapshotCount in etcd's server.go).
			s.Hosts[0].Run("sh", "-c", "seq 120 | xargs -P 8 -n 1 "+etcdctl+" "+patient+" put number")
		},
		args: func(s *story) []string { return []string{"join", client(s.Hosts[0])} },
		holds: func(s *story) {
			s.wants(s.Hosts...)
			s.reads(s.Hosts[1], "color", "blue")
			s.serves(s.Hosts...)
		},
		syncs: "/var/lib/etcd/member/snap", // where a snapshot has taken the place of the first database
		aside: "/var/lib/etcd/member.DATE", // where the power went right as it did: see snapshot.Torn
	},
	{
		name: "reset", hosts: 2,
		before: func(s *story) {
			s.cluster()
			put(s.Hosts[0], "color", "blue")
		},
		args: func(*story) []string { return []string{"reset"} },
		holds: func(s *story) {
			s.wants(s.Hosts[0])
			s.reads(s.Hosts[0], "color", "blue")
			s.serves(s.Hosts[0])
		},
	},
	{
		name: "restore", hosts: 1,
		before: func(s *story) {
			s.member()
			s.etcdadm(s.Hosts[0], "snapshot", "save", backup)
			put(s.Hosts[0], "color", "green")
		},
		args:  func(*story) []string { return []string{"restore", backup} },
		holds: keepsBlue,
	},
	{
		name: "renewal", hosts: 1,
		before: (*story).member,
		ready: func(s *story) {
			s.Hosts[0].Run("sh", "-c", "cd /etc/etcd/pki && ls | grep -v ^ca | xargs rm && sync -f .")
		},
		args:  func(*story) []string { return []string{"init", "phase", "certificates"} },
		holds: keepsBlue,
	},
	{
		name: "settings", hosts: 1,
		before: (*story).member,
		args: func(*story) []string {
			return []string{"init", "--quota-backend-bytes", "4294967296", "--server-cert-extra-sans", "etcd.example.com"}
		},
		holds: keepsBlue,
	},
}

// member makes the first host a member with a key.
func (s *story) member() {
	s.etcdadm(s.Hosts[0], "init")
	put(s.Hosts[0], "color", "blue")
}

func keepsBlue(s *story) {
	s.comesUp(s.Hosts[0], "color", "blue") // not every operation waits for that
	s.serves(s.Hosts[0])
}

func (s *story) reads(h *Host, key, want string) {
	s.t.Helper()
	if got := get(h, key); got != want {
		s.t.Errorf("%s reads %q for %s, want %q", h.Name, got, key, want)
	}
}

// Whatever call of etcdadm the power goes at: each file is what it was or what it becomes, no leaf stands beside the key
// of another, and the same command run again gets to the end of a run that nobody disturbed, with all that was acknowledged.
func TestPowerOffAnywhere(t *testing.T) {
	from, err := strconv.ParseUint(os.Getenv(seed), 10, 64)
	if err != nil {
		from = rand.Uint64()
	}
	t.Logf("the calls are drawn with %s=%d", seed, from)
	for i, o := range operations {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			p := &powered{
				operation: o, story: beginOn(UpInMemory, t, o.hosts, current),
				versions: map[string]bool{}, there: map[string]int{}, looked: map[string]bool{},
			}
			p.h = p.Hosts[o.hosts-1]
			p.before(p.story)
			for _, h := range p.Hosts {
				h.Keep()
			}
			calls := p.undisturbed()
			if os.Getenv(everyCall) == "" {
				p.try(t, calls[rand.New(rand.NewPCG(from, uint64(i))).IntN(len(calls))]) //nolint:gosec // a sample
				return
			}
			p.sweep(t, calls)
		})
	}
}

// powered is an operation with its hosts.
type powered struct {
	operation
	*story
	h *Host // which loses the power

	// What could be seen of a run that nobody disturbed.
	versions map[string]bool // a path and contents that it had
	there    map[string]int  // how often there was something at a path
	looks    int
	looked   map[string]bool // files that have not changed since
	end      []string        // the files at its end
}

// call names one of the calls of an operation, in all its runs: the third write of a file, say. The zero value is no
// call: the power goes when the operation has ended.
type call struct {
	name, path string
	n          int
}

func (c call) String() string {
	if c.n == 0 {
		return "at the end"
	}
	return fmt.Sprintf("%s %s %d", c.name, c.path, c.n)
}

// socket stands for all of them.
const socket = "socket"

// undisturbed runs the operation as it is, and returns the calls at which the power may go: of many that do the same to
// a file, the first and the last and the one in the middle.
func (p *powered) undisturbed() []call {
	p.t.Helper()
	p.back()
	last := map[call]int{}
	var all []call
	blind := p.see()
	err := p.run(func(c call) {
		all = append(all, c)
		last[call{name: c.name, path: c.path}] = c.n
		if c.name == "renameat" {
			blind = errors.Join(blind, p.see())
		}
	})
	if err := errors.Join(err, blind, p.see()); err != nil {
		p.t.Fatal(err)
	}
	p.holds(p.story)
	p.end = p.files()
	if p.syncs != "" && last[call{name: "fsync", path: p.syncs}] == 0 {
		p.t.Errorf("%s is not synced", p.syncs)
	}
	calls := slices.DeleteFunc(all, func(c call) bool {
		n := last[call{name: c.name, path: c.path}]
		return c.path != socket && n > 4 && c.n != 1 && c.n != n/2 && c.n != n
	})
	if len(calls) < 20 {
		p.t.Fatalf("the operation has %d calls only: %v", len(calls), calls)
	}
	p.t.Logf("%d calls, %d of them differ", len(all), len(calls))
	return append(calls, call{})
}

// sweep tries all calls, those first at which something is about to be on the disk, or in the cluster.
func (p *powered) sweep(t *testing.T, calls []call) {
	done, err := p.done()
	if err != nil {
		t.Fatal(err)
	}
	first := func(c call) int {
		if c.n == 0 || c.path == socket || strings.HasSuffix(c.name, "sync") {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(calls, func(a, b call) int { return first(a) - first(b) })
	text, _ := os.ReadFile(done)
	tried := strings.Split(string(text), "\n")
	left := slices.DeleteFunc(calls, func(c call) bool {
		return slices.Contains(tried, c.String()) || p.try(t, c) && p.note(done, c)
	})
	if len(left) == 0 { // the next sweep begins anew
		if err := os.Remove(done); err != nil {
			t.Fatal(err)
		}
	}
}

// note adds a call to those that were tried.
func (p *powered) note(done string, c call) bool {
	f, err := os.OpenFile(done, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, c)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		p.t.Error(err)
	}
	return err == nil
}

// done is a file with the calls that were tried with this program.
func (p *powered) done() (string, error) {
	cache, err := release.CacheDir()
	if err != nil {
		return "", err
	}
	program, err := os.ReadFile(p.bin)
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256(program)
	return filepath.Join(cache, "lab", fmt.Sprintf("power-%s-%x.done", p.name, digest[:6])), nil
}

// try has the power go at a call, and tells whether all was well.
func (p *powered) try(t *testing.T, at call) (well bool) {
	t.Run(strings.ReplaceAll(at.String(), "/", ":"), func(t *testing.T) {
		of := p.t
		p.t = t
		defer func() {
			if well = !t.Failed(); !well {
				p.keepEvidence()
			}
			p.t = of
		}()
		p.back()
		off, cut := make(chan struct{}), make(chan error, 1)
		err := p.run(func(c call) {
			if c == at {
				close(off)
				cut <- p.h.powerOff()
			}
		})
		done := false
		select {
		case <-off: // which ends the program before it is done
			err = <-cut
		default:
			done = true
			if at != (call{}) {
				t.Log("the operation had no such call this time")
			}
			err = errors.Join(err, p.h.powerOff())
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := p.h.attach(); err != nil {
			t.Fatal(err)
		}
		p.inspect()
		p.h.Start()
		if done { // what was done is done, and needs no second run
			p.holds(p.story)
		}
		p.etcdadm(p.h, p.args(p.story)...)
		p.holds(p.story)
		end := slices.DeleteFunc(p.files(), func(file string) bool { return p.aside != "" && strings.HasPrefix(file, p.aside+" ") })
		if d := cmp.Diff(p.end, end); d != "" {
			t.Errorf("the end differs from that of an undisturbed run (-undisturbed +powered off):\n%s", d)
		}
		p.inspect()
	})
	return well
}

// back has all hosts be as they were prepared.
func (p *powered) back() {
	p.t.Helper()
	if err := errors.Join(each(p.Hosts, (*Host).rewind), each(p.Hosts, (*Host).start)); err != nil {
		p.t.Fatal(err)
	}
	if p.ready != nil {
		p.ready(p.story)
	}
}

// run runs the operation once, and tells of each of its calls before it is made.
func (p *powered) run(tell func(call)) error {
	seen := map[call]int{}
	var said strings.Builder
	err := p.h.Watch(syscalls.Watch{Exe: "etcdadm", Ask: func(c syscalls.Call) syscalls.Answer {
		k := call{name: c.Name, path: same(c.Path)}
		seen[k]++
		tell(call{k.name, k.path, seen[k]})
		return syscalls.Continue
	}}, Program{Args: append([]string{"etcdadm"}, p.with(p.args(p.story)...)...), Out: io.Discard, Err: &said})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, said.String())
	}
	return nil
}

// random is what differs from run to run, and what stands in its place.
var random = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`-[0-9a-f]{16}\b`), "-FINGERPRINT"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "DIGEST"},
	{regexp.MustCompile(`^socket:\[\d+\]$`), socket},
	{regexp.MustCompile(`\.\d{8}T\d{6}Z(-\d+)?`), ".DATE"},
	{regexp.MustCompile(`(?m)^(ETCDADM_DIGEST|ETCD_INITIAL_CLUSTER_TOKEN)=.*$`), "$1=DRAWN"},
}

func same(s string) string {
	for _, r := range random {
		s = r.what.ReplaceAllString(s, r.as)
	}
	return s
}

// others are what programs of Debian write: below /etc and so on when they like, and in all of /var but for ours.
var (
	others = regexp.MustCompile(`^(root|run|tmp|usr/local|etc/(machine-id|hostname|hosts|\.updated|\.pwd\.lock|.*-|\..*\.tmp))$|/\.#`)
	inVar  = regexp.MustCompile(`^var(/lib(/etcd.*)?|/backups(/etcd.*)?|/cache(/etcdadm.*)?)?$`)
)

// found is a file that etcdadm may have made.
type found struct {
	path string // on the host
	file string // on this machine
	fs.FileInfo
}

// contents are the text of a link, or what a regular file says, of a long one the digest.
func (f found) contents() (string, error) {
	switch {
	case f.Mode()&fs.ModeSymlink != 0:
		text, err := os.Readlink(f.file)
		return "-> " + same(text), err
	case !f.Mode().IsRegular():
		return "", nil
	}
	text, err := os.ReadFile(f.file)
	if len(text) > 64<<10 {
		return fmt.Sprintf("%x", sha256.Sum256(text)), err
	}
	return same(string(text)), err
}

// walk lists what is on the disk of the host beside what is Debian's.
func (p *powered) walk() ([]found, error) {
	var all []found
	for dir, prefix := range map[string]string{filepath.Join(p.h.disk(), "upper"): "", filepath.Join(p.h.disk(), "var"): "var"} {
		err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) { // others' files come and go
				return nil
			}
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(dir, file)
			if rel = filepath.Join(prefix, rel); others.MatchString(rel) || prefix != "" && !inVar.MatchString(rel) {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil {
				all = append(all, found{"/" + rel, file, info})
			}
			if name, _, _ := strings.Cut(d.Name(), "."); err == nil && d.IsDir() && name == "member" { // etcd's own, also when it was set aside
				return fs.SkipDir
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b found) int { return strings.Compare(a.path, b.path) })
	return all, nil
}

// see takes down what is in the files now.
func (p *powered) see() error {
	p.looks++
	all, err := p.walk()
	for _, f := range all {
		if err != nil {
			return err
		}
		path := same(f.path)
		p.there[path]++
		state := fmt.Sprint(f.path, f.Size(), f.ModTime(), f.Sys().(*syscall.Stat_t).Ino) //nolint:forcetypeassert // it is one on Linux
		if p.looked[state] {
			continue
		}
		p.looked[state] = true
		var text string
		text, err = f.contents()
		p.versions[path+"\x00"+text] = true
	}
	return err
}

// inTheMaking matches what counts for nothing yet, or no more: an unfinished download, a directory that is filled or
// emptied, certificates that nothing leads to.
var inTheMaking = regexp.MustCompile(`\.part$|/\.(etcd|member)\.(restore-[0-9a-f]+|removed)(/|$)|/\.pairs/[^/]+/`)

func unfinished(path string) bool {
	return inTheMaking.MatchString(path) || slices.ContainsFunc(strings.Split(path, "/"), host.IsStaging)
}

// inspect looks at the disk as it is now: each file is what it was or becomes, and none is lost that was always there.
func (p *powered) inspect() {
	p.t.Helper()
	all, err := p.walk()
	if err != nil {
		p.t.Fatal(err)
	}
	here := map[string]bool{}
	for _, f := range all {
		here[same(f.path)] = true
		link := f.Mode()&fs.ModeSymlink != 0
		if unfinished(f.path) || !link && !f.Mode().IsRegular() {
			continue
		}
		text, err := f.contents()
		if err != nil {
			p.t.Fatal(err)
		}
		if link && !strings.HasPrefix(text, "-> /") {
			if _, err := os.Stat(filepath.Join(p.h.root(), f.path)); err != nil {
				p.t.Errorf("%s leads nowhere: %v", f.path, err)
			}
		}
		if ext := filepath.Ext(f.path); !link && (ext == ".crt" || ext == ".key") {
			continue
		}
		if !p.versions[same(f.path)+"\x00"+text] {
			p.t.Errorf("%s, of %d bytes, is neither what it was nor what it becomes: %.200q", f.path, f.Size(), text)
		}
	}
	for path, looks := range p.there {
		if looks == p.looks && !here[path] {
			p.t.Errorf("%s is lost", path)
		}
	}
	for _, name := range []string{"ca", "server", "peer", "etcdctl-etcd-client", "apiserver-etcd-client"} {
		if err := belongTogether(filepath.Join(p.h.root(), "etc/etcd/pki", name)); err != nil {
			p.t.Error(err)
		}
	}
}

// belongTogether wants a certificate and its key to be a pair, or each to be whole where the other one is absent.
func belongTogether(name string) error {
	var texts [2][]byte
	for i, ext := range []string{".crt", ".key"} {
		text, err := os.ReadFile(name + ext)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if block, rest := pem.Decode(text); block == nil || len(rest) > 0 {
			return fmt.Errorf("%s%s, of %d bytes, is not whole", name, ext, len(text))
		}
		texts[i] = text
	}
	if texts[0] == nil || texts[1] == nil {
		return nil
	}
	if _, err := tls.X509KeyPair(texts[0], texts[1]); err != nil {
		return fmt.Errorf("%s.crt and .key: %w", name, err)
	}
	return nil
}

// files describes what is on the disk when all is done: names, modes, owners, and contents but for keys, certificates and
// data.
func (p *powered) files() []string {
	p.t.Helper()
	all, err := p.walk()
	if err != nil {
		p.t.Fatal(err)
	}
	var list []string
	for _, f := range all {
		text, owner := "", f.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // it is one on Linux
		if ext := filepath.Ext(f.path); f.Mode()&fs.ModeSymlink != 0 || ext != ".crt" && ext != ".key" {
			if text, err = f.contents(); err != nil {
				p.t.Fatal(err)
			}
		}
		list = append(list, fmt.Sprintf("%s %s %d:%d %s", same(f.path), f.Mode(), owner.Uid, owner.Gid, text))
	}
	return list
}
