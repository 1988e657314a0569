package report

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// above writes lines above the bar that may be drawn.
type above struct{ c *Console }

func (a above) Write(b []byte) (int, error) {
	a.c.line(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// plainAttr writes times in UTC and levels in the spelling of --log-level.
func plainAttr(groups []string, a slog.Attr) slog.Attr {
	switch {
	case len(groups) > 0:
	case a.Key == slog.TimeKey:
		a.Value = slog.StringValue(a.Value.Time().UTC().Format(time.RFC3339Nano))
	case a.Key == slog.LevelKey:
		a.Value = slog.StringValue(strings.ToLower(a.Value.String()))
	}
	return a
}

// lineHandler writes records as lines for people.
type lineHandler struct {
	c     *Console
	attrs []slog.Attr
	group string // "a.b."
}

func (h lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.c.level }

func (h lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], h.named(attrs)...)
	return h
}

func (h lineHandler) WithGroup(name string) slog.Handler {
	h.group += name + "."
	return h
}

func (h lineHandler) named(attrs []slog.Attr) []slog.Attr {
	out := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		out[i] = slog.Attr{Key: h.group + a.Key, Value: a.Value}
	}
	return out
}

func (h lineHandler) Handle(_ context.Context, r slog.Record) error {
	var own []slog.Attr
	r.Attrs(func(a slog.Attr) bool { own = append(own, a); return true })
	phase, step, more := "", "", ""
	for _, a := range append(h.attrs[:len(h.attrs):len(h.attrs)], h.named(own)...) {
		switch a.Key {
		case "phase":
			phase = a.Value.String()
		case "step":
			step = a.Value.String()
		case "event", "status", "bytes": // the sentence says it
		default:
			more += " " + a.Key + "=" + fold(a.Value.String())
		}
	}
	h.c.line(h.prefix(r.Level, phase, step) + fold(r.Message) + more)
	return nil
}

// ofChecks are the phases whose steps have names that callers know: those that --ignore-preflight-errors takes.
var ofChecks = []string{"preflight", "cluster"}

// prefix names the check that speaks, or the phase, or the program.
func (h lineHandler) prefix(l slog.Level, phase, step string) string {
	label, color := "", ""
	switch {
	case l >= slog.LevelError:
		label, color = "error", red
	case l >= slog.LevelWarn:
		label, color = "warning", yellow
	case l < slog.LevelInfo:
		label = "debug"
	}
	if slices.Contains(ofChecks, phase) && step != "" && color != "" {
		name := step[strings.LastIndexByte(step, '/')+1:]
		return h.c.paint(color, "["+strings.ToUpper(label)+" "+name+"]") + " "
	}
	from := "etcdadm: "
	if phase != "" {
		from = "[" + phase + "] "
	}
	switch {
	case color != "":
		return from + h.c.paint(color, label+":") + " "
	case label != "" && phase == "":
		return from + label + ": "
	}
	return from
}
