package preflight

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/host"
)

const (
	// What etcd appends to its log for a small write, and how often it is tried at most.
	syncSize, syncCount = 2300, 2000
	// syncLimit is for a disk that is much too slow, and syncFirst for one that is not fast but has yet to be too slow once.
	syncLimit, syncFirst = 2 * time.Second, 500 * time.Millisecond
	// syncWarned is what etcd's documentation asks of the 99th percentile of fdatasync.
	syncWarned = 10 * time.Millisecond
)

// DiskLatency is a disk that is fast enough for etcd's log. It is the one check that writes, as there is no other way to
// know: into a file without a name, of which nothing stays. A host that is only looked at is not measured. It ends as soon as
// it is clear what it will say, so that nodes that join at the same moment come to the cluster at the same moment.
type DiskLatency struct {
	Host *host.Host
	Path string
}

// Check measures, and warns.
func (d DiskLatency) Check(ctx context.Context) (converge.Diff, error) {
	if d.Host.ReadOnly() {
		return nil, nil
	}
	all, err := d.Host.SyncLatencies(ctx, d.Path, syncSize, syncLimit, (&judge{began: time.Now()}).more)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EROFS): // other checks name such file systems
		return nil, nil
	case err != nil:
		converge.Warnf(ctx, "the latency of the disk of %s cannot be measured: %v", d.Path, err)
		return nil, nil
	case len(all) == 0:
		return nil, nil
	}
	if p99 := percentile99(all); p99 > syncWarned {
		converge.Warnf(ctx, "the disk of %s takes %s for a sync (99th percentile of %d), and etcd needs %s: give it a local SSD of its own",
			d.Path, p99.Round(100*time.Microsecond), len(all), syncWarned)
	}
	return nil, nil
}

// judge counts syncs, and those of them that are too slow.
type judge struct {
	began   time.Time
	n, slow int
}

// more tells whether another sync could change what is said of a disk.
func (j *judge) more(took time.Duration) bool {
	j.n++
	if took > syncWarned {
		j.slow++
	}
	switch {
	case j.n >= syncCount, j.slow > syncCount/100:
		return false // the percentile is known
	case j.slow == 0 && time.Since(j.began) > syncFirst:
		return false
	}
	return !unlikely(j.slow, j.n)
}

// unlikely tells whether so few of n syncs are too slow on less than one in a hundred of the disks of which one sync in a
// hundred is: the distribution of Poisson.
func unlikely(slow, n int) bool {
	mean := float64(n) / 100
	term, sum := math.Exp(-mean), 0.0
	for k := range slow + 1 {
		if k > 0 {
			term *= mean / float64(k)
		}
		sum += term
	}
	return sum < 0.01
}

// percentile99 is the value that one in a hundred exceeds.
func percentile99(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)*99-1)/100]
}
