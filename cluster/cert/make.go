package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// The names of the files that are made.
const (
	CAFile    = "ca.pem"
	CAKeyFile = "ca-key.pem"
)

// NodeFiles are the names of a node's certificate and key.
func NodeFiles(id uint32) (certFile, keyFile string) {
	return fmt.Sprintf("node-%d.pem", id), fmt.Sprintf("node-%d-key.pem", id)
}

const (
	// CAValid is how long an authority lives unless told otherwise: it is the harder one to replace.
	CAValid = 10 * 365 * 24 * time.Hour
	// NodeValid is how long a node's certificate lives unless told otherwise.
	NodeValid = 2 * 365 * 24 * time.Hour
	// validMost bounds what can be asked for.
	validMost = 50 * 365 * 24 * time.Hour
	// backdate lets a node whose clock is a little behind take a new certificate.
	backdate = 5 * time.Minute

	uriScheme, uriNode = "sluice", "node:"
	nodeIDMost         = 65535 // node.id
	keyBlock           = "PRIVATE KEY"
	certBlock          = "CERTIFICATE"
	pemMost            = 1 << 20
)

// MakeCA makes an authority: ca.pem and ca-key.pem in dir, which is made if it is not there. It writes over no file. now is wall time.
func MakeCA(dir, cluster string, valid time.Duration, now time.Time) error {
	if err := checkValid(valid); err != nil {
		return err
	}
	if len(cluster) > 64 {
		return fmt.Errorf("name of the cluster: %d bytes, at most 64", len(cluster))
	}
	key, tmpl, err := prepare("sluice cluster authority "+cluster, valid, now)
	if err != nil {
		return err
	}
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.MaxPathLenZero = true, true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	return writePair(filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile), der, key)
}

// NodeOptions say what a node's certificate holds.
type NodeOptions struct {
	ID    uint32
	Hosts []string      // names and addresses of the node, for other tools: sluice itself goes by the id
	Valid time.Duration // 0: NodeValid
	Now   time.Time     // wall time
}

// MakeNode makes a node's certificate and key in dir, signed by the authority in caFile and caKeyFile. It writes over no file. A
// certificate does not outlive its authority.
func MakeNode(dir, caFile, caKeyFile string, o NodeOptions) error {
	if o.ID == 0 || o.ID > nodeIDMost {
		return fmt.Errorf("node id %d: want 1 to %d", o.ID, nodeIDMost)
	}
	if o.Valid == 0 {
		o.Valid = NodeValid
	}
	if err := checkValid(o.Valid); err != nil {
		return err
	}
	ca, caKey, err := loadCA(caFile, caKeyFile)
	if err != nil {
		return err
	}
	if !o.Now.Before(ca.NotAfter) {
		return fmt.Errorf("authority %s ended %s", caFile, ca.NotAfter.Format(time.DateOnly))
	}
	key, tmpl, err := prepare(fmt.Sprintf("sluice node %d", o.ID), o.Valid, o.Now)
	if err != nil {
		return err
	}
	if tmpl.NotAfter.After(ca.NotAfter) {
		tmpl.NotAfter = ca.NotAfter
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	tmpl.URIs = []*url.URL{{Scheme: uriScheme, Opaque: uriNode + strconv.FormatUint(uint64(o.ID), 10)}}
	for _, h := range o.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, &key.PublicKey, caKey)
	if err != nil {
		return fmt.Errorf("make certificate of node %d: %w", o.ID, err)
	}
	certFile, keyFile := NodeFiles(o.ID)
	return writePair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile), der, key)
}

func checkValid(d time.Duration) error {
	if d < time.Hour || d > validMost {
		return fmt.Errorf("validity %v: want an hour to %d days", d, validMost/(24*time.Hour))
	}
	return nil
}

// prepare makes a key, and a certificate without what tells an authority from a node.
func prepare(name string, valid time.Duration, now time.Time) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("make serial number: %w", err)
	}
	return key, &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(valid),
	}, nil
}

// writePair writes the key first: a certificate without its key is of no use, and nobody is let make that pair again over it.
func writePair(certFile, keyFile string, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(certFile), 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(certFile); err == nil {
		return fmt.Errorf("%s is there already; it is not written over", certFile)
	}
	if err := writeNew(keyFile, &pem.Block{Type: keyBlock, Bytes: keyDER}); err != nil {
		return err
	}
	if err := writeNew(certFile, &pem.Block{Type: certBlock, Bytes: der}); err != nil {
		return errors.Join(err, os.Remove(keyFile))
	}
	return nil
}

// writeNew makes a file that only its owner can read, and leaves none behind that is not whole.
func writeNew(name string, block *pem.Block) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; it is not written over", name)
	}
	if err != nil {
		return err
	}
	err = pem.Encode(f, block)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(name))
	}
	return nil
}

func loadCA(caFile, caKeyFile string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	pemCA, err := readPEM(caFile)
	if err != nil {
		return nil, nil, err
	}
	ca, err := firstCert(caFile, pemCA)
	if err != nil {
		return nil, nil, err
	}
	if !ca.IsCA {
		return nil, nil, fmt.Errorf("%s is no authority", caFile)
	}
	pemKey, err := readPEM(caKeyFile)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(pemKey)
	if block == nil || block.Type != keyBlock {
		return nil, nil, fmt.Errorf("%s holds no PEM block %q", caKeyFile, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", caKeyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(ca.PublicKey) {
		return nil, nil, fmt.Errorf("%s is not the key of %s", caKeyFile, caFile)
	}
	return ca, key, nil
}

func firstCert(name string, data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != certBlock {
		return nil, fmt.Errorf("%s holds no PEM certificate", name)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// readPEM reads a file of a bounded size.
func readPEM(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, pemMost+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > pemMost {
		return nil, fmt.Errorf("%s has more than %d bytes: no PEM file of ours", name, pemMost)
	}
	return data, nil
}
