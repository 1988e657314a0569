package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// run runs a program of this machine, and returns its standard output.
func run(name string, args ...string) (string, error) {
	var out bytes.Buffer
	err := program{Args: append([]string{name}, args...), Out: &out}.run(context.Background())
	return out.String(), err
}

// feed runs a program with that on its standard input.
func feed(in string, name string, args ...string) error {
	return program{Args: append([]string{name}, args...), In: strings.NewReader(in)}.run(context.Background())
}

// program is a process that dies with us.
type program struct {
	Name string // for errors; "": the arguments
	Args []string
	Env  []string // nil: ours
	In   io.Reader
	Out  io.Writer
	Err  io.Writer // nil: kept for the error
}

func (p program) run(ctx context.Context) error {
	// The death signal is tied to the thread that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stderr bytes.Buffer
	c := exec.CommandContext(ctx, p.Args[0], p.Args[1:]...)
	c.Env, c.Stdin, c.Stdout, c.Stderr = p.Env, p.In, p.Out, p.Err
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return p.failed(c.Run(), stderr.String())
}

// failed says what failed, and what it said itself.
func (p program) failed(err error, stderr string) error {
	if err == nil {
		return nil
	}
	name := p.Name
	if name == "" {
		name = strings.Join(p.Args, " ")
	}
	return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr))
}
