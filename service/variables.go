package service

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/version"
)

//go:generate go run ./internal/gen

// kind is the format of a variable's value, as the flag package reads it.
type kind string

const (
	anything kind = ""
	boolean  kind = "true or false"
	integer  kind = "an integer"
	unsigned kind = "an integer of at least 0"
	duration kind = `a duration such as "100ms" or "1h"`
)

func (k kind) accepts(value string) bool {
	var err error
	switch k {
	case boolean:
		_, err = strconv.ParseBool(value)
	case integer:
		_, err = strconv.ParseInt(value, 0, 64)
	case unsigned:
		_, err = strconv.ParseUint(value, 0, 64)
	case duration:
		_, err = time.ParseDuration(value)
	}
	return err == nil
}

// variable is an environment variable of etcd: the format of its value, and the minors of version 3 that know it, a digit each.
type variable struct {
	kind   kind
	minors string
}

// since tells the first patch of 3.5 that knows a variable, where that is none of the first. From 3.6 on, patches add
// none. Found in the releases of go.etcd.io/etcd/server/v3 from 3.5.6 on, and in etcd's CHANGELOG-3.5.
var since = map[string]int{
	"ETCD_EXPERIMENTAL_COMPACT_HASH_CHECK_ENABLED":        5,
	"ETCD_EXPERIMENTAL_COMPACT_HASH_CHECK_TIME":           5,
	"ETCD_MAX_CONCURRENT_STREAMS":                         5,
	"ETCD_LISTEN_CLIENT_HTTP_URLS":                        8,
	"ETCD_TLS_MAX_VERSION":                                8,
	"ETCD_TLS_MIN_VERSION":                                8,
	"ETCD_EXPERIMENTAL_DISTRIBUTED_TRACING_SAMPLING_RATE": 11,
	"ETCD_EXPERIMENTAL_SNAPSHOT_CATCHUP_ENTRIES":          14,
	"ETCD_EXPERIMENTAL_STOP_GRPC_SERVICE_ON_DEFRAG":       14,
	"ETCD_EXPERIMENTAL_COMPACTION_SLEEP_INTERVAL":         16,
}

// knows tells whether a version of etcd reads a variable.
func knows(v version.Etcd, name string) bool {
	if v.Minor == 5 && v.Patch < since[name] {
		return false
	}
	return strings.Contains(variables[name].minors, strconv.Itoa(v.Minor))
}

// runtimeVariables are read by the Go runtime in etcd.
var runtimeVariables = []string{"GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK"}

// reserved are variables that extraEnv may not set, each with what stands in its place. Those that Environment sets
// itself are refused too.
var reserved = map[string]string{
	"ETCD_CONFIG_FILE":                "etcd ignores its environment when it has a configuration file",
	"ETCD_DATA_DIR":                   "the data directory is the setting dataDir",
	"ETCD_FORCE_NEW_CLUSTER":          "it would drop the other members at each start",
	"ETCD_INITIAL_CLUSTER":            "etcdadm init and join find it out",
	"ETCD_INITIAL_CLUSTER_TOKEN":      "etcdadm draws a fresh one for each cluster",
	"ETCD_PEER_CERT_ALLOWED_CN":       "peers are told apart by a name that only peer certificates carry",
	"ETCD_PEER_CERT_ALLOWED_HOSTNAME": "peers are told apart by a name that only peer certificates carry",
	"ETCD_CIPHER_SUITES":              "the cipher suites are the setting cipherSuites",
	"ETCD_QUOTA_BACKEND_BYTES":        "the quota is the setting quotaBackendBytes",
	"ETCD_VERSION":                    "etcd would print its version and end",
	"ETCD_WAL_DIR":                    "etcdadm keeps the write-ahead log in the data directory",
}

// gateVariables are the variables of 3.5 that became feature gates in 3.6, where both together stop etcd.
var gateVariables = map[string]string{
	"ETCD_EXPERIMENTAL_COMPACT_HASH_CHECK_ENABLED":        "CompactHashCheck",
	"ETCD_EXPERIMENTAL_ENABLE_LEASE_CHECKPOINT":           "LeaseCheckpoint",
	"ETCD_EXPERIMENTAL_ENABLE_LEASE_CHECKPOINT_PERSIST":   "LeaseCheckpointPersist",
	"ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK":             "InitialCorruptCheck",
	"ETCD_EXPERIMENTAL_STOP_GRPC_SERVICE_ON_DEFRAG":       "StopGRPCServiceOnDefrag",
	"ETCD_EXPERIMENTAL_TXN_MODE_WRITE_WITH_SHARED_BUFFER": "TxnModeWriteWithSharedBuffer",
}

// checkExtra judges one variable of extraEnv. etcd only warns of a name that it does not know, so a mistyped setting
// would silently not hold: it is refused here. The status is always errs.Usage.
func checkExtra(v version.Etcd, kv KV) error {
	refuse := func(format string, args ...any) *errs.Error {
		return errs.New(errs.Usage, "extraEnv: "+format, args...)
	}
	if err := kv.check(); err != nil {
		return refuse("%w", err)
	}
	if kv.Value == "" { // etcd takes an empty value for none
		return refuse("%s is empty", kv.Key).Hint("leave %s out to keep etcd's default", kv.Key)
	}
	if slices.Contains(runtimeVariables, kv.Key) {
		return nil
	}
	if why := reserved[kv.Key]; why != "" {
		return refuse("%s cannot be set: %s", kv.Key, why).Hint("remove %s from extraEnv in the configuration", kv.Key)
	}
	if strings.HasPrefix(kv.Key, "ETCD_DISCOVERY") || strings.HasPrefix(kv.Key, "ETCD_PROXY") {
		return refuse("%s cannot be set: members find each other by etcdadm join", kv.Key).Hint("remove %s from extraEnv in the configuration", kv.Key)
	}
	if gate := gateVariables[kv.Key]; gate != "" && v.Minor >= 6 {
		return refuse("%s is a feature gate in etcd %s", kv.Key, v).Hint("ETCD_FEATURE_GATES: %s=%s", gate, kv.Value)
	}
	if !knows(v, kv.Key) {
		e := refuse("%s is no variable that etcd %s reads", kv.Key, v)
		if near := nearest(v, kv.Key); near != "" {
			return e.Hint("did you mean %s?", near)
		}
		return e.Hint("the variables are the flags of `etcd --help`: --snapshot-count is ETCD_SNAPSHOT_COUNT; others may be %s", strings.Join(runtimeVariables, ", "))
	}
	if k := variables[kv.Key].kind; !k.accepts(kv.Value) {
		return refuse("%s is %q, but has to be %s", kv.Key, kv.Value, k)
	}
	if strings.HasPrefix(kv.Key, "ETCD_TLS_M") && kv.Value != "TLS1.2" && kv.Value != "TLS1.3" {
		return refuse("%s is %q, but has to be TLS1.2 or TLS1.3", kv.Key, kv.Value)
	}
	return nil
}

// featureGates renders the feature gates: ours, and those that a value of ETCD_FEATURE_GATES ("A=true,B=false") sets.
func featureGates(v version.Etcd, value string) (string, error) {
	on := map[string]bool{"CompactHashCheck": true, "InitialCorruptCheck": true}
	for pair := range strings.SplitSeq(value, ",") {
		if value == "" {
			break
		}
		name, text, _ := strings.Cut(strings.TrimSpace(pair), "=")
		b, err := strconv.ParseBool(text)
		switch {
		case err != nil:
			return "", errs.New(errs.Usage, "extraEnv: %q in ETCD_FEATURE_GATES is not of the form Name=true", pair)
		case !strings.Contains(gates[name], strconv.Itoa(v.Minor)) && name != "AllAlpha" && name != "AllBeta":
			return "", errs.New(errs.Usage, "extraEnv: etcd %s has no feature gate %q", v, name).
				Hint("the feature gates are %s", strings.Join(gatesOf(v), ", "))
		}
		on[name] = b
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(on)) {
		parts = append(parts, fmt.Sprintf("%s=%t", name, on[name]))
	}
	return strings.Join(parts, ","), nil
}

func gatesOf(v version.Etcd) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(gates)) {
		if strings.Contains(gates[name], strconv.Itoa(v.Minor)) {
			names = append(names, name)
		}
	}
	return names
}

// nearest returns the known variable that is most like a name, or "" when none is much like it.
func nearest(v version.Etcd, name string) string {
	// Variables lost their prefix as they grew up.
	const prefix, experimental = "ETCD_", "ETCD_EXPERIMENTAL_"
	for _, other := range []string{strings.Replace(name, experimental, prefix, 1), strings.Replace(name, prefix, experimental, 1)} {
		if knows(v, other) {
			return other
		}
	}
	best, least := "", 1+len(name)/4
	for _, known := range slices.Sorted(maps.Keys(variables)) {
		if !knows(v, known) || reserved[known] != "" {
			continue
		}
		if d := distance(name, known); d < least {
			best, least = known, d
		}
	}
	return best
}

// distance is the number of single characters to insert, remove or replace to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// supported refuses the versions whose variables are not known here.
func supported(v version.Etcd) error {
	if v.Major == 3 && v.Minor >= 5 && v.Minor <= 7 {
		return nil
	}
	return errs.New(errs.Usage, "the settings of etcd %s are not known", v).
		Hint("use etcd 3.5, 3.6 or 3.7, for example %s", constants.DefaultVersion)
}
