package faults

import (
	"path"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"etcdadm/pkg/errs"
	"etcdadm/test/etcdproxy"
	"etcdadm/test/process"
)

// The calls that etcdadm makes.
const (
	memberList    = "/etcdserverpb.Cluster/MemberList"
	memberAdd     = "/etcdserverpb.Cluster/MemberAdd"
	memberPromote = "/etcdserverpb.Cluster/MemberPromote"
	memberRemove  = "/etcdserverpb.Cluster/MemberRemove"
	moveLeader    = "/etcdserverpb.Maintenance/MoveLeader"
	askStatus     = "/etcdserverpb.Maintenance/Status"
	takeSnapshot  = "/etcdserverpb.Maintenance/Snapshot"
	listAlarms    = "/etcdserverpb.Maintenance/Alarm"
	readKeys      = "/etcdserverpb.KV/Range"
	grantLease    = "/etcdserverpb.Lease/LeaseGrant"
)

// answers are what they get in place of what the member says.
var answers = map[string]etcdproxy.Answer{
	"unavailable": etcdproxy.Says(codes.Unavailable, "etcdserver: request timed out"),
	"draining":    etcdproxy.Says(codes.Unavailable, "the connection is draining"),
	"unhealthy":   etcdproxy.Says(codes.Unavailable, "etcdserver: unhealthy cluster"),
	"deadline":    etcdproxy.Says(codes.DeadlineExceeded, "context deadline exceeded"),
	"forbidden":   etcdproxy.Says(codes.PermissionDenied, "etcdserver: permission denied"),
	"lost":        etcdproxy.Lost,
	"cut":         etcdproxy.Cut,
	"silent":      etcdproxy.Silent,
	"half":        etcdproxy.CutAfter(10_000),
	"stalled":     etcdproxy.StallAfter(10_000),
}

const (
	once    = 1
	forever = 0
)

// proxied is a node whose clients, itself included, reach its etcd through a proxy only.
type proxied struct {
	*node
	*etcdproxy.Proxy
}

func newProxied(t *testing.T, name string) proxied {
	t.Helper()
	n, behind := newNode(t, name), network.Address()
	// The proxy has the port that etcdadm takes for etcd's. Where etcd listens, its certificate has to say.
	n.more = []string{"--server-cert-extra-sans", behind, "--ignore-preflight-errors", "Ports"}
	proxy, err := etcdproxy.Start(n.address+":2379", behind+":2379", n.path("etc/etcd/pki"))
	n.ok(err)
	t.Cleanup(func() { _ = proxy.Close() })
	n.install("ETCD_LISTEN_CLIENT_URLS=https://" + behind + ":2379 exec \"$0.real\" \"$@\"")
	return proxied{n, proxy}
}

// lead makes the member on the node the leader of the cluster that it has with the other one.
func (n *node) lead(other *node) {
	n.t.Helper()
	n.ok(process.Lead(n.path("opt/bin/etcdctl.sh"), other.path("opt/bin/etcdctl.sh")))
}

// Members answer otherwise than they should, to one call or to all of a kind. What is only late, or was done although the
// reply was lost, is got over; the rest is told with the object, its state and the way out. No member is left behind, and
// none is added or removed twice.
func TestAnswersOfEtcd(t *testing.T) {
	t.Parallel()
	const again, reach, role = "run the same command again", "check that the members run", "user grant-role CN root"
	rows := []struct {
		command string
		at      string // whose answers are spoilt: of the only member, or of the node that runs the command ("own")
		method  string
		answer  string
		times   int
		want    failure
	}{
		{"join", "", memberList, "unavailable", once, failure{errs.Timeout, `^no endpoint of the cluster answers \(https://\S+: request timed out\)$`, reach}},
		{"join", "", memberList, "cut", once, failure{errs.Timeout, `^no endpoint of the cluster answers \(https://\S+: error reading from server: EOF\)$`, reach}},
		{"join", "", memberList, "silent", forever, failure{errs.Timeout, `^no endpoint of the cluster answers \(https://\S+: no answer within 5s\)$`, reach}},
		{"join", "", memberList, "forbidden", once, failure{errs.Precondition, `^the cluster does not tell who its members are \(https://\S+: permission denied\)$`, role}},
		{"join", "", memberAdd, "unavailable", once, failure{}},
		{"join", "", memberAdd, "draining", once, failure{}},
		{"join", "", memberAdd, "unhealthy", once, failure{}},
		{"join", "", memberAdd, "deadline", once, failure{}},
		{"join", "", memberAdd, "lost", forever, failure{}},
		{"join", "", memberAdd, "cut", forever, failure{}},
		{"join", "", memberAdd, "unavailable", forever, failure{errs.Timeout, `member https://\S+: absent, want a learner; the cluster is not ready \(request timed out\)`, again}},
		{"join", "", memberAdd, "draining", forever, failure{errs.Timeout, `absent, want a learner; the reply to a membership change was lost \(the connection is draining\)`, again}},
		{"join", "", memberAdd, "unhealthy", forever, failure{errs.Timeout, `absent, want a learner; the cluster takes a new member when its leader has been connected`, again}},
		{"join", "", memberAdd, "forbidden", once, failure{errs.Precondition, `add member https://\S+: permission denied$`, role}},
		{"join", "", memberPromote, "unavailable", once, failure{}},
		{"join", "", memberPromote, "deadline", once, failure{}},
		{"join", "", memberPromote, "lost", forever, failure{}},
		{"join", "", memberPromote, "cut", forever, failure{}},
		{"join", "", memberPromote, "unavailable", forever, failure{errs.Timeout, `member \S+ \(\w+\): a learner, want a voter; the cluster is not ready \(request timed out\)`, again}},
		{"join", "", memberPromote, "forbidden", once, failure{errs.Precondition, `promote member \S+ \(\w+\): permission denied$`, role}},
		{"join", "", askStatus, "cut", once, failure{}},
		{"join", "", askStatus, "unavailable", forever, failure{errs.Timeout, `databases cannot be read: https://\S+: request timed out$`, reach}},
		{"join", "", askStatus, "forbidden", forever, failure{errs.Precondition, `databases cannot be read: https://\S+: permission denied$`, role}},
		{"join", "", grantLease, "unavailable", once, failure{}},
		{"join", "", grantLease, "cut", once, failure{}},
		{"join", "", grantLease, "draining", forever, failure{errs.Timeout, `does not say whether another node joins at this moment \(the connection is draining\)`, again}},
		{"join", "", grantLease, "forbidden", once, failure{errs.Precondition, `ask to be admitted to the cluster: permission denied$`, role}},
		{"join", "own", readKeys, "unavailable", forever, failure{errs.Timeout, `etcd serves \(`, again}},
		{"join", "own", readKeys, "cut", once, failure{}},

		{"reset", "", memberList, "cut", forever, failure{errs.Precondition, `it is not known whether this member has left: no other voter of the cluster answers \(https://\S+: error reading from server: EOF\)$`, reach}},
		{"reset", "", memberList, "forbidden", forever, failure{errs.Precondition, `it is not known whether this member has left: the cluster does not tell who its members are \(https://\S+: permission denied\)$`, role}},
		{"reset", "", memberRemove, "unavailable", once, failure{}},
		{"reset", "", memberRemove, "draining", once, failure{}},
		{"reset", "", memberRemove, "lost", once, failure{}},
		{"reset", "", memberRemove, "cut", forever, failure{}},
		{"reset", "", memberRemove, "unavailable", forever, failure{errs.Timeout, `member \S+ \(\w+\): in the cluster, want removed; the cluster is not ready \(request timed out\)`, again}},
		{"reset", "", memberRemove, "forbidden", once, failure{errs.Precondition, `remove member \S+ \(\w+\): permission denied$`, role}},
		{"reset", "", listAlarms, "cut", once, failure{}},
		{"reset", "", listAlarms, "draining", forever, failure{errs.Timeout, `departure of the member: not confirmed \((the connection is draining|no answer within 5s)\), want on the disks of a majority`, again}},
		{"reset", "own", moveLeader, "forbidden", forever, failure{}},
		{"reset", "own", moveLeader, "cut", forever, failure{}},
		{"reset", "own", moveLeader, "lost", once, failure{}},
		{"reset", "own", askStatus, "silent", forever, failure{}},

		{"snapshot", "", askStatus, "silent", once, failure{errs.Timeout, `^etcd at https://\S+ does not answer: no answer within 5s$`, "etcdadm status"}},
		{"snapshot", "", askStatus, "draining", once, failure{errs.Failed, `^etcd at https://\S+ does not answer: the connection is draining$`, "etcdadm status"}},
		{"snapshot", "", takeSnapshot, "forbidden", once, failure{errs.Precondition, `^etcd at https://\S+ ended the snapshot early: etcdserver: permission denied$`, role}},
		{"snapshot", "", takeSnapshot, "unavailable", forever, failure{errs.Timeout, `limit of this run expired .*snapshot save`, again}},
		{"snapshot", "", takeSnapshot, "half", once, failure{}},
		{"snapshot", "", takeSnapshot, "half", forever, failure{errs.Timeout, `limit of this run expired .*snapshot save`, again}},
		{"snapshot", "", takeSnapshot, "stalled", forever, failure{errs.Timeout, `^etcd at https://\S+ sent nothing of the snapshot for 30s$`, "name another endpoint"}},

		{"init", "", askStatus, "cut", once, failure{}},
		{"init", "", askStatus, "unavailable", forever, failure{errs.Timeout, `etcd serves \(etcd at https://\S+: `, again}},
		{"init", "", readKeys, "draining", forever, failure{errs.Timeout, `etcd serves \(`, again}},

		{"status", "", memberList, "forbidden", once, failure{errs.Attention, `the member list cannot be read: the cluster does not tell who its members are \(https://\S+: permission denied\); the cluster has authentication on`, ""}},
		{"status", "", memberList, "cut", once, failure{errs.Attention, `the member list cannot be read: no endpoint of the cluster answers \(https://\S+: error reading from server: EOF\); check that the members run`, ""}},
		{"status", "", readKeys, "unavailable", once, failure{errs.Attention, `the cluster gives no linearizable reads: .*request timed out`, ""}},
		{"status", "", askStatus, "silent", once, failure{errs.Attention, `etcd at https://\S+ does not answer: no answer within 5s`, ""}},
	}
	for _, i := range draw(t, len(rows), 14) {
		r := rows[i]
		name := r.command + " " + path.Base(r.method) + " " + r.answer
		if r.times == forever {
			name += " for ever"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var first, own, at proxied
			var args []string
			var got process.Result
			for try := 1; ; try++ {
				first = newProxied(t, "first")
				first.must("init")
				own, at, args = first, first, []string{r.command}
				join := []string{"join", first.url()}
				if r.command == "join" || r.command == "reset" {
					own = newProxied(t, "second")
					own.ok(process.GiveCA(first.root, own.root))
				}
				switch r.command {
				case "join":
					args = join
				case "reset":
					own.must(join...)
					own.lead(first.node)
				case "snapshot":
					args = []string{"snapshot", "save", own.path("backup.db")}
				}
				if r.at == "own" {
					at = own
				}
				at.Spoil(r.method, answers[r.answer], r.times)
				limited := args
				if r.want.hint == again { // it would wait for minutes
					limit := "45s"
					if r.command == "snapshot" { // which gives up by itself after 30 s without a byte
						limit = "20s"
					}
					limited = append(limited[:len(limited):len(limited)], "--timeout", limit)
				}
				got = own.run(limited...)
				if len(at.Limits()) > 0 {
					break
				}
				// Whom the others elected meanwhile need not be asked to lead.
				if r.method != moveLeader || try == 5 {
					t.Fatalf("nobody calls %s\n%s", r.method, got)
				}
			}
			at.Heal()
			switch {
			case r.want.status == errs.Attention:
				if got.Status != int(errs.Attention) || !regexp.MustCompile(r.want.reason).MatchString(got.Stdout) {
					t.Errorf("the status does not say %q\n%s", r.want.reason, got)
				}
			case r.want.status != errs.OK:
				r.want.tells(t, got)
			case got.Status != 0:
				t.Error(got)
			}
			switch r.command {
			case "join":
				own.converges(args...)
				first.voters("first", "second")
			case "reset":
				own.converges(args...)
				first.voters("first")
			case "snapshot":
				if r.want.status == errs.OK {
					break
				}
				for _, f := range own.files() {
					if strings.Contains(f, "backup.db") {
						t.Errorf("%s is there", f)
					}
				}
				own.must(args...)
			case "status":
				own.must(args...)
			default:
				own.converges(args...)
			}
		})
	}
}

// A cluster with authentication on tells whoever may not change it how to be let in, and lets them in then.
func TestClusterWithAuthentication(t *testing.T) {
	t.Parallel()
	first, second := newNode(t, "first"), newNode(t, "second")
	first.install("")
	second.install("")
	first.must("init")
	first.ok(process.GiveCA(first.root, second.root))
	for _, c := range []string{"user add root --new-user-password=secret", "user grant-role root root", "auth enable"} {
		first.etcdctl(strings.Fields(c)...)
	}
	join, save := []string{"join", first.url()}, []string{"snapshot", "save", first.path("backup.db")}
	failure{errs.Precondition, `add member https://\S+: user name not found$`, "user grant-role CN root"}.tells(t, second.run(join...))
	failure{errs.Precondition, `user name not found$`, "user grant-role CN root"}.tells(t, first.run(save...))
	for _, cn := range []string{"first-etcdctl", "second-etcdctl"} {
		first.etcdctl("--user", "root:secret", "user", "add", cn, "--no-password")
		first.etcdctl("--user", "root:secret", "user", "grant-role", cn, "root")
	}
	second.converges(join...)
	first.must(save...)
	second.converges("reset")
	first.voters("first")
}
