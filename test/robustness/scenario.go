package robustness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"etcdadm/test/process"
)

// A Scenario is what etcdadm does to a cluster while clients use it.
type Scenario struct {
	Name  string
	Nodes int // there are that many; the first is a member when the scenario begins
	Play  func(*Play) error
}

// Scenarios lose nothing, whatever happens to etcdadm, to etcd or to the network between them.
var Scenarios = []Scenario{
	{"grow to five", 5, func(p *Play) error {
		for _, n := range p.Nodes[1:] {
			if err := p.join(n); err != nil {
				return err
			}
		}
		return nil
	}},
	{"join at the same moment", 4, func(p *Play) error {
		return p.joinTogether(p.Nodes[1:])
	}},
	{"reset a follower", 3, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		return p.reset(p.follower())
	}},
	{"reset the leader", 3, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		lead, err := p.leader()
		if err != nil {
			return err
		}
		return p.reset(lead)
	}},
	{"replace a member without its disk", 3, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		return p.replace(p.follower())
	}},
	{"restart one by one with other settings", 3, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		for _, n := range p.members {
			if err := p.reconfigure(n); err != nil {
				return err
			}
		}
		return nil
	}},
	{"restart all at the same moment with other settings", 3, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		for _, n := range p.members {
			if err := p.configure(n); err != nil {
				return err
			}
		}
		return p.together(p.members, p.apply)
	}},
	{"renew the certificates", 3, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		for _, n := range p.members {
			if err := p.renew(n); err != nil {
				return err
			}
		}
		return nil
	}},
	{"run everything again", 3, func(p *Play) error {
		if err := p.grow(3); err != nil {
			return err
		}
		for _, n := range p.members {
			if err := p.again(n); err != nil {
				return err
			}
		}
		return nil
	}},
}

// A Fault is what happens while an operation is under way.
type Fault struct {
	Name string
	// disturbs tells that it takes members away for a while, and so may take the quorum away.
	disturbs bool
	// strike makes it happen, once, at a moment of its own choice, to an operation on that node, and tells whether it did:
	// the operation may have been done by then.
	strike func(p *Play, n *Node, done <-chan struct{}) bool
}

// Faults are those of processes; the first is none.
var Faults = []Fault{
	{"none", false, func(*Play, *Node, <-chan struct{}) bool { return false }},
	{"etcdadm is killed", false, func(p *Play, n *Node, done <-chan struct{}) bool {
		return p.later(done) && n.kill()
	}},
	{"etcd is killed", true, func(p *Play, _ *Node, done <-chan struct{}) bool {
		victim := p.any()
		return p.later(done) && victim.signalEtcd(syscall.SIGKILL)
	}},
	{"the leader freezes", true, func(p *Play, _ *Node, done <-chan struct{}) bool {
		victim, err := p.leader()
		return err == nil && p.later(done) && p.freeze(victim)
	}},
	{"the node itself freezes", true, func(p *Play, n *Node, done <-chan struct{}) bool {
		return p.later(done) && p.freeze(n)
	}},
}

// A Play is a scenario under way.
type Play struct {
	*Cluster
	ctx     context.Context
	mu      sync.Mutex
	random  *rand.Rand
	fault   Fault
	members []*Node
	// logs are those of members that were removed: the judge needs to know what they wrote down.
	logs map[string]string

	// Again counts the runs of etcdadm beyond the first of each operation, Struck the faults that struck.
	Again, Struck int
}

// count adds one to a number that is shared.
func (p *Play) count(n *int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*n++
}

func (p *Play) number(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.random.IntN(n)
}

// later waits for a random moment, and tells whether the operation is still under way then.
func (p *Play) later(done <-chan struct{}) bool {
	select {
	case <-done:
		return false
	case <-time.After(time.Duration(p.number(900)) * time.Millisecond << p.number(3)): // some operations are short, some are not
		return true
	}
}

// freeze stops a member's process for longer than an election takes, as a machine does that is paused.
func (p *Play) freeze(n *Node) bool {
	if !n.signalEtcd(syscall.SIGSTOP) {
		return false
	}
	time.Sleep(2500 * time.Millisecond)
	n.signalEtcd(syscall.SIGCONT)
	return true
}

func (p *Play) any() *Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[p.random.IntN(len(p.members))]
}

// leader waits for a leader, which there is none of during an election.
func (p *Play) leader() (*Node, error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if n := leader(p.ctx, p.current()); n != nil {
			return n, nil
		}
	}
	return nil, errors.New("no member leads")
}

func (p *Play) follower() *Node {
	lead := leader(p.ctx, p.members)
	for _, n := range p.members[1:] {
		if n != lead {
			return n
		}
	}
	return p.members[1]
}

func (p *Play) current() []*Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.members)
}

func (p *Play) set(members []*Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members = members
}

// do runs etcdadm on a node while the fault strikes, and again until it succeeds: that is all that an operator knows.
func (p *Play) do(n *Node, args ...string) error {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	var problems []error
	var strike sync.WaitGroup
	defer strike.Wait()
	for try := 0; ; try++ {
		done := make(chan struct{})
		if try == 0 {
			strike.Go(func() {
				if p.fault.strike(p, n, done) {
					p.count(&p.Struck)
				}
			})
		} else {
			p.count(&p.Again)
		}
		var said bytes.Buffer
		err := n.run(ctx, &said, &said, args...)
		close(done)
		if err == nil {
			return nil
		}
		// A refusal takes no time, and what it is for may last: a host that boots, on a busy machine. So no number of tries is
		// enough, and the last ones tell.
		problems = append(problems, fmt.Errorf("%s: etcdadm %s, try %d: %w\n%s", n.Name, args[0], try+1, err, said.Bytes()))
		problems = problems[max(0, len(problems)-3):]
		if ctx.Err() != nil {
			return errors.Join(problems...)
		}
		// What a loss of power leaves of its first start, etcd may refuse for good: the hint says what to do.
		if strings.Contains(said.String(), "the first start of this member was cut off") {
			if err := errors.Join(n.must(ctx, "reset"), p.giveCA(n)); err != nil {
				return errors.Join(append(problems, err)...)
			}
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// giveCA brings the CA of the cluster to a node.
func (p *Play) giveCA(to *Node) error {
	return errors.Join(process.GiveCA(p.safe, to.root()), to.sync())
}

func (p *Play) join(n *Node) error {
	if err := p.giveCA(n); err != nil {
		return err
	}
	if err := p.do(n, n.joinArgs(p.current()...)...); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members = append(p.members, n)
	return nil
}

func (p *Play) joinTogether(nodes []*Node) error { return p.together(nodes, p.join) }

// together does the same on several nodes at the same moment.
func (p *Play) together(nodes []*Node, do func(*Node) error) error {
	problems := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { problems[i] = do(n) })
	}
	all.Wait()
	return errors.Join(problems...)
}

// grow makes the cluster that large, undisturbed.
func (p *Play) grow(size int) error {
	fault := p.fault
	p.fault = Faults[0]
	defer func() { p.fault = fault }()
	for _, n := range p.Nodes[len(p.members):size] {
		if err := p.join(n); err != nil {
			return err
		}
	}
	return nil
}

func (p *Play) reset(n *Node) error {
	if err := p.keepLog(n); err != nil {
		return err
	}
	p.set(slices.DeleteFunc(p.current(), func(m *Node) bool { return m == n }))
	return p.do(n, "reset")
}

func (p *Play) replace(n *Node) error {
	if err := p.keepLog(n); err != nil {
		return err
	}
	if err := n.lose(); err != nil {
		return err
	}
	p.set(slices.DeleteFunc(p.current(), func(m *Node) bool { return m == n }))
	return p.join(n)
}

// keepLog keeps the log of a member that is about to leave: the same files under a second name, so that they show what is
// yet written to them.
func (p *Play) keepLog(n *Node) error {
	name := fmt.Sprintf("%s-removed-%d", n.Name, len(p.logs))
	_, to := n.beside(name)
	files, err := filepath.Glob(filepath.Join(n.dataDir(), "member/wal/*.wal"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(to, "member/wal"), 0o700); err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Link(f, filepath.Join(to, "member/wal", filepath.Base(f))); err != nil {
			return err
		}
	}
	p.logs[name] = to
	return n.sync()
}

// witnesses are all who know what was written: the members, and those that were.
func (p *Play) witnesses() map[string]string {
	all := dataDirs(p.current())
	maps.Copy(all, p.logs)
	return all
}

// command is how a node became a member, as an operator would say it again.
func (p *Play) command(n *Node) []string {
	if n == p.Nodes[0] {
		return n.initArgs()
	}
	var others []*Node
	for _, m := range p.current() {
		if m != n {
			others = append(others, m)
		}
	}
	if others == nil {
		others = []*Node{n}
	}
	return n.joinArgs(others...)
}

func (p *Play) reconfigure(n *Node) error {
	if err := p.configure(n); err != nil {
		return err
	}
	return p.apply(n)
}

// configure writes other settings down than the ones that the member has.
func (p *Play) configure(n *Node) error {
	_, file := n.beside(settings)
	text := fmt.Sprintf("apiVersion: etcdadm/v1\nkind: Config\nextraEnv:\n  GOGC: \"%d\"\n", 80+p.number(20))
	return errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600), n.sync())
}

func (p *Play) apply(n *Node) error {
	said, _ := n.beside(settings)
	return p.do(n, append(p.command(n), "--config", said)...)
}

// settings is a configuration file.
const settings = "settings.yaml"

func (p *Play) renew(n *Node) error {
	for _, leaf := range []string{"server", "peer", "etcdctl-etcd-client", "apiserver-etcd-client"} {
		for _, kind := range []string{".crt", ".key"} {
			if err := os.Remove(n.path("etc/etcd/pki/" + leaf + kind)); err != nil {
				return err
			}
		}
	}
	return p.do(n, append([]string{"join", "phase", "certificates", "anything"}, n.settings()...)...)
}

func (p *Play) again(n *Node) error {
	args := p.command(n)
	if err := p.do(n, args...); err != nil || p.fault.disturbs { // then it may have had to be started
		return err
	}
	return n.unchanged(p.ctx, args...)
}

// pause lets the clients work for a moment: until some of their writes have succeeded.
func (p *Play) pause() error {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	c, err := talk(p.current()...)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for enough := int64(0); ; {
		if got, err := c.Get(ctx, "tombstone"); err == nil {
			if enough == 0 {
				enough = got.Header.Revision + 20
			} else if got.Header.Revision >= enough {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.New("the clients write nothing")
		case <-time.After(time.Duration(100+p.number(100)) * time.Millisecond):
		}
	}
}
