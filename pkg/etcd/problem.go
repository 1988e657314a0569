package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"etcdadm/pkg/errs"
)

// ErrCertificateRefused is the problem of an endpoint that does not accept our client certificate, or wants one.
var ErrCertificateRefused = errors.New("it refuses our client certificate")

// OfCertificates tells whether the problem of an endpoint is that one side does not accept the certificate of the other. It
// may serve whoever has another one.
func OfCertificates(err error) bool { return errors.As(err, new(tlsError)) }

// errClocks is the problem of a certificate that one side takes for valid, and the other one for expired or not yet valid.
var errClocks = errors.New("the clocks differ")

// tlsError is a problem with a certificate: it does not go away by waiting.
type tlsError struct {
	text  string
	cause error
}

func (e tlsError) Error() string { return e.text }
func (e tlsError) Unwrap() error { return e.cause }

// rpcProblem makes one short line of the error of a call to an endpoint.
func (c *Cluster) rpcProblem(ctx context.Context, endpoint string, err error) error {
	var served rpctypes.EtcdError
	s, _ := status.FromError(err)
	switch {
	case errors.As(err, &served): // tested for by the callers
		return err
	case errors.Is(err, context.DeadlineExceeded) || s.Code() == codes.DeadlineExceeded:
		return fmt.Errorf("%w within %s", ErrNoAnswer, c.o.RequestTimeout)
	case errors.Is(err, context.Canceled) || s.Code() == codes.Canceled:
		return errTooLate
	case s.Code() != codes.Unavailable:
		return errors.New(strings.TrimPrefix(s.Message(), "etcdserver: "))
	}
	if strings.Contains(s.Message(), context.DeadlineExceeded.Error()) { // it accepts connections, and does not serve yet
		return fmt.Errorf("%w within %s", ErrNoAnswer, c.o.DialTimeout)
	}
	// The connection failed, or ended. A server that refuses our certificate just ends it, as far as gRPC tells.
	if u, perr := url.Parse(endpoint); perr == nil {
		if herr := handshake(ctx, u, c.o.TLS, c.o.DialTimeout); herr != nil {
			return herr
		}
	}
	// gRPC wraps what happened in layers of its own words; the innermost says it.
	text := s.Message()
	if i := strings.LastIndex(text, "desc = "); i >= 0 {
		text = text[i+len("desc = "):]
	}
	return errors.New(strings.TrimPrefix(strings.Trim(text, `"`), "transport: "))
}

// ErrNoAnswer is the problem of an endpoint that took a call, and did not answer it in time.
var ErrNoAnswer = errors.New("no answer")

// Forbidden tells whether etcd does not let the user of our certificate do what was asked.
func Forbidden(err error) bool {
	for _, refusal := range []error{rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrUserNotFound, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthFailed} {
		if err != nil && strings.Contains(err.Error(), refusal.Error()) { // also of a stream, whose errors are but texts
			return true
		}
	}
	return false
}

// NotAllowed is the error, with status 3, of something that etcd does not let us do.
func NotAllowed(format string, args ...any) *errs.Error {
	return errs.New(errs.Precondition, format, args...).
		Hint("the cluster has authentication on, and knows our user by the CN in etcdctl-etcd-client.crt; as a user with the role root: etcdctl.sh user add CN --no-password; etcdctl.sh user grant-role CN root")
}

// said is what an error of etcd tells, without the prefix that all of them have.
func said(err error) string {
	if errors.Is(err, errLearner) {
		return "it is a learner, and not asked"
	}
	return strings.TrimPrefix(err.Error(), "etcdserver: ")
}

// netProblem makes one short line of a failed dial.
func netProblem(err error) error {
	var errno syscall.Errno
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return errTooLate
	case errors.As(err, &dns) && !dns.IsTimeout:
		return fmt.Errorf("the name %s does not resolve", dns.Name)
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return errors.New("no connection within the time limit")
	}
	return err
}

// handshake repeats a TLS handshake that failed inside of gRPC, which keeps no more of it than a text, and returns what is wrong with it.
func handshake(ctx context.Context, u *url.URL, cfg *tls.Config, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	plain := u.Scheme == "http"
	if plain { // then the question is whether TLS is spoken at all
		cfg = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // nothing is sent or believed
	}
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	if cfg.ServerName == "" {
		cfg.ServerName = u.Hostname()
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", hostPort(u))
	if err != nil {
		return netProblem(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, cfg)
	err = conn.HandshakeContext(ctx)
	switch {
	case plain && err == nil:
		return tlsError{text: "it speaks TLS: the URL must begin with https://"}
	case plain:
		return nil
	case err == nil:
		// In TLS 1.3 the server looks at our certificate when we are done already: its verdict comes as the first thing to read.
		deadline, _ := ctx.Deadline()
		_ = conn.SetReadDeadline(deadline)
		if _, err = conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
	}
	return tlsProblem(err)
}

// tlsProblem says in one line which certificate is wrong and how, or nil when the error is about something else.
func tlsProblem(err error) error {
	var host x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	var remote *net.OpError
	text := ""
	switch {
	case errors.As(err, &host):
		text = fmt.Sprintf("its certificate (%s) is for %s, not for %s", subject(host.Certificate), strings.Join(names(host.Certificate), ", "), host.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if now := time.Now(); now.Before(invalid.Cert.NotBefore) {
			return tlsError{fmt.Sprintf("its certificate (%s) is not valid before %s; the clock here says %s",
				subject(invalid.Cert), invalid.Cert.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)), errors.Join(err, errClocks)}
		}
		text = fmt.Sprintf("its certificate (%s) expired at %s", subject(invalid.Cert), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &authority) && errors.As(err, &verification) && len(verification.UnverifiedCertificates) > 0:
		leaf := verification.UnverifiedCertificates[0]
		text = fmt.Sprintf("its certificate (%s) was issued by %q, which is not our CA", subject(leaf), leaf.Issuer.CommonName)
	case errors.As(err, &verification):
		text = "its certificate: " + strings.TrimPrefix(verification.Err.Error(), "x509: ")
	case errors.As(err, &header):
		text = "it does not speak TLS"
	case errors.As(err, &remote) && remote.Op == "remote error":
		said := strings.TrimPrefix(remote.Err.Error(), "tls: ")
		if said == "expired certificate" { // what Go says of one that is not valid yet, too; a client does not show what has expired
			return tlsError{fmt.Sprintf("%s (%s); the clock here says %s", ErrCertificateRefused, said, time.Now().UTC().Format(time.RFC3339)),
				errors.Join(ErrCertificateRefused, errClocks)}
		}
		return tlsError{fmt.Sprintf("%s (%s)", ErrCertificateRefused, said), ErrCertificateRefused}
	default:
		return nil
	}
	return tlsError{text, err}
}

func subject(c *x509.Certificate) string { return "CN=" + c.Subject.CommonName }

func names(c *x509.Certificate) []string {
	out := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	if len(out) == 0 {
		out = []string{"no name at all"}
	}
	return out
}
