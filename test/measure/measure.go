// Package measure compares times, and says of each target whether it is reached.
package measure

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A Row is one line of a table, as people read it.
type Row struct {
	What, Value, Bare, Ratio, Target string
	Missed                           bool
}

// Show prints a table, and tells whether a target is missed.
func Show(out io.Writer, rows []Row) (missed bool) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tETCDADM\tBARE\tRATIO\tTARGET\t")
	for _, r := range rows {
		verdict := ""
		switch {
		case r.Missed:
			verdict, missed = "not reached", true
		case r.Target != "":
			verdict = "reached"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.What, r.Value, r.Bare, r.Ratio, r.Target, verdict)
	}
	_ = w.Flush()
	return missed
}

// Against compares two medians; limit is the ratio to keep, 0: there is none.
func Against(what string, ours, bare []time.Duration, limit float64) Row {
	ratio := Median(ours).Seconds() / Median(bare).Seconds()
	r := Row{What: what, Value: spread(ours), Bare: spread(bare), Ratio: fmt.Sprintf("%.2f", ratio)}
	if limit > 0 {
		r.Target, r.Missed = fmt.Sprintf("ratio <= %.2f", limit), ratio > limit
	}
	return r
}

// Within compares a median with a limit of its own; 0: there is none.
func Within(what string, times []time.Duration, limit time.Duration) Row {
	r := Row{What: what, Value: spread(times)}
	if limit > 0 {
		r.Target, r.Missed = "<= "+limit.String(), Median(times) > limit
	}
	return r
}

// Median is the middle one of the times; 0 when there are none.
func Median(d []time.Duration) time.Duration { return quantile(d, 0.5) }

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	at := q * float64(len(s)-1)
	low := int(at)
	high := min(low+1, len(s)-1)
	return s[low] + time.Duration((at-float64(low))*float64(s[high]-s[low]))
}

// spread shows a median and its quartiles, in milliseconds.
func spread(d []time.Duration) string {
	ms := func(q float64) string {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(quantile(d, q))/1e6), ".0")
	}
	return fmt.Sprintf("%s ms (%s .. %s)", ms(0.5), ms(0.25), ms(0.75))
}
