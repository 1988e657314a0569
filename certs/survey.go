package certs

import (
	"fmt"
	"io/fs"
	"path"
	"time"

	"etcdadm/pkg/converge"
	"etcdadm/pkg/errs"
)

// survey is what Check and Apply find.
type survey struct {
	ca, pair  pair
	problems  []converge.Change // why to issue
	tolerated []string          // problems that are left as they are
	modes     []modeGap
	owner     string   // to whom the key should belong, and does not; "" when it does
	left      []string // leftovers, logical paths
}

type modeGap struct {
	path       string
	have, want fs.FileMode
}

func (l Leaf) survey() (survey, error) {
	var s survey
	var err error
	if s.ca, err = readCA(l.Host, l.Dir); err != nil {
		return s, err
	}
	if s.pair, err = readPair(l.Host, l.Dir, l.Name); err != nil {
		return s, err
	}
	now := clock(l.Now)
	found := []problem{{change: converge.Change{What: l.Name + ".crt", Have: "without a ca.crt", Want: "issued"}}}
	switch {
	case s.pair.crt.absent() && s.pair.key.absent():
		found[0].change.Have = absentText
	case s.ca.chain != nil:
		found = l.judge(s.pair, s.ca.roots(), now)
	}
	if l.KeepExisting && (s.pair.usable() || s.pair.chain != nil && s.pair.key.hidden) {
		for _, p := range found {
			s.tolerated = append(s.tolerated, fmt.Sprintf("%s is kept as it is: %s", p.change.What, p.change.Have))
		}
		found = nil
	}
	if l.KeepExisting && len(found) > 0 && s.ca.chain != nil {
		if err := l.sameCA(s.ca, now); err != nil {
			return s, err
		}
	}
	if err := l.decide(&s, found, now); err != nil {
		return s, err
	}
	if s.left, err = l.store().leftovers(s.pair); err != nil {
		return s, err
	}
	s.modes = l.modes(s.pair)
	// A key that was placed is its operator's; the service sees that it can be read.
	if info, err := l.Host.Stat(s.pair.key.path); err == nil && s.pair.key.linked && !l.Host.Owns(l.Owner, info) {
		s.owner = l.Owner.Name
	}
	return s, nil
}

// sameCA refuses a CA that did not sign the pairs which were issued here and are kept: what it issues would be of no use
// among them. A pair that an operator placed may be of any CA.
func (l Leaf) sameCA(ca pair, now time.Time) error {
	for _, name := range LeafNames() {
		p, err := readPair(l.Host, l.Dir, name)
		if err != nil {
			return err
		}
		if p.chain != nil && !p.placed() && l.chainProblem(p, ca.roots(), now) == notSigned {
			return errs.New(errs.Verification, "%s is another CA than the one that %s is of: it is %s", ca.crt.path, p.crt.path, notSigned).
				Hint("%s", bring(l.Host, l.Dir, "", "ca.crt", "ca.key")).
				Hint("or, for a new CA, remove the pairs of the old one: find %s -mindepth 1 -maxdepth 1 ! -name 'ca.*' -exec rm -r {} +", l.Host.Path(l.Dir))
		}
	}
	return nil
}

// decide makes of the problems what is to be done about them, and an error of those that nothing can be done about.
func (l Leaf) decide(s *survey, found []problem, now time.Time) error {
	soft := true
	for _, p := range found {
		soft = soft && p.soft
		s.problems = append(s.problems, p.change)
	}
	if len(found) == 0 || s.ca.crt.absent() { // without a CA: it is made before Apply
		return nil
	}
	if s.ca.crt.problem != "" {
		return errs.New(errs.Verification, "%s %s", s.ca.crt.path, s.ca.crt.problem)
	}
	if s.ca.key.problem != "" && !s.ca.key.absent() {
		return keyError(s.ca.key)
	}
	if err := judgeCA(s.ca, now); err != nil {
		return err
	}
	if !s.ca.key.absent() {
		return nil
	}
	why := converge.Diff(s.problems).String()
	if soft {
		s.tolerated = append(s.tolerated, fmt.Sprintf("%s, but %s is not here to issue with", why, s.ca.key.path))
		s.problems = nil
		return nil
	}
	return errs.New(errs.Precondition, "%s is absent, and %s has to be issued (%s)", s.ca.key.path, l.Name, why).
		Hint("%s", bring(l.Host, l.Dir, "", "ca.key")).
		Hint("or place a pair of that CA as %s and %s", s.pair.crt.real, s.pair.key.real)
}

func (s survey) diff() converge.Diff {
	d := converge.Diff(s.problems)
	if len(s.problems) == 0 {
		for _, m := range s.modes {
			d = append(d, converge.Change{What: path.Base(m.path), Have: fmt.Sprintf("mode %04o", m.have), Want: fmt.Sprintf("%04o", m.want)})
		}
		if s.owner != "" {
			d = append(d, converge.Change{What: path.Base(s.pair.key.path), Have: "another owner", Want: s.owner})
		}
	}
	for _, f := range s.left {
		d = append(d, converge.Change{What: f, Have: "left over", Want: absentText})
	}
	return d
}

// modes lists the permission bits to correct. An operator may have shared a key with a group.
func (l Leaf) modes(p pair) []modeGap {
	var gaps []modeGap
	allowed := fs.FileMode(0o600)
	if p.placed() {
		allowed = 0o640
	}
	if m := p.key.mode.Perm(); p.key.problem == "" && m&^allowed != 0 {
		gaps = append(gaps, modeGap{p.key.path, m, 0o600})
	}
	if m := p.crt.mode.Perm(); p.crt.linked && p.crt.problem == "" && m != 0o644 {
		gaps = append(gaps, modeGap{p.crt.path, m, 0o644})
	}
	return gaps
}
