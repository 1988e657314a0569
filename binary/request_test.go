package binary

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A limit that is over is why a request failed, whoever has noticed first.
func TestALimitThatIsOverIsTheCause(t *testing.T) {
	connect, stall := &limit{"no connection within", time.Hour}, &limit{"no byte for", time.Hour}
	for name, c := range map[string]struct {
		watched *limit
		ago     time.Duration
		want    error
	}{
		"before its time":     {connect, time.Minute, nil},
		"after its time":      {connect, time.Hour, connect},
		"while another holds": {stall, 2 * time.Hour, nil},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		w := &watchdog{cancel: cancel}
		w.watch(c.watched)
		w.since = w.since.Add(-c.ago)
		w.late(connect)
		if got := context.Cause(ctx); !errors.Is(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		w.stop()
	}
}
