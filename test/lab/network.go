package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The switch is a namespace with a bridge; port n1 of it leads to eth0 of n1, in the namespace of that host. The
// namespaces outlive the hosts in them, so that addresses stay over a reboot.

func (l *Lab) bridge() string { return l.id }

func (h *Host) space() string { return h.lab.id + "-" + h.Name }

// plugIn makes the switch, and plugs every host in. The hosts have a default route, as hosts do; it leads nowhere.
func (l *Lab) plugIn() error {
	if _, err := run("ip", "netns", "add", l.bridge()); err != nil {
		return err
	}
	ports := "link set lo up\nlink add br0 type bridge\nlink set br0 up\n" +
		"addr add 10.77.0.1/24 dev br0\naddr add fd77::1/64 dev br0 nodad\n"
	for _, h := range l.Hosts {
		if _, err := run("ip", "netns", "add", h.space()); err != nil {
			return err
		}
		ports += fmt.Sprintf("link add %s type veth peer name eth0 netns %s\nlink set %[1]s master br0\n", h.Name, h.space())
	}
	if err := feed(ports, "ip", "-n", l.bridge(), "-batch", "-"); err != nil {
		return err
	}
	for _, h := range l.Hosts {
		if err := feed(fmt.Sprintf("link set lo up\nlink set eth0 up\naddr add %s/24 dev eth0\naddr add %s/64 dev eth0 nodad\n"+
			"route add default via 10.77.0.1\nroute add ::/0 via fd77::1\n", h.IPv4, h.IPv6), "ip", "-n", h.space(), "-batch", "-"); err != nil {
			return err
		}
	}
	return l.nft("add table bridge lab\n" +
		"add chain bridge lab cut { type filter hook forward priority 0; policy accept; }\n" +
		"add chain bridge lab alone { type filter hook input priority 0; policy accept; }\n")
}

// plug turns the host's port of the switch up or down.
func (h *Host) plug(state string) error {
	_, err := run("ip", "-n", h.lab.bridge(), "link", "set", h.Name, state)
	return err
}

// Partition lets nothing pass any more between two hosts. Packets are lost without a word, as in a network.
func (l *Lab) Partition(a, b *Host) {
	l.t.Helper()
	l.drop(fmt.Sprintf("cut iifname %q oifname %q", a.Name, b.Name), fmt.Sprintf("cut iifname %q oifname %q", b.Name, a.Name))
}

// Isolate lets nothing pass any more between a host and all others.
func (l *Lab) Isolate(h *Host) {
	l.t.Helper()
	l.drop(fmt.Sprintf("cut iifname %q", h.Name), fmt.Sprintf("cut oifname %q", h.Name), fmt.Sprintf("alone iifname %q", h.Name))
}

func (l *Lab) drop(what ...string) {
	l.t.Helper()
	var rules strings.Builder
	for _, w := range what {
		fmt.Fprintf(&rules, "add rule bridge lab %s drop\n", w)
	}
	if err := l.nft(rules.String()); err != nil {
		l.t.Fatal(err)
	}
}

// Heal ends all partitions.
func (l *Lab) Heal() {
	l.t.Helper()
	if err := l.nft("flush table bridge lab\n"); err != nil {
		l.t.Fatal(err)
	}
}

func (l *Lab) nft(rules string) error {
	return feed(rules, "ip", "netns", "exec", l.bridge(), "nft", "-f", "-")
}

// Dial connects to an address of a host from outside of all hosts, as their clients do. The address is a number.
func (l *Lab) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = inside(l.bridge(), func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, address) // a socket stays in the namespace that it was made in
		return err
	})
	return c, err
}

// inside calls a function on a thread that is in a network namespace.
func inside(space string, do func() error) error {
	end := make(chan error, 1)
	go func() {
		// A thread that has been in another namespace is of no use to others: it ends with this function.
		runtime.LockOSThread()
		end <- enterSpace(space, do)
	}()
	return <-end
}

func enterSpace(space string, do func() error) error {
	ns, err := os.Open("/run/netns/" + space)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", space, err)
	}
	return do()
}
