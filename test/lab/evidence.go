package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"etcdadm/test/release"
)

// states are the commands whose output tells most about a host, by the file that it goes to. Private keys are not
// among what is kept.
var states = map[string]string{
	"journal.log":   "journalctl --no-pager --output=short-precise",
	"units.txt":     "systemctl list-units --failed --no-pager; systemctl status --no-pager --full etcd.service",
	"processes.txt": "ps -e -o pid,ppid,user,stat,lstart,args --forest",
	"network.txt":   "ip address; ip route; ip -6 route; ss -tanp",
	"disk.txt":      "df -a; date; ls -laR --time-style=full-iso /etc/etcd /etc/etcdadm /var/lib/etcd /opt/bin",
	"config.txt":    "tail -n +1 /etc/etcdadm/config.yaml /etc/etcd/*.env /etc/systemd/system/etcd.service /etc/systemd/system/etcd.service.d/*",
	"status.txt":    "etcdadm status",
	"etcd.log":      "cat /var/log/etcd/*.log",
}

// keepEvidence writes what the hosts know to a directory, and logs where it is.
func (l *Lab) keepEvidence() {
	dir, err := l.evidence()
	if err != nil {
		l.t.Logf("the evidence of %s is not complete: %v", l.t.Name(), err)
	}
	l.t.Logf("journals, logs and the state of the hosts: %s", dir)
}

func (l *Lab) evidence() (string, error) {
	cache, err := release.CacheDir()
	if err != nil {
		return "", err
	}
	test := regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(l.t.Name(), "-")
	dir := filepath.Join(cache, "lab", "failed", test+"-"+time.Now().Format("20060102-150405"))
	return dir, each(l.Hosts, func(h *Host) error { return h.evidence(filepath.Join(dir, h.Name)) })
}

func (h *Host) evidence(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	h.setFast()
	for name, command := range states {
		var out strings.Builder
		args := []string{"timeout", "60", "sh", "-c", command}
		if err := h.last(program{Args: args, Out: &out, Err: &out}); err != nil {
			fmt.Fprintf(&out, "\n%v\n", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(out.String()), 0o600); err != nil {
			return err
		}
	}
	console, err := os.ReadFile(filepath.Join(h.dir, "console.log"))
	if err != nil {
		return nil //nolint:nilerr // it was never on
	}
	return os.WriteFile(filepath.Join(dir, "console.log"), console, 0o600)
}

// last runs a program on the host or, when it is off, on what is on its disk.
func (h *Host) last(p program) error {
	if firstProcess(h.group()) != 0 {
		return h.Program(Program{Args: p.Args, Out: p.Out, Err: p.Err})
	}
	if err := h.attach(); err != nil {
		return err
	}
	p.Args = append([]string{"chroot", h.root()}, p.Args...)
	return h.runs(p)
}
