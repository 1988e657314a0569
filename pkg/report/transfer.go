package report

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/schollz/progressbar/v3"

	"etcdadm/pkg/converge"
)

// transfer is the one transfer of bytes that is under way.
type transfer struct {
	event converge.Event // the last one
	bar   *progressbar.ProgressBar
	ended bool // its end has been told
}

// hide takes the bar off the terminal. The next Set draws it again.
func (t *transfer) hide() {
	if t != nil && t.bar != nil {
		_ = t.bar.Clear()
	}
}

// progress draws the bar on a terminal, or tells the beginning elsewhere, and tells the end.
func (c *Console) progress(e converge.Event) {
	if c.level > slog.LevelInfo {
		return
	}
	c.mu.Lock()
	t := c.transfer
	begins := t == nil || t.event.Step != e.Step || t.event.Total != e.Total || e.Done < t.event.Done
	if begins {
		t.hide()
		t = &transfer{}
		if c.terminal {
			t.bar = bar(c.w, e)
		}
		c.transfer = t
	}
	ends := e.Total > 0 && e.Done >= e.Total && !t.ended
	t.event, t.ended = e, t.ended || ends
	if t.bar != nil && !t.ended {
		_ = t.bar.Set64(e.Done)
	}
	c.mu.Unlock()
	switch {
	case ends:
		c.tell(e, fmt.Sprintf("%s: all %s", e.Short, size(e.Total)))
	case begins && t.bar == nil && e.Total > 0:
		c.tell(e, fmt.Sprintf("%s: %s of %s", e.Short, size(e.Done), size(e.Total)))
	case begins && t.bar == nil:
		c.tell(e, fmt.Sprintf("%s: %s", e.Short, size(e.Done)))
	}
}

// endTransfer takes the bar away for good. How far a transfer came that was not seen to end is told in a line.
func (c *Console) endTransfer() {
	c.mu.Lock()
	t := c.transfer
	c.transfer = nil
	t.hide()
	c.mu.Unlock()
	if t != nil && !t.ended && t.event.Done > 0 {
		c.tell(t.event, fmt.Sprintf("%s: %s", t.event.Short, size(t.event.Done)))
	}
}

func (c *Console) tell(e converge.Event, text string) {
	c.log.LogAttrs(context.Background(), slog.LevelInfo, fold(text), append(attrs(e), slog.Int64("bytes", e.Done))...)
}

func bar(w io.Writer, e converge.Event) *progressbar.ProgressBar {
	total := e.Total
	if total <= 0 {
		total = -1
	}
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(struct{ io.Writer }{w}), // a file it would sync each time
		progressbar.OptionUseANSICodes(true),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetDescription("["+e.Phase+"] "+e.Short),
		progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionSetWidth(24),
		progressbar.OptionThrottle(65*time.Millisecond),
		progressbar.OptionSetSpinnerChangeInterval(0), // otherwise a goroutine draws, and may do so over our lines
	)
}

// size returns a number of bytes for people.
func size(n int64) string {
	const units = "KMGT"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/(1<<10), 0
	for v >= 1<<10 && unit < len(units)-1 {
		v, unit = v/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[unit])
}
