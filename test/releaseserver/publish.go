package releaseserver

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Publish puts a release of made-up programs into a directory, in upstream's layout and with SHA256SUMS beside it. The
// programs differ by name and version, and are of the given architecture as far as their ELF header goes. It returns
// the archive's path and SHA-256.
func Publish(dir, version, arch string) (file, sum string, err error) {
	top := fmt.Sprintf("etcd-v%s-linux-%s", version, arch)
	data, err := Archive(
		Dir(top), File(top+"/README.md", []byte("# etcd\n")), Dir(top+"/Documentation"), File(top+"/Documentation/etcd", []byte("no program\n")),
		File(top+"/etcd", Program(arch, "etcd "+version)),
		File(top+"/etcdctl", Program(arch, "etcdctl "+version)),
		File(top+"/etcdutl", Program(arch, "etcdutl "+version)))
	if err != nil {
		return "", "", err
	}
	file = filepath.Join(dir, "v"+version, top+".tar.gz")
	sum, err = Put(file, data)
	return file, sum, err
}

// Put writes an archive, and its digest to the SHA256SUMS beside it.
func Put(file string, data []byte) (sum string, err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return "", err
	}
	digest := sha256.Sum256(data)
	sum = hex.EncodeToString(digest[:])
	line := sum + "  " + filepath.Base(file) + "\n"
	return sum, os.WriteFile(filepath.Join(filepath.Dir(file), "SHA256SUMS"), []byte(line), 0o644)
}

// Entry is a member of an archive.
type Entry struct {
	tar.Header
	Data []byte
}

// File is a program that somebody else owns, as upstream packs them.
func File(name string, data []byte) Entry {
	return Entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Uid: 528287, Gid: 89939, Size: int64(len(data))}, data}
}

// Dir is a directory.
func Dir(name string) Entry {
	return Entry{Header: tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o750}}
}

// Archive packs entries into a gzip-compressed tar file.
func Archive(entries ...Entry) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for _, e := range entries {
		if err := t.WriteHeader(&e.Header); err != nil {
			return nil, err
		}
		if _, err := t.Write(e.Data); err != nil {
			return nil, err
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	err := z.Close()
	return b.Bytes(), err
}

// Program is an ELF header of the architecture, the text, and some 100 KB that do not compress.
func Program(arch, text string) []byte {
	machine, order := uint16(62), binary.ByteOrder(binary.LittleEndian)
	switch arch {
	case "arm64":
		machine = 183
	case "ppc64le":
		machine = 21
	case "s390x":
		machine, order = 22, binary.BigEndian
	}
	b := make([]byte, 64, 64+len(text)+100<<10)
	copy(b, "\x7fELF\x02\x01\x01")
	if order == binary.BigEndian {
		b[5] = 2
	}
	order.PutUint16(b[16:], 2) // executable
	order.PutUint16(b[18:], machine)
	order.PutUint32(b[20:], 1) // version of the format
	order.PutUint16(b[52:], 64)
	b = append(b, text...)
	noise := rand.New(rand.NewPCG(1, uint64(len(text)))) //nolint:gosec // noise, the same each time
	for len(b) < cap(b) {
		b = append(b, byte(noise.UintN(256)))
	}
	return b
}
