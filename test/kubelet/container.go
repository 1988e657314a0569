package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// asContainer is set in the environment of a test's program that becomes a container: what it is told, as JSON.
const asContainer = "TEST_AS_CONTAINER"

// container is what the runtime is asked for.
type container struct {
	Image        string // a directory of programs, on the PATH in the container
	RootFS       string // an empty directory
	Command, Env []string
	Mounts       []mount
	ReadOnly     bool // the root file system
	User, Group  int
	Capabilities bool // those that a runtime leaves to root; false: none
}

type mount struct {
	Source, Target string
	ReadOnly       bool
}

// Container ends as the program of a container if a Kubelet has started this process for it, and returns otherwise. It
// stands at the beginning of TestMain.
func Container() {
	told := os.Getenv(asContainer)
	if told == "" {
		return
	}
	var c container
	err := json.Unmarshal([]byte(told), &c)
	if err == nil {
		err = c.become()
	}
	fmt.Fprintln(os.Stderr, "container:", err)
	os.Exit(128)
}

// start runs a container in mount and process namespaces of its own. The network is the machine's.
func (c container) start(out *os.File) (*exec.Cmd, error) {
	told, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{asContainer + "=" + string(told)}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL, Setsid: true}
	return cmd, cmd.Start()
}

// become makes the root file system, gives up what the container is not to have, and goes on as its program.
func (c container) become() error {
	runtime.LockOSThread() // capabilities belong to a thread
	if err := c.mountAll(); err != nil {
		return err
	}
	if err := errors.Join(unix.Chroot(c.RootFS), unix.Chdir("/")); err != nil {
		return err
	}
	if err := c.confine(); err != nil {
		return err
	}
	program := filepath.Join("/usr/local/bin", c.Command[0])
	return syscall.Exec(program, c.Command, c.Env)
}

func (c container) mountAll() error {
	// What others unmount is unmounted here too: nobody keeps a disk of theirs busy.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", c.RootFS, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	proc := filepath.Join(c.RootFS, "proc")
	if err := os.Mkdir(proc, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
		return err
	}
	all := append([]mount{{c.Image, "/usr/local/bin", true}, {"/dev", "/dev", false}}, c.Mounts...)
	slices.SortStableFunc(all, func(a, b mount) int { return strings.Count(a.Target, "/") - strings.Count(b.Target, "/") })
	for _, m := range all {
		if err := m.bind(c.RootFS); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.Source, m.Target, err)
		}
	}
	if c.ReadOnly {
		return unix.Mount("", c.RootFS, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

// bind mounts as containerd and runc do: a source that is absent is made a directory, and a target of the kind of its
// source where there is none.
func (m mount) bind(root string) error {
	info, err := os.Stat(m.Source)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(m.Source, 0o755); err == nil {
			info, err = os.Stat(m.Source)
		}
	}
	if err != nil {
		return err
	}
	target, err := securejoin.SecureJoin(root, m.Target)
	if err != nil {
		return err
	}
	if _, err := os.Stat(target); errors.Is(err, os.ErrNotExist) {
		dir := target
		if !info.IsDir() {
			dir = filepath.Dir(target)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if !info.IsDir() {
			if err := os.WriteFile(target, nil, 0o644); err != nil {
				return err
			}
		}
	}
	if err := unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if m.ReadOnly {
		return unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

// confine gives up capabilities and becomes the user.
func (c container) confine() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if !c.Capabilities {
		for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(c.Group), syscall.Setuid(c.User)); err != nil {
		return err
	}
	if c.Capabilities {
		return nil
	}
	none := [2]unix.CapUserData{}
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
}

// Possible tells why containers cannot be made here; nil when they can.
func Possible() error {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	return cmd.Run()
}
