// Package kubelet plays the kubelet of a machine whose root is a directory, as far as static pods of one container go.
//
// It reads the directory of manifests, decodes each with the types of the Kubernetes API, strictly, and runs the container
// with its command and its environment, in a root file system that holds its image and its mounts and nothing else, as the
// user and with the capabilities of its security context. It probes as the manifest says, ten times as often. It starts
// again what has ended, stops what has no manifest any more, and writes the output where a kubelet has it written. What is
// wrong with a manifest is kept for the test to see.
package kubelet

import (
	"bufio"
	"cmp"
	"context"
	"crypto/md5" //nolint:gosec // a name, as with the kubelet
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// Kubelet is a running one.
type Kubelet struct {
	Root      string                             // of the machine
	Manifests string                             // the directory that is read: a real path
	Image     func(image string) (string, error) // the directory of an image's programs
	Every     time.Duration                      // between two looks at the manifests; 0: look

	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	problems []string
	pod      *pod
	starts   int
}

// look is the pause between two looks at the manifests where Every does not say.
const look = 10 * time.Millisecond

// faster is how many times as often as it should a kubelet probes.
const faster = 10

// Start begins to read manifests.
func (k *Kubelet) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel, k.done = cancel, make(chan struct{})
	go func() {
		defer close(k.done)
		for ctx.Err() == nil {
			k.sync()
			_ = sleep(ctx, cmp.Or(k.Every, look))
		}
		k.replace(nil)
	}()
}

// Stop stops the pod too.
func (k *Kubelet) Stop() {
	k.cancel()
	<-k.done
}

// PID is the process of the container on the machine, 0 when there is none.
func (k *Kubelet) PID() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pod == nil {
		return 0
	}
	return int(k.pod.pid.Load())
}

// Starts counts the containers that were started.
func (k *Kubelet) Starts() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.starts
}

// Probed counts the liveness probes of the present pod that succeeded.
func (k *Kubelet) Probed() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pod == nil {
		return 0
	}
	return int(k.pod.alive.Load())
}

// Problems are what was wrong with manifests, mounts and probes, each once.
func (k *Kubelet) Problems() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.problems)
}

func (k *Kubelet) problem(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := fmt.Sprintf(format, args...); !slices.Contains(k.problems, p) {
		k.problems = append(k.problems, p)
	}
}

// sync makes what runs what the directory says.
func (k *Kubelet) sync() {
	entries, err := os.ReadDir(k.Manifests)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		k.problem("%v", err)
		return
	}
	var text []byte
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if text != nil {
			k.problem("%s is a second manifest", e.Name())
			continue
		}
		if text, err = os.ReadFile(filepath.Join(k.Manifests, e.Name())); err != nil { // gone meanwhile
			return
		}
	}
	uid := fmt.Sprintf("%x", md5.Sum(text)) //nolint:gosec // a name, as with the kubelet
	k.mu.Lock()
	now := k.pod
	k.mu.Unlock()
	switch {
	case text == nil && now != nil:
		k.replace(nil)
	case text != nil && (now == nil || now.uid != uid):
		var p corev1.Pod
		if err := yaml.UnmarshalStrict(text, &p); err != nil {
			k.problem("the manifest cannot be decoded: %v", err)
			return
		}
		k.replace(&pod{kubelet: k, spec: p, uid: uid})
	}
}

// replace stops the pod that there is, and starts the next one, if any.
func (k *Kubelet) replace(next *pod) {
	k.mu.Lock()
	old := k.pod
	k.mu.Unlock()
	if old != nil {
		old.stop()
	}
	k.mu.Lock()
	k.pod = next
	k.mu.Unlock()
	if next != nil {
		var ctx context.Context
		ctx, next.cancel = context.WithCancel(context.Background())
		next.done = make(chan struct{})
		go next.run(ctx)
	}
}

// pod is one pod, of one container.
type pod struct {
	kubelet *Kubelet
	spec    corev1.Pod
	uid     string

	cancel context.CancelFunc
	done   chan struct{}
	pid    atomic.Int32
	alive  atomic.Int32 // liveness probes that succeeded
}

func (p *pod) stop() {
	p.cancel()
	<-p.done
}

// run mounts the volumes, as soon as they are there, and then keeps the container running.
func (p *pod) run(ctx context.Context) {
	defer close(p.done)
	if err := p.judge(); err != nil {
		p.kubelet.problem("%v", err)
		return
	}
	for {
		err := p.volumes()
		if err == nil {
			break
		}
		p.kubelet.problem("%v", err)
		if sleep(ctx, 10*look) != nil {
			return
		}
	}
	for n := 0; ctx.Err() == nil; n++ {
		if err := p.container(ctx, n); err != nil {
			p.kubelet.problem("%v", err)
		}
		_ = sleep(ctx, min(time.Duration(n+1)*200*time.Millisecond, 2*time.Second))
	}
}

// judge is what the API server's validation would say, and what is asked of this pod in particular.
func (p *pod) judge() error {
	s := p.spec.Spec
	if p.spec.APIVersion != "v1" || p.spec.Kind != "Pod" || p.spec.Name == "" || p.spec.Namespace != "kube-system" || len(s.Containers) != 1 {
		return errors.New("this is no pod of one container in kube-system")
	}
	c := s.Containers[0]
	switch sc := c.SecurityContext; {
	case !s.HostNetwork || s.PriorityClassName != "system-cluster-critical":
		return errors.New("the pod is not on the host's network, or not critical")
	case sc == nil || sc.Privileged == nil || *sc.Privileged || sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation:
		return errors.New("the container is privileged, or may become so")
	case c.LivenessProbe == nil || c.LivenessProbe.HTTPGet == nil || c.StartupProbe == nil || c.StartupProbe.HTTPGet == nil:
		return errors.New("the container lacks an httpGet probe")
	case c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero():
		return errors.New("the container requests no resources")
	}
	seen := map[string]bool{}
	for _, e := range c.Env {
		if seen[e.Name] {
			return fmt.Errorf("%s is set twice", e.Name)
		}
		seen[e.Name] = true
		covered := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
			return e.Value == m.MountPath || strings.HasPrefix(e.Value, m.MountPath+"/")
		})
		if strings.HasPrefix(e.Value, "/") && !covered {
			return fmt.Errorf("%s=%s is in no mount", e.Name, e.Value)
		}
	}
	return nil
}

// volumes checks each host path for its type.
func (p *pod) volumes() error {
	for _, v := range p.spec.Spec.Volumes {
		if v.HostPath == nil || v.HostPath.Type == nil {
			return fmt.Errorf("the volume %s is no host path with a type", v.Name)
		}
		info, err := os.Stat(p.kubelet.Root + v.HostPath.Path)
		is := map[corev1.HostPathType]bool{
			corev1.HostPathDirectory: err == nil && info.IsDir(),
			corev1.HostPathFile:      err == nil && info.Mode().IsRegular(),
		}
		if !is[*v.HostPath.Type] {
			return fmt.Errorf("hostPath type check failed: %s is not a %s", v.HostPath.Path, *v.HostPath.Type)
		}
	}
	return nil
}

// container runs the container until it ends, or the pod is to stop. n is how many there were before it.
func (p *pod) container(ctx context.Context, n int) error {
	spec := p.spec.Spec.Containers[0]
	image, err := p.kubelet.Image(spec.Image)
	if err != nil {
		return err
	}
	rootfs, err := os.MkdirTemp("", "kubelet-test")
	if err != nil {
		return err
	}
	defer os.Remove(rootfs)
	c := container{
		Image: image, RootFS: rootfs, Command: append(slices.Clone(spec.Command), spec.Args...), Env: []string{"PATH=/usr/local/bin"},
		ReadOnly: spec.SecurityContext.ReadOnlyRootFilesystem != nil && *spec.SecurityContext.ReadOnlyRootFilesystem,
	}
	if u := spec.SecurityContext.RunAsUser; u != nil {
		c.User = int(*u)
	}
	if g := spec.SecurityContext.RunAsGroup; g != nil {
		c.Group = int(*g)
	}
	c.Capabilities = spec.SecurityContext.Capabilities == nil || !slices.Contains(spec.SecurityContext.Capabilities.Drop, "ALL")
	for _, e := range spec.Env {
		c.Env = append(c.Env, e.Name+"="+expand(e.Value))
	}
	for _, m := range spec.VolumeMounts {
		for _, v := range p.spec.Spec.Volumes {
			if v.Name == m.Name {
				c.Mounts = append(c.Mounts, mount{p.kubelet.Root + v.HostPath.Path, m.MountPath, m.ReadOnly})
			}
		}
	}
	out, closeLog, err := p.log(n)
	if err != nil {
		return err
	}
	cmd, err := c.start(out)
	_ = out.Close()
	defer closeLog()
	if err != nil {
		return err
	}
	p.kubelet.mu.Lock()
	p.kubelet.starts++
	p.kubelet.mu.Unlock()
	p.pid.Store(int32(cmd.Process.Pid)) //nolint:gosec // process ids are below 2^22
	defer p.pid.Store(0)
	return p.watch(ctx, cmd, spec)
}

// watch probes a container, and stops it when the pod is to stop, or when it does not answer.
func (p *pod) watch(ctx context.Context, cmd *exec.Cmd, spec corev1.Container) error {
	exit := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its output
		close(exit)
	}()
	probing, stopProbing := context.WithCancel(ctx)
	defer stopProbing()
	dead := make(chan string, 1)
	go func() {
		if !p.probe(probing, spec.StartupProbe, true, nil) {
			dead <- "startup"
			return
		}
		p.probe(probing, spec.LivenessProbe, false, &p.alive)
		dead <- "liveness"
	}()
	select {
	case <-exit:
		return nil
	case <-ctx.Done():
	case which := <-dead:
		if ctx.Err() == nil {
			p.kubelet.problem("the container is killed by its %s probe", which)
		}
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	grace := 30 * time.Second
	if g := p.spec.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	select {
	case <-exit:
	case <-time.After(grace):
		_ = cmd.Process.Kill()
		<-exit
	}
	return nil
}

// probe asks until the first success, or, without a count of them, as long as it succeeds. It tells whether it did.
func (p *pod) probe(ctx context.Context, spec *corev1.Probe, once bool, count *atomic.Int32) bool {
	get := spec.HTTPGet
	url := strings.ToLower(string(get.Scheme)) + "://" + net.JoinHostPort(get.Host, get.Port.String()) + get.Path
	client := http.Client{Timeout: time.Duration(spec.TimeoutSeconds) * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for failures := int32(0); failures < spec.FailureThreshold; {
		if sleep(ctx, time.Duration(spec.PeriodSeconds)*time.Second/faster) != nil {
			return true
		}
		resp, err := client.Get(url)
		if err == nil {
			_ = resp.Body.Close()
		}
		switch {
		case err != nil || resp.StatusCode >= 400:
			failures++
		case once:
			return true
		default:
			failures = 0
			count.Add(1)
		}
	}
	return false
}

// log returns where a container writes to. Each line gets the form of the CRI.
func (p *pod) log(n int) (*os.File, func(), error) {
	dir := filepath.Join(p.kubelet.Root, "var/log/pods", p.spec.Namespace+"_"+p.spec.Name+"-node_"+p.uid, p.spec.Spec.Containers[0].Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	file, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d.log", n)))
	if err != nil {
		return nil, nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(read); s.Scan(); {
			fmt.Fprintf(file, "%s stderr F %s\n", time.Now().UTC().Format(time.RFC3339Nano), s.Text())
		}
		_ = file.Close()
		_ = read.Close()
	}()
	return write, func() { <-done }, nil
}

var reference = regexp.MustCompile(`\$\$|\$\([A-Za-z_][A-Za-z0-9_.-]*\)`)

// expand reads a value as the kubelet does: $$ is $, and $(NAME) is another variable, of which there are none here.
func expand(value string) string {
	return reference.ReplaceAllStringFunc(value, func(s string) string {
		if s == "$$" {
			return "$"
		}
		return "another variable"
	})
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
