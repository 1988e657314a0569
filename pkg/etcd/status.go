package etcd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
)

// Status is what one member says of itself. It answers without a quorum, and as a learner.
type Status struct {
	Endpoint                    string
	MemberID, ClusterID, Leader uint64 // Leader is 0 when the member knows none
	Version                     string // X.Y.Z of the server
	StorageVersion              string // empty on 3.5
	DBSize, DBInUse, Quota      int64  // bytes; Quota is 0 on 3.5, see Cluster.Quota
	RaftTerm                    uint64
	RaftIndex, AppliedIndex     uint64 // of the last committed and the last applied entry
	Revision                    int64
	Learner                     bool
	Errors                      []string // etcd's words: "etcdserver: no leader", alarms
}

// Alarm is a fault that a cluster keeps in mind until it is disarmed: NOSPACE or CORRUPT.
type Alarm struct {
	MemberID uint64
	Kind     string
}

// Alarms returns the alarms of the whole cluster. Status is where they can be read without a write: to list
// alarms by their own RPC goes through raft.
func (s Status) Alarms() []Alarm {
	var out []Alarm
	for _, e := range s.Errors {
		var a Alarm
		for _, f := range strings.Fields(e) { // "memberID:10276657743932975437 alarm:NOSPACE"
			if id, ok := strings.CutPrefix(f, "memberID:"); ok {
				a.MemberID, _ = strconv.ParseUint(id, 10, 64)
			}
			if kind, ok := strings.CutPrefix(f, "alarm:"); ok {
				a.Kind = kind
			}
		}
		if a.Kind != "" {
			out = append(out, a)
		}
	}
	return out
}

// Status asks that very endpoint. An error is a short line without the endpoint: "connection refused".
func (c *Cluster) Status(ctx context.Context, endpoint string) (Status, error) {
	cl, err := c.client(ctx, endpoint)
	if err != nil {
		return Status{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	// The client's own Status makes a connection each time.
	r, err := etcdserverpb.NewMaintenanceClient(cl.ActiveConnection()).Status(ctx, &etcdserverpb.StatusRequest{})
	if err != nil {
		return Status{}, c.rpcProblem(ctx, endpoint, clientv3.ContextError(ctx, err))
	}
	h := r.GetHeader()
	return Status{
		Endpoint: endpoint, MemberID: h.GetMemberId(), ClusterID: h.GetClusterId(), Leader: r.GetLeader(),
		Version: r.GetVersion(), StorageVersion: r.GetStorageVersion(),
		DBSize: r.GetDbSize(), DBInUse: r.GetDbSizeInUse(), Quota: r.GetDbSizeQuota(),
		RaftTerm: r.GetRaftTerm(), RaftIndex: r.GetRaftIndex(), AppliedIndex: r.GetRaftAppliedIndex(),
		Revision: h.GetRevision(), Learner: r.GetIsLearner(), Errors: r.GetErrors(),
	}, nil
}

// Alarms returns the alarms of the cluster, from some voter.
func (c *Cluster) Alarms(ctx context.Context) ([]Alarm, error) {
	a, err := c.list(ctx, false, anybody)
	if err != nil {
		return nil, err
	}
	s, err := c.Status(ctx, a.endpoint)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.endpoint, err)
	}
	return s.Alarms(), nil
}

// Quota returns the limit of the member's database in bytes (--quota-backend-bytes). Since 3.6 the status has it; before, the metrics do.
// A member that does not answer is an error with status 5.
func (c *Cluster) Quota(ctx context.Context, endpoint string) (int64, error) {
	s, err := c.Status(ctx, endpoint)
	if Forbidden(err) {
		return 0, NotAllowed("%s: %s", endpoint, said(err))
	}
	if err != nil {
		return 0, errs.New(errs.Timeout, "%s: %s", endpoint, said(err))
	}
	if s.Quota > 0 {
		return s.Quota, nil
	}
	client := httpClient(c.o.TLS)
	defer client.CloseIdleConnections()
	quota, err := c.metric(ctx, client, endpoint, "etcd_server_quota_backend_bytes")
	if err == nil && quota <= 0 {
		err = fmt.Errorf("%s: its metrics tell a quota of %g bytes", endpoint, quota)
	}
	return int64(quota), err
}

// metric returns the value of one metric of the member at a client endpoint; the name has the labels: `name{Label="value"}`.
func (c *Cluster) metric(ctx context.Context, client *http.Client, endpoint, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	body, _, err := get(ctx, client, strings.TrimRight(endpoint, "/")+"/metrics")
	if err != nil {
		return 0, fmt.Errorf("%s: its metrics: %w", endpoint, err)
	}
	for lines := bufio.NewScanner(strings.NewReader(body)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			if v, err := strconv.ParseFloat(value, 64); err == nil { // "2.147483648e+09"
				return v, nil
			}
		}
	}
	return 0, fmt.Errorf("%s: its metrics do not have %s", endpoint, name)
}

// LinearizableRead reads through that very endpoint what a majority of the cluster has confirmed: it proves that the member
// is connected to a quorum, and caught up. What is read does not matter, nor whether it may be read.
func (c *Cluster) LinearizableRead(ctx context.Context, endpoint string) error {
	cl, err := c.client(ctx, endpoint)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	_, err = cl.Get(ctx, "health", clientv3.WithCountOnly())
	// etcd looks at permissions after it has heard from the quorum.
	if err == nil || errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty) {
		return nil
	}
	return c.rpcProblem(ctx, endpoint, err)
}

// HasQuorum asks a member by its metrics URL, for which no certificate is needed, whether it takes part in a quorum; alarms
// do not matter for that. One that takes its time to say so may, and one that has no leader is given the time to elect one.
func HasQuorum(ctx context.Context, metricsURL string) bool {
	client := httpClient(nil)
	defer client.CloseIdleConnections()
	for end := time.Now().Add(electionLimit); ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, metricsURL+"/health?exclude=NOSPACE&exclude=CORRUPT", nil)
		if err != nil {
			return false
		}
		resp, err := client.Do(req)
		if err != nil {
			return !errors.As(err, new(syscall.Errno)) // nobody is there
		}
		if resp.Body.Close() == nil && resp.StatusCode == http.StatusOK { // else without a leader, or unheard
			return true
		}
		if time.Now().After(end) {
			return false
		}
		if pause(ctx, later) != nil {
			return true // it was not given its time
		}
	}
}

// electionLimit is how long a member without a leader may have lost it a moment ago: with the settings of etcd it notices
// within two seconds, and elects within two more when nobody contends.
const electionLimit = 5 * time.Second

// Health asks every member whether it is up: by its client URLs, where it must answer under its own id, else by its peer
// URLs, as client URLs may be out of reach from here.
func (c *Cluster) Health(ctx context.Context, m Membership) Health {
	var wg sync.WaitGroup
	var mu sync.Mutex
	h := Health{}
	for _, member := range m.Members {
		wg.Go(func() {
			err := c.up(ctx, m.ClusterID, member)
			mu.Lock()
			defer mu.Unlock()
			h[member.ID] = err
		})
	}
	wg.Wait()
	return h
}

// up returns why the member does not answer.
func (c *Cluster) up(ctx context.Context, clusterID uint64, m Member) error {
	err := errors.New("it has no client URL")
	if !m.Started() { // or has just begun to
		err = errors.New("it has never started")
	}
	for _, u := range m.ClientURLs {
		var s Status
		if s, err = c.Status(ctx, u); err == nil && s.MemberID == m.ID {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%s is member %s", u, hexID(s.MemberID))
		}
	}
	for _, u := range m.PeerURLs {
		ctx, cancel := context.WithTimeout(ctx, c.o.DialTimeout)
		info, perr := PeerAnswer(ctx, u, c.o.TLS)
		cancel()
		// An etcd that wants a peer certificate is an etcd that is up.
		if perr == nil && info.ClusterID == clusterID || errors.Is(perr, ErrCertificateRefused) {
			return nil
		}
	}
	return err
}

// pageLimit is how long a page of etcd may take. Tests give more, as they keep the machine busy.
var pageLimit = constants.RequestTimeout

// httpClient is for the plain HTTP handlers of etcd; like all traffic to etcd it never goes through a proxy.
func httpClient(t *tls.Config) *http.Client {
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: t},
		Timeout:       pageLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get returns body and header of a page of at most 16 MiB.
func get(ctx context.Context, client *http.Client, page string) (string, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return "", nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		if p := tlsProblem(err); p != nil {
			return "", nil, p
		}
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err
		}
		return "", nil, netProblem(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", nil, fmt.Errorf("it says %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return string(body), resp.Header, err
}
