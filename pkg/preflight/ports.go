package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// Ports are addresses on which this node's etcd can listen, or does.
type Ports struct {
	Host   *host.Host
	Listen []netip.AddrPort
	PID    int  // of this node's running etcd; 0: none runs
	Hidden bool // this node's etcd runs where its process cannot be seen
}

// Check binds each for an instant: that alone is the truth. Who has it is then read from the kernel's tables.
func (p Ports) Check(ctx context.Context) (converge.Diff, error) {
	var problems []string
	var hints []string
	listeners := sync.OnceValue(p.Host.Listeners)
	for _, at := range p.Listen {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", at.String())
		if err == nil {
			_ = l.Close()
			continue
		}
		if errors.Is(err, syscall.EADDRNOTAVAIL) { // the check of the address says so
			continue
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			problems = append(problems, fmt.Sprintf("port %d on %s is not usable: %s", at.Port(), at.Addr(), dialProblem(err)))
			continue
		}
		all := listeners()
		if !slices.ContainsFunc(all, func(l host.Listener) bool { return blocks(l, at) }) { // it came since: etcd opens one after the other
			all = p.Host.Listeners()
		}
		reason, hint := p.taken(ctx, at, all)
		if reason != "" && !slices.Contains(problems, reason) {
			problems = append(problems, reason)
		}
		if hint != "" && !slices.Contains(hints, hint) {
			hints = append(hints, hint)
		}
	}
	if len(problems) == 0 {
		return nil, nil
	}
	e := errs.New(errs.Precondition, "%s", strings.Join(problems, "; "))
	e.Hints = hints
	return nil, e
}

// blocks tells whether a listener keeps others from listening on an address.
func blocks(l host.Listener, at netip.AddrPort) bool {
	return l.Address.Port() == at.Port() && (l.Address.Addr() == at.Addr() || l.Address.Addr().IsUnspecified())
}

// taken says who has a port, or nothing when it is this node's etcd.
func (p Ports) taken(ctx context.Context, at netip.AddrPort, all []host.Listener) (reason, hint string) {
	var holders []host.Listener
	for _, l := range all {
		if !blocks(l, at) {
			continue
		}
		if p.PID != 0 && p.Host.Holds(p.PID, l) {
			return "", ""
		}
		holders = append(holders, l)
	}
	if len(holders) == 0 {
		return fmt.Sprintf("port %d on %s is taken by a connection, or by a process that cannot be seen from here", at.Port(), at.Addr()),
			fmt.Sprintf("look for it as root: ss -anp '( sport = :%d )'", at.Port())
	}
	l := holders[0]
	where := ", which listens on " + l.Address.String()
	holder, err := p.Host.Holder(l)
	switch {
	case err != nil && p.Hidden:
		return "", ""
	case err != nil && p.PID != 0 && os.Geteuid() != 0:
		converge.Warnf(ctx, "port %d is taken by a process of user %s that this user cannot see; this node's etcd runs, and probably has it", at.Port(), userName(l.UID))
		return "", ""
	case err != nil:
		return fmt.Sprintf("port %d is taken by a process of user %s%s", at.Port(), userName(l.UID), where),
			fmt.Sprintf("look for it as root: ss -lntp '( sport = :%d )'", at.Port())
	case holder.Name == "etcd":
		hint = fmt.Sprintf("see which etcd it is: ps -fp %d; stop it, or remove it from its cluster with the tool that set it up", holder.PID)
	default:
		hint = fmt.Sprintf("see what it is: ps -fp %d; stop it, or give this node another address: --bind-address ADDRESS", holder.PID)
	}
	return fmt.Sprintf("port %d is taken by pid %d (%s)%s", at.Port(), holder.PID, holder.Name, where), hint
}

// userName returns the name of a user, or the id of one that has none.
func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}
