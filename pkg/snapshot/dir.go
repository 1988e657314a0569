package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

// Kind tells what a data directory holds.
type Kind string

// The kinds of data directories.
const (
	Absent     Kind = "absent"
	Empty      Kind = "empty"         // nothing but lost+found, copies that were set aside, and leftovers
	Whole      Kind = "a member"      // a WAL and a database
	Half       Kind = "half a member" // one without the other: etcd would start into nonsense, or panic
	Foreign    Kind = "foreign files" // and no member
	Unreadable Kind = "unreadable for this user"
)

// State is what InspectDir found.
type State struct {
	Kind   Kind
	Detail string // for people: what is missing, or which files are foreign; "" where Kind says it all
}

func (s State) String() string {
	if s.Detail == "" {
		return string(s.Kind)
	}
	return fmt.Sprintf("%s (%s)", s.Kind, s.Detail)
}

// InspectDir tells what a data directory holds. It lists directories, and opens no file.
func InspectDir(h *host.Host, dataDir string) (State, error) {
	info, err := h.Stat(dataDir)
	switch {
	case err != nil:
		return stateOf(err)
	case !info.IsDir():
		return State{Foreign, "not a directory"}, nil
	}
	entries, err := h.ReadDir(dataDir)
	if err != nil {
		return stateOf(err)
	}
	var foreign []string
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "lost+found" || name == touchFile || isSetAside(memberDir, name) || isLeftover(memberDir, name):
		case name == memberDir:
			s, err := inspectMember(h, filepath.Join(dataDir, memberDir))
			if err != nil || s.Kind != Empty {
				return s, err
			}
		default:
			foreign = append(foreign, name)
		}
	}
	if len(foreign) > 3 {
		foreign = append(foreign[:3], "...")
	}
	if len(foreign) > 0 {
		return State{Foreign, strings.Join(foreign, ", ")}, nil
	}
	return State{Kind: Empty}, nil
}

// inspectMember looks into the directory "member". The directories that etcd makes before its first file count as empty.
func inspectMember(h *host.Host, dir string) (State, error) {
	var wal, database, others bool
	for _, sub := range []string{"", "wal", "snap"} {
		entries, err := h.ReadDir(filepath.Join(dir, sub))
		if err != nil && !absent(err) {
			return stateOf(err)
		}
		for _, e := range entries {
			switch {
			case sub == "wal" && strings.HasSuffix(e.Name(), ".wal"):
				wal = true
			case sub == "snap" && e.Name() == "db":
				database = true
			case sub == "" && e.Name() == filepath.Base(constants.GuardFile) || host.IsStaging(e.Name()) || e.Name() == touchFile:
			case !e.IsDir():
				others = true
			}
		}
	}
	switch {
	case wal && database:
		return State{Kind: Whole}, nil
	case wal:
		return State{Half, "a WAL without a database"}, nil
	case database:
		return State{Half, "a database without a WAL"}, nil
	case others:
		return State{Half, "neither a WAL nor a database"}, nil
	}
	return State{Kind: Empty}, nil
}

func stateOf(err error) (State, error) {
	switch {
	case absent(err):
		return State{Kind: Absent}, nil
	case errors.Is(err, fs.ErrPermission):
		return State{Kind: Unreadable}, nil
	}
	return State{}, err
}

// InUse tells whether a running etcd has the database of a data directory open: it holds a lock on it.
func InUse(h *host.Host, dataDir string) (bool, error) {
	f, err := h.Open(filepath.Join(dataDir, "member/snap/db"))
	if absent(err) {
		return false, nil
	}
	if err != nil {
		return false, unreadable(dataDir, err)
	}
	defer f.Close() // gives the lock back
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// refuseInUse keeps the data of a running etcd from being moved away under it.
func refuseInUse(h *host.Host, dataDir string) error {
	used, err := InUse(h, dataDir)
	if err == nil && used {
		err = errs.New(errs.Precondition, "the data directory %s is in use by a running etcd", dataDir).Hint("stop etcd first")
	}
	return err
}

const (
	// memberDir is the one directory that etcd keeps in its data directory.
	memberDir = "member"
	// touchFile is what etcd writes to a directory and removes again at each start, to see whether it may: it may be seen, and
	// stays when etcd dies just then (client/pkg/fileutil.IsDirWriteable).
	touchFile = ".touch"
)

// contentsOnly tells whether a data directory has to stay what it is, a mount point or a link, so that only its
// contents may be replaced.
func contentsOnly(h *host.Host, dataDir string) (bool, error) {
	info, err := h.Lstat(dataDir)
	switch {
	case absent(err):
		return false, nil
	case err != nil:
		return false, err
	case info.Mode()&fs.ModeSymlink != 0:
		return true, nil
	case !info.IsDir():
		return false, nil
	}
	return h.MountPoint(dataDir)
}

// Names beside a directory that is replaced: what was set aside keeps a date, what is in the making and what is on its
// way out are hidden.

const dateForm = "20060102T150405Z"

var datePattern = regexp.MustCompile(`^\.\d{8}T\d{6}Z(-\d+)?$`)

func isSetAside(base, name string) bool {
	rest, ok := strings.CutPrefix(name, base)
	return ok && datePattern.MatchString(rest)
}

func isLeftover(base, name string) bool {
	return strings.HasPrefix(name, "."+base+".restore-") || name == "."+base+".removed"
}

// setAsideName returns a dated name beside path that nothing has yet.
func setAsideName(h *host.Host, path string, now time.Time) (string, error) {
	dated := path + "." + now.UTC().Format(dateForm)
	name := dated
	for i := 2; ; i++ {
		there, err := h.Exists(name)
		if err != nil || !there {
			return name, err
		}
		name = fmt.Sprintf("%s-%d", dated, i)
	}
}

// leftovers lists what interrupted runs left beside a data directory and in it.
func leftovers(h *host.Host, dataDir string) ([]string, error) {
	var found []string
	dataDir = filepath.Clean(dataDir)
	for dir, base := range map[string]string{filepath.Dir(dataDir): filepath.Base(dataDir), dataDir: memberDir} {
		entries, err := h.ReadDir(dir)
		if err != nil && !absent(err) {
			return nil, unreadable(dir, err)
		}
		for _, e := range entries {
			if isLeftover(base, e.Name()) || dir == dataDir && e.Name() == touchFile {
				found = append(found, filepath.Join(dir, e.Name()))
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

// unreadable says who may read what this user may not.
func unreadable(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return errs.New(errs.Precondition, "%s is not readable for this user: %w", path, fs.ErrPermission).Hint("run the command as root")
	}
	return err
}

func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }
