// Package retired makes nodes as the retired etcdadm left them, so that the takeover of such a node can be tried. It was
// written from what is known of that program's output: paths, names, directives, subjects, usages. No text of it is here.
package retired

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"path"
	"strings"
	"time"
)

// Node is a node that etcdadm init or join set up, with the flags that it was given.
type Node struct {
	Name, Address  string
	InitialCluster string   // name=https://address:2380, comma between members; "": this one alone
	Joined         bool     // by join: it has no cluster token
	InstallDir     string   // "": /opt/bin
	CertsDir       string   // "": /etc/etcd/pki
	DataDir        string   // "": /var/lib/etcd
	DiskPriorities []string // lines; nil: what it used by itself
	CipherSuites   []string
	ExtraSANs      []string // of the server certificate
	Environment    []string // lines that an operator added to the environment file
}

// File is a file of the node. Everything belongs to root.
type File struct {
	Mode fs.FileMode
	Data []byte
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return strings.TrimRight(s, "/")
}

func (n Node) installDir() string { return or(n.InstallDir, "/opt/bin") }
func (n Node) certsDir() string   { return or(n.CertsDir, "/etc/etcd/pki") }
func (n Node) dataDir() string    { return or(n.DataDir, "/var/lib/etcd") }

// Files are all files of the node by their path, but for the programs, which are plain copies of etcd and etcdctl in the
// install directory, and the archive in the cache.
func (n Node) Files(ca *CA) (map[string]File, error) {
	text := func(s string) File { return File{0o644, []byte(s)} }
	files := map[string]File{
		"/etc/systemd/system/etcd.service": {0o755, []byte(n.Unit())},
		"/etc/etcd/etcd.env":               text(n.Env()),
		"/etc/etcd/etcdctl.env":            text(n.EtcdctlEnv()),
		n.installDir() + "/etcdctl.sh":     {0o755, []byte(n.Wrapper())},
		n.certsDir() + "/ca.crt":           text(ca.Cert),
		n.certsDir() + "/ca.key":           {0o600, []byte(ca.Key)},
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	masters := []string{"system:masters"}
	for _, l := range []leaf{
		{"server", n.Name, nil, both, append([]string{n.Name, n.Address, "127.0.0.1"}, n.ExtraSANs...)},
		{"peer", n.Name, nil, both, []string{n.Name, n.Address}},
		{"etcdctl-etcd-client", n.Name + "-etcdctl", masters, client, nil},
		{"apiserver-etcd-client", n.Name + "-kube-apiserver-etcd-client", masters, client, nil},
	} {
		crt, key, err := ca.issue(l)
		if err != nil {
			return nil, err
		}
		files[path.Join(n.certsDir(), l.file+".crt")] = text(crt)
		files[path.Join(n.certsDir(), l.file+".key")] = File{0o600, []byte(key)}
	}
	return files, nil
}

// Unit is its etcd.service: etcd without arguments, as root.
func (n Node) Unit() string {
	priorities := n.DiskPriorities
	if priorities == nil {
		priorities = []string{"Nice=-10", "IOSchedulingClass=best-effort", "IOSchedulingPriority=2"}
	}
	service := append([]string{
		"EnvironmentFile=/etc/etcd/etcd.env", "ExecStart=" + n.installDir() + "/etcd", "Type=notify", "TimeoutStartSec=0",
		"Restart=on-failure", "RestartSec=5s", "LimitNOFILE=65536",
	}, append(priorities, "MemoryLow=200M")...)
	return "[Unit]\nDescription=etcd\nConflicts=etcd-member.service\nConflicts=etcd2.service\n\n[Service]\n" +
		strings.Join(service, "\n") + "\n\n[Install]\nWantedBy=multi-user.target\n"
}

// Env is its etcd.env: all that etcd was told, the data directory and the first cluster included.
func (n Node) Env() string {
	peer, client := "https://"+net.JoinHostPort(n.Address, "2380"), "https://"+net.JoinHostPort(n.Address, "2379")
	state, token := "new", "ETCD_INITIAL_CLUSTER_TOKEN=3f9a1c07"
	if n.Joined {
		state, token = "existing", ""
	}
	file := func(name string) string { return path.Join(n.certsDir(), name) }
	lines := []string{
		"ETCD_NAME=" + n.Name, "",
		"# The first start",
		"ETCD_INITIAL_CLUSTER=" + or(n.InitialCluster, n.Name+"="+peer), token, "ETCD_INITIAL_CLUSTER_STATE=" + state, "",
		"# Peers",
		"ETCD_INITIAL_ADVERTISE_PEER_URLS=" + peer, "ETCD_LISTEN_PEER_URLS=" + peer, "",
		"ETCD_CLIENT_CERT_AUTH=true",
		"ETCD_PEER_CERT_FILE=" + file("peer.crt"), "ETCD_PEER_KEY_FILE=" + file("peer.key"), "ETCD_PEER_TRUSTED_CA_FILE=" + file("ca.crt"), "",
		"# Clients",
		"ETCD_ADVERTISE_CLIENT_URLS=" + client, "ETCD_LISTEN_CLIENT_URLS=" + client + ",https://127.0.0.1:2379", "",
		"ETCD_PEER_CLIENT_CERT_AUTH=true",
		"ETCD_CERT_FILE=" + file("server.crt"), "ETCD_KEY_FILE=" + file("server.key"), "ETCD_TRUSTED_CA_FILE=" + file("ca.crt"), "",
		"# Else",
		"ETCD_DATA_DIR=" + n.dataDir(), "ETCD_STRICT_RECONFIG_CHECK=true",
	}
	if len(n.CipherSuites) > 0 {
		lines = append(lines, "ETCD_CIPHER_SUITES="+strings.Join(n.CipherSuites, ","))
	}
	return strings.Join(append(lines, n.Environment...), "\n") + "\n"
}

// EtcdctlEnv is its etcdctl.env, which names no endpoint.
func (n Node) EtcdctlEnv() string {
	pair := path.Join(n.certsDir(), "etcdctl-etcd-client")
	return fmt.Sprintf("export ETCDCTL_API=3\n\nexport ETCDCTL_CACERT=%s/ca.crt\nexport ETCDCTL_CERT=%s.crt\nexport ETCDCTL_KEY=%[2]s.key\n\nexport ETCDCTL_DIAL_TIMEOUT=3s\n",
		n.certsDir(), pair)
}

// Wrapper is its etcdctl.sh.
func (n Node) Wrapper() string {
	return "#!/usr/bin/env sh\n. /etc/etcd/etcdctl.env\n" + n.installDir() + "/etcdctl \"$@\"\n"
}

// CA is the CA of a cluster: RSA-2048, in PKCS#1.
type CA struct {
	Cert, Key string // PEM

	cert *x509.Certificate
	key  *rsa.PrivateKey
}

const keyBits = 2048

// NewCA makes the CA that init made.
func NewCA() (*CA, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	template := &x509.Certificate{
		SerialNumber: new(big.Int), // its CAs have the number 0
		Subject:      pkix.Name{CommonName: "etcd"},
		NotBefore:    now, NotAfter: now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	ca := &CA{Cert: certPEM(der), Key: keyPEM(key), key: key}
	ca.cert, err = x509.ParseCertificate(der)
	return ca, err
}

// Pair issues a certificate for both ends of a connection, with its key.
func (ca *CA) Pair(commonName string, names ...string) (crt, key string, err error) {
	return ca.issue(leaf{commonName: commonName, usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, names: names})
}

type leaf struct {
	file, commonName string
	organization     []string
	usages           []x509.ExtKeyUsage
	names            []string // host names and addresses
}

func (ca *CA) issue(l leaf) (crt, key string, err error) {
	k, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return "", "", err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: l.commonName, Organization: l.organization},
		NotBefore:    ca.cert.NotBefore, NotAfter: time.Now().UTC().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature, ExtKeyUsage: l.usages,
	}
	for _, name := range l.names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, k.Public(), ca.key)
	return certPEM(der), keyPEM(k), err
}

func certPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func keyPEM(k *rsa.PrivateKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
}
