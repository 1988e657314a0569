package robustness

import (
	"sync"
	"time"

	"etcdadm/test/lab"
)

// A site is the lab of a cluster, as faults see it: one strikes it at a time.
type site struct {
	*lab.Lab
	struck sync.Mutex
}

// LabFaults are those that only hosts of the lab have.
var LabFaults = []Fault{
	{"the node is cut off", true, func(p *Play, n *Node, done <-chan struct{}) bool {
		return p.later(done) && p.cutOff(n)
	}},
	{"the leader is cut off", true, func(p *Play, _ *Node, done <-chan struct{}) bool {
		victim, err := p.leader()
		return err == nil && p.later(done) && p.cutOff(victim)
	}},
	{"the network is slow", false, func(p *Play, _ *Node, done <-chan struct{}) bool {
		return p.slowDown(done)
	}},
	{"the node loses power", true, func(p *Play, n *Node, done <-chan struct{}) bool {
		return p.later(done) && p.powerOff(n)
	}},
	{"another member loses power", true, func(p *Play, n *Node, done <-chan struct{}) bool {
		victim := p.any()
		return victim != n && p.later(done) && p.powerOff(victim)
	}},
}

const (
	// slow is how late a packet arrives at either end: from one host to another and back it takes four times that long.
	slow = 40 * time.Millisecond
	// cut is how long a host is cut off: some elections, and less than the time after which an operation gives up.
	cut = 5 * time.Second
)

// cutOff lets nothing pass to and from a node for a while.
func (p *Play) cutOff(n *Node) bool {
	return p.hosts.strike(func() {
		p.hosts.Isolate(n.home.(*hosted).Host)
		defer p.hosts.Heal()
		time.Sleep(cut)
	})
}

// slowDown makes all packets late until an operation is done.
func (p *Play) slowDown(done <-chan struct{}) bool {
	return p.hosts.strike(func() {
		for _, h := range p.hosts.Hosts {
			p.hosts.Latency(h, slow)
			defer p.hosts.Latency(h, 0)
		}
		<-done
	})
}

// powerOff takes the power from a node for a moment, and waits until it has booted.
func (p *Play) powerOff(n *Node) bool {
	return p.hosts.strike(func() {
		h := n.home.(*hosted)
		h.off.Lock()
		defer h.off.Unlock()
		h.PowerOff()
		time.Sleep(time.Duration(p.number(2000)) * time.Millisecond)
		h.Start()
	})
}

// strike does something to a lab, unless something is being done to it.
func (s *site) strike(do func()) bool {
	if !s.struck.TryLock() {
		return false
	}
	defer s.struck.Unlock()
	do()
	return true
}
