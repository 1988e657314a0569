package certs

import (
	"crypto"
	"crypto/x509"
	"errors"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"

	"etcdadm/pkg/host"
)

// pair is a certificate and its key, as found on the node or as issued.
type pair struct {
	name  string
	chain []*x509.Certificate // of the .crt file, the leaf first; nil when crt.problem is set
	signs crypto.Signer       // nil when key.problem or key.hidden is set

	crt, key part
}

// part is one file of a pair.
type part struct {
	path    string // logical
	real    string // where a shell finds it, for hints
	data    []byte
	mode    fs.FileMode
	linked  bool   // it leads into our store
	hidden  bool   // it is there, and not for this user to read
	problem string // "absent", "is empty" ...; "" when it parses
}

func (p part) absent() bool { return p.problem == absentText }

const absentText = "absent"

// usable tells whether a TLS endpoint could load the pair.
func (p pair) usable() bool {
	return p.chain != nil && p.signs != nil && samePublic(p.chain[0].PublicKey, p.signs.Public())
}

// placed tells whether the pair came from somebody else.
func (p pair) placed() bool { return !p.crt.linked && !p.key.linked }

// readPair reads a pair. What is wrong with the contents is kept in the pair; an error is an unreadable certificate
// or a failing disk.
func readPair(h *host.Host, dir, name string) (pair, error) {
	p := pair{name: name}
	var err error
	if p.crt, err = readPart(h, dir, name, name+".crt"); err != nil {
		return p, err
	}
	if p.crt.hidden {
		return p, unreadable(p.crt.path, fs.ErrPermission)
	}
	if p.key, err = readPart(h, dir, name, name+".key"); err != nil {
		return p, err
	}
	p.parse()
	return p, nil
}

// parse fills what the bytes of the files say.
func (p *pair) parse() {
	var err error
	if p.crt.problem == "" {
		if p.chain, err = parseCertificates(p.crt.data); err != nil {
			p.crt.problem = err.Error()
		}
	}
	if p.key.problem == "" && !p.key.hidden {
		if p.signs, err = parseKey(p.key.data); err != nil {
			p.key.problem = err.Error()
		}
	}
}

func readPart(h *host.Host, dir, name, file string) (part, error) {
	f := part{path: path.Join(dir, file)}
	f.real = h.Path(f.path)
	if text, err := h.Readlink(f.path); err == nil {
		f.linked = text == store{dir: dir, name: name}.text(file)
	}
	var err error
	f.data, err = h.ReadFile(f.path)
	if info, serr := h.Stat(f.path); serr == nil {
		f.mode = info.Mode()
	} else if f.linked && errors.Is(serr, fs.ErrNotExist) { // what our own link led to is lost; it is made anew
		err = serr
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		f.problem = absentText
	case errors.Is(err, fs.ErrPermission):
		f.hidden = true
	case err != nil:
		return f, err
	}
	return f, nil
}
