package preflight_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/preflight"
)

// verdict is what a check is expected to say.
type verdict struct {
	refused string // a part of the reason; "": not refused
	hint    string // a part of the hints
	warning string // a part of the warnings; "": none
}

// TestMain has nobody asked for the addresses of names: no test waits for a network, or hears of names that it invents.
func TestMain(m *testing.M) {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("there is no name server")
	}}
	m.Run()
}

// expect runs one check as a preflight phase does.
func expect(t *testing.T, name string, c converge.Checker, want verdict) {
	t.Helper()
	r := converge.Run(context.Background(), []converge.Phase{{Name: "preflight", Gather: true, Steps: func(context.Context) ([]converge.Step, error) {
		return []converge.Step{{Name: "preflight/Check", Short: "the check", Want: c}}, nil
	}}}, converge.Options{})
	warnings, hints := strings.Join(r.Warnings, "\n"), strings.Join(errs.HintsOf(r.Err), "\n")
	switch {
	case want.refused == "" && r.Err != nil:
		t.Errorf("%s: refused: %v", name, r.Err)
	case want.refused != "" && r.Err == nil:
		t.Errorf("%s: not refused", name)
	case r.Err != nil && (errs.StatusOf(r.Err) != errs.Precondition || !strings.Contains(r.Err.Error(), want.refused) || hints == ""):
		t.Errorf("%s: status %d, %v, hints %q", name, errs.StatusOf(r.Err), r.Err, hints)
	}
	if !strings.Contains(hints, want.hint) {
		t.Errorf("%s: hints %q, want %q", name, hints, want.hint)
	}
	if !strings.Contains(warnings, want.warning) || want.warning == "" && warnings != "" {
		t.Errorf("%s: warnings %q, want %q", name, warnings, want.warning)
	}
	if r.Changed {
		t.Errorf("%s: a check changed something", name)
	}
}

// thread runs f on a thread of its own, which ends with it: what f changes about its user or its mounts ends too.
func thread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

// asNobody runs f as an ordinary user.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	thread(func() {
		const nobody = 65534
		if _, _, err := syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody); err != 0 {
			t.Error(err)
			return
		}
		f()
	})
}

func TestRoot(t *testing.T) {
	mine, yours := publicDir(t), publicDir(t)
	must(t, os.Chmod(mine, 0o777))
	must(t, os.Chmod(yours, 0o555))
	expect(t, "as it is", preflight.Root{Host: host.New(mine)}, verdict{})
	asNobody(t, func() {
		expect(t, "the node itself", preflight.Root{Host: host.New("/")}, verdict{refused: "is not root", hint: "sudo"})
		expect(t, "a dry run", preflight.Root{Host: host.New("/", host.ReadOnly())}, verdict{})
		expect(t, "a root of its own", preflight.Root{Host: host.New(mine)}, verdict{})
		expect(t, "a root that is not there yet", preflight.Root{Host: host.New(mine + "/a/b")}, verdict{})
		expect(t, "a root of others", preflight.Root{Host: host.New(yours)}, verdict{refused: yours + " is not writable", hint: "--root"})
		expect(t, "below a root of others", preflight.Root{Host: host.New(yours + "/a/b")}, verdict{refused: yours + " is not writable", hint: "--root"})
	})
}

func TestArchitecture(t *testing.T) {
	for _, a := range []string{"amd64", "arm64", "ppc64le", "s390x"} {
		expect(t, a, preflight.Architecture{Arch: a}, verdict{})
	}
	expect(t, "riscv64", preflight.Architecture{Arch: "riscv64"}, verdict{refused: "does not support the architecture riscv64", hint: "arm64"})
}

func TestName(t *testing.T) {
	cluster := func(context.Context) ([]preflight.Member, error) {
		return []preflight.Member{{ID: "8e9e05c52164694d", Name: "etcd-1", PeerURLs: []string{"https://10.0.0.5:2380"}}, {ID: "1"}}, nil
	}
	for name, want := range map[string]verdict{
		"etcd-9":                {},
		"LocalHostess":          {},
		"":                      {refused: "the name of this node is", hint: "--name"},
		"localhost":             {refused: `"localhost"`, hint: "hostnamectl set-hostname"},
		"LOCALHOST.localdomain": {refused: "does not tell it from others"},
		"etcd-1":                {refused: "taken by the member at https://10.0.0.5:2380", hint: "etcdctl member remove 8e9e05c52164694d"},
	} {
		expect(t, name, preflight.Name{Name: name, PeerURL: "https://10.0.0.9:2380", Members: cluster}, want)
	}
	expect(t, "its own member", preflight.Name{Name: "etcd-1", PeerURL: "https://10.0.0.5:2380", Members: cluster}, verdict{})
	expect(t, "the first member", preflight.Name{Name: "etcd-1"}, verdict{})
}

func TestGate(t *testing.T) {
	expect(t, "fine", preflight.Gate{}, verdict{})
	expect(t, "warned", preflight.Gate{Warnings: []string{"etcd 3.7.0 may 100% reorder"}}, verdict{warning: "may 100% reorder"})
	expect(t, "refused", preflight.Gate{Refused: "etcd 3.5.1 corrupts 1% of data"}, verdict{refused: "etcd 3.5.1 corrupts 1% of data", hint: "--version 3."})
}

func TestAddress(t *testing.T) {
	for a, want := range map[string]verdict{
		"127.0.0.1":    {},
		"127.9.8.7":    {},
		"198.51.100.7": {refused: "address 198.51.100.7 is not on this host"},
		"2001:db8::7":  {refused: "address 2001:db8::7 is not on this host"},
	} {
		expect(t, a, preflight.Address{Address: netip.MustParseAddr(a)}, want)
	}
	if own, err := host.DefaultAddress(); err == nil {
		expect(t, "the default address", preflight.Address{Address: own}, verdict{})
		all, err := net.InterfaceAddrs()
		must(t, err)
		if next := own.Next(); !slices.ContainsFunc(all, func(a net.Addr) bool { return strings.HasPrefix(a.String(), next.String()+"/") }) {
			expect(t, "a neighbour", preflight.Address{Address: next}, verdict{refused: next.String() + " is not on this host"})
		}
		expect(t, "a wrong one", preflight.Address{Address: netip.MustParseAddr("198.51.100.7")}, verdict{refused: own.String(), hint: "--bind-address " + own.String()})
	}
}

func TestAdvertised(t *testing.T) {
	here, elsewhere := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")
	expect(t, "no name", preflight.Advertised{Address: here}, verdict{})
	expect(t, "this host", preflight.Advertised{Name: "localhost", Address: here}, verdict{})
	expect(t, "this host by loopback", preflight.Advertised{Name: "localhost", Address: elsewhere}, verdict{})
	expect(t, "another host", preflight.Advertised{Name: "192.0.2.2", Address: elsewhere}, verdict{warning: "leads to 192.0.2.2, and etcd listens at 192.0.2.1"})
	expect(t, "nobody", preflight.Advertised{Name: "etcd-1.invalid", Address: here}, verdict{refused: "by which others are to reach this node: the name etcd-1.invalid does not resolve", hint: "'127.0.0.1 etcd-1.invalid' >> /etc/hosts"})
}

func TestSourceAddress(t *testing.T) {
	one, two := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	peers := []string{"https://127.0.0.2:2380", "https://127.0.0.3:2380"}
	expect(t, "named", preflight.SourceAddress{Peers: peers, Named: []netip.Addr{two, one}}, verdict{})
	expect(t, "not named", preflight.SourceAddress{Peers: peers, Named: []netip.Addr{two}},
		verdict{refused: "connections to 127.0.0.2:2380 leave from 127.0.0.1", hint: "--bind-address 127.0.0.1"})
	expect(t, "by name", preflight.SourceAddress{Peers: []string{"https://localhost:2380"}, Named: []netip.Addr{one}}, verdict{})
	expect(t, "not named, by name", preflight.SourceAddress{Peers: []string{"https://localhost:2380"}, Named: []netip.Addr{two}}, verdict{refused: "connections to localhost:2380"})
	expect(t, "alone", preflight.SourceAddress{}, verdict{})
	expect(t, "no such name", preflight.SourceAddress{Peers: []string{"https://etcd-1.invalid:2380"}}, verdict{})
}

func TestPorts(t *testing.T) {
	h := host.New("/")
	at := addrPort(listen(t, "127.0.0.1:0"))
	gone := netip.MustParseAddrPort("127.0.0.3:1025") // nobody who asks for any port is given this one
	elsewhere := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port())
	everywhere := addrPort(listen(t, "0.0.0.0:0"))
	me := "(" + program(t) + ")"
	for name, c := range map[string]struct {
		ports []netip.AddrPort
		pid   int
		want  verdict
	}{
		"free":                         {[]netip.AddrPort{gone}, 0, verdict{}},
		"free on this address":         {[]netip.AddrPort{elsewhere}, 0, verdict{}},
		"taken":                        {[]netip.AddrPort{gone, at}, 0, verdict{refused: me + ", which listens on " + at.String(), hint: "ps -fp"}},
		"taken by another than ours":   {[]netip.AddrPort{at}, 1, verdict{refused: me}},
		"taken by ours":                {[]netip.AddrPort{at}, os.Getpid(), verdict{}},
		"taken on all addresses":       {[]netip.AddrPort{netip.AddrPortFrom(at.Addr(), everywhere.Port())}, 0, verdict{refused: "which listens on"}},
		"several are told":             {[]netip.AddrPort{netip.AddrPortFrom(at.Addr(), everywhere.Port()), at}, 0, verdict{refused: "; port "}},
		"an address that is not there": {[]netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:2380")}, 0, verdict{}},
	} {
		expect(t, name, preflight.Ports{Host: h, Listen: c.ports, PID: c.pid}, c.want)
	}
}

func TestPortsOfAnotherProcess(t *testing.T) {
	h := host.New("/")
	l := listen(t, "127.0.0.1:0")
	f, err := l.(*net.TCPListener).File()
	must(t, err)
	holder := exec.Command("sleep", "60")
	holder.ExtraFiles = []*os.File{f}
	must(t, holder.Start())
	defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
	must(t, errors.Join(f.Close(), l.Close()))
	at, pid := addrPort(l), holder.Process.Pid
	for range 12_000 { // it has its name a moment after Start has returned
		if p, err := h.Process(pid); err == nil && p.Name == "sleep" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	expect(t, "taken", preflight.Ports{Host: h, Listen: []netip.AddrPort{at}}, verdict{
		refused: fmt.Sprintf("port %d is taken by pid %d (sleep), which listens on %s", at.Port(), pid, at), hint: fmt.Sprintf("ps -fp %d;", pid),
	})
	expect(t, "taken in sight of this node's hidden one", preflight.Ports{Host: h, Listen: []netip.AddrPort{at}, Hidden: true}, verdict{refused: "(sleep)", hint: "ps -fp"})
	expect(t, "this node's", preflight.Ports{Host: h, Listen: []netip.AddrPort{at}, PID: pid}, verdict{})
	if os.Geteuid() != 0 {
		return // nothing is out of sight of one user alone
	}
	asNobody(t, func() {
		expect(t, "out of sight", preflight.Ports{Host: h, Listen: []netip.AddrPort{at}},
			verdict{refused: "is taken by a process of user root, which listens on " + at.String(), hint: "ss -lntp"})
		expect(t, "out of sight, as it should be", preflight.Ports{Host: h, Listen: []netip.AddrPort{at}, Hidden: true}, verdict{})
		expect(t, "out of sight, perhaps ours", preflight.Ports{Host: h, Listen: []netip.AddrPort{at}, PID: pid},
			verdict{warning: "user root that this user cannot see"})
	})
}

// A socket may have a port and not listen: only binding tells.
func TestPortOfASocketThatDoesNotListen(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := unix.Getsockname(fd)
	must(t, err)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))
	expect(t, "bound", preflight.Ports{Host: host.New("/"), Listen: []netip.AddrPort{at}}, verdict{refused: "is taken by a connection", hint: "ss -anp"})
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", address)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func addrPort(l net.Listener) netip.AddrPort { return netip.MustParseAddrPort(l.Addr().String()) }

func program(t *testing.T) string {
	t.Helper()
	p, err := host.New("/").Process(os.Getpid())
	must(t, err)
	return p.Name
}

// publicDir is a directory that every user can reach.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var errBroken = errors.New("the cluster does not answer")
