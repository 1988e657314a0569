package preflight

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

// Firewall is a host that lets other members and clients in. What a rule set really does takes a packet to tell, so this
// is a warning, of what the three usual front ends say.
type Firewall struct {
	Host  *host.Host
	Ports []int
}

// Check asks firewalld, then ufw, then nftables, which the two others use. One that is not there has no say.
func (f Firewall) Check(ctx context.Context) (converge.Diff, error) {
	ask := func(program string, args ...string) (string, bool) {
		out, err := f.Host.Query(ctx, host.Command{Path: program, Args: args, Env: []string{"LC_ALL=C"}})
		return string(out), err == nil
	}
	if _, running := ask("firewall-cmd", "--state"); running {
		list, ok := ask("firewall-cmd", "--list-all")
		if closed := closedByFirewalld(list, f.Ports); ok && len(closed) > 0 {
			converge.Warnf(ctx, "firewalld does not open %s: firewall-cmd --permanent %s; firewall-cmd --reload", portList(closed), each("--add-port=%d/tcp", closed))
		}
		return nil, nil
	}
	if status, ok := ask("ufw", "status"); ok && strings.HasPrefix(status, "Status: active") {
		if closed := closedByUFW(status, f.Ports); len(closed) > 0 {
			converge.Warnf(ctx, "ufw does not open %s: %s", portList(closed), strings.ReplaceAll(each("ufw allow %d/tcp", closed), " ufw", "; ufw"))
		}
		return nil, nil
	}
	if rules, ok := ask("nft", "list", "ruleset"); ok {
		if closed := closedByNFT(rules, f.Ports); len(closed) > 0 {
			converge.Warnf(ctx, "nftables drops what no rule accepts, and no rule names %s; see: nft list ruleset", portList(closed))
		}
	}
	return nil, nil
}

// closedByFirewalld reads `firewall-cmd --list-all`: a target that accepts, a line "ports:" of port/protocol and ranges, and
// one "services:".
func closedByFirewalld(list string, ports []int) []int {
	if regexp.MustCompile(`(?m)^\s*target: ACCEPT`).MatchString(list) {
		return nil
	}
	opened := map[int]bool{}
	for line := range strings.Lines(list) {
		key, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		for _, word := range strings.Fields(rest) {
			switch {
			case key == "ports" && strings.HasSuffix(word, "/tcp"):
				open(opened, strings.TrimSuffix(word, "/tcp"), "-", ports)
			case key == "services" && word == "etcd-client":
				opened[2379] = true
			case key == "services" && word == "etcd-server":
				opened[2380] = true
			}
		}
	}
	return without(ports, opened)
}

var ufwAllow = regexp.MustCompile(`^(\S+)\s+(?:\(v6\)\s+)?(ALLOW|LIMIT)`)

// closedByUFW reads `ufw status`: rows of "To Action From", ports as 2379, 2379/tcp, 2379,2380/tcp and 2379:2390/tcp. A rule
// for any port is one for these.
func closedByUFW(status string, ports []int) []int {
	opened := map[int]bool{}
	for line := range strings.Lines(status) {
		m := ufwAllow.FindStringSubmatch(line)
		if m == nil || strings.HasSuffix(m[1], "/udp") {
			continue
		}
		if m[1] == "Anywhere" {
			return nil
		}
		for word := range strings.SplitSeq(strings.TrimSuffix(m[1], "/tcp"), ",") {
			open(opened, word, ":", ports)
		}
	}
	return without(ports, opened)
}

var (
	nftInput = regexp.MustCompile(`hook input [^\n]*policy drop`)
	nftWord  = regexp.MustCompile(`\b\d+(?:-\d+)?\b`)
)

// closedByNFT reads `nft list ruleset`: where a chain of the hook input drops by its policy, a port is taken for open if any
// rule of its table family names it with accept, or sends it elsewhere. Rules that accept all of TCP or of a source
// cannot be judged so, and count as open.
func closedByNFT(rules string, ports []int) []int {
	if !nftInput.MatchString(rules) {
		return nil
	}
	opened := map[int]bool{}
	for line := range strings.Lines(rules) {
		if !strings.Contains(line, "accept") && !strings.Contains(line, "jump") && !strings.Contains(line, "goto") {
			continue
		}
		if strings.Contains(line, "saddr") && !strings.Contains(line, "dport") {
			return nil
		}
		_, dports, found := strings.Cut(line, "dport ")
		if !found || strings.Contains(line, "udp dport") {
			continue
		}
		for _, word := range nftWord.FindAllString(dports, -1) {
			open(opened, word, "-", ports)
		}
	}
	return without(ports, opened)
}

// open marks the ports that a word names: a port, or a range with a separator.
func open(opened map[int]bool, word, separator string, ports []int) {
	var low, high int
	if _, err := fmt.Sscanf(strings.Replace(word, separator, " ", 1), "%d %d", &low, &high); err != nil {
		if _, err := fmt.Sscanf(word, "%d", &low); err != nil {
			return
		}
		high = low
	}
	for _, p := range ports {
		if low <= p && p <= high {
			opened[p] = true
		}
	}
}

func without(ports []int, opened map[int]bool) []int {
	var closed []int
	for _, p := range ports {
		if !opened[p] {
			closed = append(closed, p)
		}
	}
	return closed
}

func portList(ports []int) string {
	word := "port"
	if len(ports) > 1 {
		word = "ports"
	}
	return word + " " + strings.ReplaceAll(each("%d", ports), " ", " and ")
}

func each(format string, ports []int) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = fmt.Sprintf(format, p)
	}
	return strings.Join(words, " ")
}
