package cert

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"time"
)

const (
	// CRLFile is the name of the list of certificates that are revoked.
	CRLFile = "crl.pem"
	// CRLValid is how long such a list counts unless told otherwise.
	CRLValid = 365 * 24 * time.Hour

	crlBlock = "X509 CRL"
)

// Revoke has a list name the certificates of files beside those that it names already, signed by the authority in caFile and caKeyFile. A list that is not there is
// made; one that is there is replaced in one step. With no certificates the list is made anew, for another while. now is wall time.
func Revoke(listFile, caFile, caKeyFile string, certFiles []string, valid time.Duration, now time.Time) error {
	if err := checkValid(valid); err != nil {
		return err
	}
	ca, caKey, err := loadCA(caFile, caKeyFile)
	if err != nil {
		return err
	}
	next := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(valid)}
	old, err := loadList(listFile, ca)
	if err != nil {
		return err
	}
	named := make(map[string]bool)
	if old != nil {
		next.RevokedCertificateEntries = old.RevokedCertificateEntries
		if old.Number != nil {
			next.Number.Add(old.Number, big.NewInt(1))
		}
		for _, e := range old.RevokedCertificateEntries {
			named[e.SerialNumber.String()] = true
		}
	}
	for _, file := range certFiles {
		data, err := readPEM(file)
		if err != nil {
			return err
		}
		c, err := firstCert(file, data)
		if err != nil {
			return err
		}
		if err := c.CheckSignatureFrom(ca); err != nil {
			return fmt.Errorf("%s is not of the authority %s: %w", file, caFile, err)
		}
		if !named[c.SerialNumber.String()] {
			named[c.SerialNumber.String()] = true
			next.RevokedCertificateEntries = append(next.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: now})
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, next, ca, caKey)
	if err != nil {
		return fmt.Errorf("make list: %w", err)
	}
	tmp := listFile + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeNew(tmp, &pem.Block{Type: crlBlock, Bytes: der}); err != nil {
		return err
	}
	return os.Rename(tmp, listFile)
}

// loadList reads the list that is there; nil: there is none.
func loadList(file string, ca *x509.Certificate) (*x509.RevocationList, error) {
	data, err := readPEM(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != crlBlock {
		return nil, fmt.Errorf("%s holds no revocation list", file)
	}
	l, err := x509.ParseRevocationList(block.Bytes)
	if err == nil {
		err = l.CheckSignatureFrom(ca)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return l, nil
}
