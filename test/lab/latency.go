package lab

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// link is a slow line between a host and the switch. Not every kernel can delay packets by itself (netem), so they pass
// through this process: each host's port becomes a tap device on the bridge, and what leaves it enters another one, on
// a bridge of its own with the host's cable.
type link struct {
	near, far *os.File
	ended     chan struct{} // receives once from each direction
}

// Latency makes every packet from and to a host arrive that much later; 0 ends that.
func (l *Lab) Latency(h *Host, each time.Duration) {
	l.t.Helper()
	if err := l.fast(h); err != nil {
		l.t.Fatal(err)
	}
	if each == 0 {
		return
	}
	if err := l.slow(h, each); err != nil {
		l.t.Fatalf("slow the link of %s: %v", h.Name, err)
	}
}

func (l *Lab) slow(h *Host, each time.Duration) error {
	cable, far := h.Name+".cable", h.Name+".far"
	if err := l.ip("link set NAME down", "link set NAME nomaster", "link set NAME name "+cable)(h); err != nil {
		return err
	}
	s := &link{ended: make(chan struct{}, 2)}
	var err error
	if s.near, err = tap(l.bridge(), h.Name); err != nil {
		return err
	}
	if s.far, err = tap(l.bridge(), far); err != nil {
		return errors.Join(err, s.near.Close())
	}
	l.links[h] = s
	defer func() { // a device that is down cannot be read
		go s.carry(s.near, s.far, each)
		go s.carry(s.far, s.near, each)
	}()
	return l.ip(
		"link add NAME.own type bridge",
		"link set "+cable+" master NAME.own up", "link set "+far+" master NAME.own up", "link set NAME.own up",
		"link set NAME master br0 up",
	)(h)
}

// fast ends the latency of a host, if it has any.
func (l *Lab) fast(h *Host) error {
	s := l.links[h]
	if s == nil {
		return nil
	}
	delete(l.links, h)
	err := errors.Join(s.near.Close(), s.far.Close()) // the devices go with them
	<-s.ended
	<-s.ended
	return errors.Join(err, l.ip(
		"link del NAME.own", "link set NAME.cable down", "link set NAME.cable name NAME", "link set NAME master br0 up",
	)(h))
}

// ip returns commands of ip(8) in the switch, for a host.
func (l *Lab) ip(commands ...string) func(*Host) error {
	return func(h *Host) error {
		all := strings.ReplaceAll(strings.Join(commands, "\n")+"\n", "NAME", h.Name)
		return feed(all, "ip", "-n", l.bridge(), "-batch", "-")
	}
}

// carry takes frames from one device to the other, late and in order.
func (s *link) carry(from, to *os.File, late time.Duration) {
	type frame struct {
		due  time.Time
		data []byte
	}
	queue := make(chan frame, 4096)
	go func() {
		for f := range queue {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.data) // what cannot be delivered is lost, as in a network
		}
		s.ended <- struct{}{}
	}()
	defer close(queue)
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return // closed
		}
		select {
		case queue <- frame{time.Now().Add(late), bytes.Clone(buffer[:n])}:
		default: // the line is full
		}
	}
}

// tap makes a tap device in a network namespace. It is there until it is closed.
func tap(space, name string) (f *os.File, err error) {
	err = inside(space, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err == nil {
			request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	return f, err
}
