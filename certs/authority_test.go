package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"path"
	"strings"
	"testing"
	"time"

	"etcdadm/constants"
	"etcdadm/pkg/errs"
	"etcdadm/pkg/host"
)

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// TestGivenCAIsUsed: CAs as they are found in the field issue leaves that fit, and are not touched.
func TestGivenCAIsUsed(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	sec1, err := x509.MarshalECPrivateKey(ec)
	must(t, err)

	plain := caTemplate()
	zero := caTemplate()
	zero.MaxPathLenZero = true
	anyUse := caTemplate()
	anyUse.KeyUsage = 0
	young := caTemplate()
	young.NotBefore = noon.Add(-time.Minute) // a leaf is backdated by more
	short := caTemplate()
	short.NotAfter = noon.Add(40 * 24 * time.Hour)
	stranger := foreign(t, caTemplate(), nil, nil)

	ecCA, rsCA := foreign(t, plain, ec, nil), foreign(t, zero, rs, nil)
	edCA := foreign(t, plain, ed, nil)
	tests := []struct {
		name     string
		crt, key []byte
	}{
		{"PKCS#8", ecCA.crtPEM(), ecCA.keyPEM(t)},
		{"SEC1", ecCA.crtPEM(), block("EC PRIVATE KEY", sec1)},
		{"SEC1 with parameters before", ecCA.crtPEM(), append(block("EC PARAMETERS", []byte{6, 5, 43, 129, 4, 0, 34}), block("EC PRIVATE KEY", sec1)...)},
		{"PKCS#1, path length 0", rsCA.crtPEM(), block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs))},
		{"RSA in PKCS#8", rsCA.crtPEM(), rsCA.keyPEM(t)},
		{"Ed25519", edCA.crtPEM(), edCA.keyPEM(t)},
		{"text around", append([]byte("Certificate:\n  Data:\n"), ecCA.crtPEM()...), ecCA.keyPEM(t)},
		{"no key usage", foreign(t, anyUse, ec, nil).crtPEM(), ecCA.keyPEM(t)},
		{"made a minute ago", foreign(t, young, ec, nil).crtPEM(), ecCA.keyPEM(t)},
		{"ends before a leaf would", foreign(t, short, ec, nil).crtPEM(), ecCA.keyPEM(t)},
		{"bundle, the issuer second", append(stranger.crtPEM(), ecCA.crtPEM()...), ecCA.keyPEM(t)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := host.New(t.TempDir())
			n := newNode(h)
			place(t, h, "ca.crt", tt.crt, 0o640)
			place(t, h, "ca.key", tt.key, 0o600)
			if d := check(t, n.ca().Given()); len(d) > 0 {
				t.Fatal(d)
			}
			must(t, run(n.steps()...).Err)
			if !bytes.Equal(file(t, h, "ca.crt"), tt.crt) || !bytes.Equal(file(t, h, "ca.key"), tt.key) {
				t.Error("the CA changed")
			}
			server, err := readPair(h, dir, ServerName)
			must(t, err)
			ca, err := readCA(h, dir)
			must(t, err)
			leaf, issuer := server.chain[0], ca.issuer()
			if leaf.NotBefore.Before(issuer.NotBefore) || leaf.NotAfter.After(issuer.NotAfter) {
				t.Errorf("the leaf lives from %s to %s, its CA from %s to %s", leaf.NotBefore, leaf.NotAfter, issuer.NotBefore, issuer.NotAfter)
			}
			if r := run(n.steps()...); r.Changed {
				t.Error("a second run changed something")
			}
			if made, err := CAMadeHere(h, dir); made || err != nil {
				t.Errorf("made here: %v, %v", made, err)
			}
		})
	}
}

// TestBadCA: each way in which a CA cannot serve has its own sentence, for init and for join alike, and nothing is written.
func TestBadCA(t *testing.T) {
	good := foreign(t, caTemplate(), nil, nil)
	with := func(f func(*x509.Certificate)) []byte {
		c := caTemplate()
		f(&c)
		return foreign(t, c, good.key, nil).crtPEM()
	}
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	crt, key := good.crtPEM(), good.keyPEM(t)
	encrypted := block("ENCRYPTED PRIVATE KEY", []byte("whatever"))
	legacy := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte("x")})

	tests := []struct {
		name     string
		crt, key []byte
		status   errs.Status
		says     []string
	}{
		{"key only", nil, key, errs.Precondition, []string{"ca.key is there without ca.crt", "scp -p root@EXISTING-NODE:/etc/etcd/pki/ca.crt "}},
		{"empty crt", []byte{}, key, errs.Verification, []string{"ca.crt is empty"}},
		{"blank crt", []byte("\n\n"), key, errs.Verification, []string{"ca.crt is empty"}},
		{"truncated crt", crt[:len(crt)/2], key, errs.Verification, []string{"ca.crt holds no PEM certificate"}},
		{"broken crt", block("CERTIFICATE", good.cert.Raw[:100]), key, errs.Verification, []string{"ca.crt holds a certificate that does not parse"}},
		{"DER crt", good.cert.Raw, key, errs.Verification, []string{"ca.crt holds no PEM certificate"}},
		{"key in crt", key, key, errs.Verification, []string{"ca.crt holds no PEM certificate"}},
		{"empty key", crt, []byte{}, errs.Verification, []string{"ca.key is empty"}},
		{"truncated key", crt, key[:len(key)/2], errs.Verification, []string{"ca.key holds no PEM private key"}},
		{"broken key", crt, block("PRIVATE KEY", []byte("x")), errs.Verification, []string{"ca.key holds a private key that does not parse"}},
		{"crt in key", crt, crt, errs.Verification, []string{"ca.key holds no PEM private key"}},
		{"encrypted key", crt, encrypted, errs.Verification, []string{"ca.key is encrypted with a passphrase", "openssl pkey -in /"}},
		{"encrypted key, old form", crt, legacy, errs.Verification, []string{"ca.key is encrypted with a passphrase"}},
		{"key of another", crt, foreign(t, caTemplate(), nil, nil).keyPEM(t), errs.Verification, []string{"ca.key does not belong to ca.crt"}},
		{"a leaf", with(func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = x509.KeyUsageDigitalSignature }), key, errs.Verification, []string{"is not the certificate of a CA", "Example Corp. CA"}},
		{"no keyCertSign", with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), key, errs.Verification, []string{"lacks keyCertSign"}},
		{"weak", foreign(t, caTemplate(), rsa1024, nil).crtPEM(), nil, errs.Verification, []string{"weak key (rsa-1024)"}},
		{"expired", with(func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }), key, errs.Verification, []string{"expired at 2030-06-01T11:59:59Z", "the clock says 2030-06-01T12:00:00Z"}},
		{"clock before", with(func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Hour) }), key, errs.Precondition, []string{"the clock says 2030-06-01T12:00:00Z", "begins at 2030-06-01T13:00:00Z", "timedatectl"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := host.New(t.TempDir(), host.ReadOnly())
			if tt.crt != nil {
				place(t, h, "ca.crt", tt.crt, 0o644)
			}
			if tt.key != nil {
				place(t, h, "ca.key", tt.key, 0o600)
			}
			n := newNode(h)
			_, err := n.ca().Given().Check(context.Background())
			wantError(t, err, tt.status, tt.says...)
			_, err = n.ca().Created().Check(context.Background())
			wantError(t, err, tt.status, tt.says...)
		})
	}
}

// TestJoinWithoutCA: join never invents a CA, and says how to bring one.
func TestJoinWithoutCA(t *testing.T) {
	h := host.New(t.TempDir(), host.ReadOnly())
	a := newNode(h).ca()
	_, err := a.Given().Check(context.Background())
	wantError(t, err, errs.Precondition, "ca.crt is absent", "scp -p root@EXISTING-NODE:/etc/etcd/pki/ca.crt root@EXISTING-NODE:/etc/etcd/pki/ca.key "+h.Path(dir)+"/")
	a.From = "10.0.0.1"
	_, err = a.Given().Check(context.Background())
	wantError(t, err, errs.Precondition, "root@10.0.0.1:/etc/etcd/pki/ca.crt")
	a.From = "fd00::1"
	_, err = a.Given().Check(context.Background())
	wantError(t, err, errs.Precondition, "root@[fd00::1]:/etc/etcd/pki/ca.crt")
}

// TestCreatedCA states what a CA of ours says: ten years, backdated, for signing leaves, and known as ours.
func TestCreatedCA(t *testing.T) {
	h := host.New(t.TempDir())
	n := newNode(h)
	a := n.ca()
	a.Algorithm = ECDSAP384
	if d := check(t, a.Created()).String(); d != "ca.crt: absent, want issued" {
		t.Errorf("diff %q", d)
	}
	converged(t, a.Created())
	ca, err := readCA(h, dir)
	must(t, err)
	c := ca.chain[0]
	switch {
	case c.Subject.String() != "CN=etcd-ca":
		t.Errorf("subject %s", c.Subject)
	case !c.NotBefore.Equal(noon.Add(-constants.Backdate)) || !c.NotAfter.Equal(noon.Add(constants.CALifetime)):
		t.Errorf("valid from %s to %s", c.NotBefore, c.NotAfter)
	case !c.IsCA || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(c.ExtKeyUsage) > 0:
		t.Errorf("CA %v, path length 0 %v, usage %b %v", c.IsCA, c.MaxPathLenZero, c.KeyUsage, c.ExtKeyUsage)
	case len(c.SubjectKeyId) == 0 || algorithmOf(c.PublicKey) != ECDSAP384:
		t.Errorf("key id %x, algorithm %s", c.SubjectKeyId, algorithmOf(c.PublicKey))
	case !bytes.HasPrefix(file(t, h, "ca.key"), []byte("-----BEGIN PRIVATE KEY-----")):
		t.Error("the key is not PKCS#8")
	case ca.crt.mode.Perm() != 0o644 || ca.key.mode.Perm() != 0o600:
		t.Errorf("modes %o %o", ca.crt.mode, ca.key.mode)
	}
	for _, e := range c.Extensions {
		if (e.Id.String() == "2.5.29.15" || e.Id.String() == "2.5.29.19") && !e.Critical {
			t.Errorf("extension %s is not critical", e.Id)
		}
	}
	if made, err := CAMadeHere(h, dir); !made || err != nil {
		t.Errorf("made here: %v, %v", made, err)
	}
	foreign(t, caTemplate(), nil, nil).place(t, h, CAName)
	if made, err := CAMadeHere(h, dir); made || err != nil {
		t.Errorf("a CA that replaced ours, made here: %v, %v", made, err)
	}
}

// TestNoSecondCA: where leaves of a lost CA lie, init asks for that CA instead of inventing another.
func TestNoSecondCA(t *testing.T) {
	h, n := set(t)
	must(t, h.Remove(path.Join(dir, "ca.crt")))
	must(t, h.Remove(path.Join(dir, "ca.key")))
	_, err := n.ca().Created().Check(context.Background())
	wantError(t, err, errs.Precondition, "ca.crt is absent, but /etc/etcd/pki/server.crt was issued by a CA", "scp", "rm "+h.Path(dir)+"/*.crt")
}

// TestNoSecretInErrors: a key that does not parse appears in no message.
func TestNoSecretInErrors(t *testing.T) {
	secret := "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49"
	for _, data := range []string{secret, "-----BEGIN PRIVATE KEY-----\n" + secret + "\n-----END PRIVATE KEY-----\n"} {
		if _, err := parseKey([]byte(data)); err == nil || strings.Contains(err.Error(), secret[:8]) {
			t.Errorf("error %v", err)
		}
	}
}
