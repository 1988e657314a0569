package host

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Listener is a TCP socket of this machine that waits for connections.
type Listener struct {
	Address netip.AddrPort
	UID     int // the user that owns it

	inode string
}

// Listeners returns the sockets that listen on TCP ports, on any address. The kernel walks all of its connections for
// it: ask once.
func (h *Host) Listeners() []Listener {
	var list []Listener
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.ReadFile(name)
		if err != nil { // a kernel without the protocol
			continue
		}
		list = append(list, parseListeners(string(table))...)
	}
	return list
}

// Holds tells whether a process has a socket, as far as this user may see.
func (h *Host) Holds(pid int, l Listener) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil { // it ended, or belongs to another user
		return false
	}
	for _, e := range entries {
		if text, _ := os.Readlink(filepath.Join(dir, e.Name())); text == "socket:["+l.inode+"]" {
			return true
		}
	}
	return false
}

// Holder returns the process that has a socket: of several, the one with the lowest id. The error is fs.ErrNotExist
// when this user sees none.
func (h *Host) Holder(l Listener) (Process, error) {
	processes, err := h.Processes()
	if err != nil {
		return Process{}, err
	}
	for _, p := range processes {
		if h.Holds(p.PID, l) {
			return p, nil
		}
	}
	return Process{}, fs.ErrNotExist
}

// parseListeners reads /proc/net/tcp or tcp6: number, local address, remote address, state, queues, timer, retransmits,
// user id, timeout, inode ...; see proc_net_tcp in the kernel's documentation.
func parseListeners(table string) []Listener {
	const listening = "0A"
	var list []Listener
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != listening {
			continue
		}
		address, err := parseSocketAddress(f[1])
		if err != nil {
			continue
		}
		uid, err := strconv.Atoi(f[7])
		if err != nil {
			continue
		}
		list = append(list, Listener{Address: address, UID: uid, inode: f[9]})
	}
	return list
}

// parseSocketAddress reads "0100007F:0947": words of 32 bits in the machine's byte order, and the port.
func parseSocketAddress(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	words, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for w := words; len(w) >= 4; w = w[4:] {
		binary.NativeEndian.PutUint32(w, binary.BigEndian.Uint32(w))
	}
	a, ok := netip.AddrFromSlice(words)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address", s)
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}
