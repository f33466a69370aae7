package revocation

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"
)

// Bounds of what is read: lists of large authorities have a million entries.
const (
	fileBytesMax = 256 << 20
	listsMax     = 1000
)

// ErrRevoked says that an authority has taken a certificate back.
var ErrRevoked = errors.New("certificate is revoked")

// errExpired says that nobody knows any more whether a certificate is revoked.
var errExpired = errors.New("the revocation list of the certificate's authority has expired")

// Lists are revocation lists as they were read at one moment. Nothing changes them; nil is none.
type Lists struct {
	byIssuer map[string][]*list
	all      []*list
	entries  int
	cas      []*x509.Certificate // who may have signed them
}

// list is one authority's, or the part of it that its scope says.
type list struct {
	name      string   // of the authority, encoded
	issuer    string   // the same to be read
	keyID     []byte   // of the authority's key; empty: the list does not say
	scope     []byte   // of the extension issuing distribution point; empty: all certificates of the authority
	number    *big.Int // nil: it has none
	since     time.Time
	until     time.Time // zero: it names no end
	signature []byte
	serials   map[string]struct{}
	kept      bool // it is in the files no more, see Merge
	younger   bool // than that which the files have
}

// Extensions of lists that mean something here. What else is critical makes a list one that cannot be used.
var (
	oidDelta  = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidScope  = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidKeyID  = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidNumber = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidIssuer = asn1.ObjectIdentifier{2, 5, 29, 29} // of an entry: the certificate is another authority's
)

// Read reads files of lists: PEM with any number of them, or DER with one. Each list has to be signed by one of the authorities, PEM. Of two lists of one
// authority with the same scope the younger one counts: that with the higher number, which where one has none is that which was made later. If number and time
// contradict each other both count. Lists that have expired are read all the same.
func Read(files []string, authorities []byte) (*Lists, error) {
	if len(files) == 0 {
		return nil, nil
	}
	l := &Lists{byIssuer: make(map[string][]*list), cas: Certificates(authorities)}
	for _, file := range files {
		data, err := readFile(file)
		if err != nil {
			return nil, err
		}
		ders, err := split(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, der := range ders {
			one, err := parse(der, l.cas)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			l.add(one)
		}
	}
	if len(l.all) > listsMax {
		return nil, fmt.Errorf("%d revocation lists, at most %d", len(l.all), listsMax)
	}
	return l, nil
}

func readFile(file string) ([]byte, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if st.Size() > fileBytesMax {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, fileBytesMax)
	}
	return os.ReadFile(file)
}

// split gives the lists of a file.
func split(data []byte) (ders [][]byte, err error) {
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "X509 CRL" {
			ders = append(ders, block.Bytes)
		}
	}
	switch {
	case len(ders) > 0:
		return ders, nil
	case len(data) == 0 || bytes.Contains(data, []byte("-----BEGIN")):
		return nil, errors.New("holds no revocation list")
	}
	return [][]byte{data}, nil
}

// Certificates gives the certificates of a PEM file; what is none is left out.
func Certificates(data []byte) (list []*x509.Certificate) {
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return list
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			list = append(list, c)
		}
	}
}

func parse(der []byte, authorities []*x509.Certificate) (l *list, err error) {
	x, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	signed := false
	for _, ca := range authorities {
		signed = signed || bytes.Equal(ca.RawSubject, x.RawIssuer) && x.CheckSignatureFrom(ca) == nil
	}
	if !signed {
		return nil, fmt.Errorf("no authority that is trusted has signed the list of %q", x.Issuer)
	}
	l = &list{name: string(x.RawIssuer), issuer: strings.ToValidUTF8(x.Issuer.String(), "?"), keyID: bytes.Clone(x.AuthorityKeyId), number: x.Number, since: x.ThisUpdate,
		until: x.NextUpdate, signature: bytes.Clone(x.Signature), serials: make(map[string]struct{}, len(x.RevokedCertificateEntries))}
	for _, e := range x.Extensions {
		switch {
		case e.Id.Equal(oidDelta):
			return nil, fmt.Errorf("the list of %q is a delta, which has changes alone: want the whole list", x.Issuer)
		case e.Id.Equal(oidScope):
			l.scope = bytes.Clone(e.Value)
		case e.Critical && !e.Id.Equal(oidKeyID) && !e.Id.Equal(oidNumber):
			return nil, fmt.Errorf("the list of %q has a critical extension that is not known, %v", x.Issuer, e.Id)
		}
	}
	for i := range x.RevokedCertificateEntries {
		e := &x.RevokedCertificateEntries[i]
		for _, ext := range e.Extensions {
			if ext.Id.Equal(oidIssuer) {
				return nil, fmt.Errorf("the list of %q has certificates of other authorities: want a list of each", x.Issuer)
			}
		}
		l.serials[string(e.SerialNumber.Bytes())] = struct{}{}
	}
	return l, nil
}

// add takes one in, in the place of older ones that are for the same certificates, unless there is a younger one.
func (l *Lists) add(one *list) {
	for _, other := range l.byIssuer[one.name] {
		if one.covers(other) && one.age(other) < 0 {
			return
		}
	}
	l.drop(func(other *list) bool { return one.covers(other) && one.age(other) > 0 })
	l.put(one)
}

func (l *Lists) put(one *list) {
	l.byIssuer[one.name], l.all = append(l.byIssuer[one.name], one), append(l.all, one)
	l.entries += len(one.serials)
}

// drop takes out the lists that which names. It is for Lists that nobody else has yet.
func (l *Lists) drop(which func(*list) bool) {
	for _, one := range l.all {
		if which(one) {
			l.byIssuer[one.name] = slices.DeleteFunc(l.byIssuer[one.name], func(other *list) bool { return other == one })
			l.entries -= len(one.serials)
		}
	}
	l.all = slices.DeleteFunc(l.all, which)
}

// covers says whether two lists are for the same certificates.
func (l *list) covers(other *list) bool {
	return l.name == other.name && bytes.Equal(l.keyID, other.keyID) && bytes.Equal(l.scope, other.scope)
}

// age is positive if l counts in the place of other, which is for the same certificates, negative if other does, and zero if number and time contradict each other:
// the authority has lost count, or its clock was wrong.
func (l *list) age(other *list) int {
	age := l.since.Compare(other.since)
	if l.number != nil && other.number != nil {
		n := l.number.Cmp(other.number)
		if n*age < 0 {
			return 0
		}
		age = cmp.Or(n, age)
	}
	return cmp.Or(age, 1)
}

// of calls see for the lists of the authority that has signed a certificate.
func (l *Lists) of(cert *x509.Certificate, see func(*list) bool) {
	if l == nil {
		return
	}
	for _, one := range l.byIssuer[string(cert.RawIssuer)] {
		a, b := one.keyID, cert.AuthorityKeyId
		if len(a) > 0 && len(b) > 0 && !bytes.Equal(a, b) {
			continue // an authority of the same name, with another key
		}
		if !see(one) {
			return
		}
	}
}

// Revoked says whether a list names one of the certificates. Each is looked for in the lists of who has signed it.
func (l *Lists) Revoked(chain ...*x509.Certificate) (found bool) {
	for _, cert := range chain {
		l.of(cert, func(one *list) bool {
			_, found = one.serials[string(cert.SerialNumber.Bytes())]
			return !found
		})
		if found {
			return true
		}
	}
	return false
}

// Check says what is wrong with a chain of certificates at wall time now: one is revoked, or a list that could say so has expired; with a now of zero lists go on to
// count when they have expired. Of an authority without a list nothing is wrong.
func (l *Lists) Check(chain []*x509.Certificate, now time.Time) (err error) {
	if l.Revoked(chain...) {
		return ErrRevoked
	}
	for _, cert := range chain {
		l.of(cert, func(one *list) bool {
			if one.expired(now) {
				err = fmt.Errorf("%w (%s, at %s)", errExpired, one.issuer, one.until.UTC().Format(time.RFC3339))
			}
			return err == nil
		})
	}
	return err
}

// CheckAny is Check for a certificate that there may be several ways to its authorities from: one that nothing is wrong with is enough.
func (l *Lists) CheckAny(chains [][]*x509.Certificate, now time.Time) (err error) {
	for _, chain := range chains {
		if err = l.Check(chain, now); err == nil {
			return nil
		}
	}
	return err
}

func (l *list) expired(now time.Time) bool {
	return !l.until.IsZero() && now.After(l.until) // no time is before zero
}

// Each shows the lists: whose they are, until when they count, zero for ever, and whether they count though the files have another or none.
func (l *Lists) Each(see func(issuer string, until time.Time, kept bool)) {
	if l == nil {
		return
	}
	for _, one := range l.all {
		see(one.issuer, one.until, one.kept || one.younger)
	}
}

// Entries is how many certificates they name.
func (l *Lists) Entries() int {
	if l == nil {
		return 0
	}
	return l.entries
}
