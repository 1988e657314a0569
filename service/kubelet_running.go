package service

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"strings"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/file"
)

const (
	// noticed is how long a kubelet may take to see a manifest that has changed or gone: it looks every 20 s where it is
	// not told (its fileCheckFrequency).
	noticed = 30 * time.Second
	// clockGrain is how far before a manifest its etcd may seem to have started: etcd tells whole seconds, twice rounded.
	clockGrain = 2 * time.Second
)

// podRunning is a manifest with a digest, and no etcd running with another one.
type podRunning struct {
	*kubelet
	digest string
	wrote  bool // Apply has written the manifest
}

// Check compares the manifest with the settings, and then what runs with the manifest.
func (r *podRunning) Check(ctx context.Context) (converge.Diff, error) {
	d, err := r.prepared(ctx)
	if err != nil || len(d) > 0 {
		return d, err
	}
	v, err := r.look(ctx)
	switch {
	case err != nil:
		return nil, err
	case r.outdated(v):
		return converge.Diff{{What: "etcd", Have: "running with other settings", Want: "restarted by the kubelet"}}, nil
	case v.running && v.pid == 0 && r.precedes(v):
		converge.Warnf(ctx, "by the clock, etcd has run since before %s was written: the kubelet has yet to restart its pod, unless the clock was set back", r.pod.manifest())
	}
	return nil, nil
}

// prepared compares the manifest and the guard.
func (r *podRunning) prepared(ctx context.Context) (converge.Diff, error) {
	m, err := r.manifest()
	if err != nil {
		return nil, err
	}
	d, err := m.Check(ctx)
	if err != nil || len(d) > 0 {
		return d, err
	}
	return r.guard().Check(ctx)
}

// guard is the file without which the pod does not start.
func (k *kubelet) guard() file.File {
	return file.File{Host: k.host, Path: k.pod.guard(), Mode: 0o600, Data: []byte("No pod of etcd starts without this file: it is lost with the data beside it.\n")}
}

// outdated tells whether an etcd runs that was not started from the manifest. One whose process is hidden is told by when it
// was started; for a manifest of another run that says nothing, as the clock may have been set back since.
func (r *podRunning) outdated(v seen) bool {
	switch {
	case !v.running:
		return false
	case v.pid != 0:
		return v.digest != r.digest
	}
	return r.wrote && r.precedes(v)
}

// precedes tells whether etcd says that it was started before the manifest was written.
func (r *podRunning) precedes(v seen) bool {
	info, err := r.host.Stat(r.pod.manifest())
	return err == nil && !v.started.IsZero() && v.started.Add(clockGrain).Before(info.ModTime())
}

// Apply puts the manifest in place, and waits until an etcd that runs with other settings has ended: what starts after
// that starts from it.
func (r *podRunning) Apply(ctx context.Context) error {
	if err := mayStart(r.host, r.pod.DataDir); err != nil {
		return err
	}
	m, err := r.manifest()
	if err != nil {
		return err
	}
	if m.Data == nil {
		return errs.New(errs.Precondition, "%s is absent: the pod has nothing to start with", constants.EnvFile).
			Hint("write it first: etcdadm init phase configure, or etcdadm join phase configure URL")
	}
	if err := r.placeGuard(ctx); err != nil {
		return err
	}
	if d, err := m.Check(ctx); err != nil {
		return err
	} else if len(d) > 0 {
		if err := r.host.WriteWatched(m.Path, m.Data, m.Mode); err != nil {
			return err
		}
		r.wrote = true
	}
	limit := constants.StopTimeout + noticed
	return r.until(ctx, limit, func(v seen) bool { return !r.outdated(v) },
		errs.New(errs.Timeout, "etcd still runs with other settings: no kubelet has restarted its pod within %s", limit))
}

// placeGuard makes the guard, and has all of the data belong to the user of the pod.
func (r *podRunning) placeGuard(ctx context.Context) error {
	g := r.guard()
	member := path.Dir(g.Path)
	if err := r.host.MkdirAll(member, 0o700); err != nil {
		return err
	}
	if info, err := r.host.Stat(member); err == nil && !r.host.Owns(r.Owner(), info) {
		if err := r.host.GiveTree(member, r.Owner()); err != nil {
			return err
		}
	}
	d, err := g.Check(ctx)
	if err != nil || len(d) == 0 {
		return err
	}
	if info, err := r.host.Lstat(g.Path); err == nil && info.IsDir() { // made by a container runtime, in place of one that was lost
		if err := r.host.Remove(g.Path); err != nil {
			return err
		}
	}
	return g.Apply(ctx)
}

// until looks until what is seen is as wanted, or late is due.
func (k *kubelet) until(ctx context.Context, limit time.Duration, holds func(seen) bool, late *errs.Error) error {
	for deadline := time.Now().Add(limit); ; {
		v, err := k.look(ctx)
		switch {
		case err != nil:
			return err
		case holds(v):
			return nil
		case time.Now().After(deadline):
			return late.Hint("see whether a kubelet reads %s (staticPodPath of its configuration): journalctl -u kubelet -n 50", k.pod.ManifestDir)
		}
		if err := pause(ctx, askAgain); err != nil {
			return err
		}
	}
}

// podStopped is no manifest, and no etcd.
type podStopped struct{ *kubelet }

// Check looks at both.
func (s podStopped) Check(ctx context.Context) (converge.Diff, error) {
	d, err := s.noManifest().Check(ctx)
	if err != nil || len(d) > 0 {
		return d, err
	}
	v, err := s.look(ctx)
	if err == nil && v.running {
		d = converge.Diff{{What: "etcd", Have: "running", Want: "stopped"}}
	}
	return d, err
}

// Apply removes the manifest, and waits until the kubelet has stopped etcd.
func (s podStopped) Apply(ctx context.Context) error {
	if err := s.noManifest().Apply(ctx); err != nil {
		return err
	}
	limit := constants.StopTimeout - stopMargin
	return s.until(ctx, limit, func(v seen) bool { return !v.running },
		errs.New(errs.Timeout, "etcd still runs: no kubelet has stopped its pod within %s, although %s is gone", limit, s.pod.manifest()))
}

// lastWords are those of an etcd that gave up: the last line of its log that is in the log's own form, if that is fatal.
func lastWords(lines []string) string {
	for _, l := range slices.Backward(lines) {
		var e struct{ Level, Msg, Error string }
		if json.Unmarshal([]byte(l), &e) != nil || e.Level == "" {
			continue
		}
		if e.Level == "fatal" || e.Level == "panic" {
			return strings.TrimSuffix(e.Msg+": "+e.Error, ": ")
		}
		return ""
	}
	return ""
}
