package robustness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A door is a listener without TLS that leads to the client port of a member with TLS: the clients of etcd's robustness
// tests speak no TLS. What passes are the bytes, so what a client sees of the member is what the member said.
type door struct {
	net.Listener
	dial         dialer
	address, pki string
	wg           sync.WaitGroup
	ctx          context.Context
	close        context.CancelFunc
}

// A dialer connects to where a member is.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// openDoor opens a door on a free port to a member at an address, with the certificates below pki, which are read when
// somebody comes: the member need not exist yet.
func openDoor(listen string, dial dialer, address, pki string) (*door, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(listen, "0"))
	if err != nil {
		return nil, err
	}
	d := &door{Listener: l, dial: dial, address: address, pki: pki}
	d.ctx, d.close = context.WithCancel(context.Background())
	d.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.wg.Go(func() { d.pass(c) })
		}
	})
	return d, nil
}

// Close closes the door, and ends whoever is passing.
func (d *door) Close() error {
	d.close()
	err := d.Listener.Close()
	d.wg.Wait()
	return err
}

// pass carries the bytes of one connection. A member that is not there ends it at once, as a closed port would.
func (d *door) pass(in net.Conn) {
	defer func() { _ = in.Close() }()
	config, err := clientTLS(d.pki)
	if err != nil {
		return // no member yet
	}
	out, err := d.connect(config)
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		d.wg.Go(func() {
			defer cancel()
			_, _ = io.Copy(way[0], way[1])
		})
	}
	<-ctx.Done()
}

func (d *door) connect(config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, time.Second)
	defer cancel()
	c, err := d.dial(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	config.ServerName, _, _ = net.SplitHostPort(d.address)
	out := tls.Client(c, config)
	if err := out.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return out, nil
}

// clientTLS is what etcdctl of a node would use.
func clientTLS(pki string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "etcdctl-etcd-client.crt"), filepath.Join(pki, "etcdctl-etcd-client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("ca.crt holds no certificate")
	}
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}, nil
}

// reserve takes one of the networks 127.92.n.0/24 for a cluster, for as long as the returned listener is open, so that
// clusters of several processes live side by side.
func reserve() (network string, hold net.Listener, err error) {
	for n := range 250 {
		network := fmt.Sprintf("127.92.%d", n)
		if l, err := net.Listen("tcp", network+".250:2379"); err == nil {
			return network, l, nil
		}
	}
	return "", nil, errors.New("all networks 127.92.n.0/24 are taken")
}
