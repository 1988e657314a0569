package service

import (
	"slices"
	"strings"
	"testing"
)

func TestCauseOf(t *testing.T) {
	const warn = `{"level":"warn","ts":"2026-01-01T00:00:00Z","caller":"a/b.go:1","msg":`
	for line, want := range map[string]string{
		warn + `"server error","error":"the member has been permanently removed from the cluster"}`:                                                    "this member has been permanently removed from its cluster",
		`{"level":"fatal","msg":"discovery failed","error":"listen tcp 10.0.0.7:2380: bind: address already in use"}`:                                  "10.0.0.7:2380 is taken by another process",
		`{"level":"fatal","msg":"discovery failed","error":"listen tcp 10.0.0.7:2380: bind: cannot assign requested address"}`:                         "the address of 10.0.0.7:2380 is not on this host",
		`{"level":"fatal","msg":"failed to create WAL","error":"write /var/lib/etcd/member/wal/0.tmp: no space left on device"}`:                       "a disk is full",
		`{"level":"fatal","msg":"failed to save Raft entries","error":"write 0.wal: read-only file system"}`:                                           "the file system of the data is read-only",
		`{"level":"fatal","msg":"discovery failed","error":"open /etc/etcd/pki/server.key: permission denied"}`:                                        "etcd may not read or write /etc/etcd/pki/server.key",
		`{"level":"fatal","msg":"discovery failed","error":"cannot access data directory: mkdir /var/lib/etcd: operation not permitted"}`:              "etcd lacks a permission",
		`{"level":"fatal","msg":"discovery failed","error":"open /etc/etcd/pki/peer.crt: no such file or directory"}`:                                  "/etc/etcd/pki/peer.crt is absent",
		`{"level":"fatal","msg":"discovery failed","error":"open /etc/etcd/pki/ca.crt: no such file or directory"}`:                                    "/etc/etcd/pki/ca.crt is absent",
		`{"level":"fatal","msg":"discovery failed","error":"tls: private key does not match public key"}`:                                              "a certificate and its key do not belong together",
		warn + `"request sent was ignored due to cluster ID mismatch"}`:                                                                                "a member that this one talks to is of another cluster",
		`{"level":"fatal","msg":"discovery failed","error":"member 8e9e05c52164694d has already been bootstrapped"}`:                                   "the cluster knows this member with data that is not here",
		`{"level":"fatal","msg":"discovery failed","error":"error validating peerURLs {...}: member count is unequal"}`:                                "the member list has changed since this node was configured",
		`{"level":"panic","msg":"failed to update; member unknown","unknown-remote-peer-id":"54ed2aaf7d3b4030"}`:                                       "the first start of this member was cut off, and etcd cannot go on with what it had made",
		`panic: tocommit(11) is out of range [lastIndex(3)]. Was the raft log corrupted, truncated, or lost?`:                                          "this member has lost data that it had confirmed",
		`{"level":"fatal","msg":"failed to read WAL, cannot be repaired","error":"walpb: crc mismatch"}`:                                               "the data of this member is damaged",
		`flag provided but not defined: -enable-v2`:                                                                                                    "etcd does not know the flag -enable-v2",
		warn + `"failed to verify flags","error":"unknown logger option \"zop\""}`:                                                                     `etcd refuses its settings: unknown logger option \"zop\"`,
		`conflicting environment variable "ETCD_DATA_DIR" is shadowed by corresponding command-line flag`:                                              "ETCD_DATA_DIR is set as a flag as well",
		warn + `"prober detected unhealthy status","error":"tls: failed to verify certificate: x509: certificate has expired or is not yet valid: x"}`: "a certificate is not valid at the time that one of the clocks shows",
		warn + `"rejected connection on peer endpoint","error":"remote error: tls: bad certificate"}`:                                                  "a certificate is refused between this member and another one",
		warn + `"prober found high clock drift","clock-drift":"86400s"}`:                                                                               "the clocks of the members differ",
		`{"level":"fatal","msg":"discovery failed","error":"cannot fetch cluster info from peer urls: could not retrieve cluster information"}`:        "no member of the cluster answers on its peer port",
		`etcd.service: Failed to determine user credentials: No such process`:                                                                          "the user that etcd runs as is absent",
		`etcd.service: Main process exited, code=exited, status=203/EXEC`:                                                                              "the program of etcd cannot be run",
		`etcd.service: Control process exited, code=exited, status=226/NAMESPACE`:                                                                      "systemd cannot set up the sandbox",
		`etcd.service: Failed to load environment files: No such file or directory`:                                                                    "a file of settings cannot be read",
		lostData("/var/lib/etcd"):                                 "this member has lost its data, or was never set up",
		`{"level":"info","msg":"ready to serve client requests"}`: "",
		"": "",
	} {
		c, ok := CauseOf([]string{`{"level":"info","msg":"starting"}`, line, `{"level":"info","msg":"stopped"}`})
		if ok != (want != "") || c.Reason != want || ok && c.Hint == "" {
			t.Errorf("%s\n\tgives %q (hint %q), want %q", line, c.Reason, c.Hint, want)
		}
	}
}

// What an earlier start said is over; and harm weighs more than noise, wherever it stands.
func TestTheCauseIsOfTheLastStart(t *testing.T) {
	full := `{"level":"fatal","msg":"x","error":"no space left on device"}`
	noise := `{"level":"warn","msg":"rejected connection","error":"remote error: tls: bad certificate"}`
	if c, _ := CauseOf([]string{full, noise}); c.Reason != "a disk is full" {
		t.Errorf("noise wins: %+v", c)
	}
	if c, _ := CauseOf([]string{full, "Starting etcd.service - etcd...", noise}); !strings.HasPrefix(c.Reason, "a certificate is refused") {
		t.Errorf("an earlier start wins: %+v", c)
	}
	if c, _ := likelyCause([]string{full, "Starting etcd.service - etcd...", `{"level":"info","msg":"starting"}`}); c.Reason != "a disk is full" {
		t.Errorf("started again, and nothing said yet: %+v", c)
	}
}

func TestWhatEtcdSaidLastIsItsReason(t *testing.T) {
	for name, c := range map[string]struct{ log, want []string }{
		"a panic, with its stack": {
			[]string{
				`{"level":"warn","msg":"failed to preallocate","error":"no space left on device"}`,
				`{"level":"panic","msg":"failed to create WAL","error":"no space left on device","stacktrace":"go.etcd.io/..."}`,
				"panic: failed to create WAL", "", "goroutine 1 [running]:", "main.main()", "\tmain.go:31 +0x28",
				"2026-11-21T21:46:43Z etcdadm supervise: etcd ended: exit status 2; it is started again in 100ms",
				`{"level":"panic","msg":"failed to create WAL","error":"no space left on device"}`,
			},
			[]string{"failed to create WAL: no space left on device"},
		},
		"a refused flag":     {[]string{"flag provided but not defined: -x"}, []string{"flag provided but not defined: -x"}},
		"more than one sees": {[]string{"a", "b", "c", "d"}, []string{"b", "c", "d"}},
		"what systemd says": {
			[]string{
				"Starting etcd.service - etcd...", "etcd.service: Failed at step EXEC spawning /opt/bin/etcd: Permission denied",
				"etcd.service: Main process exited, code=exited, status=203/EXEC", "etcd.service: Failed with result 'exit-code'.", "Failed to start etcd.service - etcd.",
			},
			[]string{"etcd.service: Failed at step EXEC spawning /opt/bin/etcd: Permission denied"},
		},
		"nothing": {[]string{`{"level":"info","msg":"all is well"}`}, nil},
	} {
		if got := telling(c.log); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// slowJournal tells of etcd's end only when it is asked for the third time.
type slowJournal struct {
	Backend
	asked int
}

func (j *slowJournal) LogCommand() string { return "journalctl" }

func (j *slowJournal) Logs(int) ([]string, error) {
	if j.asked++; j.asked < 3 {
		return nil, nil
	}
	return []string{`{"level":"fatal","msg":"x","error":"no space left on device"}`}, nil
}

func TestAJournalIsGivenAMoment(t *testing.T) {
	if err := NotUp(t.Context(), &slowJournal{}, ""); !strings.Contains(err.Error(), "a disk is full") {
		t.Errorf("error %v", err)
	}
}
