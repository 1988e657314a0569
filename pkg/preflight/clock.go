package preflight

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

const (
	// DriftWarned is where etcd itself begins to complain about the clocks of its peers (server/etcdserver/api/rafthttp).
	DriftWarned = time.Second
	// driftRefused is a clock that nobody sets: certificates and leases will be misjudged as it runs away.
	driftRefused = 5 * time.Minute
)

// Validity is when a certificate holds.
type Validity struct {
	Name                string // "ca.crt"
	NotBefore, NotAfter time.Time
}

// Clock is a clock that fits this program, the certificates and the cluster.
type Clock struct {
	Now   func() time.Time
	Built time.Time // when this program was built, which is past; zero when it is not known
	// Certificates are those that will be used as they are.
	Certificates []Validity
	// Remote returns the time of the cluster, in whole seconds, as its HTTP answers tell it; nil where there is none.
	Remote func(context.Context) (time.Time, error)
}

// Check asks for no time server: a clock is right when it agrees with those it works with.
func (c Clock) Check(ctx context.Context) (converge.Diff, error) {
	now := c.Now()
	if now.Before(c.Built) {
		return nil, setClock(refuse("the clock of this node says %s, but this etcdadm was built at %s", stamp(now), stamp(c.Built)))
	}
	for _, v := range c.Certificates {
		if now.Before(v.NotBefore) {
			return nil, setClock(refuse("%s is valid from %s, and the clock of this node says %s", v.Name, stamp(v.NotBefore), stamp(now)))
		}
		if now.After(v.NotAfter) {
			return nil, setClock(refuse("%s has expired at %s, and the clock of this node says %s", v.Name, stamp(v.NotAfter), stamp(now))).
				Hint("if the clock is right, replace %s", v.Name)
		}
	}
	if c.Remote == nil {
		return nil, nil
	}
	return nil, c.compare(ctx)
}

func (c Clock) compare(ctx context.Context) error {
	before := c.Now()
	remote, err := c.Remote(ctx)
	after := c.Now()
	var invalid x509.CertificateInvalidError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return setClock(refuse("a certificate of the cluster is not valid at %s, the time of this node: %w", stamp(before), err))
	case err != nil:
		converge.Warnf(ctx, "the clock of the cluster is not known: %v", err)
		return nil
	}
	switch drift, direction := Drift(before, remote, after); {
	case drift >= driftRefused:
		return setClock(refuse("the clock of this node says %s, and that of the cluster %s", stamp(after), stamp(remote)))
	case drift >= DriftWarned:
		converge.Warnf(ctx, "the clock of this node is %s %s that of the cluster; etcd complains from %s on: timedatectl set-ntp true", drift, direction, DriftWarned)
	}
	return nil
}

// Drift tells how far a clock is behind or ahead of another one, in whole seconds. The other one told its time, in whole
// seconds, at some moment between two of this one: what may be the wait for the answer is no drift.
func Drift(before, remote, after time.Time) (drift time.Duration, direction string) {
	drift, direction = remote.Sub(after), "behind"
	if ahead := before.Sub(remote.Add(time.Second)); ahead > drift {
		drift, direction = ahead, "ahead of"
	}
	return max(0, drift.Truncate(time.Second)), direction
}

func setClock(e *errs.Error) *errs.Error {
	return e.Hint("set the clock of this node: timedatectl set-ntp true")
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
