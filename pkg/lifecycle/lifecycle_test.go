package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"etcdadm/certs"
	"etcdadm/constants"
	"etcdadm/pkg/api"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/etcd"
	"etcdadm/pkg/host"
	"etcdadm/service"
)

// node is one with an empty root that nothing may be changed under, unless opts say otherwise.
func node(t *testing.T, opts ...host.Option) *Node {
	t.Helper()
	c := api.Config{Name: "etcd-1", BindAddress: "127.88.0.1", InitSystem: api.Process, Version: "3.6.16"}
	api.Default(&c, api.Facts{})
	n := &Node{Config: c, Host: host.New(t.TempDir(), opts...), Now: time.Now}
	t.Cleanup(n.Close)
	return n
}

func TestPlansTouchNoNode(t *testing.T) {
	blank := &Node{} // no host, no configuration: help shows the phases before there is one
	for name, want := range map[string]struct {
		phases []converge.Phase
		names  string
	}{
		"init":          {Init(blank, InitOptions{}), "preflight config install certificates configure start etcdctl health post-init-instructions"},
		"init snapshot": {Init(blank, InitOptions{Snapshot: "x"}), "preflight config install certificates snapshot configure start etcdctl health post-init-instructions"},
		"join":          {Join(blank, JoinOptions{}), "preflight config stop install certificates cluster membership configure start health etcdctl"},
		"reset":         {Reset(blank, ResetOptions{}), "preflight leave stop data certificates configure install"},
		"restore":       {Restore(blank, RestoreOptions{}), "preflight config install certificates stop data configure start etcdctl health post-restore-instructions"},
		"download":      {Download(blank), "preflight download"},
	} {
		if got := strings.Join(converge.Names(want.phases), " "); got != want.names {
			t.Errorf("%s: phases %s, want %s", name, got, want.names)
		}
		for _, p := range want.phases {
			if p.Short == "" {
				t.Errorf("%s: the phase %s says nothing of itself", name, p.Name)
			}
		}
	}
}

func TestWhatCanFailComesBeforeTheClusterIsChanged(t *testing.T) {
	names := converge.Names(Join(&Node{}, JoinOptions{}))
	for _, early := range []string{PhasePreflight, PhaseInstall, PhaseCertificates, "cluster"} {
		if slices.Index(names, early) > slices.Index(names, PhaseMembership) {
			t.Errorf("join: %s comes behind %s", early, PhaseMembership)
		}
	}
	names = converge.Names(Reset(&Node{}, ResetOptions{}))
	if slices.Index(names, "leave") > slices.Index(names, "data") || slices.Index(names, PhaseStop) > slices.Index(names, "data") {
		t.Errorf("reset deletes data early: %v", names)
	}
}

// Who keeps etcd running gives it its time to stop, and then kills it: that is not to be missed by a moment.
func TestAStopIsAwaitedUntilEtcdIsKilled(t *testing.T) {
	n := node(t)
	for name, steps := range map[string]func(context.Context) ([]converge.Step, error){"reset": n.stopForGood, "join": n.stopStranded} {
		all, err := steps(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if last := all[len(all)-1]; last.Name != "stop/stopped" || last.Within <= constants.StopTimeout+5*time.Second {
			t.Errorf("%s waits %s for %s, and etcd is killed after %s", name, last.Within, last.Name, constants.StopTimeout)
		}
	}
}

func TestDryRunActsOnNothing(t *testing.T) {
	var acts []string
	n := node(t, host.ReadOnly(), host.Observe(func(act string) { acts = append(acts, act) }))
	for name, phases := range map[string][]converge.Phase{
		"init": Init(n, InitOptions{}), "reset": Reset(n, ResetOptions{}), "join": Join(n, JoinOptions{Endpoints: []string{"https://127.88.0.2:2379"}}),
	} {
		r := converge.Run(context.Background(), phases, converge.Options{DryRun: true})
		if name == "join" { // there is no CA
			if errs.StatusOf(r.Err) != errs.Precondition {
				t.Errorf("join: %v", r.Err)
			}
		} else if r.Err != nil {
			t.Errorf("%s: %v", name, r.Err)
		}
		if r.Changed != (name == "init") {
			t.Errorf("%s: would change: %t", name, r.Changed)
		}
	}
	if entries, _ := os.ReadDir(n.Host.Root()); len(acts) > 0 || len(entries) > 0 {
		t.Errorf("acts %q, files %v", acts, entries)
	}
}

func TestInitNeverTouchesDataThatExists(t *testing.T) {
	const settings = "ETCD_NAME=etcd-1\nETCD_INITIAL_ADVERTISE_PEER_URLS=https://127.88.0.1:2380\n"
	whole := []string{"member/wal/0.wal", "member/snap/db"}
	for name, c := range map[string]struct {
		data      []string
		env       string
		bootstrap bool
		refused   string // "" when init may go on
	}{
		"blank":                               {},
		"lost+found":                          {data: []string{"lost+found/x"}},
		"our member":                          {data: whole, env: settings},
		"a member of somebody":                {data: whole, refused: "holds the data of a member already"},
		"a member at another address":         {data: whole, env: strings.ReplaceAll(settings, "127.88.0.1", "127.88.0.9"), refused: "is known to its cluster by"},
		"a member, and settings that are cut": {data: whole, env: "ETCD_NAME=etcd-1\n", refused: "does not tell by which peer URL"},
		"half a member":                       {data: whole[:1], env: settings, refused: "holds half of a member"},
		"half a member, killed in its birth":  {data: whole[1:], env: settings, bootstrap: true},
		"foreign files":                       {data: []string{"notes.txt"}, refused: "holds files that are not etcd's"},
		"settings of a member, and no data":   {env: settings, refused: "is empty"},
		"settings and the wish for a cluster": {env: settings, bootstrap: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := node(t)
			files := map[string]string{}
			for _, f := range c.data {
				files[filepath.Join(constants.DefaultDataDir, f)] = "bytes"
			}
			if c.env != "" {
				files[constants.EnvFile] = c.env
			}
			if c.bootstrap {
				files[constants.BootstrapFile] = "ETCD_INITIAL_CLUSTER=etcd-1=https://127.88.0.1:2380\nETCD_INITIAL_CLUSTER_STATE=new\nETCD_INITIAL_CLUSTER_TOKEN=x\n"
			}
			for path, data := range files {
				if err := n.Host.WriteFile(path, []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := n.authority("").Created().Apply(context.Background()); err != nil {
				t.Fatal(err)
			}
			phases, err := converge.Only(Init(n, InitOptions{}), PhasePreflight)
			if err != nil {
				t.Fatal(err)
			}
			r := converge.Run(context.Background(), phases, converge.Options{})
			if c.refused == "" && r.Err == nil {
				if phases, err = converge.Only(Init(n, InitOptions{}), PhaseCertificates, PhaseConfigure); err != nil {
					t.Fatal(err)
				}
				r = converge.Run(context.Background(), phases, converge.Options{})
				delete(files, constants.EnvFile) // is ours to write
				delete(files, constants.BootstrapFile)
			}
			switch {
			case c.refused == "" && r.Err != nil:
				t.Errorf("refused: %v", r.Err)
			case c.refused != "" && (r.Err == nil || !strings.Contains(r.Err.Error(), c.refused) || errs.StatusOf(r.Err) != errs.Precondition || len(errs.HintsOf(r.Err)) == 0):
				t.Errorf("status %d: %v (hints %q)", errs.StatusOf(r.Err), r.Err, errs.HintsOf(r.Err))
			}
			for path, data := range files {
				if got, err := n.Host.ReadFile(path); err != nil || string(got) != data {
					t.Errorf("%s: %q, %v", path, got, err)
				}
			}
		})
	}
}

// A phase that runs alone has no preflight before it.
func TestConfigureNeverTakesAnEtcdOfOthers(t *testing.T) {
	const (
		settings = "ETCD_NAME=etcd-1\nETCD_INITIAL_ADVERTISE_PEER_URLS=https://127.88.0.1:2380\n" + constants.DigestVariable + "=x\n"
		wal, db  = constants.DefaultDataDir + "/member/wal/0.wal", constants.DefaultDataDir + "/member/snap/db"
	)
	byHand := map[string]string{constants.UnitFile: "[Service]\nExecStart=/usr/bin/etcd\n"}
	for name, c := range map[string]struct {
		files   map[string]string
		ignore  []string
		refused string // "" when it may go on
	}{
		"blank":                      {},
		"our unit":                   {files: map[string]string{constants.UnitFile: service.Unit{DataDir: constants.DefaultDataDir}.Render()}},
		"our member":                 {files: map[string]string{wal: "", db: "", constants.EnvFile: settings}},
		"a unit made by hand":        {files: byHand, refused: "was not written by etcdadm"},
		"such a unit, to be ignored": {files: byHand, ignore: []string{"ForeignUnit"}},
		"a unit of a package":        {files: map[string]string{"/usr/lib/systemd/system/etcd.service": "[Service]\n"}, refused: "belongs to a package"},
		"a member of somebody":       {files: map[string]string{wal: "", db: ""}, refused: "holds the data of a member already"},
	} {
		t.Run(name, func(t *testing.T) {
			n := node(t)
			n.Config.InitSystem = api.Systemd
			for path, data := range c.files {
				if err := n.Host.WriteFile(path, []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			phases, err := converge.Only(Init(n, InitOptions{}), PhaseConfigure)
			if err != nil {
				t.Fatal(err)
			}
			r := converge.Run(t.Context(), phases, converge.Options{Ignore: c.ignore, DryRun: true})
			switch {
			case c.refused == "" && r.Err != nil:
				t.Errorf("refused: %v", r.Err)
			case c.refused != "" && (r.Err == nil || !strings.Contains(r.Err.Error(), c.refused) || errs.StatusOf(r.Err) != errs.Precondition || len(errs.HintsOf(r.Err)) == 0):
				t.Errorf("status %d: %v (hints %q)", errs.StatusOf(r.Err), r.Err, errs.HintsOf(r.Err))
			case c.refused != "" && r.Changed:
				t.Errorf("it comes too late: %+v", r.Steps)
			}
		})
	}
}

// What is stored is what the next command goes by: a phase that refuses a node leaves it as it was.
func TestAPhaseThatRefusesStoresNothing(t *testing.T) {
	const settings = "ETCD_NAME=etcd-1\nETCD_INITIAL_ADVERTISE_PEER_URLS=https://127.88.0.1:2380\n"
	initPhases := func(n *Node) []converge.Phase { return Init(n, InitOptions{Snapshot: "/no/such/file"}) }
	joinPhases := func(n *Node) []converge.Phase {
		return Join(n, JoinOptions{Endpoints: []string{"https://127.88.0.2:2379"}})
	}
	noDisk := map[string]string{"/etc/fstab": "/dev/sdb1 /var/lib ext4 defaults 0 2\n"}
	for name, c := range map[string]struct {
		plan    func(*Node) []converge.Phase
		phase   string
		files   map[string]string
		refused string
	}{
		"init configure, a unit made by hand":   {initPhases, PhaseConfigure, map[string]string{constants.UnitFile: "[Service]\nExecStart=/usr/bin/etcd\n"}, "was not written by etcdadm"},
		"join configure, a unit made by hand":   {joinPhases, PhaseConfigure, map[string]string{constants.UnitFile: "[Service]\nExecStart=/usr/bin/etcd\n"}, "was not written by etcdadm"},
		"init configure, a member of somebody":  {initPhases, PhaseConfigure, map[string]string{constants.DefaultDataDir + "/member/wal/0.wal": "", constants.DefaultDataDir + "/member/snap/db": ""}, "holds the data of a member already"},
		"init configure, a disk that is absent": {initPhases, PhaseConfigure, noDisk, "/etc/fstab has one for /var/lib"},
		"init configure, settings of no etcd":   {initPhases, PhaseConfigure, nil, "ETCD_NO_SUCH_THING"},
		"init start, without settings":          {initPhases, PhaseStart, nil, "does not describe a start"},
		"init start, with those of another one": {initPhases, PhaseStart, map[string]string{constants.EnvFile: settings}, "does not describe a start"},
		"init snapshot, which is not there":     {initPhases, PhaseSnapshot, nil, "/no/such/file"},
		"join membership, a disk that is gone":  {joinPhases, PhaseMembership, noDisk, "/etc/fstab has one for /var/lib"},
	} {
		t.Run(name, func(t *testing.T) {
			var acts []string
			n := node(t)
			n.Config.InitSystem = api.Systemd
			if strings.Contains(name, "settings of no etcd") {
				n.Config.ExtraEnv = map[string]string{"ETCD_NO_SUCH_THING": "1"}
			}
			for path, data := range c.files {
				if err := n.Host.WriteFile(path, []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			n.Host = host.New(n.Host.Root(), host.Observe(func(act string) { acts = append(acts, act) }))
			phases, err := Only(c.plan(n), PhaseConfig, c.phase)
			if err != nil {
				t.Fatal(err)
			}
			r := converge.Run(t.Context(), phases, converge.Options{})
			if r.Err == nil || !strings.Contains(r.Err.Error(), c.refused) || len(errs.HintsOf(r.Err)) == 0 {
				t.Errorf("%v (hints %q)", r.Err, errs.HintsOf(r.Err))
			}
			if len(acts) > 0 {
				t.Errorf("it had begun: %q", acts)
			}
		})
	}
}

func TestAPhaseOfChecksComesBeforeWhatIsStored(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{PhasePreflight, "preflight config"}, {"cluster", "cluster config"}, {PhaseStart, "config start"}, {PhaseConfig, "config"},
	} {
		phases, err := Only(Join(&Node{}, JoinOptions{}), PhaseConfig, c.name)
		if got := strings.Join(converge.Names(phases), " "); err != nil || got != c.want {
			t.Errorf("%s: phases %s, %v; want %s", c.name, got, err, c.want)
		}
	}
	if _, err := Only(Join(&Node{}, JoinOptions{}), PhaseConfig, "strat"); err == nil {
		t.Error("an unknown phase is none")
	}
}

// Data that is lost makes no member the first one of a new cluster, phase by phase no more than at once.
func TestConfigureBeginsNoClusterOnANodeThatLostItsData(t *testing.T) {
	n := node(t)
	if err := n.Host.WriteFile(constants.EnvFile, []byte("ETCD_NAME=etcd-1\nETCD_INITIAL_ADVERTISE_PEER_URLS=https://127.88.0.1:2380\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	phases, err := Only(Init(n, InitOptions{}), PhaseConfig, PhaseConfigure)
	if err != nil {
		t.Fatal(err)
	}
	r := converge.Run(t.Context(), phases, converge.Options{})
	if errs.StatusOf(r.Err) != errs.Precondition || !strings.Contains(r.Err.Error(), "its data directory /var/lib/etcd is empty") {
		t.Errorf("%v", r.Err)
	}
	if begins, err := n.bootstrapping(); err != nil || begins {
		t.Errorf("a cluster is about to begin: %t, %v", begins, err)
	}
}

// A CA is made where a cluster begins. Beside one it would take the member away from the others.
func TestNoSecondCABesideACluster(t *testing.T) {
	const data = constants.DefaultDataDir + "/member"
	for name, c := range map[string]struct {
		files   []string
		plan    func(*Node) []converge.Phase
		refused bool
	}{
		"init, and nothing there":           {},
		"init, killed in its first start":   {files: []string{data + "/snap/db", constants.BootstrapFile}},
		"init on a member":                  {files: []string{data + "/snap/db", data + "/wal/0.wal"}, refused: true},
		"restore, which begins the cluster": {files: []string{data + "/snap/db", data + "/wal/0.wal"}, plan: func(n *Node) []converge.Phase { return Restore(n, RestoreOptions{}) }},
		"join, to which it has to be given": {plan: func(n *Node) []converge.Phase { return Join(n, JoinOptions{}) }, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := node(t)
			for _, f := range c.files {
				if err := n.Host.WriteFile(f, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if c.plan == nil {
				c.plan = func(n *Node) []converge.Phase { return Init(n, InitOptions{}) }
			}
			phases, err := converge.Only(c.plan(n), PhaseCertificates)
			if err != nil {
				t.Fatal(err)
			}
			r := converge.Run(context.Background(), phases, converge.Options{})
			made, err := n.Host.Exists(n.Config.CertsDir + "/ca.crt")
			if err != nil || made == c.refused || (errs.StatusOf(r.Err) == errs.Precondition) != c.refused {
				t.Errorf("a CA was made: %t (%v); the phase ended with %v", made, err, r.Err)
			}
		})
	}
}

// A disk that is late, or that somebody has unmounted, hides the data that this node has.
func TestNothingIsDecidedOnAMountPointWithoutItsDisk(t *testing.T) {
	n := node(t)
	if err := n.Host.WriteFile("/etc/fstab", []byte("/dev/sdb1 /var/lib ext4 defaults 0 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.Host = host.New(n.Host.Root(), host.ReadOnly())
	join := JoinOptions{Endpoints: []string{"https://127.88.0.2:2379"}}
	for name, c := range map[string]struct {
		phases []converge.Phase
		phase  string
	}{
		"init":            {Init(n, InitOptions{}), PhasePreflight},
		"join":            {Join(n, join), PhasePreflight},
		"join membership": {Join(n, join), PhaseMembership},
		"restore":         {Restore(n, RestoreOptions{File: "/no/such/file"}), PhasePreflight},
		"reset":           {Reset(n, ResetOptions{}), PhasePreflight},
	} {
		phases, err := converge.Only(c.phases, c.phase)
		if err != nil {
			t.Fatal(err)
		}
		r := converge.Run(t.Context(), phases, converge.Options{DryRun: true})
		if r.Err == nil || !strings.Contains(r.Err.Error(), "/etc/fstab has one for /var/lib") || errs.StatusOf(r.Err) != errs.Precondition || r.Changed {
			t.Errorf("%s: %v", name, r.Err)
		}
	}
}

func TestInitialClusterListsEveryMemberUnderANameOfItsOwn(t *testing.T) {
	n := node(t)
	m := etcd.Membership{Members: []etcd.Member{
		{ID: 1, Name: "a", PeerURLs: []string{"https://127.88.0.2:2380"}},
		{ID: 2, Name: "etcd-1", PeerURLs: []string{"https://127.88.0.3:2380"}}, // has our name
		{ID: 3, PeerURLs: []string{"https://127.88.0.4:2380"}},                 // has not started
		{ID: 4, PeerURLs: []string{"https://127.88.0.1:2380"}, Learner: true},  // this node
		{ID: 5, Name: "b", PeerURLs: []string{"https://127.88.0.5:2380", "https://127.88.0.6:2380"}},
		{ID: 6, Name: "b", PeerURLs: []string{"https://127.88.0.7:2380"}}, // has the name of another one, which etcd allows
	}}
	want := "a=https://127.88.0.2:2380,b=https://127.88.0.5:2380,b=https://127.88.0.6:2380,etcd-1=https://127.88.0.1:2380," +
		"member-2=https://127.88.0.3:2380,member-3=https://127.88.0.4:2380,member-6=https://127.88.0.7:2380"
	if got := n.initialCluster(m); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestEndpointsAreClientURLs(t *testing.T) {
	for in, want := range map[string]string{
		"https://10.0.0.7:2379":                            "https://10.0.0.7:2379",
		"https://10.0.0.7:2379/, https://[fd00::7]:2379,,": "https://10.0.0.7:2379 https://[fd00::7]:2379",
		"https://10.0.0.7:2379,https://10.0.0.7:2379":      "https://10.0.0.7:2379",
		"https://etcd.example.com:2379":                    "https://etcd.example.com:2379",
		"":                                                 "refused",
		",":                                                "refused",
		"10.0.0.7:2379":                                    "refused",
		"http://10.0.0.7:2379":                             "refused",
		"https://10.0.0.7":                                 "refused",
		"https://user:secret@10.0.0.7:2379":                "refused",
		"https://10.0.0.7:2379/v3":                         "refused",
		"https://10.0.0.7:2379 https://10.0.0.8:2379":              "refused",
		"https://10.0.0.7:2379,ftp://10.0.0.8:2379":                "refused",
		"https://10.0.0.7:2379?x=y":                                "refused",
		"https://" + strings.Repeat("a", 10) + "\n.example.com:79": "refused",
	} {
		got, err := ParseEndpoints(in)
		switch {
		case want == "refused" && (errs.StatusOf(err) != errs.Usage || len(errs.HintsOf(err)) == 0):
			t.Errorf("%q: %v, %v", in, got, err)
		case want != "refused" && (err != nil || strings.Join(got, " ") != want):
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

func TestTheHintOfAJoinNamesAHostToCopyFrom(t *testing.T) {
	for endpoint, want := range map[string]string{"https://10.0.0.7:2379": "10.0.0.7", "https://[fd00::7]:2379": "fd00::7", "https://etcd-1:2379": "etcd-1"} {
		if got := hostOf([]string{endpoint, "https://other:2379"}); got != want {
			t.Errorf("of %s: %q", endpoint, got)
		}
	}
	if got := hostOf(nil); got != "" {
		t.Errorf("of no endpoint: %q", got)
	}
}

func TestAMemberIsKnownByItsName(t *testing.T) {
	n := node(t)
	n.Config.BindAddress, n.Config.AdvertiseName, n.Config.Version = "10.0.0.7", "etcd-1.example.com", "3.6.16"
	env, err := n.envFile(0, true)
	if err != nil {
		t.Fatal(err)
	}
	text := string(service.RenderEnv(env.Environment, "d"))
	for _, want := range []string{
		"ETCD_INITIAL_ADVERTISE_PEER_URLS=https://etcd-1.example.com:2380", "ETCD_ADVERTISE_CLIENT_URLS=https://etcd-1.example.com:2379",
		"ETCD_LISTEN_PEER_URLS=https://10.0.0.7:2380", "ETCD_LISTEN_CLIENT_URLS=https://10.0.0.7:2379,https://127.0.0.1:2379",
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("the settings lack %s:\n%s", want, text)
		}
	}
	leaves, err := n.leaves(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for i, named := range []bool{true, true, false, false} { // the pairs of clients are of no host
		if slices.Contains(leaves[i].DNSNames, n.Config.AdvertiseName) != named {
			t.Errorf("%s has the names %q", leaves[i].Name, leaves[i].DNSNames)
		}
	}
	if n.Config.LocalURL() != "https://10.0.0.7:2379" {
		t.Errorf("the node dials its member at %s: there a name may mean another address", n.Config.LocalURL())
	}
}

func TestPeerCertificateNamesWhereConnectionsComeFrom(t *testing.T) {
	const member, named = "https://127.88.0.2:2379", "https://localhost:2379" // dialled from 127.0.0.1
	for name, c := range map[string]struct {
		bind          string
		given, joined []string
		issued        string // what a pair that is there names
		names, not    string
	}{
		"alone":                       {bind: "::1", not: "127.0.0.1"},
		"loopback":                    {bind: "127.88.0.1", names: "127.0.0.1"},
		"a member that is given":      {bind: "::1", given: []string{member}, names: "127.0.0.1"},
		"a member that it joined":     {bind: "::1", joined: []string{member}, names: "127.0.0.1"},
		"a name that it joined":       {bind: "::1", joined: []string{named}, not: "127.0.0.1"},
		"an address that it has":      {bind: "::1", issued: "127.0.0.1", names: "127.0.0.1"},
		"an address that it had":      {bind: "192.0.2.1", issued: "192.0.2.7", not: "192.0.2.7"},
		"on a network, from loopback": {bind: "192.0.2.1", given: []string{member, named}, joined: []string{member}, issued: "127.0.0.1", not: "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			n := node(t)
			n.Config.BindAddress, n.Config.JoinEndpoints = c.bind, c.joined
			if c.issued != "" {
				peer := certs.Peer(certs.Leaf{Host: n.Host, Dir: n.Config.CertsDir, Now: n.Now}, n.Config.Name, []netip.Addr{netip.MustParseAddr(c.issued)}, nil, "")
				for _, r := range []converge.Resource{n.authority("").Created(), peer} {
					if err := r.Apply(context.Background()); err != nil {
						t.Fatal(err)
					}
				}
			}
			leaves, err := n.leaves(c.given, false)
			if err != nil {
				t.Fatal(err)
			}
			for a, want := range map[string]bool{c.names: true, c.not: false} {
				if a != "" && slices.Contains(leaves[1].IPs, netip.MustParseAddr(a)) != want {
					t.Errorf("the peer certificate is for %v; for %s: want %t", leaves[1].IPs, a, want)
				}
			}
		})
	}
}

func TestEndpointsOfAnEarlierJoinStayWhileTheyAreMembers(t *testing.T) {
	const a, b, gone, name = "https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379", "https://etcd.example.com:2379"
	m := etcd.Membership{Members: []etcd.Member{{ClientURLs: []string{a}}, {ClientURLs: []string{b}}}}
	for _, c := range []struct{ given, before, want []string }{
		{[]string{a}, nil, []string{a}},
		{[]string{a}, []string{a, b}, []string{a, b}},
		{[]string{a, b}, []string{a, b}, []string{a, b}},
		{[]string{name, a}, []string{name, a}, []string{name, a}},
		{[]string{b}, []string{a, gone, name}, []string{b, a}},
	} {
		if got := stillThere(c.given, c.before, m); !slices.Equal(got, c.want) {
			t.Errorf("%v after %v: %v, want %v", c.given, c.before, got, c.want)
		}
	}
}

func TestAQuotaThatTheNodeHasStays(t *testing.T) {
	if got := keptQuota(map[string]string{"ETCD_QUOTA_BACKEND_BYTES": "7"}, 9); got != 7 {
		t.Errorf("got %d, want 7", got)
	}
	if got := keptQuota(nil, 9); got != 9 {
		t.Errorf("got %d, want 9", got)
	}
}

func TestInitKeepsAMemberOpenToPeersWithoutTheMarker(t *testing.T) {
	for _, joined := range []bool{false, true} {
		n := node(t)
		if joined { // a cluster whose members do not carry the marker
			env, err := n.envFile(0, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := env.Apply(context.Background()); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{"/member/wal/0.wal", "/member/snap/db"} {
				if err := n.Host.WriteFile(n.Config.DataDir+f, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		phases, err := converge.Only(Init(n, InitOptions{}), PhaseConfigure)
		if err != nil {
			t.Fatal(err)
		}
		if r := converge.Run(context.Background(), phases, converge.Options{}); r.Err != nil {
			t.Fatal(r.Err)
		}
		env, err := n.environment()
		if err != nil {
			t.Fatal(err)
		}
		if asks := env["ETCD_PEER_CERT_ALLOWED_HOSTNAME"] != ""; asks == joined {
			t.Errorf("joined without the marker: %t; asks for it: %t", joined, asks)
		}
	}
}

// A backend whose states a test tells, one at each look.
type told struct {
	service.Backend
	states []service.State
	logs   []string
}

func (b *told) State(context.Context) (service.State, error) {
	s := b.states[0]
	if len(b.states) > 1 {
		b.states = b.states[1:]
	}
	return s, nil
}

func (b *told) Logs(int) ([]string, error) { return b.logs, nil }
func (b *told) LogCommand() string         { return "journalctl -u etcd" }

// Between two starts an etcd is not given up at once, as the next one may find what this one did not; one that nobody starts
// again is.
func TestAnEtcdThatIsStartedAgainIsAwaited(t *testing.T) {
	const full = "no space left on device"
	down := service.State{LastExit: "exit status 1", Restarts: 7}
	again, runs, more, late := down, down, down, down
	again.Again, runs.Running, more.Again, late.Again = true, true, true, true
	more.Restarts, late.Restarts = 9, 10
	for name, c := range map[string]struct {
		states  []service.State
		serves  int // at which look it does; 0: never
		refused bool
	}{
		"it comes up at the next start": {[]service.State{again, again, runs, more, runs}, 6, false},
		"it is given up":                {[]service.State{again, runs, down}, 0, true},
		"it is given up before we look": {[]service.State{down}, 0, true},
		"it ends at three starts more":  {[]service.State{again, runs, more, runs, late}, 0, true},
	} {
		n, looks := node(t), 0
		n.process = &told{states: c.states, logs: []string{full}}
		serves := converge.CheckFunc(func(context.Context) (converge.Diff, error) {
			if looks++; looks == c.serves {
				return nil, nil
			}
			return gap("etcd", "silent", "answering"), nil
		})
		step := converge.Step{Name: "health/serving", Short: "etcd serves", Within: time.Hour, Want: n.alive(serves)}
		r := converge.Run(t.Context(), []converge.Phase{{Name: "health", Steps: fixed(step)}}, converge.Options{})
		if refused := r.Err != nil; refused != c.refused || refused && !strings.Contains(r.Err.Error(), "etcd does not stay up: exit status 1: a disk is full") {
			t.Errorf("%s: %v after %d looks", name, r.Err, looks)
		}
		if c.refused && looks != len(c.states) {
			t.Errorf("%s: seen after %d looks, want %d", name, looks, len(c.states))
		}
	}
}

// Whoever was told of other members than there are is told anew before the next start, not when several more have failed.
func TestAnEtcdThatWasToldOfOtherMembersIsSeenBetweenTwoStarts(t *testing.T) {
	const unequal = `{"level":"fatal","msg":"discovery failed","error":"error validating peerURLs: member count is unequal"}`
	between := service.State{LastExit: "exit status 1", Again: true}
	for name, c := range map[string]struct {
		state service.State
		said  string
		seen  bool
	}{
		"between two starts":       {between, unequal, true},
		"for another reason":       {between, "no space left on device", false},
		"it has not ended yet":     {service.State{Again: true}, unequal, false},
		"started again meanwhile":  {service.State{Running: true, LastExit: "exit status 1"}, unequal, false},
		"given up, as others tell": {service.State{LastExit: "exit status 1"}, unequal, false},
	} {
		n := node(t)
		n.process = &told{states: []service.State{c.state}, logs: []string{c.said}}
		if err := (begun{n: n}).membersChanged(t.Context()); errors.Is(err, service.ErrMembersChanged) != c.seen || !c.seen && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A member that gives no answer may be a part of the quorum: that it serves nobody is for its metrics to say.
func TestAMemberThatDoesNotAnswerIsNotTakenForOneThatServesNobody(t *testing.T) {
	n := node(t)
	n.Config.BindAddress = fmt.Sprintf("127.88.%d.%d", os.Getpid()/250%250, os.Getpid()%250+2) // of this run of the tests alone
	phases, err := converge.Only(Init(n, InitOptions{}), PhaseCertificates)
	if err != nil {
		t.Fatal(err)
	}
	if r := converge.Run(t.Context(), phases, converge.Options{}); r.Err != nil {
		t.Fatal(r.Err)
	}
	if steps := n.mayBeAway(t.Context()); len(steps) != 0 {
		t.Errorf("etcd does not run, and waits for %+v", steps)
	}
	listener, err := net.Listen("tcp", hostPort(n.listeners().Metrics))
	if err != nil {
		t.Fatal(err)
	}
	health := http.StatusOK
	metrics := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(health) }))
	metrics.Listener = listener
	metrics.Start()
	defer metrics.Close()
	steps := n.mayBeAway(t.Context())
	if len(steps) != 1 {
		t.Fatalf("a member of a quorum may be away: %+v", steps)
	}
	if _, err := steps[0].Want.Check(t.Context()); errs.StatusOf(err) != errs.Timeout || !strings.Contains(err.Error(), "connection refused") || len(errs.HintsOf(err)) != 2 {
		t.Errorf("status %d: %v (hints %q)", errs.StatusOf(err), err, errs.HintsOf(err))
	}
	n.AcceptLoseQuorum = true
	if steps := n.mayBeAway(t.Context()); len(steps) != 0 {
		t.Errorf("the risk was accepted: %+v", steps)
	}
	n.AcceptLoseQuorum, health = false, http.StatusServiceUnavailable
	if steps := n.mayBeAway(t.Context()); len(steps) != 0 {
		t.Errorf("a member without a quorum waits for %+v", steps)
	}
}
