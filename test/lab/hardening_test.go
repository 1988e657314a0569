package lab

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"etcdadm/test/release"
)

// process is etcd as a benchmark sees it: from outside, by what the kernel tells of the process.
type process struct {
	host     *Host
	pid      string
	flags    map[string]string // --data-dir, without the dashes
	settings map[string]string // ETCD_*
}

// setting looks for a flag, or for its variable. It is "" where neither is there, and "true" for a flag without a value.
func (p process) setting(flag string) string {
	if v, ok := p.flags[flag]; ok {
		return v
	}
	return p.settings["ETCD_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))]
}

// etcdOf reads what runs as the unit of etcd.
func etcdOf(h *Host) process {
	pid := strings.TrimSpace(h.Run("systemctl", "show", "--value", "--property=MainPID", "etcd"))
	p := process{h, pid, map[string]string{}, map[string]string{}}
	args := strings.Split(h.Run("cat", "/proc/"+pid+"/cmdline"), "\x00")
	for i, a := range args {
		flag, is := strings.CutPrefix(a, "--")
		name, value, assigned := strings.Cut(flag, "=")
		switch {
		case !is:
			continue
		case !assigned && i+1 < len(args) && args[i+1] != "" && !strings.HasPrefix(args[i+1], "-"):
			value = args[i+1]
		case !assigned:
			value = "true"
		}
		p.flags[name] = value
	}
	for kv := range strings.SplitSeq(h.Run("cat", "/proc/"+pid+"/environ"), "\x00") {
		if key, value, _ := strings.Cut(kv, "="); strings.HasPrefix(key, "ETCD_") {
			p.settings[key] = value
		}
	}
	return p
}

// The judges of the benchmarks. Each returns what is wrong, or "".

func is(flag, want string) func(process) string {
	return func(p process) string {
		if got := p.setting(flag); got != want {
			return fmt.Sprintf("%s is %q", flag, got)
		}
		return ""
	}
}

func isNot(flag, bad string) func(process) string {
	return func(p process) string {
		if p.setting(flag) == bad {
			return fmt.Sprintf("%s is %s", flag, bad)
		}
		return ""
	}
}

// areFiles are settings that name files which are there, below a directory.
func areFiles(dir string, flags ...string) func(process) string {
	return func(p process) string {
		for _, flag := range flags {
			file := p.setting(flag)
			if path.Dir(file) != dir {
				return fmt.Sprintf("%s is %q", flag, file)
			}
			if _, err := p.host.Exec("test", "-s", file); err != nil {
				return fmt.Sprintf("%s is %s, which is absent or empty", flag, file)
			}
		}
		return ""
	}
}

// stat describes files in the words of stat(1), one of which is right.
func stat(format, right string, files func(process) []string) func(process) string {
	return func(p process) string {
		for _, file := range files(p) {
			if got := strings.TrimSpace(p.host.Run("stat", "-c", format, file)); !slices.Contains(strings.Fields(right), got) {
				return file + " is " + got
			}
		}
		return ""
	}
}

// definition are the files that say how etcd runs: what the specification of the pod is to Kubernetes.
func definition(process) []string {
	return []string{"/etc/systemd/system/etcd.service", "/etc/etcd/etcd.env"}
}

func dataDir(p process) []string { return []string{p.flags["data-dir"]} }

// requirements are those of the CIS Kubernetes Benchmark, by the numbers of its versions 1.7 to 1.11, and of DISA's
// Kubernetes STIG, on etcd. They are judged as kube-bench does it: a setting is a flag of the process or its variable, and
// the data directory is what --data-dir says.
//
// The specification of etcd's pod is, under systemd, the unit and the file of its settings. CIS wants 600 of it. systemd
// shows units to everybody, and neither file holds a secret: 644 is asked of them here, that nobody but root changes them.
var requirements = []struct {
	id, asks string
	judge    func(process) string
}{
	{"CIS 1.1.7", "only root changes the specification", stat("%a", "644 640 600", definition)},
	{"CIS 1.1.8", "the specification belongs to root:root", stat("%U:%G", "root:root", definition)},
	{"CIS 1.1.11", "the data directory is 700 or stricter", stat("%a", "700", dataDir)},
	{"CIS 1.1.12", "the data directory belongs to etcd:etcd", stat("%U:%G", "etcd:etcd", dataDir)},
	{"CIS 2.1", "clients are served with a certificate", areFiles("/etc/etcd/pki", "cert-file", "key-file")},
	{"CIS 2.2", "clients need a certificate", is("client-cert-auth", "true")},
	{"CIS 2.3", "no certificates that sign themselves", isNot("auto-tls", "true")},
	{"CIS 2.4", "peers are served with a certificate", areFiles("/etc/etcd/pki", "peer-cert-file", "peer-key-file")},
	{"CIS 2.5", "peers need a certificate", is("peer-client-cert-auth", "true")},
	{"CIS 2.6", "no certificates of peers that sign themselves", isNot("peer-auto-tls", "true")},
	{"CIS 2.7", "etcd has a CA of its own, not that of Kubernetes", areFiles("/etc/etcd/pki", "trusted-ca-file", "peer-trusted-ca-file")},
	{"STIG V-242379", "auto-tls is written as false", is("auto-tls", "false")},
	{"STIG V-242380", "peer-auto-tls is written as false", is("peer-auto-tls", "false")},
}

var exposure = regexp.MustCompile(`exposure level for etcd.service: ([0-9.]+)`)

// A node as init leaves it passes what benchmarks ask of etcd, and systemd finds it well shut in, with every etcd. The
// sandbox lets etcd write its database anew.
func TestHardening(t *testing.T) {
	s := begin(t, len(release.Versions), current)
	var all sync.WaitGroup
	for i, version := range release.Versions {
		of := *s
		of.version = version
		all.Go(func() {
			if err := of.try(s.Hosts[i], nil, "init"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	for i, version := range release.Versions {
		h := s.Hosts[i]
		p := etcdOf(h)
		for _, r := range requirements {
			if wrong := r.judge(p); wrong != "" {
				t.Errorf("etcd %s: %s (%s): %s", version, r.id, r.asks, wrong)
			}
		}
		// The threshold is in tenths of what is printed.
		said := s.ask(h, "systemd-analyze", "security", "--threshold=12", "--no-pager", "etcd.service")
		if m := exposure.FindStringSubmatch(said.out); said.status != 0 || m == nil {
			t.Errorf("etcd %s: systemd-analyze security: status %d: %s%s", version, said.status, said.out, said.said)
		} else {
			t.Logf("etcd %s: exposure %s", version, m[1])
		}
		if said := s.ask(h, "systemd-analyze", "verify", "--man=no", "etcd.service"); said.status != 0 || strings.Contains(said.said, "etcd.service") {
			t.Errorf("etcd %s: systemd-analyze verify: status %d: %s", version, said.status, said.said)
		}
		put(h, "color", "blue")
		ctl(h, "defrag")
		if got := get(h, "color"); got != "blue" {
			t.Errorf("etcd %s: after a defragmentation the member reads %q", version, got)
		}
		if now := etcdOf(h).pid; now != p.pid {
			t.Errorf("etcd %s: a defragmentation took the process %s, and now there is %s", version, p.pid, now)
		}
	}
}
