package testx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Cert is a certificate authority with a server's and a client's certificate from it, as files and as values. The files live as
// long as the test.
type Cert struct {
	CAFile, ServerCertFile, ServerKeyFile, ClientCertFile, ClientKeyFile string

	Pool           *x509.CertPool // holds the authority alone
	Server, Client tls.Certificate

	dir    string
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	serial int64
	lists  int64
}

// TempCert makes an authority, a certificate for 127.0.0.1, ::1 and localhost, and a client certificate whose subject has the
// common name "client", in a directory of the test.
func TempCert(t testing.TB) *Cert {
	t.Helper()
	c := &Cert{dir: t.TempDir(), Pool: x509.NewCertPool()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := c.template("sluice test authority")
	tmpl.IsCA = true
	tmpl.BasicConstraintsValid = true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.caKey = key
	c.Pool.AddCert(c.ca)
	c.CAFile = c.writePEM(t, "ca.pem", "CERTIFICATE", der)
	c.Server, c.ServerCertFile, c.ServerKeyFile = c.issue(t, "server", "localhost", x509.ExtKeyUsageServerAuth)
	c.Client, c.ClientCertFile, c.ClientKeyFile = c.IssueClient(t, "client")
	return c
}

// IssueClient makes one more client certificate, whose subject has the common name name.
func (c *Cert) IssueClient(t testing.TB, name string) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	return c.issue(t, "client-"+name, name, x509.ExtKeyUsageClientAuth)
}

// Reissue replaces the server's certificate and key, in the same files: for tests of reloading.
func (c *Cert) Reissue(t testing.TB) {
	t.Helper()
	c.Server, _, _ = c.issue(t, "server", "localhost", x509.ExtKeyUsageServerAuth)
}

// Revoke writes a revocation list with the serial numbers of certs, and returns its file: the same one each time.
func (c *Cert) Revoke(t testing.TB, certs ...tls.Certificate) string {
	t.Helper()
	return c.RevokeUntil(t, time.Now().Add(24*time.Hour), certs...)
}

// RevokeUntil is Revoke with a list that expires then.
func (c *Cert) RevokeUntil(t testing.TB, until time.Time, certs ...tls.Certificate) string {
	t.Helper()
	c.lists++
	list := &x509.RevocationList{
		Number:     big.NewInt(c.lists),
		ThisUpdate: until.Add(-48 * time.Hour),
		NextUpdate: until,
	}
	for _, cert := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber:   cert.Leaf.SerialNumber,
			RevocationTime: time.Now().Add(-time.Minute),
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, c.ca, c.caKey)
	if err != nil {
		t.Fatal(err)
	}
	return c.writePEM(t, "crl.pem", "X509 CRL", der)
}

// Authority is the authority itself, with its key.
func (c *Cert) Authority() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.ca.Raw}, PrivateKey: c.caKey, Leaf: c.ca}
}

// ChainFile writes the server's certificate with the authority's behind it, and returns the file.
func (c *Cert) ChainFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(c.dir, "chain.pem")
	var chain []byte
	for _, der := range [][]byte{c.Server.Certificate[0], c.ca.Raw} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := os.WriteFile(path, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ServerConfig serves the server's certificate and asks for none.
func (c *Cert) ServerConfig() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c.Server}, MinVersion: tls.VersionTLS12}
}

// ClientConfig trusts the authority; with auth it shows the client's certificate.
func (c *Cert) ClientConfig(auth bool) *tls.Config {
	cfg := &tls.Config{RootCAs: c.Pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	if auth {
		cfg.Certificates = []tls.Certificate{c.Client}
	}
	return cfg
}

func (c *Cert) template(name string) *x509.Certificate {
	c.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano() + c.serial),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"sluice test"}},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

func (c *Cert) issue(t testing.TB, file, name string, usage x509.ExtKeyUsage) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := c.template(name)
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	if usage == x509.ExtKeyUsageServerAuth {
		tmpl.DNSNames = []string{"localhost"}
		tmpl.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.ca, &key.PublicKey, c.caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile = c.writePEM(t, file+".pem", "CERTIFICATE", der)
	keyFile = c.writePEM(t, file+"-key.pem", "PRIVATE KEY", keyDER)
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, certFile, keyFile
}

func (c *Cert) writePEM(t testing.TB, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
