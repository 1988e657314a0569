package api

import (
	"fmt"
	"slices"
	"strings"

	"etcdadm/pkg/errs"
)

// Origin tells where the value of a setting comes from.
type Origin string

// The origins, weakest first.
const (
	FromDefault     Origin = "default"
	FromRetired     Origin = "retired"     // what the retired etcdadm left on the node, as long as nothing is stored
	FromStored      Origin = "stored"      // the configuration that the node keeps
	FromFile        Origin = "file"        // --config
	FromEnvironment Origin = "environment" // ETCDADM_*
	FromFlag        Origin = "flag"
)

// Layer is what one source says. Only the settings in Set, by key, have a say.
type Layer struct {
	Origin Origin
	Config Config
	Set    map[string]bool
}

// Put has the layer say something about a setting. The values are those of Setting.Set.
func (l *Layer) Put(s Setting, values ...string) error {
	if err := s.Set(&l.Config, values...); err != nil {
		return err
	}
	if l.Set == nil {
		l.Set = map[string]bool{}
	}
	l.Set[s.Key] = true
	return nil
}

// Merge lays the layers on top of each other, weakest first, and returns the origin of every setting by key. A list or
// map replaces the one below as a whole. What nobody speaks about is left empty, for Default to fill.
func Merge(layers ...Layer) (Config, map[string]Origin) {
	var c Config
	origins := make(map[string]Origin, len(Settings))
	for _, s := range Settings {
		origins[s.Key] = FromDefault
		for _, l := range layers {
			if l.Set[s.Key] {
				s.copy(&c, &l.Config)
				origins[s.Key] = l.Origin
			}
		}
	}
	return c, origins
}

const envPrefix = "ETCDADM_"

// notSettings start like environment variables of settings, but are none: the digest of what a running etcd was started
// with, and the cache of the tests.
var notSettings = []string{"ETCDADM_DIGEST", "ETCDADM_CACHE"}

// Environment reads the ETCDADM_* variables of an environment in the form of os.Environ. A variable with an empty value
// counts as not set. An unknown one is a usage error: a typo would go unnoticed. The names in others are somebody else's.
func Environment(environ []string, others ...string) (Layer, error) {
	l := Layer{Origin: FromEnvironment}
	var known []string
	for _, s := range Settings {
		if s.Env != "" {
			known = append(known, s.Env)
		}
	}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(notSettings, name) || slices.Contains(others, name) {
			continue
		}
		i := slices.IndexFunc(Settings, func(s Setting) bool { return s.Env == name })
		if i < 0 {
			e := errs.New(errs.Usage, "unknown environment variable %s%s", name, DidYouMean(name, append(known, others...), "%s"))
			return Layer{}, e.Hint("unset %s", name)
		}
		if value == "" {
			continue
		}
		if err := l.Put(Settings[i], value); err != nil {
			return Layer{}, errs.New(errs.Usage, "environment variable %s: %w", name, err)
		}
	}
	return l, nil
}

// DidYouMean returns "; did you mean X?" with the nearest known word in the given format, or "" when none is near.
func DidYouMean(word string, known []string, format string) string {
	best, least := "", 1+len(word)/3
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d <= least && (best == "" || d < least) {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + fmt.Sprintf(format, best) + "?"
}

// distance is the number of letters to insert, delete, replace or swap with their neighbour (optimal string alignment).
func distance(a, b string) int {
	prev, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j+1]+1, next[j]+1, row[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], prev[j-1]+1)
			}
		}
		prev, row = row, next
	}
	return row[len(b)]
}
