// Command mirror makes a mirror of real etcd releases out of etcd's Go modules, and prints its path as the last line.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"etcdadm/test/release"
)

func main() {
	var versions []string
	flag.Func("version", "make this `version` X.Y.Z of etcd (repeatable; default: all that the tests use)", func(s string) error {
		versions = append(versions, s)
		return nil
	})
	flag.Parse()
	if len(versions) == 0 {
		versions = release.Versions
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m, err := release.Build(ctx, os.Stderr, versions...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mirror:", err)
		os.Exit(1)
	}
	fmt.Println(string(m))
}
