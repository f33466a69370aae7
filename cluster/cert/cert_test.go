package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func made(t *testing.T, ids ...uint32) string {
	t.Helper()
	dir := t.TempDir()
	if err := MakeCA(dir, "test", CAValid, now); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		err := MakeNode(dir, filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile), NodeOptions{ID: id, Hosts: []string{"n.example", "10.0.0.1"}, Now: now})
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func filesOf(dir string, id uint32) Files {
	c, k := NodeFiles(id)
	return Files{Cert: filepath.Join(dir, c), Key: filepath.Join(dir, k), CA: filepath.Join(dir, CAFile)}
}

func TestMakeAndLoad(t *testing.T) {
	dir := made(t, 1, 65535)
	for _, id := range []uint32{1, 65535} {
		s, err := Load(filesOf(dir, id), now)
		if err != nil || s.Node != id || s.Expires.Sub(now) != NodeValid {
			t.Fatalf("node %d: %+v, %v", id, s, err)
		}
		if got := s.pair.Leaf.DNSNames; len(got) != 1 || len(s.pair.Leaf.IPAddresses) != 1 {
			t.Errorf("hosts: %v %v", got, s.pair.Leaf.IPAddresses)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 6 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if st, err := f.Info(); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", f.Name(), st.Mode(), err)
		}
	}
}

func TestNothingIsWrittenOver(t *testing.T) {
	dir := made(t, 1)
	if err := MakeCA(dir, "test", CAValid, now); err == nil || !strings.Contains(err.Error(), "ca.pem is there already") {
		t.Errorf("authority: %v", err)
	}
	again := func() error {
		return MakeNode(dir, filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile), NodeOptions{ID: 1, Now: now})
	}
	if err := again(); err == nil || !strings.Contains(err.Error(), "node-1.pem is there already") {
		t.Errorf("node: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "node-1.pem")); err != nil {
		t.Fatal(err)
	}
	if err := again(); err == nil || !strings.Contains(err.Error(), "node-1-key.pem is there already") {
		t.Errorf("node's key: %v", err)
	}
}

func TestRefused(t *testing.T) {
	dir, other := made(t, 1, 2), made(t, 1)
	f := filesOf(dir, 1)
	ca, caKey := f.CA, filepath.Join(dir, CAKeyFile)
	put := func(name, data string) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	load := func(f Files, at time.Time) error { _, err := Load(f, at); return err }
	with := func(cert, key, ca string) Files { return Files{Cert: cert, Key: key, CA: ca} }
	for _, c := range []struct {
		name, want string
		err        error
	}{
		{"key of another", "does not match", load(with(f.Cert, filesOf(dir, 2).Key, f.CA), now)},
		{"another authority", "unknown authority", load(with(f.Cert, f.Key, filesOf(other, 1).CA), now)},
		{"too old", "expired", load(f, now.Add(NodeValid+time.Second))},
		{"not yet", "not yet valid", load(f, now.Add(-time.Hour))},
		{"no certificate", "no such file", load(with(f.Cert+"x", f.Key, f.CA), now)},
		{"no key", "no such file", load(with(f.Cert, f.Key+"x", f.CA), now)},
		{"no authority", "no such file", load(with(f.Cert, f.Key, f.CA+"x"), now)},
		{"authority of nothing", "no PEM certificate", load(with(f.Cert, f.Key, put("ca", "x")), now)},
		{"large", "no PEM file", load(with(put("big", strings.Repeat("x", pemMost+1)), f.Key, f.CA), now)},
		{"node 0", "want 1 to 65535", MakeNode(dir, ca, caKey, NodeOptions{Now: now})},
		{"node 65536", "want 1 to 65535", MakeNode(dir, ca, caKey, NodeOptions{ID: 65536, Now: now})},
		{"validity", "validity", MakeNode(dir, ca, caKey, NodeOptions{ID: 3, Valid: time.Second, Now: now})},
		{"validity of the authority", "validity", MakeCA(t.TempDir(), "", time.Second, now)},
		{"long name", "at most 64", MakeCA(t.TempDir(), strings.Repeat("x", 65), CAValid, now)},
		{"a node as authority", "is no authority", MakeNode(dir, f.Cert, f.Key, NodeOptions{ID: 3, Now: now})},
		{"the key of another authority", "is not the key of", MakeNode(dir, ca, filepath.Join(other, CAKeyFile), NodeOptions{ID: 3, Now: now})},
		{"an authority that ended", "ended", MakeNode(dir, ca, caKey, NodeOptions{ID: 3, Now: now.Add(CAValid + time.Hour)})},
		{"no key in it", "no PEM block", MakeNode(dir, ca, ca, NodeOptions{ID: 3, Now: now})},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, c.err, c.want)
		}
	}
}

// A node's certificate ends with its authority at the latest.
func TestNodeEndsWithAuthority(t *testing.T) {
	dir := t.TempDir()
	if err := MakeCA(dir, "", 24*time.Hour, now); err != nil {
		t.Fatal(err)
	}
	if err := MakeNode(dir, filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile), NodeOptions{ID: 4, Now: now}); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(filesOf(dir, 4), now); err != nil || s.Expires.Sub(now) != 24*time.Hour {
		t.Errorf("%v, %v", s, err)
	}
}

func TestReload(t *testing.T) {
	dir := made(t, 1, 2)
	f := filesOf(dir, 1)
	src, err := NewSource(f, now)
	if err != nil {
		t.Fatal(err)
	}
	before := src.Current()
	move := func(id uint32) {
		t.Helper()
		from := filesOf(dir, id)
		for _, p := range [][2]string{{from.Cert, f.Cert}, {from.Key, f.Key}} {
			data, err := os.ReadFile(p[0])
			if err == nil {
				err = os.WriteFile(p[1], data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	move(2)
	if err := src.Reload(now); err == nil || !strings.Contains(err.Error(), "is of node 2, before it was of node 1") {
		t.Errorf("another node's: %v", err)
	}
	if src.Current() != before {
		t.Error("what was in force did not stay")
	}
	for _, name := range []string{f.Cert, f.Key} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := MakeNode(dir, f.CA, filepath.Join(dir, CAKeyFile), NodeOptions{ID: 1, Now: now}); err != nil {
		t.Fatal(err)
	}
	if err := src.Reload(now); err != nil || src.Current() == before {
		t.Errorf("%v", err)
	}
}

// A revoked certificate counts no more once the list is read again; earlier ones stay in the list.
func TestRevoke(t *testing.T) {
	dir := made(t, 1, 2, 3)
	f := filesOf(dir, 1)
	f.CRL = []string{filepath.Join(dir, CRLFile)}
	revoke := func(at time.Time, ids ...uint32) {
		t.Helper()
		var files []string
		for _, id := range ids {
			files = append(files, filesOf(dir, id).Cert)
		}
		if err := Revoke(f.CRL[0], f.CA, filepath.Join(dir, CAKeyFile), files, time.Hour, at); err != nil {
			t.Fatal(err)
		}
	}
	revoke(now)
	src, err := NewSource(f, now)
	if err != nil {
		t.Fatal(err)
	}
	good := func(id uint32) bool {
		t.Helper()
		s, err := Load(filesOf(dir, id), now)
		if err != nil {
			t.Fatal(err)
		}
		_, err = src.Current().Verify([]*x509.Certificate{s.pair.Leaf}, now)
		return err == nil
	}
	refresh := func(want bool) {
		t.Helper()
		if changed, err := src.Refresh(); err != nil || changed != want {
			t.Errorf("changed %v, %v", changed, err)
		}
	}
	refresh(false)
	revoke(now, 2)
	if !good(2) {
		t.Error("a list counts before it is read")
	}
	refresh(true)
	revoke(now.Add(time.Second), 3, 2)
	refresh(true)
	if good(2) || good(3) || !good(1) || src.Revocations().Entries() != 2 {
		t.Errorf("2: %v, 3: %v, 1: %v, %d entries", good(2), good(3), good(1), src.Revocations().Entries())
	}
	if err := os.WriteFile(f.CRL[0], []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := src.Refresh(); err == nil || good(2) {
		t.Errorf("a broken list: %v, node 2 counts: %v", err, good(2))
	}
	if _, err := src.Refresh(); err == nil {
		t.Error("a broken list is not tried again")
	}
	if err := Revoke(f.CRL[0], f.CA, filepath.Join(dir, CAKeyFile), nil, time.Hour, now); err == nil {
		t.Error("a file that is no list was written over")
	}
	other := made(t, 9)
	if err := Revoke(filepath.Join(dir, "other"), f.CA, filepath.Join(dir, CAKeyFile), []string{filesOf(other, 9).Cert}, time.Hour, now); err == nil || !strings.Contains(err.Error(), "is not of the authority") {
		t.Errorf("another authority's: %v", err)
	}
}

// A list that is older than the one in force does not take its place, neither by itself nor at a reload.
func TestOlderList(t *testing.T) {
	dir := made(t, 1, 2)
	f := filesOf(dir, 1)
	f.CRL = []string{filepath.Join(dir, CRLFile)}
	revoke := func(at time.Time, files ...string) {
		t.Helper()
		if err := Revoke(f.CRL[0], f.CA, filepath.Join(dir, CAKeyFile), files, time.Hour, at); err != nil {
			t.Fatal(err)
		}
	}
	two, err := Load(filesOf(dir, 2), now)
	if err != nil {
		t.Fatal(err)
	}
	revoke(now, filesOf(dir, 2).Cert)
	src, err := NewSource(f, now)
	if err != nil {
		t.Fatal(err)
	}
	revoked := func() bool {
		_, err := src.Current().Verify([]*x509.Certificate{two.pair.Leaf}, now)
		return err != nil
	}
	if err := os.Remove(f.CRL[0]); err != nil {
		t.Fatal(err)
	}
	revoke(now.Add(-time.Second)) // it names nobody
	if changed, err := src.Refresh(); changed || err != nil || !revoked() || len(src.RevocationNotes()) != 1 || len(src.RevocationNotes()) != 0 {
		t.Errorf("changed %v, %v, revoked %v", changed, err, revoked())
	}
	if err := src.Reload(now); err != nil || !revoked() || len(src.RevocationNotes()) != 1 {
		t.Errorf("at a reload: %v, revoked %v", err, revoked())
	}
	if next, err := NewSource(f, now); err != nil || next.Revocations().Entries() != 0 {
		t.Errorf("at a start the file counts as it is: %v", err)
	}
}

func TestNodeOf(t *testing.T) {
	for uris, want := range map[string]uint32{
		"sluice:node:7":                       7,
		"https://x/y sluice:node:65535":       65535,
		"sluice:node:0":                       0,
		"sluice:node:65536":                   0,
		"sluice:node:-1":                      0,
		"sluice:node:":                        0,
		"sluice://node:7":                     0,
		"other:node:7":                        0,
		"sluice:node:7 sluice:node:8":         0,
		"":                                    0,
		"sluice:node:99999999999999999999999": 0,
	} {
		c := &x509.Certificate{}
		for _, s := range strings.Fields(uris) {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
		if got, err := NodeOf(c); got != want || err == nil != (want != 0) {
			t.Errorf("%q: %d, %v; want %d", uris, got, err, want)
		}
	}
}

// A certificate of the cluster's authority that is for one end of a connection alone is none of a node.
func TestBothUsages(t *testing.T) {
	dir := made(t, 1)
	ca, caKey, err := loadCA(filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, tmpl, err := prepare("half", NodeValid, now)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	tmpl.URIs = []*url.URL{{Scheme: uriScheme, Opaque: "node:1"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	half, err := firstCert("half", pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Load(filesOf(dir, 1), now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify([]*x509.Certificate{half}, now); err == nil {
		t.Error("taken")
	}
	if _, err := s.Verify(nil, now); err == nil {
		t.Error("no certificate was taken")
	}
}
