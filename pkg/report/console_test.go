package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// story is a run in which everything happens that can.
func story(c *Console) {
	gap := converge.Diff{{What: "peer.crt", Have: "absent", Want: "issued"}}
	c.Event(converge.Event{Kind: converge.PhaseStarted, Phase: "preflight", Text: "look before anything changes"})
	c.Event(converge.Event{Kind: converge.Warning, Phase: "preflight", Step: "preflight/proxy", Text: "HTTPS_PROXY catches\n10.0.0.1"})
	c.Event(converge.Event{Kind: converge.Problem, Phase: "preflight", Step: "preflight/port-2380", Text: "port 2380 is taken by pid 812 (etcd)"})
	c.Event(converge.Event{Kind: converge.PhaseStarted, Phase: "install", Text: "install etcd 3.6.14"})
	for _, done := range []int64{0, 5 << 20, 10 << 20, 20 << 20, 20 << 20} {
		c.Event(converge.Event{Kind: converge.Bytes, Phase: "install", Step: "install/archive", Short: "release", Done: done, Total: 20 << 20})
	}
	c.Event(converge.Event{Kind: converge.StepDone, Phase: "install", Step: "install/archive", Short: "release", Status: converge.Changed})
	c.Event(converge.Event{Kind: converge.Bytes, Phase: "install", Step: "install/other", Short: "other", Done: 10})
	c.Event(converge.Event{Kind: converge.Bytes, Phase: "install", Step: "install/other", Short: "other", Done: 2048})
	c.Event(converge.Event{Kind: converge.PhaseStarted, Phase: "certificates"})
	c.Event(converge.Event{Kind: converge.Applying, Phase: "certificates", Step: "certificates/peer", Short: "peer certificate", Diff: gap})
	c.Event(converge.Event{Kind: converge.Note, Phase: "certificates", Step: "certificates/peer", Text: "made a key"})
	c.Event(converge.Event{Kind: converge.StepDone, Phase: "certificates", Step: "certificates/peer", Short: "peer certificate", Status: converge.Changed, Diff: gap})
	c.Event(converge.Event{Kind: converge.Waiting, Phase: "health", Step: "health/member", Short: "member serves", Diff: converge.Diff{{What: "etcd", Have: "starting", Want: "serving"}}})
	c.Event(converge.Event{Kind: converge.Warning, Phase: "health", Step: "health/alarms", Text: "alarm NOSPACE"})
	c.Warn("bindAddress was guessed")
	c.Logger().With("a", 1).WithGroup("g").Debug("retrying", "endpoint", "10.0.0.1")
	c.Error(errs.New(errs.Timeout, "member serves:\nstill not so \x1b[31m").Hint("run it again").Hint("look at the log"))
	c.Close()
}

func TestConsoleLines(t *testing.T) {
	const (
		always = `[ERROR port-2380] port 2380 is taken by pid 812 (etcd)
etcdadm: error: member serves: still not so [31m
etcdadm: hint: run it again
etcdadm: hint: look at the log
`
		warn = `[WARNING proxy] HTTPS_PROXY catches 10.0.0.1
[ERROR port-2380] port 2380 is taken by pid 812 (etcd)
[health] warning: alarm NOSPACE
etcdadm: warning: bindAddress was guessed
etcdadm: error: member serves: still not so [31m
etcdadm: hint: run it again
etcdadm: hint: look at the log
`
		info = `[preflight] look before anything changes
[WARNING proxy] HTTPS_PROXY catches 10.0.0.1
[ERROR port-2380] port 2380 is taken by pid 812 (etcd)
[install] install etcd 3.6.14
[install] release: 0 B of 20.0 MiB
[install] release: all 20.0 MiB
[install] other: 10 B
[install] other: 2.0 KiB
[certificates] peer certificate (peer.crt: absent, want issued)
[certificates] made a key
[health] waiting for: member serves (etcd: starting, want serving)
[health] warning: alarm NOSPACE
etcdadm: warning: bindAddress was guessed
etcdadm: error: member serves: still not so [31m
etcdadm: hint: run it again
etcdadm: hint: look at the log
`
	)
	for level, want := range map[slog.Level]string{slog.LevelError: always, slog.LevelWarn: warn, slog.LevelInfo: info} {
		var b bytes.Buffer
		story(NewConsole(&b, level, false))
		if d := cmp.Diff(want, b.String()); d != "" {
			t.Errorf("%s:\n%s", level, d)
		}
	}
	var b bytes.Buffer
	story(NewConsole(&b, slog.LevelDebug, false))
	for _, line := range []string{
		"[install] release: changed\n",
		"[certificates] peer certificate: changed (peer.crt: absent, want issued)\n",
		"etcdadm: debug: retrying a=1 g.endpoint=10.0.0.1\n",
	} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("no line %q in\n%s", line, b.String())
		}
	}
}

// Each line is one JSON object; times are RFC 3339 in UTC.
func TestConsoleJSON(t *testing.T) {
	var b bytes.Buffer
	story(NewConsole(&b, slog.LevelInfo, true))
	var lines []map[string]any
	for l := range strings.Lines(b.String()) {
		var o map[string]any
		if err := json.Unmarshal([]byte(l), &o); err != nil {
			t.Fatalf("%v in %s", err, l)
		}
		if at, err := time.Parse(time.RFC3339Nano, o["time"].(string)); err != nil || at.Location() != time.UTC {
			t.Errorf("time %v", o["time"])
		}
		delete(o, "time")
		lines = append(lines, o)
	}
	if len(lines) != 14 {
		t.Errorf("%d lines in\n%s", len(lines), b.String())
	}
	for i, want := range map[int]map[string]any{
		2:              {"level": "error", "msg": "port 2380 is taken by pid 812 (etcd)", "event": "problem", "phase": "preflight", "step": "preflight/port-2380"},
		5:              {"level": "info", "msg": "release: all 20.0 MiB", "event": "progress", "phase": "install", "step": "install/archive", "bytes": float64(20 << 20)},
		len(lines) - 1: {"level": "error", "msg": "member serves: still not so [31m", "status": float64(5), "hints": []any{"run it again", "look at the log"}},
	} {
		if d := cmp.Diff(want, lines[i]); d != "" {
			t.Errorf("line %d:\n%s", i, d)
		}
	}
}

// On a terminal a bar is drawn, and is gone before any line: every line begins on an empty one.
func TestConsoleTerminal(t *testing.T) {
	var b bytes.Buffer
	c := NewConsole(&b, slog.LevelInfo, false)
	c.terminal, c.color = true, true
	story(c)
	out := b.String()
	if !strings.Contains(out, "[install] release  ") || !strings.Contains(out, "MiB") {
		t.Errorf("no bar in %q", out)
	}
	for l := range strings.Lines(out) {
		const clear = "\x1b[2K\r"
		visible := l[strings.LastIndex(l, clear)+1:]
		if i := strings.LastIndex(l, clear); i >= 0 {
			visible = l[i+len(clear):]
		}
		if strings.Contains(visible, "\r") {
			t.Errorf("a bar is left in the line %q", l)
		}
	}
	for _, want := range []string{"\x1b[33m[WARNING proxy]\x1b[0m ", "\x1b[31merror:\x1b[0m ", "\x1b[36mhint:\x1b[0m "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	if strings.Contains(out, "still not so \x1b") {
		t.Error("an escape sequence of a message reached the terminal")
	}
}

// What is no terminal gets no colours and no bars.
func TestNoTerminal(t *testing.T) {
	var b bytes.Buffer
	story(NewConsole(&b, slog.LevelDebug, false))
	if strings.ContainsAny(b.String(), "\x1b\r") {
		t.Errorf("%q", b.String())
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 22_900_000: "21.8 MiB", 8 << 30: "8.0 GiB", 5 << 50: "5120.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// A real terminal gets bars and colours; NO_COLOR takes the colours away, TERM=dumb both, JSON both.
func TestTerminalIsSeen(t *testing.T) {
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("this machine has no pseudo terminals: ", err)
	}
	defer control.Close()
	number, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	for _, c := range []struct {
		noColor, term          string
		json, terminal, colour bool
	}{
		{"", "xterm", false, true, true},
		{"1", "xterm", false, true, false},
		{"", "dumb", false, false, false},
		{"", "xterm", true, false, false},
	} {
		t.Setenv("NO_COLOR", c.noColor)
		t.Setenv("TERM", c.term)
		if got := NewConsole(terminal, slog.LevelInfo, c.json); got.terminal != c.terminal || got.color != c.colour {
			t.Errorf("%+v: terminal %v, colour %v", c, got.terminal, got.color)
		}
	}
}
