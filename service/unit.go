package service

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"etcdadm/constants"
)

// Unit is what makes the unit of one node differ from that of another. Paths are logical and absolute, of the characters
// that api.Config allows: none has a meaning to systemd or to a shell.
type Unit struct {
	InstallDir, DataDir, CertsDir string
	Data                          string   // where DataDir leads by way of links, of any characters; "": nowhere else
	DiskPriorities                []string // more lines of the [Service] section
}

// unitHeader tells a unit of ours from somebody else's.
const unitHeader = "# Written by etcdadm; changes are lost. Yours belong into " + constants.UnitFile + ".d/*.conf."

// unitVariable carries a digest of the unit in the unit itself, and so in the environment of whatever was started from
// it. systemd may start etcd again from a unit that is not on the disk any more, with settings that are: the digest in
// the settings alone would not tell.
const unitVariable = "ETCDADM_UNIT"

// unitTemplate is the unit. What is not plain about it:
//
// systemd knows the mounts of a path as it is written. It follows no link in RequiresMountsFor=, but it does in
// ReadWritePaths=.
//
// READY comes only when the member has a leader, so no time is too long to wait for it. A full disk ends etcd, so no
// number of starts is too many. etcd ends with status 0 when its cluster has removed it, and never else: SIGTERM it passes
// on to itself. So it is started again after every end but that one. A removed member that is started again ends within a
// tenth of a second. etcd has two reasons then, of which one makes its status 0, and takes either by chance (the last select
// of startEtcdOrProxyV2 in its etcdmain): in half the starts, so systemd lets it be after a few, three seconds apart.
//
// ExecCondition keeps a member that has lost its data from starting as a blank one under its old identity. A condition
// that does not hold is no failure, after which etcd would be started again.
//
// The data directory is a flag, and etcd refuses to have it in its environment too: the environment file of the retired
// etcdadm holds it, and is replaced after the unit.
//
// The lines of ExecStartPre= let files work that root dropped into place: data, keys, and certificates that only root may
// read. They run outside of the sandbox, where etcd cannot redirect them: links are changed themselves, and the
// certificates lie in directories of root.
//
// ProcSubset=pid would hide /proc/stat and /proc/sys, from which etcd makes metrics. NoExecPaths= leaves etcd, which is
// linked statically, as the only program that a process of this unit can run.
const unitTemplate = unitHeader + `
[Unit]
Description=etcd
Documentation=https://etcd.io/docs/
Wants=network-online.target
After=network-online.target time-sync.target
RequiresMountsFor={{.DataDir}}{{with .Data}} {{.}}{{end}}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={{.User}}
Group={{.User}}
EnvironmentFile={{.EnvFile}}
EnvironmentFile=-{{.BootstrapFile}}
UnsetEnvironment=ETCD_DATA_DIR
ExecCondition=+/bin/sh -c 'ls {{.DataDir}}/member/wal/*.wal >/dev/null 2>&1 || test -e {{.BootstrapFile}} || { echo "{{.Lost}}" >&2; exit 1; }'
ExecStartPre=-+find {{.DataDir}}/. -name lost+found -prune -o ( ! -user {{.User}} -o ! -group {{.User}} ) -exec chown -h {{.User}}:{{.User}} {} +
ExecStartPre=-+find -L{{range .Keys}} {{.}}{{end}} ! -user {{.User}} ! ( -group {{.User}} -perm -g=r ) -exec chown {{.User}}:{{.User}} {} +
ExecStartPre=-+find -L{{range .Certificates}} {{.}}{{end}} ! -user {{.User}} ! -perm -o=r -exec chgrp {{.User}} {} + -exec chmod g+r {} +
ExecStart={{.Etcd}} --data-dir {{.DataDir}}
TimeoutStartSec=infinity
TimeoutStopSec={{.StopSeconds}}
Restart=always
RestartSec=3
RestartPreventExitStatus=0
LimitNOFILE={{.Files}}
OOMScoreAdjust=-999
{{range .DiskPriorities}}{{.}}
{{end}}
# The sandbox
UMask=0077
ReadWritePaths={{.DataDir}}
NoExecPaths=/
ExecPaths={{.Etcd}}
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={{.Home}}
PrivateTmp={{.Tmp}}
PrivateMounts=yes
PrivateDevices=yes
DevicePolicy=closed
PrivateUsers=yes
PrivateIPC=yes
ProtectHostname=yes
ProtectClock=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectProc=invisible
ProcSubset=all
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
`

var unit = template.Must(template.New("unit").Parse(unitTemplate))

// Render returns the text of the unit, its own digest included.
func (u Unit) Render() string {
	cert := func(name string) string { return path.Join(u.CertsDir, name) }
	home, tmp := "yes", "yes"
	data := ""
	if u.Data != u.DataDir && u.Data != "" {
		data = `"` + unitQuoted.Replace(u.Data) + `"`
	}
	for _, p := range []string{u.InstallDir, u.DataDir, u.Data, u.CertsDir} {
		if within(p, "/home", "/root", "/run/user") { // hidden otherwise; the directories themselves stay read-only
			home = "read-only"
		}
		if within(p, "/tmp", "/var/tmp") {
			tmp = "no"
		}
	}
	var b strings.Builder
	_ = unit.Execute(&b, map[string]any{ // fails for a bad template or a failing writer only
		"DataDir": u.DataDir, "Data": data, "Etcd": path.Join(u.InstallDir, "etcd"), "User": constants.User,
		"EnvFile": constants.EnvFile, "BootstrapFile": constants.BootstrapFile, "Lost": lostData(u.DataDir),
		"Keys":         []string{cert("server.key"), cert("peer.key")},
		"Certificates": []string{cert("ca.crt"), cert("server.crt"), cert("peer.crt")},
		"StopSeconds":  strconv.Itoa(int(constants.StopTimeout.Seconds())), "Files": strconv.Itoa(constants.OpenFiles),
		"DiskPriorities": u.DiskPriorities, "Home": home, "Tmp": tmp,
	})
	sum := sha256.Sum256([]byte(b.String()))
	return strings.Replace(b.String(), "\nEnvironmentFile=", "\nEnvironment="+unitVariable+"="+hex.EncodeToString(sum[:])+"\nEnvironmentFile=", 1)
}

// unitQuoted is for text between double quotes in a unit, by systemd.syntax(7) and systemd.unit(5).
var unitQuoted = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`)

// IsUnit tells whether the text of a unit was written by etcdadm.
func IsUnit(text []byte) bool { return bytes.HasPrefix(text, []byte(unitHeader)) }

var unitDigest = regexp.MustCompile(`(?m)^Environment=` + unitVariable + `=([0-9a-f]{64})$`)

// unitDigestOf returns the digest that a unit carries, or "".
func unitDigestOf(text []byte) string {
	if m := unitDigest.FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return ""
}

// within tells whether a path is one of the directories, or below one.
func within(p string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return p == d || strings.HasPrefix(p, d+"/") })
}
