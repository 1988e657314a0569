package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/host"
)

// superviseCommand is the name of the command that runs Supervise.
const superviseCommand = "supervise"

const (
	// The pause before etcd is started again grows from the first to the second while it keeps ending.
	minPause, maxPause = 100 * time.Millisecond, 5 * time.Second
	// longLife is how long etcd has to run for the pause to begin anew.
	longLife = 10 * time.Second
	// maxLogSize is the size from which a start of etcd begins a new log, in bytes. One old log is kept.
	maxLogSize = 64 << 20
)

// supervisorStatus is what a supervisor tells those who look from outside, in JSON.
type supervisorStatus struct {
	PID      int    `json:"pid"` // of the supervisor
	Restarts int    `json:"restarts"`
	LastExit string `json:"lastExit"`
}

// Supervise keeps etcd running until it gets SIGTERM or SIGINT, or ctx ends: then it stops etcd and returns nil. Only one
// can run on a host. etcd dies with it, also when it is killed.
//
// Each start reads the environment files anew, so that after a crash etcd comes up with the settings that are in
// force, and carries their digest. An error is a reason not to start etcd (again): no data, unreadable settings, a
// member that was removed from its cluster. It is in the log and in the status file as well.
func Supervise(ctx context.Context, h *host.Host, installDir, dataDir string) error {
	closeInherited()
	signal.Ignore(syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	release, err := h.Lock(constants.SupervisorFile)
	if err != nil {
		return err
	}
	defer release(true)
	s := &supervisor{process: &process{host: h, installDir: path.Clean(installDir), dataDir: path.Clean(dataDir)}}
	if err := s.loop(ctx); err != nil {
		s.logf("etcd is not started: %v", err)
		s.tell(err.Error())
		return err
	}
	s.logf("stopped")
	return h.Remove(constants.SupervisorStatusFile)
}

// closeInherited closes what the one who started this program left open beyond the standard streams, such as the lock
// of a shell script around it. All that Go opens itself is marked to be closed on exec, and stays.
func closeInherited() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}

type supervisor struct {
	*process
	restarts int
}

// loop runs etcd until it is not to be started again.
func (s *supervisor) loop(ctx context.Context) error {
	wait := minPause
	for {
		began := time.Now()
		how, err := s.run(ctx)
		if err != nil || ctx.Err() != nil {
			return err
		}
		if time.Since(began) > longLife {
			wait = minPause
		}
		s.restarts++
		s.logf("etcd ended: %s; it is started again in %s", how, wait)
		s.tell(how)
		if pause(ctx, wait) != nil {
			return nil //nolint:nilerr // told to stop
		}
		wait = min(2*wait, maxPause)
	}
}

// run starts etcd, waits until it has ended, and tells how. When ctx ends, it stops etcd.
func (s *supervisor) run(ctx context.Context) (how string, err error) {
	if err := mayStart(s.host, s.dataDir); err != nil {
		return "", err
	}
	env, err := s.environment()
	if err != nil {
		return "", err
	}
	if err := s.rotate(); err != nil {
		return "", err
	}
	var begin int64
	if info, err := s.host.Stat(constants.LogFile); err == nil {
		begin = info.Size()
	}
	binary := s.host.RealPath(path.Join(s.installDir, "etcd"))
	etcd, err := s.host.Spawn(host.Command{Path: binary, Args: s.command()[1:], Env: env}, constants.LogFile)
	if err != nil {
		return "", err
	}
	select {
	case err = <-etcd.Exit:
	case <-ctx.Done():
		return "", s.end(etcd)
	}
	said, _ := tail(s.host, constants.LogFile, begin)
	if strings.Contains(said, removedWords) {
		return "", errors.New(removedText)
	}
	if err != nil {
		return err.Error(), nil //nolint:nilerr // how etcd ended is the answer
	}
	return "exit status 0", nil
}

// end stops etcd: it hands over and exits, or is killed.
func (s *supervisor) end(etcd host.Child) error {
	if err := s.host.Signal(etcd.PID, syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-etcd.Exit: //nolint:errcheck // how it ended is of no matter, as it was told to
		return nil
	case <-time.After(constants.StopTimeout):
	}
	s.logf("etcd did not stop within %s and is killed", constants.StopTimeout)
	if err := s.host.Signal(etcd.PID, syscall.SIGKILL); err != nil {
		return err
	}
	<-etcd.Exit //nolint:errcheck // likewise
	return nil
}

// environment is that of the files, the later one stronger, and nothing of ours but where programs and the home are:
// no proxy and no setting of somebody's shell gets to etcd.
func (s *supervisor) environment() ([]string, error) {
	values := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"}
	for _, file := range []string{constants.EnvFile, constants.BootstrapFile} {
		kvs, err := readEnv(s.host, file)
		if errors.Is(err, fs.ErrNotExist) && file == constants.BootstrapFile {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, kv := range kvs {
			values[kv.Key] = kv.Value
		}
	}
	var env []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		env = append(env, key+"="+values[key])
	}
	return env, nil
}

// rotate sets a log aside that has grown large.
func (s *supervisor) rotate() error {
	info, err := s.host.Stat(constants.LogFile)
	if err != nil || info.Size() < maxLogSize {
		return nil //nolint:nilerr // no log yet
	}
	return s.host.Rename(constants.LogFile, constants.LogFile+".1")
}

// logf adds a line to etcd's log. A log that cannot be written is no reason to stop etcd.
func (s *supervisor) logf(format string, args ...any) {
	line := time.Now().UTC().Format(time.RFC3339Nano) + " etcdadm supervise: " + fmt.Sprintf(format, args...) + "\n"
	_ = s.host.Append(constants.LogFile, []byte(line))
}

// tell publishes how etcd ended. It only serves messages.
func (s *supervisor) tell(how string) {
	if b, err := json.Marshal(supervisorStatus{os.Getpid(), s.restarts, how}); err == nil {
		_ = s.host.WriteFile(constants.SupervisorStatusFile, append(b, '\n'), 0o644)
	}
}
