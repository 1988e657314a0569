package report

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// ParseLevel reads the value of --log-level. An unknown one is a usage error.
func ParseLevel(s string) (slog.Level, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "warning": slog.LevelWarn, "error": slog.LevelError}
	l, ok := levels[strings.ToLower(s)]
	if !ok {
		return 0, errs.New(errs.Usage, "log level %q is unknown", s).Hint("use --log-level debug, info, warn or error")
	}
	return l, nil
}

// ParseLogFormat reads the value of --log-format, and tells whether it is JSON. An unknown one is a usage error.
func ParseLogFormat(s string) (bool, error) {
	if s != "text" && s != "json" {
		return false, errs.New(errs.Usage, "log format %q is unknown", s).Hint("use --log-format text or --log-format json")
	}
	return s == "json", nil
}

// Console writes progress, warnings and errors, in the order in which they happen: `[phase] sentence` lines for people, or
// one JSON object per line. A transfer is a bar on a terminal, and a line at its start and its end elsewhere.
type Console struct {
	mu              sync.Mutex
	w               io.Writer
	level           slog.Level
	json            bool
	terminal, color bool
	log             *slog.Logger
	transfer        *transfer
}

// NewConsole returns a console that leaves out what is below the level. On a terminal it draws bars, and colours unless
// NO_COLOR is set (https://no-color.org).
func NewConsole(w io.Writer, level slog.Level, json bool) *Console {
	c := &Console{w: w, level: level, json: json}
	if f, ok := w.(*os.File); ok && !json {
		c.terminal = term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
		c.color = c.terminal && os.Getenv("NO_COLOR") == ""
	}
	if json {
		c.log = slog.New(slog.NewJSONHandler(above{c}, &slog.HandlerOptions{Level: level, ReplaceAttr: plainAttr}))
	} else {
		c.log = slog.New(lineHandler{c: c})
	}
	return c
}

// Logger returns a logger that writes to the console, for libraries.
func (c *Console) Logger() *slog.Logger { return c.log }

// Event reports what happened in a run. It is the Events of converge.Options.
func (c *Console) Event(e converge.Event) {
	if e.Kind == converge.Bytes {
		c.progress(e)
		return
	}
	c.endTransfer()
	level, text := sentence(e)
	if text == "" {
		return
	}
	c.log.LogAttrs(context.Background(), level, fold(text), attrs(e)...)
}

func attrs(e converge.Event) []slog.Attr {
	list := []slog.Attr{slog.String("event", string(e.Kind)), slog.String("phase", e.Phase)}
	if e.Step != "" {
		list = append(list, slog.String("step", e.Step))
	}
	if e.Status != "" {
		list = append(list, slog.String("status", string(e.Status)))
	}
	return list
}

// Warn reports a warning of the command itself, outside of any run.
func (c *Console) Warn(text string) { c.log.Warn(fold(text)) }

// Error reports why the command failed: the reason in one line, then the hints.
func (c *Console) Error(err error) {
	c.endTransfer()
	reason, hints := fold(err.Error()), errs.HintsOf(err)
	if c.json {
		c.log.Error(reason, "status", int(errs.StatusOf(err)), "hints", append([]string{}, hints...))
		return
	}
	c.line("etcdadm: " + c.paint(red, "error:") + " " + reason)
	for _, h := range hints {
		c.line("etcdadm: " + c.paint(cyan, "hint:") + " " + fold(h))
	}
}

// Close ends what is still drawn.
func (c *Console) Close() { c.endTransfer() }

// sentence returns what is said about an event, and how important it is.
func sentence(e converge.Event) (slog.Level, string) {
	short := e.Short
	if short == "" {
		short = e.Step
	}
	switch e.Kind {
	case converge.PhaseStarted, converge.Note:
		return slog.LevelInfo, e.Text
	case converge.Applying:
		return slog.LevelInfo, fmt.Sprintf("%s (%s)", short, e.Diff)
	case converge.Waiting:
		return slog.LevelInfo, fmt.Sprintf("waiting for: %s (%s)", short, e.Diff)
	case converge.StepDone:
		if len(e.Diff) > 0 {
			return slog.LevelDebug, fmt.Sprintf("%s: %s (%s)", short, e.Status, e.Diff)
		}
		return slog.LevelDebug, fmt.Sprintf("%s: %s", short, e.Status)
	case converge.Warning:
		return slog.LevelWarn, e.Text
	case converge.Problem:
		return slog.LevelError, e.Text
	}
	return slog.LevelDebug, ""
}

// Colours of ECMA-48.
const (
	red    = "31"
	yellow = "33"
	cyan   = "36"
)

func (c *Console) paint(color, s string) string {
	if !c.color {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

func (c *Console) line(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transfer.hide()
	_, _ = io.WriteString(c.w, s+"\n") // where standard error does not take it, there is nobody to tell
}
