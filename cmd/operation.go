package cmd

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"etcdadm/constants"
	"etcdadm/pkg/api"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
	"etcdadm/pkg/lifecycle"
	"etcdadm/pkg/report"
)

// plan makes the phases of an operation. It does not touch the node: help shows phases before there is one.
type plan func(*lifecycle.Node) []converge.Phase

// operation holds the flags of a command that changes a node.
type operation struct {
	*app
	name             string
	settings         settings
	dryRun, detailed bool
	skip, ignore     []string
	risks            []string
	sums             string
}

// risks that can be accepted by name, each by the commands that know it.
var risks = map[string][]string{
	lifecycle.RiskUnverifiedDownload: {"init", "join", "restore", "download"},
	lifecycle.RiskLoseQuorum:         {"init", "join"},
}

// newOperation gives a command the flags that every operation has.
func newOperation(a *app, c *cobra.Command, name string) *operation {
	o := &operation{app: a, name: name, settings: addSettings(c, name)}
	f := c.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "tell what would change, and change nothing; needs no root")
	f.BoolVar(&o.detailed, "detailed-exitcode", false, "with --dry-run: exit status 2 when something would change")
	f.StringSliceVar(&o.ignore, "ignore-preflight-errors", nil, "preflight checks whose errors become warnings, by name, or all")
	known := o.knownRisks()
	if len(known) > 0 {
		f.StringSliceVar(&o.risks, "accept-risk", nil, "go on in spite of a named risk: "+strings.Join(known, ", "))
		f.StringVar(&o.sums, "sha256sums", "", "file of digests to trust instead of the compiled-in ones, in the format of SHA256SUMS")
	}
	return o
}

func (o *operation) knownRisks() []string {
	var known []string
	for risk, commands := range risks {
		if slices.Contains(commands, o.name) {
			known = append(known, risk)
		}
	}
	slices.Sort(known)
	return known
}

// withSkip adds --skip-phases, and the table of phases to the help.
func (o *operation) withSkip(c *cobra.Command, p plan) *operation {
	c.Flags().StringSliceVar(&o.skip, "skip-phases", nil, "phases to leave out, by name")
	c.Long += "\n\nPhases:\n" + phaseTable(p)
	return o
}

func phaseTable(p plan) string {
	var b strings.Builder
	for _, phase := range p(&lifecycle.Node{}) {
		b.WriteString("  " + phase.Name + strings.Repeat(" ", max(1, 24-len(phase.Name))) + phase.Short + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// run brings the node to the state of the plan, or of the named phases of it, and reports.
func (o *operation) run(ctx context.Context, p plan, only ...string) error {
	if o.detailed && !o.dryRun {
		return errs.New(errs.Usage, "--detailed-exitcode goes with --dry-run").Hint("add --dry-run")
	}
	for _, r := range o.risks {
		if !slices.Contains(o.knownRisks(), r) {
			return errs.New(errs.Usage, "--accept-risk: %q is not a risk of %s", r, o.name).Hint("the risks are: %s", strings.Join(o.knownRisks(), ", "))
		}
	}
	for _, name := range o.ignore {
		if known := append([]string{"all"}, lifecycle.CheckNames...); !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) }) {
			return errs.New(errs.Usage, "--ignore-preflight-errors: there is no check %q%s", name, api.DidYouMean(name, known, "%s")).
				Hint("the checks are %s; all stands for every one", strings.Join(lifecycle.CheckNames, ", "))
		}
	}
	var opts []host.Option
	if o.dryRun {
		opts = append(opts, host.ReadOnly())
	}
	node, err := o.node(o.name, o.settings, opts...)
	if err != nil {
		return err
	}
	defer node.Close()
	if node.Sums, err = o.readSums(o.sums); err != nil {
		return err
	}
	node.AcceptUnverified = slices.Contains(o.risks, lifecycle.RiskUnverifiedDownload)
	node.AcceptLoseQuorum = slices.Contains(o.risks, lifecycle.RiskLoseQuorum)
	phases := p(node)
	open := slices.Contains(node.Transient, versionKey)
	if len(only) > 0 {
		phases, err = lifecycle.Only(phases, only...)
	} else {
		node.Transient = nil
		phases, err = converge.Without(phases, o.skip...)
	}
	if err != nil {
		return errs.New(errs.Usage, "--skip-phases: %w", err)
	}
	if open && o.brings(phases) {
		if err := o.chooseVersion(ctx, node); err != nil {
			return err
		}
	}
	done := false
	if !o.dryRun {
		unfinished := node.Host.Unfinished(constants.LockFile)
		release, err := node.Host.Lock(constants.LockFile)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return errs.New(errs.Precondition, "this user may not change the node: %w", err).
				Hint("run it as root, for example with sudo").Hint("to see what would be done, any user may add --dry-run")
		case errors.Is(err, syscall.EROFS):
			return errs.New(errs.Precondition, "this node cannot be changed: %w", err).Hint("see how it is mounted: findmnt -T %s", o.root)
		case err != nil:
			return err
		}
		defer func() { release(done) }()
		if unfinished {
			if err := node.SyncNames(); err != nil {
				return err
			}
		}
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	result := converge.Run(ctx, phases, converge.Options{DryRun: o.dryRun, Ignore: o.ignore, Events: o.console.Event})
	done = result.Err == nil
	o.console.Close()
	return o.finish(node, result)
}

// brings tells whether the phases install a release. In a reset the phase of that name is about its absence.
func (o *operation) brings(phases []converge.Phase) bool {
	return slices.Contains(risks[lifecycle.RiskUnverifiedDownload], o.name) &&
		slices.ContainsFunc(phases, func(p converge.Phase) bool { return p.Name == lifecycle.PhaseInstall })
}

// chooseVersion settles the version that nobody named.
func (o *operation) chooseVersion(ctx context.Context, n *lifecycle.Node) error {
	told, err := n.ChooseVersion(ctx)
	if told != "" {
		o.console.Warn(told)
	}
	n.Transient = slices.DeleteFunc(n.Transient, func(key string) bool { return key == versionKey })
	return err
}

// finish writes the result to stdout and turns it into an exit status.
func (o *operation) finish(node *lifecycle.Node, r *converge.Result) error {
	doc := report.New(o.name, r)
	doc.Member = node.Member
	if r.Err == nil && !r.DryRun {
		doc.Next = append(doc.Next, node.Next...)
	}
	o.written = true
	if err := report.Write(o.Out, o.format, doc, doc.Text); err != nil {
		return err
	}
	switch {
	case r.Err != nil:
		return r.Err
	case o.detailed && r.Changed:
		return silent(2)
	case o.detailed && r.Unknown():
		return errs.New(errs.Precondition, "this user may not look at everything, so it is not known whether something would change").Hint("run it as root")
	}
	return nil
}

// writeFailure puts a failure that came before any result on stdout, where the caller asked for a document.
func (a *app) writeFailure(called *cobra.Command, err error) {
	f, ferr := report.ParseFormat(a.output)
	if ferr != nil || f == report.Text {
		return
	}
	name := strings.TrimPrefix(strings.TrimPrefix(called.CommandPath(), "etcdadm"), " ")
	_ = report.Write(a.Out, f, report.New(name, &converge.Result{Err: err}), nil)
}
