// Package report turns what a run found and did into what people and programs read: one result on standard output, and
// progress, warnings and errors on standard error. Nothing else in etcdadm prints.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// Format is the form of a result.
type Format string

// The forms of a result.
const (
	Text Format = "text"
	JSON Format = "json"
	YAML Format = "yaml"
)

// Formats lists the known formats, the default first.
var Formats = []Format{Text, JSON, YAML}

// ParseFormat reads the value of --output. An unknown one is a usage error.
func ParseFormat(s string) (Format, error) {
	if !slices.Contains(Formats, Format(s)) {
		return "", errs.New(errs.Usage, "output format %q is unknown", s).Hint("use -o text, -o json or -o yaml")
	}
	return Format(s), nil
}

// Write writes one result and a line break: doc as one line of JSON or as YAML, or what text writes. The keys of doc are
// those of its json tags in both.
func Write(w io.Writer, f Format, doc any, text func(io.Writer) error) error {
	switch f {
	case JSON:
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return e.Encode(doc)
	case YAML:
		b, err := marshalYAML(doc)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
	return text(w)
}

// Document is the result of an operation. Programs read it: within a version of the API, fields are only added. Durations are
// seconds, member ids are hexadecimal, and it holds no secret because a Diff holds none.
type Document struct {
	APIVersion string                `json:"apiVersion"`
	Kind       string                `json:"kind"`
	Operation  string                `json:"operation"`
	Changed    bool                  `json:"changed"`
	Failed     bool                  `json:"failed"`
	DryRun     bool                  `json:"dryRun"`
	Msg        string                `json:"msg"`
	Member     *Member               `json:"member,omitempty"`
	Steps      []converge.StepResult `json:"steps"`
	Warnings   []string              `json:"warnings"`
	Next       []Next                `json:"next"`
	Error      *Failure              `json:"error,omitempty"`
}

// Member is a member of a cluster.
type Member struct {
	ID   string `json:"id"` // hexadecimal
	Name string `json:"name"`
}

// Next is what the user may want to do now.
type Next struct {
	Description string `json:"description"`
	Command     string `json:"command"`
}

// Failure is why an operation failed.
type Failure struct {
	Status    errs.Status `json:"status"`         // the exit status
	Step      string      `json:"step,omitempty"` // "" when it was none
	Reason    string      `json:"reason"`
	Hint      string      `json:"hint,omitempty"` // one hint per line
	Retryable bool        `json:"retryable"`
}

// New makes the document of a run. An operation that failed before its run began is a Result with nothing but Err.
func New(operation string, r *converge.Result) Document {
	d := Document{
		APIVersion: constants.ConfigAPIVersion, Kind: "Result", Operation: operation,
		Changed: r.Changed, Failed: r.Err != nil, DryRun: r.DryRun,
		Steps: []converge.StepResult{}, Warnings: []string{}, Next: []Next{},
	}
	pending := 0
	for _, s := range r.Steps {
		s.Seconds = math.Round(s.Seconds*1000) / 1000
		d.Steps = append(d.Steps, s)
		if s.Status == converge.Pending {
			pending++
		}
	}
	d.Warnings = append(d.Warnings, r.Warnings...)
	asFarAs := ""
	if r.Unknown() {
		asFarAs = ", as far as this user can see"
	}
	switch {
	case r.Err != nil:
		status := errs.StatusOf(r.Err)
		d.Error = &Failure{
			Status: status, Step: r.FailedStep, Reason: fold(r.Err.Error()),
			Hint: strings.Join(errs.HintsOf(r.Err), "\n"), Retryable: status.Retryable(),
		}
		d.Msg = d.Error.Reason
	case !r.Changed:
		d.Msg = "nothing to do" + asFarAs
	case r.DryRun:
		d.Msg = fmt.Sprintf("%d of %d steps have something to do", pending, len(r.Steps)) + asFarAs
	default:
		d.Msg = operation + ": done"
	}
	return d
}

// Text writes the document for people: what was reached and what they may do next, or in a dry run what would change. A
// failure has no result; it stands on standard error.
func (d Document) Text(w io.Writer) error {
	var b strings.Builder
	if d.DryRun {
		d.plan(&b)
	}
	if !d.Failed {
		fmt.Fprintln(&b, d.Msg)
		for _, n := range d.Next {
			fmt.Fprintf(&b, "\n%s:\n\n  %s\n", n.Description, n.Command)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (d Document) plan(w io.Writer) {
	label := "would change"
	if !d.Changed { // an awaited state does not hold, and no step of ours would bring it about
		label = "does not hold:"
	}
	for _, s := range d.Steps {
		switch s.Status {
		case converge.Pending:
			fmt.Fprintf(w, "%s %s: %s\n", label, s.Step, s.Diff)
		case converge.Unknown:
			fmt.Fprintf(w, "not known: %s: %s\n", s.Step, fold(s.Reason))
		}
	}
}

// fold brings text of any origin into one line, without control characters that a terminal would obey.
func fold(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}
