package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
)

const (
	// removedWords are among the last ones of an etcd that was removed from its cluster (server.go in etcd's
	// server/v3/etcdserver, util.go in its api/rafthttp). It ends again whenever it is started.
	removedWords = "the member has been permanently removed from the cluster"
	// removedText says the same for people.
	removedText = "this member has been permanently removed from its cluster"
	// membersChanged is what etcd says when it was told of other members than there are.
	membersChanged = "the member list has changed since this node was configured"
	// tellingLines is how far back the cause of an end is looked for.
	tellingLines = 200
)

// Cause is the likely reason why etcd does not come up, and what to do about it.
type Cause struct {
	Reason string
	Hint   string
}

// causes are tried in this order, on the lines of etcd (of its server/v3, and of Go's net, os and crypto/tls in it) and on
// those of systemd about it. A pattern that names the harm stands before one that may be its consequence, or noise.
var causes = []struct {
	pattern      string
	reason, hint string // $1 is what the pattern found
}{
	{`Failed to determine user credentials|status=217/USER`, "the user that etcd runs as is absent", "make it: etcdadm init phase configure"},
	{`status=203/EXEC`, "the program of etcd cannot be run", "install it: etcdadm init phase install; see whether SELinux forbids it: ausearch -m avc -ts recent"},
	{`status=226/NAMESPACE`, "systemd cannot set up the sandbox", "see what is missing: journalctl -u etcd -n 20"},
	{`Failed to load environment files`, "a file of settings cannot be read", "write it: etcdadm init phase configure"},
	{removedWords, removedText, "if this node is to be a member again: etcdadm reset, then join"},
	{`no space left on device`, "a disk is full", "make room, and etcd starts by itself, but for a first start that was cut off: run its command again; see what is full: df -h; du -xhd1 / | sort -h"},
	{`read-only file system`, "the file system of the data is read-only", "see why: dmesg | tail -n 50; findmnt"},
	{`input/output error`, "a disk fails: input/output error", "see what the kernel says: dmesg | tail -n 50"},
	{`too many open files|file descriptor limit of etcd process is too low`, "the limit of open files is reached", "raise LimitNOFILE in a drop-in: systemctl edit etcd; without systemd: ulimit -n 65536"},
	{`listen tcp4? (\S+): bind: address already in use`, "$1 is taken by another process", "see by which: ss -lntp; stop it, or give this node another address: --bind-address ADDRESS"},
	{`listen tcp4? (\S+): bind: cannot assign requested address`, "the address of $1 is not on this host", "see which are: ip address; choose one: --bind-address ADDRESS"},
	{`open (\S+): permission denied`, "etcd may not read or write $1", "see who may: namei -l $1; files that root dropped into place are given to etcd when it is started: systemctl restart etcd"},
	{`permission denied|operation not permitted`, "etcd lacks a permission", "see which: journalctl -u etcd -n 50; SELinux: ausearch -m avc -ts recent; AppArmor: dmesg"},
	{`open (\S+/ca\.crt): no such file or directory`, "$1 is absent", "bring the CA of the cluster from another member; etcdadm status tells how"},
	{`open (\S+\.(?:crt|key|pem)): no such file or directory`, "$1 is absent", "issue what is missing: etcdadm init phase certificates, or etcdadm join phase certificates URL"},
	{`private key does not match public key`, "a certificate and its key do not belong together", "place both files of the pair, or remove both and have them issued: etcdadm init phase certificates"},
	{`cluster ID mismatch`, "a member that this one talks to is of another cluster", "see to which each belongs: etcdadm status on both nodes; if this one's data is of a cluster that is gone: etcdadm reset --skip-remove-member, then join"},
	{`has already been bootstrapped`, "the cluster knows this member with data that is not here", "remove it there (etcdctl.sh member remove ID), then join anew: etcdadm reset --skip-remove-member, etcdadm join URL"},
	{`member count is unequal|incompatible with current running cluster|error validating peerURLs`, membersChanged, "run the same etcdadm join again"},
	{`failed to update; member unknown`, "the first start of this member was cut off, and etcd cannot go on with what it had made", "run the same etcdadm join again: a member that has not voted yet is made anew; one that has: etcdadm reset --skip-remove-member, then join"},
	{`tocommit\(\d+\) is out of range`, "this member has lost data that it had confirmed", "replace it: etcdadm reset --skip-remove-member, then join"},
	{`crc mismatch|failed to read WAL, cannot be repaired|database file .* does not match with snapshot|failed to recover v3 backend|file of the backend is missing|invalid database|unsupported WAL`, "the data of this member is damaged", "replace the member: etcdadm reset --skip-remove-member, then join; or restore the cluster: etcdadm restore FILE"},
	{`flag provided but not defined: (\S+)|unknown flag: (\S+)`, "etcd does not know the flag $1$2", "remove the drop-in that sets it: systemctl cat etcd"},
	{`"failed to verify flags","error":"((?:[^"\\]|\\.)+)"`, "etcd refuses its settings: $1", "see extraEnv in the configuration, and drop-ins: etcdadm config print; systemctl cat etcd"},
	{`conflicting environment variable "([^"]+)"`, "$1 is set as a flag as well", "set it once: systemctl cat etcd; extraEnv in the configuration"},
	{`certificate has expired or is not yet valid`, "a certificate is not valid at the time that one of the clocks shows", "compare the clocks (date -u) and the certificates (etcdadm status); set the clock: timedatectl set-ntp true"},
	{`certificate signed by unknown authority|bad certificate|unknown certificate authority|failed to verify certificate`, "a certificate is refused between this member and another one", "see that both have the same CA: sha256sum /etc/etcd/pki/ca.crt; and what is wrong with the certificates: etcdadm status"},
	{`prober found high clock drift|clock difference against peer`, "the clocks of the members differ", "set the clock of this node: timedatectl set-ntp true"},
	{`has lost its data, or was never set up`, "this member has lost its data, or was never set up", "put the data back; or from a snapshot: etcdadm restore FILE; or replace the member: etcdadm reset --skip-remove-member, then join"},
	{`cannot fetch cluster info from peer urls|could not get cluster response`, "no member of the cluster answers on its peer port", "see that TCP port 2380 is open between the members, and that they run"},
	{`out of memory|cannot allocate memory|oom-kill`, "memory is short", "see who uses it: free -m; dmesg | grep -i oom"},
}

// CauseOf finds the likely cause in the last lines of etcd's output: of its last start, where systemd tells of it. It looks
// at nothing but the lines.
func CauseOf(lines []string) (Cause, bool) {
	lines = lastStart(lines)
	for _, c := range causes {
		pattern := regexp.MustCompile(c.pattern) // here, as all of them would cost every start of this program a millisecond
		for _, l := range slices.Backward(lines) {
			if m := pattern.FindStringSubmatchIndex(l); m != nil {
				return Cause{
					Reason: string(pattern.ExpandString(nil, c.reason, l, m)),
					Hint:   string(pattern.ExpandString(nil, c.hint, l, m)),
				}, true
			}
		}
	}
	return Cause{}, false
}

// LikelyCause finds why an etcd does not answer that is started again and again: while its last start says nothing of it
// yet, in the one before.
func LikelyCause(b Backend) (Cause, bool) {
	lines, _ := b.Logs(tellingLines)
	return likelyCause(lines)
}

func likelyCause(lines []string) (Cause, bool) {
	if c, found := CauseOf(lines); found {
		return c, true
	}
	return CauseOf(lines[:len(lines)-len(lastStart(lines))])
}

// lastStart leaves out the lines before the last start that systemd tells of.
func lastStart(lines []string) []string {
	for i, l := range slices.Backward(lines) {
		if strings.HasPrefix(l, "Starting "+constants.Unit) {
			return lines[i:]
		}
	}
	return lines
}

// ErrMembersChanged is the cause of a first start that fails because a member came or left since etcd was told of them.
var ErrMembersChanged = errors.New(membersChanged)

// NotUp is the error of an etcd that does not stay up: how it ended, the likely cause, its last telling lines, and where
// the others are. A journal tells of an end a moment later: it waits for that, for two seconds, until ctx ends.
func NotUp(ctx context.Context, b Backend, lastExit string) error {
	lines, _ := b.Logs(tellingLines)
	for range 20 {
		if _, found := CauseOf(lines); found || pause(ctx, 100*time.Millisecond) != nil {
			break
		}
		lines, _ = b.Logs(tellingLines)
	}
	hints := Why(b)
	reason := errors.New(cmp.Or(lastExit, "it says nothing"))
	if len(lines) > 0 {
		if c, ok := CauseOf(lines); ok && c.Reason != lastExit {
			cause := errors.New(c.Reason)
			if c.Reason == membersChanged {
				cause = ErrMembersChanged
			}
			reason = cause
			if lastExit != "" {
				reason = fmt.Errorf("%s: %w", lastExit, cause)
			}
		}
	}
	e := errs.New(errs.Failed, "etcd does not stay up: %w", reason)
	e.Hints = hints
	return e
}

// Why is what to show to somebody who waits for etcd in vain.
func Why(b Backend) []string {
	var hints []string
	lines, _ := b.Logs(tellingLines)
	if c, ok := CauseOf(lines); ok {
		hints = append(hints, "likely: "+c.Reason+"; "+c.Hint)
	} else if s, err := b.State(context.Background()); err == nil && s.Running && len(lines) > 0 {
		hints = append(hints, "etcd runs: it may wait for the other members, of which more than half have to be up")
	}
	for _, l := range telling(lastStart(lines)) {
		hints = append(hints, "etcd said: "+l)
	}
	return append(hints, "the whole log: "+b.LogCommand())
}

// telling picks what says why etcd ended or waits: the last errors of its log, or, where it has none, its last other words.
func telling(lines []string) []string {
	var logged, other []string
	for _, l := range lines {
		var e struct{ Level, Msg, Error string }
		switch err := json.Unmarshal([]byte(l), &e); {
		case err == nil && slices.Contains([]string{"error", "panic", "fatal"}, e.Level):
			if said := strings.TrimSuffix(e.Msg+": "+e.Error, ": "); !slices.Contains(logged, said) {
				logged = append(logged, said)
			}
		case l != "" && !strings.HasPrefix(l, "{") && !routine.MatchString(l):
			other = append(other, l)
		}
	}
	if len(logged) == 0 {
		logged = other
	}
	return logged[max(0, len(logged)-3):]
}

// routine is what systemd writes of every start and end, whatever the reason is.
var routine = regexp.MustCompile(`^(Starting|Started|Stopping|Stopped|Failed to start) |^etcd\.service: (Main process exited|Control process exited|Failed with result|Scheduled restart|Deactivated|Consumed|Skipped)`)
