package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

// kubelet keeps etcd running as a static pod: a manifest in a directory that a kubelet reads. Nobody is asked and
// nobody is called: what runs is read from the kernel, or, where its processes are hidden in another container, from the
// ports of etcd.
type kubelet struct {
	host *host.Host
	pod  Pod
}

// NewKubelet returns the backend that has a kubelet keep etcd running. The kubelet, and etcd in its pod, know the logical
// paths: under a root other than "/" that is the kubelet of the machine whose root this is.
func NewKubelet(h *host.Host, p Pod) Backend { return &kubelet{h, p} }

// PathFor returns the path itself, as it is in the pod.
func (k *kubelet) PathFor(logical string) string { return logical }

// Definition is the pod without its environment.
func (k *kubelet) Definition() string { return k.pod.Render(nil) }

// Owner is root, as which etcd runs in its pod.
func (k *kubelet) Owner() host.Owner { return host.Root }

// Files are none: the manifest starts etcd.
func (k *kubelet) Files() []file.File { return nil }

// StartLimit leaves time to pull the image.
func (k *kubelet) StartLimit() time.Duration { return constants.PodStartTimeout }

// LogCommand asks the container runtime, and the kubelet for why there is no container.
func (k *kubelet) LogCommand() string {
	return "crictl logs $(crictl ps -a -q --latest --name '^etcd$'); journalctl -u kubelet -n 50"
}

// Enabled always holds: a kubelet starts what is in its directory.
func (k *kubelet) Enabled() converge.Resource { return atBoot{} }

// Disabled always holds: what is stopped has no manifest.
func (k *kubelet) Disabled() converge.Resource { return atBoot{} }

// Running is a manifest with the digest, and no etcd of this node running with another one. Where none runs, it is not
// waited for: the kubelet may read the manifest from elsewhere, and later.
func (k *kubelet) Running(digest string) converge.Resource {
	return &podRunning{kubelet: k, digest: digest}
}

// Stopped is no manifest, and no etcd of this node running.
func (k *kubelet) Stopped() converge.Resource { return podStopped{k} }

// Removed is no manifest, nor one in the making.
func (k *kubelet) Removed() converge.Resource { return k.noManifest() }

func (k *kubelet) noManifest() file.Absent {
	return file.Absent{Host: k.host, Paths: []string{k.pod.manifest(), host.Staging(k.pod.manifest()), k.staging()}}
}

// staging is where the manifest is made: beside the directory that the kubelet reads.
func (k *kubelet) staging() string { return host.Staging(k.pod.ManifestDir) }

// wanted is the manifest that the settings on the node ask for; nil without settings.
func (k *kubelet) wanted() ([]byte, error) {
	kvs, err := readEnv(k.host, constants.EnvFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	first, err := readEnv(k.host, constants.BootstrapFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	values := map[string]string{}
	var order []string
	for _, kv := range slices.Concat(kvs, []KV{{dataDirVariable, k.pod.DataDir}}, first) {
		if _, there := values[kv.Key]; !there {
			order = append(order, kv.Key)
		}
		values[kv.Key] = kv.Value
	}
	var env []KV
	for _, key := range order {
		env = append(env, KV{key, values[key]})
	}
	return []byte(k.pod.Render(env)), nil
}

// manifest is the file as it should be. One that still tells how the first start was done stays as it is: the kubelet
// would start etcd again for it.
func (k *kubelet) manifest() (file.File, error) {
	f := file.File{Host: k.host, Path: k.pod.manifest(), Mode: 0o600}
	var err error
	if f.Data, err = k.wanted(); err != nil {
		return f, err
	}
	begins, err := k.host.Exists(constants.BootstrapFile)
	if err != nil || begins {
		return f, err
	}
	have, err := k.host.ReadFile(f.Path)
	if err == nil && withoutBootstrap(have) == withoutBootstrap(f.Data) {
		f.Data = have
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return f, err
}

// seen is the etcd of this node as it can be seen from here.
type seen struct {
	running bool
	pid     int       // 0: it runs where its process cannot be seen
	digest  string    // of a process that is seen
	started time.Time // zero: not known
}

// look finds etcd by its environment. A process that is hidden still has its peer port, which no other process that is
// seen has.
func (k *kubelet) look(ctx context.Context) (seen, error) {
	all, err := k.host.Processes()
	if err != nil {
		return seen{}, err
	}
	for _, p := range all {
		if p.Name != "etcd" {
			continue
		}
		env, err := startedWith(ctx, k.host, p.PID)
		if err != nil && ctx.Err() != nil {
			return seen{}, ctx.Err()
		}
		if err != nil || env[dataDirVariable] != k.pod.DataDir || env["ETCD_LISTEN_PEER_URLS"] != k.pod.Listeners.Peer {
			continue
		}
		started, err := k.host.Started(p.PID)
		if err != nil { // ended meanwhile
			continue
		}
		return seen{true, p.PID, env[constants.DigestVariable], started}, nil
	}
	at, err := netip.ParseAddrPort(strings.TrimPrefix(k.pod.Listeners.Peer, "https://"))
	if err != nil { // a node without an address was never set up
		return seen{}, nil //nolint:nilerr // so nothing runs
	}
	for _, l := range k.host.Listeners() {
		if l.Address != at {
			continue
		}
		if _, err := k.host.Holder(l); err == nil {
			return seen{}, nil
		}
		return seen{running: true, started: k.startedByMetrics()}, nil
	}
	return seen{}, nil
}

// startedByMetrics asks etcd itself when it was started; zero when it does not tell.
func (k *kubelet) startedByMetrics() time.Time {
	ctx, cancel := context.WithTimeout(context.Background(), constants.RequestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.pod.Listeners.Metrics+"/metrics", nil)
	if err != nil {
		return time.Time{}
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // and no proxy
	resp, err := client.Do(req)
	if err != nil {
		return time.Time{}
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(http.MaxBytesReader(nil, resp.Body, 8<<20)); err != nil {
		return time.Time{}
	}
	for line := range strings.Lines(text.String()) {
		if value, ok := strings.CutPrefix(line, "process_start_time_seconds "); ok {
			if seconds, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				return time.UnixMilli(int64(seconds * 1000))
			}
		}
	}
	return time.Time{}
}

// State tells what runs now. The number of restarts is that of the pod.
func (k *kubelet) State(ctx context.Context) (State, error) {
	v, err := k.look(ctx)
	if err != nil {
		return State{}, err
	}
	s := State{Running: v.running, PID: v.pid, Digest: v.digest, StartedAt: v.started}
	logs, err := k.logFiles()
	if err != nil || len(logs) == 0 {
		return s, nil //nolint:nilerr // what cannot be read tells nothing
	}
	s.Restarts = logs[len(logs)-1].number
	if s.Running {
		return s, nil
	}
	s.Again = true
	lines, _ := k.Logs(tellingLines)
	switch {
	case slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, removedWords) }):
		s.Removed, s.LastExit, s.Again = true, removedText, false
	case lastWords(lines) != "":
		s.LastExit = lastWords(lines)
	case s.Restarts >= 3:
		s.LastExit = fmt.Sprintf("it has ended %d times", s.Restarts)
	}
	return s, nil
}

// logFile is the output of one container of the pod.
type logFile struct {
	path   string
	number int // how many containers of the pod were there before
}

// logFiles lists the output of the pod that the present manifest made, oldest first. Each pod has a directory
// <namespace>_<name>-<node>_<uid>, which may outlive it.
func (k *kubelet) logFiles() ([]logFile, error) {
	info, err := k.host.Stat(k.pod.manifest())
	if err != nil {
		return nil, err
	}
	pods, err := k.host.ReadDir(constants.PodLogDir)
	if err != nil {
		return nil, err
	}
	var newest time.Time
	var files []logFile
	for _, p := range pods {
		if !strings.HasPrefix(p.Name(), "kube-system_etcd-") {
			continue
		}
		dir := path.Join(constants.PodLogDir, p.Name(), "etcd")
		entries, err := k.host.ReadDir(dir)
		if err != nil {
			continue
		}
		var of []logFile
		var last time.Time
		for _, e := range entries {
			n, err := strconv.Atoi(strings.TrimSuffix(e.Name(), ".log"))
			at := path.Join(dir, e.Name())
			if i, serr := k.host.Stat(at); err == nil && serr == nil {
				of = append(of, logFile{at, n})
				if i.ModTime().After(last) {
					last = i.ModTime()
				}
			}
		}
		if len(of) > 0 && last.After(newest) && last.After(info.ModTime()) {
			newest, files = last, of
		}
	}
	slices.SortFunc(files, func(a, b logFile) int { return a.number - b.number })
	return files, nil
}

// Logs returns the last lines of the last container of the pod, and of the one before; none where they cannot be read.
func (k *kubelet) Logs(n int) ([]string, error) {
	files, err := k.logFiles()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, f := range files[max(0, len(files)-2):] {
		text, err := tail(k.host, f.path, 0)
		if err != nil {
			return nil, err
		}
		lines = append(lines, fromCRI(text)...)
	}
	return lines[max(0, len(lines)-n):], nil
}

// fromCRI reads lines of the form "<time> <stream> <F or P> <text>", in which P is a part of a line that goes on (the CRI
// logging format of Kubernetes). A first line that is cut off is left out.
func fromCRI(text string) []string {
	var lines []string
	part := ""
	for l := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(l, "\n"), " ", 4)
		if len(f) < 4 || f[1] != "stdout" && f[1] != "stderr" {
			continue
		}
		part += f[3]
		if f[2] == "F" {
			lines = append(lines, part)
			part = ""
		}
	}
	return lines
}
