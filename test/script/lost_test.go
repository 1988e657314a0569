package script

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"etcdadm/constants"
	"etcdadm/test/etcdproxy"
	"etcdadm/test/process"
	"etcdadm/test/release"
)

// The reply to a change of the membership is lost, which etcd's client would wait for without end: the call has a limit,
// the member list tells that the change was made, and it is not made a second time.
func TestLostRepliesOfMembershipCalls(t *testing.T) {
	t.Parallel()
	mirror := release.Get(t)
	for name, method := range map[string]string{"add": "/etcdserverpb.Cluster/MemberAdd", "promote": "/etcdserverpb.Cluster/MemberPromote"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := &world{nodes: map[string]*node{}}
			t.Cleanup(w.end)
			run := func(name string, args ...string) process.Result {
				t.Helper()
				n := w.nodes[name]
				if n == nil {
					n = newNode(name, filepath.Join(dir, name))
					w.nodes[name] = n
				}
				args = append(slices.Clip(args), "--root", n.root, "--name", name, "--bind-address", n.address, "--init-system", "process",
					"--version", current, "--release-url", mirror.URL(), "--sha256sums", mirror.Sums(), "-o", "json")
				r, err := process.Run(args)
				if err != nil || r.Status != 0 {
					t.Fatalf("%v\n%s", err, r)
				}
				return r
			}
			run("member", "init")
			member := w.nodes["member"]
			for _, name := range []string{"door", "joiner"} {
				if err := process.GiveCA(member.root, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			run("door", "join", "phase", "certificates", "https://"+member.address+":2379")
			door := w.nodes["door"]
			proxy, err := etcdproxy.Start(door.address+":2379", member.address+":2379", filepath.Join(door.root, "etc/etcd/pki"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = proxy.Close() })
			proxy.Spoil(method, etcdproxy.Lost, 0)
			r := run("joiner", "join", "https://"+door.address+":2379")
			if limits := proxy.Limits(); len(limits) != 1 || limits[0] > constants.MembershipCallTimeout || limits[0] < constants.MembershipCallTimeout/2 {
				t.Errorf("the calls had the limits %s, want one of %s\n%s", limits, constants.MembershipCallTimeout, r)
			}
			var list struct {
				Members []struct {
					Name      string
					IsLearner bool
				}
			}
			out, err := process.Etcdctl(filepath.Join(member.root, "opt/bin/etcdctl.sh"), "member", "list", "-w", "json")
			if err == nil {
				err = json.Unmarshal([]byte(out), &list)
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(list.Members) != 2 || strings.Contains(out, `"isLearner":true`) {
				t.Errorf("the members are %s", out)
			}
		})
	}
}
