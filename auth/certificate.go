package auth

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// certificateUser finds the user name in a client's certificate. It was verified by TLS before it came here.
func (rs *ruleSet) certificateUser(cert *x509.Certificate) (string, error) {
	field, user := rs.o.CertificateUser, ""
	switch field {
	case "cn":
		user = cert.Subject.CommonName
	case "subject":
		user = subjectOf(cert)
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
	return rs.mapping.apply(user)
}

// subjectNames are the attributes that RFC 2253 writes by name.
var subjectNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.6": "C", "2.5.4.9": "STREET",
	"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}

// attribute is one of a distinguished name's, with its value as it is encoded.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type attributeSET []attribute // the name has asn1 take it for a set

// subjectOf writes a certificate's subject as RFC 2253 has it, and Java with it: the last part first, parts in the order in which the certificate has
// them. Rules that were written for Kafka fit.
func subjectOf(cert *x509.Certificate) string {
	var parts []attributeSET
	if rest, err := asn1.Unmarshal(cert.RawSubject, &parts); err != nil || len(rest) > 0 {
		return cert.Subject.String()
	}
	var b strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		for k := range parts[i] {
			if k > 0 {
				b.WriteByte('+')
			}
			parts[i][k].write(&b)
		}
	}
	return b.String()
}

func (a *attribute) write(b *strings.Builder) {
	var text string
	name, known := subjectNames[a.Type.String()]
	if _, err := asn1.Unmarshal(a.Value.FullBytes, &text); err != nil || !known || !utf8.ValidString(text) {
		if !known {
			name = a.Type.String()
		}
		b.WriteString(name + "=#" + hex.EncodeToString(a.Value.FullBytes))
		return
	}
	b.WriteString(name + "=")
	for i, c := range text {
		edge := c == ' ' && (i == 0 || i == len(text)-1) || c == '#' && i == 0
		if edge || strings.ContainsRune(`,+"\<>;`, c) {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
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
