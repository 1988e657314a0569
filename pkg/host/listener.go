package host

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
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
	PID     int // a process that holds it; 0 when none is visible to this user

	inode string
}

// Listeners returns the sockets that listen on a TCP port, on any address.
func (h *Host) Listeners(port int) ([]Listener, error) {
	var list []Listener
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.ReadFile(name)
		if err != nil { // a kernel without the protocol
			continue
		}
		for _, l := range parseListeners(string(table)) {
			if int(l.Address.Port()) == port {
				list = append(list, l)
			}
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	holders, err := h.socketHolders()
	for i := range list {
		list[i].PID = holders[list[i].inode]
	}
	return list, err
}

// socketHolders maps the inodes of sockets to a process that holds them: of several, the one with the greatest id.
func (h *Host) socketHolders() (map[string]int, error) {
	processes, err := h.Processes()
	holders := map[string]int{}
	for _, p := range processes {
		dir := fmt.Sprintf("/proc/%d/fd", p.PID)
		entries, err := os.ReadDir(dir)
		if err != nil { // it ended, or belongs to another user
			continue
		}
		for _, e := range entries {
			text, _ := os.Readlink(filepath.Join(dir, e.Name()))
			if inode, ok := strings.CutPrefix(text, "socket:["); ok {
				holders[strings.TrimSuffix(inode, "]")] = p.PID
			}
		}
	}
	return holders, err
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
