package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// certificateUser finds the user name in a client's certificate. It was verified by TLS before it came here.
func certificateUser(field string, cert *x509.Certificate) (string, error) {
	user := ""
	switch field {
	case "cn":
		user = cert.Subject.CommonName
	case "subject":
		user = cert.Subject.String()
	case "san_dns":
		if len(cert.DNSNames) > 0 {
			user = cert.DNSNames[0]
		}
	case "san_email":
		if len(cert.EmailAddresses) > 0 {
			user = cert.EmailAddresses[0]
		}
	case "san_uri":
		if len(cert.URIs) > 0 {
			user = cert.URIs[0].String()
		}
	default:
		return "", fmt.Errorf("no such field of a certificate: %q", field)
	}
	if user == "" {
		return "", fmt.Errorf("the certificate has no %s to take the user name from", field)
	}
	return user, nil
}

var errRevoked = errors.New("the certificate is revoked")

// verifyChain checks a certificate against the authorities in force: those of a reload may not be those of the handshake.
func verifyChain(certs []*x509.Certificate, roots *x509.CertPool) error {
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}
