package script

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"etcdadm/test/process"
)

// on runs etcdadm on a node: on NAME ARGS... Commands that set a node up get what makes it this node, behind their names
// and arguments and before the flags of the story, which are stronger.
func on() {
	name, args := os.Args[1], os.Args[2:]
	words := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") })
	if words < 0 {
		words = len(args)
	}
	argv := append([]string{"etcdadm", "--root", os.Getenv(name + "_ROOT")}, args[:words]...)
	switch args[0] {
	case "init", "join":
		argv = append(argv, "--name", name, "--bind-address", os.Getenv(name+"_ADDR"), "--init-system", "process")
		fallthrough
	case "download":
		argv = append(argv, "--version", os.Getenv("VERSION"), "--release-url", os.Getenv("MIRROR"), "--sha256sums", os.Getenv("SUMS"))
	}
	become("etcdadm", append(argv, args[words:]...))
}

// etcdctl runs the node's etcdctl, for longer than its 5 s if it has to wait: etcdctl NAME ARGS...
func etcdctl() {
	program := filepath.Join(os.Getenv(os.Args[1]+"_ROOT"), "opt/bin/etcdctl.sh")
	if len(os.Args) == 5 && os.Args[2] == "put" { // not where the value comes by standard input
		said, err := process.Etcdctl(program, os.Args[2:]...)
		if err != nil {
			fail(err)
		}
		fmt.Println(said)
		return
	}
	become(program, append([]string{"etcdctl.sh", "--command-timeout=30s"}, os.Args[2:]...))
}

// become goes on as another program.
func become(program string, argv []string) {
	path, err := exec.LookPath(program)
	if err == nil {
		err = syscall.Exec(path, argv, os.Environ())
	}
	fail(err)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// status runs a program that has to end with an exit status: status N PROGRAM ARGS... An interrupt is passed on.
func status() {
	want, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fail(err)
	}
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	c := exec.Command(os.Args[2], os.Args[3:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		fail(err)
	}
	go func() {
		for s := range interrupts {
			_ = c.Process.Signal(s)
		}
	}()
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		fail(err)
	}
	if got := c.ProcessState.ExitCode(); got != want {
		fail(fmt.Errorf("exit status %d, want %d", got, want))
	}
}

// nobody runs a program as a user without privileges: nobody PROGRAM ARGS...
func nobody() {
	const id = 65534 // the overflow id of Linux: owns nothing
	if os.Getuid() == 0 {
		for _, drop := range []func(int) error{func(id int) error { return syscall.Setgroups([]int{id}) }, syscall.Setgid, syscall.Setuid} {
			if err := drop(id); err != nil {
				fail(err)
			}
		}
	}
	become(os.Args[1], os.Args[1:])
}
