package lifecycle

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/api"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/etcd"
	"etcdadm/pkg/preflight"
	"etcdadm/pkg/snapshot"
	"etcdadm/service"
)

// Status describes a node and its cluster, as programs read it. Sizes are bytes.
type Status struct {
	APIVersion   string              `json:"apiVersion"`
	Kind         string              `json:"kind"`
	Node         NodeStatus          `json:"node"`
	Cluster      *ClusterStatus      `json:"cluster,omitempty"`
	Certificates []certs.Description `json:"certificates"`
	Drift        []converge.Change   `json:"drift"`     // what init or join would change
	Attention    []string            `json:"attention"` // what somebody should look at
}

// NodeStatus describes this node.
type NodeStatus struct {
	Name      string `json:"name"`
	Version   string `json:"version"` // of the installed etcd; "" when none is
	ClientURL string `json:"clientURL"`
	PeerURL   string `json:"peerURL"`
	Data      string `json:"data"` // what stands in the data directory
	Running   bool   `json:"running"`
	PID       int    `json:"pid,omitempty"`
	Restarts  int    `json:"restarts"`
	LastExit  string `json:"lastExit,omitempty"`
}

// ClusterStatus describes the cluster, as this node's member sees it.
type ClusterStatus struct {
	ID      string         `json:"id"`
	Leader  string         `json:"leader"` // "" when there is none
	Quorum  bool           `json:"quorum"` // a linearizable read succeeded
	Members []MemberStatus `json:"members"`
	Alarms  []string       `json:"alarms"`
}

// MemberStatus describes one member.
type MemberStatus struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"learner"`
	Version    string   `json:"version"`
	DBSize     int64    `json:"dbSize"`
	DBInUse    int64    `json:"dbInUse"`
	Revision   int64    `json:"revision"`
	Problem    string   `json:"problem,omitempty"` // why it does not answer
}

// Describe looks at the node and its cluster, and changes nothing. A node that was never set up is an error with status 3.
func Describe(ctx context.Context, n *Node) (*Status, error) {
	retired := n.retired() != nil
	there, err := n.Host.Exists(constants.ConfigFile)
	if err != nil {
		return nil, err
	}
	if !there && !retired {
		set, err := n.Host.Exists(constants.EnvFile)
		if err != nil {
			return nil, err
		}
		if !set {
			return nil, errs.New(errs.Precondition, "%s is absent: this node was not set up by etcdadm", n.Host.Path(constants.ConfigFile)).
				Hint("etcdadm init, or etcdadm join URL")
		}
		n.Unstored = fmt.Errorf("%s is absent", n.Host.Path(constants.ConfigFile))
	}
	s := &Status{
		APIVersion: constants.ConfigAPIVersion, Kind: "Status",
		Certificates: []certs.Description{}, Drift: []converge.Change{}, Attention: []string{},
	}
	if n.Unstored != nil {
		s.attend("%v", n.Unstored)
		s.attend("what is told here is of %s and the defaults: the directories and the init system may be others", constants.EnvFile)
	}
	if retired {
		s.attend("the etcd on this node is not kept by etcdadm yet; to take it over as it stands, with one restart: etcdadm init for the first member, etcdadm join URL for the others")
	}
	for _, describe := range []func(context.Context, *Status) error{n.describeNode, n.describeCluster, n.describeCertificates, n.describeDrift} {
		if err := describe(ctx, s); ctx.Err() != nil {
			return nil, ctx.Err()
		} else if err != nil {
			s.wrong(err)
		}
	}
	return s, nil
}

// wrong tells of what cannot be described. The rest is: this is what somebody looks at when something is broken.
func (s *Status) wrong(err error) {
	s.attend("%s", strings.Join(append([]string{err.Error()}, errs.HintsOf(err)...), "; "))
}

func (s *Status) attend(format string, args ...any) {
	s.Attention = append(s.Attention, fmt.Sprintf(format, args...))
}

func (n *Node) describeNode(ctx context.Context, s *Status) error {
	s.Node = NodeStatus{Name: n.Config.Name, ClientURL: n.Config.ClientURL(), PeerURL: n.Config.PeerURL()}
	v, installed, err := n.installedVersion(ctx)
	if err != nil {
		return err
	}
	if installed {
		s.Node.Version = v.String()
	} else if n.Config.InitSystem == api.Kubelet {
		s.attend("no pod of etcd is in %s", n.Config.KubeletPodManifestPath)
	} else {
		s.attend("no etcd is installed in %s", n.Config.InstallDir)
	}
	data, err := n.data()
	if err != nil {
		return err
	}
	s.Node.Data = data.String()
	if data.Kind != snapshot.Whole && data.Kind != snapshot.Unreadable {
		s.attend("the data directory %s holds no member: %s", n.Config.DataDir, data)
	}
	backend, err := n.backend()
	if err != nil {
		return err
	}
	state, err := backend.State(ctx)
	if err != nil {
		return err
	}
	s.Node.Running, s.Node.PID, s.Node.Restarts, s.Node.LastExit = state.Running, state.PID, state.Restarts, state.LastExit
	switch {
	case state.Removed:
		s.attend("this member was removed from its cluster; for a new one on this node: etcdadm reset, then join")
	case !state.Running:
		s.attend("etcd does not run%s", detail(state.LastExit))
	}
	return nil
}

func detail(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func (n *Node) describeCluster(ctx context.Context, s *Status) error {
	c, err := n.cluster(n.Config.LocalURL())
	if err != nil {
		s.attend("the cluster cannot be asked: %v", err)
		return nil
	}
	own, err := c.Status(ctx, n.Config.LocalURL())
	if err != nil {
		s.attend("etcd at %s does not answer: %v", n.Config.LocalURL(), err)
		if backend, err := n.backend(); err == nil {
			if cause, found := service.LikelyCause(backend); found {
				s.attend("likely: %s; %s", cause.Reason, cause.Hint)
			}
		}
		return nil
	}
	s.Cluster = &ClusterStatus{ID: hexID(own.ClusterID), Members: []MemberStatus{}, Alarms: []string{}}
	if own.Leader != 0 {
		s.Cluster.Leader = hexID(own.Leader)
	}
	if err := c.LinearizableRead(ctx, n.Config.LocalURL()); err != nil {
		s.attend("the cluster gives no linearizable reads: %v", err)
	} else {
		s.Cluster.Quorum = true
	}
	for _, a := range own.Alarms() {
		s.Cluster.Alarms = append(s.Cluster.Alarms, a.Kind+" "+hexID(a.MemberID))
		s.attend("member %s has the alarm %s", hexID(a.MemberID), a.Kind)
	}
	m, err := c.MembersSerializable(ctx)
	if err != nil { // a learner does not tell
		s.wrong(fmt.Errorf("the member list cannot be read: %w", err))
		return nil
	}
	for _, member := range m.Members {
		ms := describeMember(ctx, c, member, own)
		s.Cluster.Members = append(s.Cluster.Members, ms)
		if ms.Problem != "" {
			s.attend("member %s does not answer: %s", member, ms.Problem)
		}
		if ms.Learner {
			s.attend("member %s is a learner still", member)
		}
		if member.ID != own.MemberID && ms.Problem == "" {
			n.describeClock(ctx, member, s)
		}
	}
	return nil
}

// describeMember asks a member at its client URLs. What the member on this node said is known: a host may know itself by a
// name at another address than others do.
func describeMember(ctx context.Context, c *etcd.Cluster, m etcd.Member, own etcd.Status) MemberStatus {
	ms := MemberStatus{ID: m.HexID(), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.Learner}
	if !m.Started() {
		ms.Problem = "it has never started"
	}
	said := func(st etcd.Status) {
		ms.Version, ms.DBSize, ms.DBInUse, ms.Revision, ms.Problem = st.Version, st.DBSize, st.DBInUse, st.Revision, ""
	}
	if m.ID == own.MemberID {
		said(own)
		return ms
	}
	for _, u := range m.ClientURLs {
		st, err := c.Status(ctx, u)
		if err == nil {
			said(st)
			break
		}
		ms.Problem = err.Error()
	}
	return ms
}

// describeClock compares the clock of another member with that of this node. One that cannot be asked is told elsewhere.
func (n *Node) describeClock(ctx context.Context, m etcd.Member, s *Status) {
	t, err := certs.ClientTLS(n.Host, n.Config.CertsDir, certs.PeerName)
	if err != nil {
		return
	}
	for _, u := range m.PeerURLs {
		limited, cancel := context.WithTimeout(ctx, constants.DialTimeout)
		before := n.Now()
		info, err := etcd.PeerAnswer(limited, u, t)
		after := n.Now()
		cancel()
		if err != nil || info.Time.IsZero() {
			continue
		}
		if drift, direction := preflight.Drift(before, info.Time, after); drift >= preflight.DriftWarned {
			s.attend("the clock of this node says %s, which is %s %s that of member %s: set the one that is wrong: timedatectl set-ntp true",
				after.UTC().Format(time.RFC3339), drift, direction, m)
		}
		return
	}
}

func (n *Node) describeCertificates(_ context.Context, s *Status) error {
	now := n.Now()
	list, err := certs.Describe(n.Host, n.Config.CertsDir, now)
	if err != nil {
		return err
	}
	s.Certificates = list
	for _, d := range list {
		if now.Before(d.NotBefore) {
			s.attend("the clock of this node says %s, and certificates of it are not valid yet: it is likely wrong, or was when they were issued: timedatectl set-ntp true", now.UTC().Format(time.RFC3339))
			break
		}
	}
	for _, d := range list {
		switch {
		case d.Problem != "":
			s.attend("certificate %s: %s", d.Name, d.Problem)
		case d.NotAfter.Sub(now) < constants.RenewBefore:
			s.attend("certificate %s ends at %s", d.Name, d.NotAfter.Format(time.RFC3339))
		}
	}
	return nil
}

// describeDrift runs the list of init, checked only, over what any member needs.
func (n *Node) describeDrift(ctx context.Context, s *Status) error {
	if n.Unstored != nil {
		return nil //nolint:nilerr // there is nothing to differ from
	}
	phases, err := converge.Only(Init(n, InitOptions{}), PhaseInstall, PhaseCertificates, PhaseConfigure, PhaseStart, PhaseEtcdctl)
	if err != nil {
		return err
	}
	r := converge.Run(ctx, phases, converge.Options{DryRun: true})
	for _, step := range r.Steps {
		if step.Status == converge.Pending {
			s.Drift = append(s.Drift, step.Diff...)
		}
	}
	if r.Err != nil {
		s.attend("%v", r.Err)
	}
	if len(s.Drift) > 0 {
		s.attend("this node differs from its configuration: %s", converge.Diff(s.Drift))
	}
	return nil
}

// Text writes the status for people.
func (s *Status) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "node\t%s\n", s.Node.Name)
	fmt.Fprintf(t, "client URL\t%s\n", s.Node.ClientURL)
	fmt.Fprintf(t, "etcd\t%s, %s\n", orNone(s.Node.Version), running(s.Node))
	fmt.Fprintf(t, "data\t%s\n", s.Node.Data)
	if c := s.Cluster; c != nil {
		fmt.Fprintf(t, "cluster\t%s, leader %s, quorum %t\n", c.ID, orNone(c.Leader), c.Quorum)
		fmt.Fprintf(t, "\nMEMBER\tNAME\tROLE\tVERSION\tDB SIZE\tIN USE\tREVISION\tCLIENT URL\tPROBLEM\n")
		for _, m := range c.Members {
			role := "voter"
			if m.Learner {
				role = "learner"
			}
			if m.ID == c.Leader {
				role = "leader"
			}
			url := ""
			if len(m.ClientURLs) > 0 {
				url = m.ClientURLs[0]
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", m.ID, orNone(m.Name), role, m.Version, mib(m.DBSize), mib(m.DBInUse), m.Revision, url, m.Problem)
		}
	}
	fmt.Fprintf(t, "\nCERTIFICATE\tEXPIRES\tISSUER\tPROBLEM\n")
	for _, d := range s.Certificates {
		end := ""
		if !d.NotAfter.IsZero() {
			end = d.NotAfter.Format(time.RFC3339)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", d.Name, end, d.Issuer, d.Problem)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i, a := range s.Attention {
		if i == 0 {
			fmt.Fprintln(w)
		}
		if _, err := fmt.Fprintf(w, "attention: %s\n", a); err != nil {
			return err
		}
	}
	return nil
}

func running(s NodeStatus) string {
	if !s.Running {
		return "not running"
	}
	if s.PID == 0 {
		return "running where its process cannot be seen"
	}
	return "running as process " + strconv.Itoa(s.PID)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// InfoDocument is what the retired etcdadm printed of a member, and what its callers read.
type InfoDocument struct {
	ID         uint64   `json:"ID"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

// Info returns the member that runs on this node. Where none runs, that is an error.
func Info(ctx context.Context, n *Node) (*InfoDocument, error) {
	url := n.Config.LocalURL()
	c, err := n.cluster(url)
	if err != nil {
		return nil, err
	}
	s, err := c.Status(ctx, url)
	if err != nil {
		return nil, errs.New(errs.Failed, "no etcd answers at %s: %w", url, err).Hint("etcdadm status")
	}
	m, err := c.MembersSerializable(ctx)
	if err != nil {
		return nil, err
	}
	self, ok := m.ByID(s.MemberID)
	if !ok {
		return nil, errs.New(errs.Failed, "member %s at %s is not in the member list", hexID(s.MemberID), url)
	}
	return &InfoDocument{ID: self.ID, Name: self.Name, PeerURLs: self.PeerURLs, ClientURLs: self.ClientURLs}, nil
}
