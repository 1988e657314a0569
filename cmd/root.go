// Package cmd is the command line of etcdadm: flags become a configuration, a configuration an operation, its result a
// report and an exit status. It is the only package that knows cobra, the standard streams and the environment.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/report"
)

// Streams are the standard streams of a call.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// app is one call of etcdadm: its streams, and the flags that every command has.
type app struct {
	Streams
	hostOptions []host.Option
	environ     []string

	root, configFile, output string
	logLevel, logFormat      string
	timeout                  time.Duration

	unstored bool // go on without the stored configuration

	format  report.Format   // of --output
	console *report.Console // of --log-level and --log-format; nil until they are judged
	written bool            // the result stands on stdout already
}

// Main runs one command line and returns its exit status. The options let tests watch or stop what happens to the host.
func Main(args []string, s Streams, opts ...host.Option) errs.Status {
	// A directory has its mode from the first moment: a run that is killed then leaves none that a careful umask has shut.
	syscall.Umask(0o022)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once: whatever is killed converges when it is run again.
	context.AfterFunc(ctx, stop)

	a := &app{Streams: s, hostOptions: opts, environ: os.Environ()}
	root := New(a)
	root.SetArgs(args)
	called, err := root.ExecuteContextC(ctx)
	if err == nil {
		return errs.OK
	}
	var status silent
	if errors.As(err, &status) {
		return errs.Status(status)
	}
	if errs.StatusOf(err) == errs.Usage && len(errs.HintsOf(err)) == 0 {
		err = errs.New(errs.Usage, "%w", err).Hint("%s --help", called.CommandPath())
	}
	if a.console == nil {
		a.salvage(called, args)
	}
	a.console.Error(err)
	if !a.written {
		a.writeFailure(called, err)
	}
	return errs.StatusOf(err)
}

// silent is the error of a command that has said everything already.
type silent errs.Status

func (s silent) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// Commands returns the command tree for whoever describes it: the generator of the documentation.
func Commands() *cobra.Command { return New(&app{}) }

// New returns the command tree.
func New(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "etcdadm",
		Short: "Set up and care for a node of an etcd cluster",
		Long: `etcdadm brings a node to a desired state: a verified release of etcd, its certificates, its service, and its
membership in a cluster. It runs locally, as root, and whatever is killed is simply run again.

Exit status:
  0    done, or nothing to do
  1    failed
  2    usage or configuration is wrong
  3    a precondition does not hold: preflight, or data or quorum would be lost
  4    another etcdadm holds the lock of this node
  5    timed out; safe to run again
  6    verification failed: digest, certificate chain, snapshot hash
  10   check commands only: attention is needed
  130  interrupted; safe to run again`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		// The flags of a command that was mistyped are unknown too.
		if left := c.Flags().Args(); c.HasSubCommands() && len(left) > 0 && c.ValidateArgs(left) != nil {
			return c.ValidateArgs(left)
		}
		return errs.New(errs.Usage, "%w", err).Hint("%s --help", c.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVar(&a.root, "root", "/", "directory under which every path of the node lies")
	f.StringVar(&a.configFile, "config", "", "configuration file; environment (ETCDADM_*) and flags override it")
	f.StringVarP(&a.output, "output", "o", "text", "format of the result on stdout: text, json or yaml")
	f.StringVarP(&a.logLevel, "log-level", "l", "info", "what is told on stderr: debug, info, warn or error")
	f.StringVar(&a.logFormat, "log-format", "text", "format of what is told on stderr: text or json")
	f.DurationVar(&a.timeout, "timeout", 0, "limit of the whole call; 0: each wait has its own")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return a.checkGlobals() }

	root.AddCommand(
		newInit(a), newJoin(a), newReset(a), newRestore(a), newDownload(a),
		newStatus(a), newInfo(a), newSnapshot(a), newConfig(a), newVersion(a),
		newSupervise(a), newSnapshotWorker(a),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// checkGlobals judges the flags that every command has, and sets up what they ask for.
func (a *app) checkGlobals() error {
	level, err := report.ParseLevel(a.logLevel)
	if err != nil {
		return err
	}
	asJSON, err := report.ParseLogFormat(a.logFormat)
	if err != nil {
		return err
	}
	a.console = report.NewConsole(a.Err, level, asJSON)
	if a.format, err = report.ParseFormat(a.output); err != nil {
		return err
	}
	if a.timeout < 0 {
		return errs.New(errs.Usage, "--timeout is %s; it cannot be negative", a.timeout).Hint("leave --timeout out for the limits of each wait")
	}
	if a.root == "" { // of a script's variable that is not set
		return errs.New(errs.Usage, "--root is empty").Hint("leave --root out for this machine itself")
	}
	a.root, err = filepath.Abs(a.root)
	return err
}

// salvage sets up a console for what went wrong before the flags were judged, in the formats that the caller asked for,
// also behind a flag that could not be read.
func (a *app) salvage(called *cobra.Command, args []string) {
	f := called.Flags()
	f.ParseErrorsAllowlist.UnknownFlags = true
	args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool { // bad syntax would end the reading
		return strings.HasPrefix(arg, "---") || strings.HasPrefix(arg, "--=")
	})
	_ = f.ParseAll(args, func(flag *pflag.Flag, value string) error {
		if flag.Name == "output" || flag.Name == "log-format" {
			return flag.Value.Set(value)
		}
		return nil
	})
	asJSON, _ := report.ParseLogFormat(a.logFormat)
	a.console = report.NewConsole(a.Err, slog.LevelInfo, asJSON)
}

// noArgs refuses arguments with the words of a usage error.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.HasSubCommands() {
		e := errs.New(errs.Usage, "unknown command %q for %s", args[0], c.CommandPath())
		c.SuggestionsMinimumDistance = 2 // edits
		for _, s := range c.SuggestionsFor(args[0]) {
			e = e.Hint("%s %s", c.CommandPath(), s)
		}
		return e.Hint("%s --help", c.CommandPath())
	}
	return errs.New(errs.Usage, "%s takes no argument, got %q", c.CommandPath(), args[0]).Hint("%s --help", c.CommandPath())
}

// oneArg wants exactly one argument that is not empty.
func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 || args[0] == "":
			return errs.New(errs.Usage, "%s needs %s", c.CommandPath(), what).Hint("%s", strings.TrimSpace(c.UseLine()))
		case len(args) > 1:
			return errs.New(errs.Usage, "%s takes one argument, got %d: %q", c.CommandPath(), len(args), args).Hint("%s", strings.TrimSpace(c.UseLine()))
		}
		return nil
	}
}
