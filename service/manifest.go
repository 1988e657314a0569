package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"etcdadm/constants"
	"etcdadm/pkg/host"
)

// Pod is what makes the static pod of one node differ from that of another. Paths are logical and absolute, of the
// characters that api.Config allows.
type Pod struct {
	Image                          string // with its tag
	ManifestDir, DataDir, CertsDir string
	Listeners                      Listeners
}

// dataDirVariable names the data directory. The pod has all of its configuration in the environment.
const dataDirVariable = "ETCD_DATA_DIR"

// manifestTemplate is the static pod. What is not plain about it:
//
// etcd runs as root without any capability: what root dropped into the directories works, and nothing else on the host is
// within reach. A user of its own would have to exist in hosts whose /etc is read-only, and could not be given files by a
// pod whose image has no shell.
//
// The guard keeps a member that has lost its data from starting as a blank one under its old identity: the manifest still
// tells how its first start was done. It lies in the directory that etcd keeps its data in. Where it is gone, the kubelet
// does not start the pod, as the volume is of type File; and a container that is started again in a pod that lives finds a
// directory in its place, which container runtimes make, and which cannot be mounted over a file. That file is the key of
// etcdctl, which is nobody's business in there.
//
// The probes ask the plain metrics port for what a member has without the others: a member is not to be killed for a
// quorum that is lost, nor for an alarm that a restart does not end.
const manifestTemplate = `# Written by etcdadm; changes are lost.
apiVersion: v1
kind: Pod
metadata:
  name: etcd
  namespace: kube-system
  labels:
    component: etcd
    k8s-app: etcd
    tier: control-plane
spec:
  hostNetwork: true
  priorityClassName: system-cluster-critical
  terminationGracePeriodSeconds: {{.StopSeconds}}
  securityContext:
    seccompProfile:
      type: RuntimeDefault
  containers:
  - name: etcd
    image: {{scalar .Image}}
    imagePullPolicy: IfNotPresent
    command:
    - etcd
    env:
{{- range .Env}}
    - name: {{.Key}}
      value: {{scalar (escape .Value)}}
{{- end}}
    resources:
      requests:
        cpu: 100m
        memory: 100Mi
    startupProbe:
      httpGet:
        host: {{scalar .ProbeHost}}
        port: {{.ProbePort}}
        path: {{.ProbePath}}
        scheme: HTTP
      periodSeconds: 5
      timeoutSeconds: 15
      failureThreshold: 120
    livenessProbe:
      httpGet:
        host: {{scalar .ProbeHost}}
        port: {{.ProbePort}}
        path: {{.ProbePath}}
        scheme: HTTP
      periodSeconds: 10
      timeoutSeconds: 15
      failureThreshold: 8
    securityContext:
      runAsUser: 0
      runAsGroup: 0
      privileged: false
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop:
        - ALL
    volumeMounts:
    - name: data
      mountPath: {{.DataDir}}
    - name: certs
      mountPath: {{.CertsDir}}
      readOnly: true
    - name: guard
      mountPath: {{.GuardMount}}
      readOnly: true
  volumes:
  - name: data
    hostPath:
      path: {{.DataDir}}
      type: Directory
  - name: certs
    hostPath:
      path: {{.CertsDir}}
      type: Directory
  - name: guard
    hostPath:
      path: {{.Guard}}
      type: File
`

// probePath answers without a quorum, on each supported version. NOSPACE and CORRUPT are alarms of the whole cluster.
const probePath = "/health?exclude=NOSPACE&exclude=CORRUPT&serializable=true"

var manifest = template.Must(template.New("manifest").Funcs(template.FuncMap{"scalar": scalar, "escape": escape}).Parse(manifestTemplate))

// Render returns the manifest of the pod with an environment, in the order of the variables.
func (p Pod) Render(env []KV) string {
	probe, _ := url.Parse(p.Listeners.Metrics) // of ListenersOf
	var b strings.Builder
	_ = manifest.Execute(&b, map[string]any{ // fails for a bad template or a failing writer only
		"Image": p.Image, "Env": env, "DataDir": p.DataDir, "CertsDir": p.CertsDir, "Guard": p.guard(),
		"GuardMount": path.Join(p.CertsDir, "etcdctl-etcd-client.key"), "StopSeconds": strconv.Itoa(int(constants.StopTimeout.Seconds())),
		"ProbeHost": probe.Hostname(), "ProbePort": probe.Port(), "ProbePath": probePath,
	})
	return b.String()
}

// manifest is the path of the manifest.
func (p Pod) manifest() string { return path.Join(p.ManifestDir, constants.ManifestFile) }

// guard is the path of the guard.
func (p Pod) guard() string { return path.Join(p.DataDir, constants.GuardFile) }

// IsManifest tells whether a manifest of etcd was written by etcdadm, the retired one included: it set the same variables.
func IsManifest(text []byte) bool {
	return bytes.Contains(text, []byte("name: "+constants.DigestVariable)) || bytes.Contains(text, []byte("name: ETCD_INITIAL_ADVERTISE_PEER_URLS"))
}

// bootstrapLines are the variables in a manifest that matter to the first start of a member alone.
var bootstrapLines = regexp.MustCompile(`(?m)^    - name: ETCD_INITIAL_CLUSTER(_STATE|_TOKEN)?\n      value: .*\n`)

// withoutBootstrap leaves them out.
func withoutBootstrap(manifest []byte) string {
	return bootstrapLines.ReplaceAllString(string(manifest), "")
}

var manifestImage = regexp.MustCompile(`(?m)^    image: "?[^"\s]+:v([^":\s]+)"?$`)

// PodVersion returns the version of etcd that the manifest on a node names: the tag of its image; "" without one.
func PodVersion(h *host.Host, manifestDir string) (string, error) {
	text, err := h.ReadFile(Pod{ManifestDir: manifestDir}.manifest())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if m := manifestImage.FindSubmatch(text); m != nil {
		return string(m[1]), err
	}
	return "", err
}

// escape keeps a kubelet from reading $(NAME) in a value as another variable (expansion.Expand of Kubernetes).
func escape(value string) string { return strings.ReplaceAll(value, "$", "$$") }

var (
	plainScalar = regexp.MustCompile(`^[A-Za-z0-9/][A-Za-z0-9_./:=,@%+-]*$`)
	numberLike  = regexp.MustCompile(`^[0-9][0-9A-Fa-fXxOo_]*(\.[0-9_]*)?([eE][+-]?[0-9]+)?$|^[0-9_]+(:[0-9_]+)+(\.[0-9_]*)?$|^[0-9]{4}-[0-9]{1,2}-`)
	words       = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"} // of YAML 1.1 too
)

// scalar returns text as YAML reads it as that text: plain, as callers look for it, unless it could be something else.
func scalar(s string) string {
	if plainScalar.MatchString(s) && !strings.HasSuffix(s, ":") && !numberLike.MatchString(s) && !slices.Contains(words, strings.ToLower(s)) {
		return s
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string of JSON is one of YAML
	return strings.TrimSuffix(b.String(), "\n")
}
