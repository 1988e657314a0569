package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

func joined() Document {
	d := New("join", &converge.Result{
		Changed: true,
		Steps: []converge.StepResult{
			{Phase: "preflight", Step: "preflight/root", Status: converge.InSync},
			{Phase: "certificates", Step: "certificates/peer", Status: converge.Changed, Seconds: 0.0123456,
				Diff: converge.Diff{{What: "peer.crt", Have: "absent", Want: "issued"}}},
		},
		Warnings: []string{"the clock is 1.2 s ahead"},
	})
	d.Msg = "etcd-1 is a member"
	d.Member = &Member{ID: "8e9e05c52164694d", Name: "etcd-1"}
	d.Next = []Next{{"join another node", "etcdadm join https://10.0.0.1:2379"}}
	return d
}

func refused() Document {
	return New("init", &converge.Result{
		FailedStep: "preflight/port-2380",
		Steps:      []converge.StepResult{{Phase: "preflight", Step: "preflight/port-2380", Status: converge.Failed, Diff: converge.Diff{{What: "port 2380", Have: "taken"}}}},
		Err:        errs.New(errs.Precondition, "port 2380 is taken\nby pid 812 (etcd)").Hint("stop it: kill 812").Hint("or use another host"),
	})
}

func planned() Document {
	return New("init", &converge.Result{DryRun: true, Changed: true, Steps: []converge.StepResult{
		{Phase: "certificates", Step: "certificates/ca", Status: converge.InSync},
		{Phase: "certificates", Step: "certificates/peer", Status: converge.Pending, Diff: converge.Diff{{What: "peer.crt", Have: "absent", Want: "issued"}}},
	}})
}

// The same results in the three forms. Programs read two of them: a change here is a change of the API.
func TestWrite(t *testing.T) {
	for _, c := range []struct {
		name   string
		doc    Document
		format Format
		want   string
	}{
		{"joined", joined(), JSON, `{"apiVersion":"etcdadm/v1","kind":"Result","operation":"join","changed":true,"failed":false,"dryRun":false,"msg":"etcd-1 is a member","member":{"id":"8e9e05c52164694d","name":"etcd-1"},"steps":[{"phase":"preflight","step":"preflight/root","status":"ok","seconds":0},{"phase":"certificates","step":"certificates/peer","status":"changed","diff":[{"what":"peer.crt","have":"absent","want":"issued"}],"seconds":0.012}],"warnings":["the clock is 1.2 s ahead"],"next":[{"description":"join another node","command":"etcdadm join https://10.0.0.1:2379"}]}
`},
		{"joined", joined(), YAML, `apiVersion: etcdadm/v1
kind: Result
operation: join
changed: true
failed: false
dryRun: false
msg: "etcd-1 is a member"
member:
  id: "8e9e05c52164694d"
  name: etcd-1
steps:
  - phase: preflight
    step: preflight/root
    status: ok
    seconds: 0
  - phase: certificates
    step: certificates/peer
    status: changed
    diff:
      - what: peer.crt
        have: absent
        want: issued
    seconds: 0.012
warnings:
  - "the clock is 1.2 s ahead"
next:
  - description: "join another node"
    command: "etcdadm join https://10.0.0.1:2379"
`},
		{"joined", joined(), Text, `etcd-1 is a member

join another node:

  etcdadm join https://10.0.0.1:2379
`},
		{"refused", refused(), JSON, `{"apiVersion":"etcdadm/v1","kind":"Result","operation":"init","changed":false,"failed":true,"dryRun":false,"msg":"port 2380 is taken by pid 812 (etcd)","steps":[{"phase":"preflight","step":"preflight/port-2380","status":"failed","diff":[{"what":"port 2380","have":"taken","want":""}],"seconds":0}],"warnings":[],"next":[],"error":{"status":3,"step":"preflight/port-2380","reason":"port 2380 is taken by pid 812 (etcd)","hint":"stop it: kill 812\nor use another host","retryable":false}}
`},
		{"refused", refused(), Text, ""},
		{"bad usage", New("join", &converge.Result{Err: errs.New(errs.Usage, "<url> is missing")}), JSON, `{"apiVersion":"etcdadm/v1","kind":"Result","operation":"join","changed":false,"failed":true,"dryRun":false,"msg":"<url> is missing","steps":[],"warnings":[],"next":[],"error":{"status":2,"reason":"<url> is missing","retryable":false}}
`},
		{"again", New("init", &converge.Result{}), JSON, `{"apiVersion":"etcdadm/v1","kind":"Result","operation":"init","changed":false,"failed":false,"dryRun":false,"msg":"nothing to do","steps":[],"warnings":[],"next":[]}
`},
		{"again", New("init", &converge.Result{}), Text, "nothing to do\n"},
		{"dry run", planned(), Text, "would change certificates/peer: peer.crt: absent, want issued\n1 of 2 steps have something to do\n"},
		{"dry run in sync", New("init", &converge.Result{DryRun: true}), Text, "nothing to do\n"},
		{"dry run of an ordinary user", New("init", &converge.Result{DryRun: true, Steps: []converge.StepResult{
			{Step: "leave", Status: converge.Unknown, Reason: "open a: permission denied"},
		}}), Text, "not known: leave: open a: permission denied\nnothing to do, as far as this user can see\n"},
		{"dry run, unhealthy", New("init", &converge.Result{DryRun: true, Steps: []converge.StepResult{
			{Step: "health/quorum", Status: converge.Pending, Diff: converge.Diff{{What: "quorum", Have: "1 of 3", Want: "2"}}},
		}}), Text, "does not hold: health/quorum: quorum: 1 of 3, want 2\nnothing to do\n"},
	} {
		var b bytes.Buffer
		if err := Write(&b, c.format, c.doc, c.doc.Text); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, b.String()); d != "" {
			t.Errorf("%s as %s:\n%s", c.name, c.format, d)
		}
	}
}

// Text that looks like something else, and names of members that look like numbers, mean the same in JSON and in YAML.
func TestYAMLMeansJSON(t *testing.T) {
	for _, s := range []string{"", "no", "true", "null", "~", "1234567890123456", "7e12345678901234", "0x1f", "0o17", "1_000", ".inf", "12:30", "2026-01-01",
		"- a", "a: b", "a #b", "# a", "'", `"`, `\`, "a\nb", "a\n", " a", "a ", "@a", "%a", "&a", "*a", "!a", "{a}", "[a]", "|", ">", "é", "\u2028", "\x1b[31m", "\t", "?", "? a", "---", "...", "<<", "="} {
		d := joined()
		d.Msg, d.Member.ID, d.Warnings = s, s, []string{s}
		d.Steps[1].Diff[0].Have = s
		var j, y bytes.Buffer
		if err := errors.Join(Write(&j, JSON, d, nil), Write(&y, YAML, d, nil)); err != nil {
			t.Fatal(err)
		}
		var fromJSON, fromYAML Document
		if err := json.Unmarshal(j.Bytes(), &fromJSON); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(y.Bytes(), &fromYAML); err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if diff := cmp.Diff(fromJSON, fromYAML); diff != "" {
			t.Errorf("%q:\n%s\n%s", s, diff, y.Bytes())
		}
	}
}

// Lists in lists, empty collections, null and numbers keep their place.
func TestYAMLShapes(t *testing.T) {
	doc := []any{[]any{1, []int{}}, map[string]any{"a": map[string]any{}, "b": []any{nil, true, map[string]any{"c": 1.5, "d": []any{[]any{"x"}}}}}, uint64(10501334649042878790)}
	want := `-
  - 1
  - []
- a: {}
  b:
    - null
    - true
    - c: 1.5
      d:
        -
          - x
- 10501334649042878790
`
	var b bytes.Buffer
	if err := Write(&b, YAML, doc, nil); err != nil || b.String() != want {
		t.Errorf("%v\n%s", err, cmp.Diff(want, b.String()))
	}
	for in, want := range map[string]any{"7": 7, "[]": []int{}, "{}": struct{}{}, "x": "x"} {
		b.Reset()
		if err := Write(&b, YAML, want, nil); err != nil || b.String() != in+"\n" {
			t.Errorf("%q, %v", b.String(), err)
		}
	}
}

func TestWriteTellsThatItFailed(t *testing.T) {
	for _, f := range Formats {
		if err := Write(full{}, f, joined(), joined().Text); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("%s: %v", f, err)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestParse(t *testing.T) {
	_, format := ParseFormat("xml")
	_, level := ParseLevel("loud")
	_, logFormat := ParseLogFormat("xml")
	for _, err := range []error{format, level, logFormat} {
		if errs.StatusOf(err) != errs.Usage || len(errs.HintsOf(err)) != 1 {
			t.Error(err)
		}
	}
	if l, err := ParseLevel("WARN"); err != nil || l.String() != "WARN" {
		t.Error(l, err)
	}
}
