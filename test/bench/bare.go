package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// bare is an etcd that is started by hand, with what it needs for mTLS and nothing else.
type bare struct {
	program, dir, name, address string
	pki                         *pki
	cmd                         *exec.Cmd
	ended                       chan struct{}
}

func (b *bench) bare(name, address string, p *pki) *bare {
	n := &bare{
		program: filepath.Join(b.mirror.Bin(b.version), "etcd"), dir: filepath.Join(b.dir, name),
		name: name, address: address, pki: p,
	}
	b.bares = append(b.bares, n)
	return n
}

func (n *bare) clientURL() string { return "https://" + n.address + ":2379" }
func (n *bare) peerURL() string   { return "https://" + n.address + ":2380" }

// member is the node's entry in an initial cluster.
func (n *bare) member() string { return n.name + "=" + n.peerURL() }

// start runs etcd and returns at once.
func (n *bare) start(cluster, state string) error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	log, err := os.Create(n.dir + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	n.cmd = exec.Command(n.program, "--name", n.name, "--data-dir", n.dir,
		"--listen-client-urls", n.clientURL(), "--advertise-client-urls", n.clientURL(),
		"--listen-peer-urls", n.peerURL(), "--initial-advertise-peer-urls", n.peerURL(),
		"--initial-cluster", cluster, "--initial-cluster-state", state,
		"--client-cert-auth", "--trusted-ca-file", n.pki.ca, "--cert-file", n.pki.cert, "--key-file", n.pki.key,
		"--peer-client-cert-auth", "--peer-trusted-ca-file", n.pki.ca, "--peer-cert-file", n.pki.cert, "--peer-key-file", n.pki.key)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		return err
	}
	n.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(n.cmd, n.ended)
	return nil
}

// begins starts a cluster of one, and reads through it.
func (n *bare) begins(ctx context.Context) error {
	if err := n.start(n.member(), "new"); err != nil {
		return err
	}
	return errors.Join(firstRead(ctx, n.address, n.pki), n.alive())
}

// A driver tells a cluster to take a member, as long as it takes until the cluster agrees.
type driver interface {
	add(ctx context.Context, n *bare) (id uint64, err error)
	promote(ctx context.Context, id uint64) error
	read(ctx context.Context, from *bare) error
	io.Closer
}

// joins adds the node as a learner when the cluster takes it, starts it, promotes it, and reads through it.
func (n *bare) joins(ctx context.Context, d driver, members ...*bare) error {
	id, err := d.add(ctx, n)
	if err != nil {
		return err
	}
	cluster := n.member()
	for _, m := range members {
		cluster += "," + m.member()
	}
	if err := n.start(cluster, "existing"); err != nil {
		return err
	}
	if err := d.promote(ctx, id); err != nil {
		return errors.Join(err, n.alive())
	}
	return errors.Join(d.read(ctx, n), n.alive())
}

// client is a driver that is connected all the while, and pays for the start of no program.
type client struct {
	*clientv3.Client
	pki *pki
}

func (c client) add(ctx context.Context, n *bare) (id uint64, err error) {
	err = until(ctx, func(ctx context.Context) error {
		added, err := c.MemberAddAsLearner(ctx, []string{n.peerURL()})
		if err == nil {
			id = added.Member.ID
		}
		return err
	})
	return id, err
}

func (c client) promote(ctx context.Context, id uint64) error {
	return until(ctx, func(ctx context.Context) error {
		_, err := c.MemberPromote(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberNotLearner) {
			return nil
		}
		return err
	})
}

func (c client) read(ctx context.Context, from *bare) error {
	return firstRead(ctx, from.address, c.pki)
}

// hand is a driver that types etcdctl, and waits for nothing longer than needed.
type hand struct{ at *bare }

func (h hand) add(ctx context.Context, n *bare) (uint64, error) {
	var answer struct {
		Member struct {
			ID uint64 `json:"ID"`
		} `json:"member"`
	}
	err := until(ctx, func(ctx context.Context) error {
		said, err := h.at.etcdctl(ctx, "member", "add", n.name, "--learner", "--peer-urls", n.peerURL(), "--write-out", "json")
		if err != nil {
			return err
		}
		return json.Unmarshal(said, &answer)
	})
	return answer.Member.ID, err
}

func (h hand) promote(ctx context.Context, id uint64) error {
	return until(ctx, func(ctx context.Context) error {
		_, err := h.at.etcdctl(ctx, "member", "promote", strconv.FormatUint(id, 16))
		return err
	})
}

func (h hand) read(ctx context.Context, from *bare) error {
	return until(ctx, func(ctx context.Context) error {
		_, err := from.etcdctl(ctx, "get", "bench")
		return err
	})
}

// Close does nothing: each etcdctl has ended.
func (h hand) Close() error { return nil }

// etcdctl runs the program of that name against the node.
func (n *bare) etcdctl(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(n.program), "etcdctl"), append([]string{
		"--endpoints", n.clientURL(), "--cacert", n.pki.ca, "--cert", n.pki.cert, "--key", n.pki.key, "--dial-timeout", "200ms",
	}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("etcdctl %s: %w: %s", args[0], err, said.Bytes())
	}
	return out, nil
}

// alive is an error when etcd has ended by itself.
func (n *bare) alive() error {
	select {
	case <-n.ended:
		log, _ := os.ReadFile(n.dir + ".log")
		return fmt.Errorf("etcd %s ended: %s", n.name, log)
	default:
		return nil
	}
}

// kill ends etcd and waits for its end.
func (n *bare) kill() {
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		<-n.ended
		n.cmd = nil
	}
}

// wipe ends etcd and removes its data.
func (n *bare) wipe() {
	n.kill()
	_ = os.RemoveAll(n.dir)
}

// dial connects a client; TCP is probed first, because gRPC tries again only after a second.
func dial(ctx context.Context, address string, p *pki) (*clientv3.Client, error) {
	tls, err := p.client()
	if err != nil {
		return nil, err
	}
	endpoint := net.JoinHostPort(address, "2379")
	err = until(ctx, func(context.Context) error {
		conn, err := net.DialTimeout("tcp", endpoint, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{Endpoints: []string{"https://" + endpoint}, TLS: tls, Context: ctx, Logger: zap.NewNop()})
}

// firstRead returns after the first linearizable read that succeeds.
func firstRead(ctx context.Context, address string, p *pki) error {
	c, err := dial(ctx, address, p)
	if err != nil {
		return err
	}
	defer c.Close()
	return until(ctx, func(ctx context.Context) error {
		_, err := c.Get(ctx, "bench")
		return err
	})
}

// until tries every 2 ms, for at most half a minute, and returns the last error.
func until(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(2 * time.Millisecond):
		}
	}
}
