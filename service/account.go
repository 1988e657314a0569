package service

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"path"

	"etcdadm/constants"
	"etcdadm/pkg/converge"
	"etcdadm/pkg/file"
	"etcdadm/pkg/host"
)

// Account is a system user and a group of the same name. One that exists is taken as it is, wherever it comes from.
type Account struct {
	Host  *host.Host
	Owner host.Owner
}

// Check looks both up.
func (a Account) Check(context.Context) (converge.Diff, error) {
	var d converge.Diff
	for _, kind := range []struct {
		name   string
		lookup func(string) (int, error)
	}{{"user", a.Host.User}, {"group", a.Host.Group}} {
		_, err := kind.lookup(a.Owner.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			d = append(d, converge.Change{What: kind.name + " " + a.Owner.Name, Have: "absent", Want: "made"})
		case err != nil:
			return nil, err
		}
	}
	return d, nil
}

// Apply has systemd-sysusers make both, from a file that tells later ones of them too; useradd and groupadd where there
// is none.
func (a Account) Apply(ctx context.Context) error {
	name := a.Owner.Name
	text := "# Written by etcdadm; see sysusers.d(5).\nu " + name + " - \"etcd\"\n"
	if err := (file.File{Host: a.Host, Path: constants.SysusersFile, Data: []byte(text), Mode: 0o644}).Apply(ctx); err != nil {
		return err
	}
	_, err := a.Host.Run(ctx, host.Command{Path: "systemd-sysusers", Args: []string{"--root=" + a.Host.Root(), path.Base(constants.SysusersFile)}})
	if !errors.Is(err, exec.ErrNotFound) {
		return err
	}
	if _, err := a.Host.Group(name); err != nil {
		if _, err := a.Host.Run(ctx, host.Command{Path: "groupadd", Args: a.prefixed("--system", name)}); err != nil {
			return err
		}
	}
	if _, err := a.Host.User(name); err == nil {
		return nil
	}
	_, err = a.Host.Run(ctx, host.Command{Path: "useradd", Args: a.prefixed(
		"--system", "--gid", name, "--no-create-home", "--home-dir", "/", "--shell", "/usr/sbin/nologin", name)})
	return err
}

// prefixed has the tools of the shadow suite work under another root.
func (a Account) prefixed(args ...string) []string {
	if a.Host.Root() == "/" {
		return args
	}
	return append([]string{"--prefix", a.Host.Root()}, args...)
}
