// Package service holds what etcd is told, and how it is kept running.
//
// The first part is data: the environment that Settings render, the bootstrap file, the files for etcdctl, and the
// digest over all that a running etcd does not read again. The second part is a Backend, which starts and stops etcd
// and tells from outside which digest the running process carries. So a restart is due exactly when the two differ,
// however the program that wrote the files ended.
package service

import (
	"context"
	"time"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

// Backend is how etcd is kept running on a node.
type Backend interface {
	// Running is etcd running with the digest. Apply starts or restarts it, and does not wait until it serves.
	Running(digest string) converge.Resource
	// Stopped is no etcd of this node running.
	Stopped() converge.Resource
	// Enabled is etcd started at boot.
	Enabled() converge.Resource
	// Disabled is etcd not started at boot.
	Disabled() converge.Resource
	// State tells what runs now.
	State(context.Context) (State, error)
	// Logs returns the last n lines of etcd's output, oldest first.
	Logs(n int) ([]string, error)
	// PathFor returns the path by which etcd finds a logical path.
	PathFor(logical string) string
	// LogCommand is a command line that shows all of etcd's output.
	LogCommand() string
	// StartLimit is how long a start may take, to the first answer of etcd.
	StartLimit() time.Duration
	// Owner is the user and group that etcd runs as, to whom its data and keys belong.
	Owner() host.Owner
	// Files have to stand before etcd can be started.
	Files() []file.File
	// Removed is none of Files, nor any trace of them.
	Removed() converge.Resource
	// Definition is the part of the digest that is the backend's own: the command line, or the unit.
	Definition() string
}

// State is what runs now.
type State struct {
	Running   bool
	Again     bool      // it does not run, and whoever keeps it running starts it, or starts it again after a pause
	PID       int       // of etcd; 0 when it does not run, or where its process cannot be seen
	Digest    string    // what etcd was started with; "" when it cannot be read
	StartedAt time.Time // zero when etcd does not run
	Restarts  int       // how often etcd was started again after it had ended by itself
	LastExit  string    // how it ended last, or why it was not started; "" when it never did
	Removed   bool      // its cluster has removed the member: started again, it ends at once
}
