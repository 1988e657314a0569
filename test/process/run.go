package process

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"etcdadm/cmd"
	"etcdadm/pkg/host"
)

// AsEtcdadm is the line in the environment of a test's program that makes it etcdadm: for tests that start it otherwise
// than by Run.
const AsEtcdadm = asEtcdadm + "=1"

const asEtcdadm = "TEST_AS_ETCDADM"

// Etcdadm ends the process as etcdadm if Run, or such an etcdadm, has started it, and returns otherwise. It stands at
// the beginning of TestMain. The options are for etcdadm itself, not for what it starts and what outlives it.
func Etcdadm(options func() []host.Option) {
	if os.Getenv(asEtcdadm) == "" {
		return
	}
	var opts []host.Option
	if options != nil && os.Args[1] != "supervise" && os.Args[1] != "snapshot-worker" {
		opts = options()
	}
	os.Exit(int(cmd.Main(os.Args[1:], cmd.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, opts...)))
}

// Result is how a run of etcdadm ended, and its document where it was asked for one as JSON.
type Result struct {
	Args           []string
	Status         int
	Killed         bool
	Stdout, Stderr string

	Changed  bool     `json:"changed"`
	Failed   bool     `json:"failed"`
	Warnings []string `json:"warnings"`
	Steps    []struct {
		Step, Status string
		Diff         []struct{ What, Have, Want string }
	} `json:"steps"`
	Error struct{ Step, Reason, Hint string } `json:"error"`
}

// Step returns the status of a step, "" when there was none of that name.
func (r Result) Step(name string) string {
	for _, s := range r.Steps {
		if s.Step == name {
			return s.Status
		}
	}
	return ""
}

// Changes are the steps that changed something, with what they did.
func (r Result) Changes() []string {
	var list []string
	for _, s := range r.Steps {
		if s.Status == "changed" {
			list = append(list, fmt.Sprint(s.Step, s.Diff))
		}
	}
	return list
}

func (r Result) String() string {
	return fmt.Sprintf("etcdadm %s: exit status %d (killed: %t)\n%s%s", strings.Join(r.Args, " "), r.Status, r.Killed, r.Stdout, r.Stderr)
}

// Run runs etcdadm as a process of its own, without standard input, with more variables in its environment.
func Run(args []string, env ...string) (Result, error) { return RunIn("", args, env...) }

// RunIn is Run in a directory.
func RunIn(dir string, args []string, env ...string) (Result, error) {
	c := Command(args, env...)
	c.Dir = dir
	return Finish(c)
}

// Command is the process that Run starts, for a test that wants it otherwise: in a namespace of its own.
func Command(args []string, env ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(append(os.Environ(), env...), AsEtcdadm)
	return c
}

// Finish starts such a process and waits for its end.
func Finish(c *exec.Cmd) (Result, error) { return FinishBy(c, (*exec.Cmd).Run) }

// FinishBy is Finish with another way to run it.
func FinishBy(c *exec.Cmd, run func(*exec.Cmd) error) (Result, error) {
	var out, told strings.Builder
	c.Stdout, c.Stderr = &out, &told
	args := c.Args[1:]
	err := run(c)
	if c.ProcessState == nil {
		return Result{}, err
	}
	r := Result{Args: args, Status: c.ProcessState.ExitCode(), Stdout: out.String(), Stderr: told.String()}
	if ws, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok {
		r.Killed = ws.Signaled() && ws.Signal() == syscall.SIGKILL
	}
	_ = json.Unmarshal([]byte(r.Stdout), &r)
	return r, nil
}
