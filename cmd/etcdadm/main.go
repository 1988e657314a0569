// Command etcdadm brings a node to a desired state: a verified etcd, its certificates, its service, its membership.
package main

import (
	"os"
	"runtime/debug"

	"etcdadm/cmd"
)

func main() {
	debug.SetGCPercent(400) // a run makes some 20 MB and ends: to collect them five times takes longer than to have them
	os.Exit(int(cmd.Main(os.Args[1:], cmd.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})))
}
