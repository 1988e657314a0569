package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// boot starts the host's container, and starts it again each time that it asks for a reboot.
func (h *Host) boot() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var groups []string
	for _, dir := range all {
		g := filepath.Join(dir, h.group())
		if err := os.MkdirAll(g, 0o755); err != nil {
			return err
		}
		groups = append(groups, g)
	}
	console, err := os.OpenFile(filepath.Join(h.dir, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	container := program{
		Args: h.container(groups),
		Env:  append(os.Environ(), fmt.Sprintf("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=%t", unified(all))),
		Out:  console, Err: console,
	}
	if err := h.plug("up"); err != nil {
		return errors.Join(err, console.Close())
	}
	h.nspawn = make(chan error, 1)
	go func(end chan<- error) {
		defer console.Close()
		for {
			err := h.runs(container)
			var exit interface{ ExitCode() int }
			if errors.As(err, &exit) && exit.ExitCode() == rebootAsked {
				continue
			}
			// How it ended is on the console. The namespace outlives the host, and would answer for it.
			end <- h.plug("down")
			return
		}
	}(h.nspawn)
	return nil
}

// rebootAsked is how systemd-nspawn ends, with --keep-unit, when the container wants to be started again.
const rebootAsked = 133

// container is the command that runs the host, in cgroups of its own.
func (h *Host) container(groups []string) []string {
	args := []string{
		"sh", "-c", `for g in $0; do echo $$ > "$g"/cgroup.procs || exit; done; exec "$@"`, strings.Join(groups, " "),
		"systemd-nspawn", "--quiet", "--boot", "--keep-unit", "--register=no", "--settings=no",
		"--directory=" + h.root(), "--machine=" + h.lab.id + "-" + h.Name, "--hostname=" + h.Name,
		"--network-namespace-path=/run/netns/" + h.space(),
		"--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
	}
	for _, m := range h.lab.mounts {
		args = append(args, "--bind-ro="+m.From+":"+m.To)
	}
	return args
}

// booted waits until the host runs under another first process than the given one, and has started all its services. For
// an etcd that waits for others, systemd waits without an end: it may be up later, or never.
func (h *Host) booted(before int) error {
	var state string
	err := until(h.Name+" to boot", func() bool {
		if pid := firstProcess(h.group()); pid == 0 || pid == before {
			return len(h.nspawn) > 0 // it has ended
		}
		state, _ = h.Exec("timeout", "60", "systemctl", "is-system-running", "--wait")
		state = strings.TrimSpace(state)
		if state == "" && h.startsEtcdOnly() {
			state = "running but for etcd"
			h.lab.t.Logf("%s is %s", h.Name, state)
		}
		return strings.HasPrefix(state, "running") || state == "degraded"
	})
	if err == nil && state == "degraded" {
		failed, _ := h.Exec("systemctl", "list-units", "--failed", "--plain", "--no-legend")
		err = fmt.Errorf("units failed on %s: %s", h.Name, failed)
	}
	if err == nil && state == "" {
		err = fmt.Errorf("%s ended before it had booted", h.Name)
	}
	if err != nil {
		console, _ := os.ReadFile(filepath.Join(h.dir, "console.log"))
		err = fmt.Errorf("%w\n%s", err, console[max(0, len(console)-2000):])
	}
	return err
}

// startsEtcdOnly tells whether systemd still starts etcd, and nothing else but what comes after that.
func (h *Host) startsEtcdOnly() bool {
	jobs, err := h.Exec("systemctl", "list-jobs", "--no-legend", "--plain")
	etcd := false
	for line := range strings.Lines(jobs) {
		if f := strings.Fields(line); len(f) == 4 && f[3] == "running" {
			if f[1] != "etcd.service" {
				return false
			}
			etcd = true
		}
	}
	return err == nil && etcd
}

// ended waits for the container of a host that was killed.
func (h *Host) ended() error {
	if h.nspawn == nil {
		return nil
	}
	err := <-h.nspawn
	h.nspawn = nil
	return err
}

// root is where the host's root directory is on this machine.
func (h *Host) root() string { return filepath.Join(h.dir, "root") }
