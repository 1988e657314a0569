package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
)

// A systemd of one unit, made of real programs: systemctl keeps what it knows in files of $FAKE_SYSTEMD, and starts a
// manager, which runs etcd as the unit below $FAKE_ROOT says, and starts it again when it ends.

func fake(name string) string    { return filepath.Join(os.Getenv("FAKE_SYSTEMD"), name) }
func onFakeRoot(p string) string { return filepath.Join(os.Getenv("FAKE_ROOT"), p) }

// fakeState is what the manager tells. Everything else is in the unit and the links to it.
type fakeState struct {
	Manager, MainPID, NRestarts, ExecMainCode, ExecMainStatus, Job int
	ActiveState, SubState, Result                                  string
}

func readState() fakeState {
	s := fakeState{ActiveState: "inactive", SubState: "dead", Result: "success"}
	if b, err := os.ReadFile(fake("state")); err == nil {
		_ = json.Unmarshal(b, &s)
	}
	return s
}

func writeState(s fakeState) {
	b, err := json.Marshal(s)
	if err == nil {
		err = errors.Join(os.WriteFile(fake("state.new"), b, 0o600), os.Rename(fake("state.new"), fake("state")))
	}
	if err != nil {
		panic(err)
	}
}

func fakeSystemctl(args []string) int {
	args = slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, "--no-") })
	calls, _ := os.OpenFile(fake("calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	_, _ = fmt.Fprintln(calls, args[0])
	wants := onFakeRoot("/etc/systemd/system/multi-user.target.wants/etcd.service")
	disk, _ := os.ReadFile(onFakeRoot(constants.UnitFile))
	switch args[0] {
	case "show":
		s := readState()
		loaded, err := os.ReadFile(fake("loaded"))
		fmt.Printf("MainPID=%d\nNRestarts=%d\nExecMainCode=%d\nExecMainStatus=%d\nActiveState=%s\nSubState=%s\nResult=%s\nJob=%d\n",
			s.MainPID, s.NRestarts, s.ExecMainCode, s.ExecMainStatus, s.ActiveState, s.SubState, s.Result, s.Job)
		if err != nil && len(disk) == 0 {
			fmt.Println("LoadState=not-found")
			return 0
		}
		at := constants.UnitFile
		if b, err := os.ReadFile(fake("fragment")); err == nil {
			at = string(b)
		}
		reload := map[bool]string{true: "yes", false: "no"}[string(loaded) != string(disk) && err == nil]
		known, _ := os.ReadFile(fake("dropins"))
		fmt.Printf("ExecStart={ path=/opt/bin/etcd ; argv[]=/opt/bin/etcd --data-dir /var/lib/etcd ; ignore_errors=no }\n")
		fmt.Printf("LoadState=loaded\nFragmentPath=%s\nDropInPaths=%s\nNeedDaemonReload=%s\n", at, known, reload)
		if err != nil { // read when it is asked for the first time
			_ = os.WriteFile(fake("loaded"), disk, 0o600)
		}
	case "daemon-reload":
		dropIns, _ := filepath.Glob(onFakeRoot(constants.UnitFile + ".d/*.conf"))
		_ = os.WriteFile(fake("dropins"), []byte(strings.Join(dropIns, " ")), 0o600)
		if len(disk) == 0 {
			_ = os.Remove(fake("loaded"))
			return 0
		}
		_ = os.WriteFile(fake("loaded"), disk, 0o600)
	case "start", "restart", "stop":
		if s := readState(); s.Manager != 0 && (args[0] != "start") {
			_ = unix.Kill(s.Manager, unix.SIGTERM)
			for readState().Manager != 0 {
				time.Sleep(time.Millisecond)
			}
		}
		if args[0] == "stop" || readState().Manager != 0 {
			return 0
		}
		self, _ := os.Executable()
		manager := exec.Command(self)
		manager.Args = []string{"systemd"}
		manager.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := manager.Start(); err != nil {
			return 1
		}
		writeState(fakeState{Manager: manager.Process.Pid, ActiveState: "activating", SubState: "start-pre", Result: "success"})
		_ = os.WriteFile(fake("go"), nil, 0o600)
	case "enable":
		_ = os.MkdirAll(filepath.Dir(wants), 0o755)
		if err := os.Symlink(constants.UnitFile, wants); err != nil {
			return 1
		}
	case "disable":
		_ = os.Remove(wants)
	case "is-enabled":
		if _, err := os.Lstat(wants); err != nil {
			fmt.Println("disabled")
			return 1
		}
		fmt.Println("enabled")
	case "list-jobs": // as long as a start is queued, another one is why
		if s := readState(); s.Job != 0 && s.MainPID == 0 {
			fmt.Printf("%d etcd.service start waiting\n%d network-online.target start waiting\n%d networking-wait.service start running\n", s.Job, s.Job+1, s.Job+2)
		}
	case "reset-failed":
	default:
		fmt.Fprintln(os.Stderr, "unknown:", args)
		return 1
	}
	return 0
}

func fakeJournalctl() int {
	b, _ := os.ReadFile(fake("journal"))
	_, _ = os.Stdout.Write(b)
	return 0
}

var environmentLine = regexp.MustCompile(`(?m)^Environment=(.*)$`)

// fakeSystemd runs etcd until it is told to stop, or until etcd ends with status 0.
func fakeSystemd() int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	for _, err := os.Stat(fake("go")); err != nil; _, err = os.Stat(fake("go")) { // systemctl has said who we are
		time.Sleep(time.Millisecond)
	}
	_ = os.Remove(fake("go"))
	s := readState()
	end := func(active, result string) int {
		s.Manager, s.MainPID, s.ActiveState, s.SubState, s.Result = 0, 0, active, "dead", result
		writeState(s)
		return 0
	}
	for {
		unit, _ := os.ReadFile(fake("loaded"))
		var env []string
		for _, m := range environmentLine.FindAllSubmatch(unit, -1) {
			env = append(env, string(m[1]))
		}
		for _, f := range []string{constants.EnvFile, constants.BootstrapFile} {
			b, _ := os.ReadFile(onFakeRoot(f))
			kvs, _ := ParseEnv(b)
			for _, kv := range kvs {
				env = append(env, kv.String())
			}
		}
		journal, err := os.OpenFile(fake("journal"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return 1
		}
		fmt.Fprintln(journal, "Starting etcd.service - etcd...")
		etcd := exec.Command(onFakeRoot("/opt/bin/etcd"), "--data-dir", onFakeRoot("/var/lib/etcd"))
		etcd.Env, etcd.Stdout, etcd.Stderr = env, journal, journal
		if err := etcd.Start(); err != nil {
			s.ExecMainCode, s.ExecMainStatus = cldExited, 203
			return end("failed", "exit-code")
		}
		s.MainPID, s.ActiveState, s.SubState, s.ExecMainCode, s.ExecMainStatus = etcd.Process.Pid, "active", "running", 0, 0
		writeState(s)
		exit := make(chan error, 1)
		go func() { exit <- etcd.Wait() }()
		select {
		case <-term:
			_ = etcd.Process.Signal(unix.SIGTERM)
			<-exit
			s.ExecMainCode, s.ExecMainStatus = cldKilled, int(unix.SIGTERM)
			return end("inactive", "success")
		case <-exit:
		}
		s.ExecMainCode, s.ExecMainStatus = cldExited, etcd.ProcessState.ExitCode()
		if ws := etcd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
			s.ExecMainCode, s.ExecMainStatus = cldKilled, int(ws.Signal())
		}
		if s.ExecMainCode == cldExited && s.ExecMainStatus == 0 {
			return end("inactive", "success")
		}
		s.MainPID, s.ActiveState, s.SubState, s.Result = 0, "activating", "auto-restart", "exit-code"
		writeState(s)
		select {
		case <-term:
			return end("inactive", "success")
		case <-time.After(50 * time.Millisecond):
		}
		s.NRestarts++
	}
}
