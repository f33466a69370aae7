package revocation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// authority signs certificates and lists.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string, by *authority) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	if by == nil {
		by = &authority{cert: tmpl, key: a.key}
	} else {
		tmpl.SerialNumber = big.NewInt(7)
	}
	a.cert = sign(t, tmpl, by, &a.key.PublicKey)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, tmpl *x509.Certificate, by *authority, key *ecdsa.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, key, by.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (a *authority) leaf(serial int64) *x509.Certificate {
	a.t.Helper()
	return sign(a.t, &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)},
		a, &newKey(a.t).PublicKey)
}

// list is DER with these numbers, made at since and good for an hour.
func (a *authority) list(since time.Time, extra []pkix.Extension, serials ...int64) []byte {
	a.t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: since, NextUpdate: since.Add(time.Hour), ExtraExtensions: extra}
	for _, s := range serials {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: since})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func armour(kind string, ders ...[]byte) (out []byte) {
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	return out
}

func put(t *testing.T, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (a *authority) pem() []byte { return armour("CERTIFICATE", a.cert.Raw) }

// Lists of several authorities, PEM with several and DER, name certificates of their own authority alone.
func TestLists(t *testing.T) {
	root := newAuthority(t, "root", nil)
	sub, other := newAuthority(t, "sub", root), newAuthority(t, "other", nil)
	cas := append(append(root.pem(), sub.pem()...), other.pem()...)
	l, err := Read([]string{put(t, armour("X509 CRL", root.list(now, nil, 7), other.list(now, nil, 2))), put(t, sub.list(now, nil, 1, 2))}, cas)
	if err != nil || l.Entries() != 4 {
		t.Fatalf("%v, %v", l, err)
	}
	for _, c := range []struct {
		name string
		cert *x509.Certificate
		want bool
	}{{"of sub", sub.leaf(1), true}, {"of sub, not in it", sub.leaf(3), false}, {"of other", other.leaf(2), true}, {"the same number of another", other.leaf(1), false},
		{"sub itself", sub.cert, true}} {
		if l.Revoked(c.cert) != c.want {
			t.Errorf("%s: %v", c.name, !c.want)
		}
	}
	if err := l.Check([]*x509.Certificate{sub.leaf(3), sub.cert}, now); err != ErrRevoked { //nolint:errorlint // it is this very value
		t.Errorf("a good certificate of a revoked authority: %v", err)
	}
	if err := l.CheckAny([][]*x509.Certificate{{sub.leaf(3), sub.cert}, {sub.leaf(3), root.cert}}, now); err != nil {
		t.Errorf("one way of two is good: %v", err)
	}
	var none *Lists
	if none.Revoked(sub.leaf(1)) || none.Check([]*x509.Certificate{sub.leaf(1)}, now) != nil || none.Entries() != 0 {
		t.Error("no list says something")
	}
}

// Who is not in a list that has expired is not known to be good; time zero does not look.
func TestExpired(t *testing.T) {
	a := newAuthority(t, "a", nil)
	l, err := Read([]string{put(t, a.list(now.Add(-2*time.Hour), nil, 1))}, a.pem())
	if err != nil {
		t.Fatal(err)
	}
	good := []*x509.Certificate{a.leaf(2)}
	if err := l.Check(good, now); err == nil || !strings.Contains(err.Error(), "has expired (CN=a, at 2026-11-27T11:00:00Z)") {
		t.Errorf("%v", err)
	}
	if err := l.Check(good, time.Time{}); err != nil {
		t.Errorf("%v", err)
	}
	if l.Check(good, now.Add(-90*time.Minute)) != nil || l.Check([]*x509.Certificate{newAuthority(t, "b", nil).leaf(2)}, now) != nil {
		t.Error("a list that counts, or none, keeps out")
	}
}

// The younger of two lists of one scope counts; lists of several scopes count together.
func TestScopes(t *testing.T) {
	a := newAuthority(t, "a", nil)
	part := func(n byte) []pkix.Extension {
		return []pkix.Extension{{Id: oidScope, Critical: true, Value: []byte{0x30, 0x03, 0x81, 0x01, n}}}
	}
	young, old := a.list(now, nil, 1), a.list(now.Add(-time.Minute), nil, 2)
	for _, order := range [][][]byte{{young, old}, {old, young}} {
		l, err := Read([]string{put(t, armour("X509 CRL", order...))}, a.pem())
		if err != nil || !l.Revoked(a.leaf(1)) || l.Revoked(a.leaf(2)) || l.Entries() != 1 {
			t.Errorf("%v", err)
		}
	}
	l, err := Read([]string{put(t, armour("X509 CRL", a.list(now, part(1), 1), a.list(now.Add(-time.Minute), part(2), 2)))}, a.pem())
	if err != nil || !l.Revoked(a.leaf(1)) || !l.Revoked(a.leaf(2)) {
		t.Errorf("parts: %v", err)
	}
}

// An authority that was replaced by one of the same name has lists of its own.
func TestSameName(t *testing.T) {
	before, after := newAuthority(t, "a", nil), newAuthority(t, "a", nil)
	l, err := Read([]string{put(t, before.list(now, nil, 1)), put(t, after.list(now, nil, 2))}, append(before.pem(), after.pem()...))
	if err != nil || !l.Revoked(before.leaf(1)) || l.Revoked(before.leaf(2)) || l.Revoked(after.leaf(1)) || !l.Revoked(after.leaf(2)) {
		t.Errorf("%v", err)
	}
}

func TestRefused(t *testing.T) {
	a, b := newAuthority(t, "a", nil), newAuthority(t, "a", nil)
	good := a.list(now, nil, 1)
	forged := append([]byte{}, good...)
	forged[len(forged)-1] ^= 1
	extension := func(id []int) []pkix.Extension {
		return []pkix.Extension{{Id: id, Critical: true, Value: []byte{0x02, 0x01, 0x01}}}
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"another authority":  {b.list(now, nil, 1), "no authority that is trusted has signed"},
		"forged":             {forged, "no authority that is trusted has signed"},
		"cut":                {good[:len(good)/2], "malformed"},
		"empty":              {nil, "no revocation list"},
		"a certificate":      {a.pem(), "no revocation list"},
		"a delta":            {a.list(now, extension(oidDelta), 1), "is a delta"},
		"unknown, critical":  {a.list(now, extension([]int{1, 2, 3}), 1), "critical extension"},
		"a good and a bad":   {armour("X509 CRL", good, forged), "no authority"},
		"another's, in PEM":  {armour("X509 CRL", b.list(now, nil, 1)), "no authority"},
		"not even ASN.1":     {[]byte("hello"), "malformed"},
		"a list of no bytes": {armour("X509 CRL", nil), "malformed"},
	} {
		if _, err := Read([]string{put(t, c.data)}, a.pem()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := Read([]string{filepath.Join(t.TempDir(), "none")}, a.pem()); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestSame(t *testing.T) {
	a := newAuthority(t, "a", nil)
	read := func(data []byte) *Lists {
		t.Helper()
		l, err := Read([]string{put(t, data)}, a.pem())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	one, two := a.list(now, nil, 1), a.list(now, nil, 2)
	if !read(one).Same(read(one)) || read(one).Same(read(two)) || read(one).Same(nil) || !(*Lists)(nil).Same(nil) {
		t.Error("lists are not told from each other")
	}
}

// A file that is written, replaced by another, removed or made again has changed, once each time.
func TestStamps(t *testing.T) {
	dir := t.TempDir()
	file, other := filepath.Join(dir, "list"), filepath.Join(dir, "other")
	var s Stamps
	do := func(what string, err error, want bool) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if s.Changed([]string{file}) != want || s.Changed([]string{file}) {
			t.Errorf("%s: want %v, once", what, want)
		}
	}
	do("first", os.WriteFile(file, []byte("a"), 0o600), true)
	do("nothing", nil, false)
	do("longer", os.WriteFile(file, []byte("ab"), 0o600), true)
	if err := os.WriteFile(other, []byte("cd"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(other, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	do("replaced by one of the same size and time", os.Rename(other, file), true)
	do("removed", os.Remove(file), true)
	do("still gone", nil, false)
	do("there again", os.WriteFile(file, []byte("ab"), 0o600), true)
	if !s.Changed([]string{file, other}) {
		t.Error("other files")
	}
}
