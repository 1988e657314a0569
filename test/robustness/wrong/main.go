// Command wrong is etcdadm with a mistake of one's choice, for the tests of the judge: it has to find each of them. It is
// never part of what is shipped.
//
//	WRONG=wipe       init begins anew where a member is
//	WRONG=add-first  join adds the member as a voter before anything else is looked at
//	WRONG=two        whatever restarts the member ends another one at the same moment
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"etcdadm/cmd"
)

func main() {
	streams := cmd.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	if err := mistake(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "wrong:", err)
		os.Exit(1)
	}
	os.Exit(int(cmd.Main(os.Args[1:], streams)))
}

func mistake(args []string) error {
	if len(args) < 3 || args[0] != "--root" {
		return nil // what etcdadm starts itself
	}
	root, command := args[1], args[2]
	switch os.Getenv("WRONG") {
	case "wipe":
		if command == "init" {
			reset := []string{"--root", root, "reset", "--skip-remove-member"}
			if status := cmd.Main(reset, cmd.Streams{In: os.Stdin, Out: io.Discard, Err: os.Stderr}); status != 0 {
				return fmt.Errorf("reset ended with status %d", status)
			}
		}
	case "add-first":
		if command == "join" {
			return addVoter(os.Getenv("WRONG_DOOR"), os.Getenv("WRONG_PEER"))
		}
	case "two":
		pid, err := strconv.Atoi(os.Getenv("WRONG_PID"))
		if err != nil {
			return err
		}
		if pid <= 1 { // kill(2) would take that for many
			return fmt.Errorf("there is no process %d to end", pid)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) { // a run before this one ended it
			return err
		}
	}
	return nil
}

func addVoter(door, peer string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{door}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for {
		_, err = c.MemberAdd(ctx, []string{peer})
		if errors.Is(err, rpctypes.ErrPeerURLExist) { // it was added before, and the answer lost
			return nil
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}
