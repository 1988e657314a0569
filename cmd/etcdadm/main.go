// Command etcdadm brings a node to a desired state: a verified etcd, its certificates, its service, its membership.
package main

import (
	"os"

	"etcdadm/cmd"
)

func main() {
	os.Exit(int(cmd.Main(os.Args[1:], cmd.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})))
}
