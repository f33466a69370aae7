package revocation

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// numbered is DER with a number, made at since and good for an hour.
func (a *authority) numbered(number int64, since time.Time, serials ...int64) []byte {
	a.t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: since, NextUpdate: since.Add(time.Hour)}
	for _, s := range serials {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: since})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// reads is one file with lists of authorities a and b.
func reads(t *testing.T, by []*authority, ders ...[]byte) *Lists {
	t.Helper()
	var cas []byte
	for _, a := range by {
		cas = append(cas, a.pem()...)
	}
	l, err := Read([]string{put(t, armour("X509 CRL", ders...))}, cas)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func want(t *testing.T, notes []Note, why ...string) {
	t.Helper()
	if len(notes) != len(why) {
		t.Errorf("%+v, want %q", notes, why)
		return
	}
	for i, n := range notes {
		if n.Why != why[i] || n.Issuer == "" || n.Lost != (n.Why == noteEnded || n.Why == noteMany) {
			t.Errorf("%+v, want %q", notes, why)
		}
	}
}

// What is read again comes after what is in force: the younger list of an authority counts, whatever comes in which order.
func TestMergeAge(t *testing.T) {
	a := newAuthority(t, "a", nil)
	by := []*authority{a}
	later, before := now.Add(time.Minute), now.Add(-time.Minute)
	for name, c := range map[string]struct {
		was, is  []byte
		one, two bool // what is revoked: was has 1, is has 2
		why      []string
	}{
		"younger":                      {a.numbered(4, now, 1), a.numbered(5, later, 2), false, true, nil},
		"older":                        {a.numbered(5, later, 1), a.numbered(4, now, 2), true, false, []string{noteOlder}},
		"the same number, younger":     {a.numbered(5, now, 1), a.numbered(5, later, 2), false, true, nil},
		"the same number, older":       {a.numbered(5, later, 1), a.numbered(5, now, 2), true, false, []string{noteOlder}},
		"the same number and date":     {a.numbered(5, now, 1), a.numbered(5, now, 2), false, true, nil},
		"a higher number, the date":    {a.numbered(4, now, 1), a.numbered(5, now, 2), false, true, nil},
		"a lower number, the date":     {a.numbered(5, now, 1), a.numbered(4, now, 2), true, false, []string{noteOlder}},
		"a lower number, younger":      {a.numbered(5, now, 1), a.numbered(1, later, 2), true, true, []string{noteConflict}},
		"a higher number, older":       {a.numbered(5, now, 1), a.numbered(6, before, 2), true, true, []string{noteConflict}},
		"older, where the last is old": {a.numbered(5, now.Add(-2*time.Hour), 1), a.numbered(4, now.Add(-3*time.Hour), 2), true, false, []string{noteOlder}},
	} {
		t.Run(name, func(t *testing.T) {
			old := reads(t, by, c.was)
			l, notes := reads(t, by, c.is).Merge(old, now)
			if l.Revoked(a.leaf(1)) != c.one || l.Revoked(a.leaf(2)) != c.two {
				t.Errorf("first %v, second %v", !c.one, !c.two)
			}
			want(t, notes, c.why...)
			if old.Entries() != 1 || !old.Revoked(a.leaf(1)) {
				t.Error("the lists before have changed")
			}
			for _, both := range [][][]byte{{c.was, c.is}, {c.is, c.was}} { // in the files at once nothing is told
				if r := reads(t, by, both...); r.Revoked(a.leaf(1)) != c.one || r.Revoked(a.leaf(2)) != c.two {
					if name != "the same number and date" {
						t.Errorf("read together: first %v, second %v", !c.one, !c.two)
					}
				}
			}
		})
	}
}

// An authority whose list has vanished from the files: it goes on to count until it ends, and is told once. Another list of the authority ends that.
func TestMergeGone(t *testing.T) {
	a, b := newAuthority(t, "a", nil), newAuthority(t, "b", nil)
	by := []*authority{a, b}
	both := reads(t, by, a.numbered(1, now, 1), b.numbered(1, now.Add(time.Minute), 2))
	l, notes := reads(t, by, a.numbered(2, now, 1)).Merge(both, now)
	want(t, notes, noteGone)
	if !l.Revoked(a.leaf(1)) || !l.Revoked(b.leaf(2)) || l.Entries() != 2 {
		t.Errorf("%d entries", l.Entries())
	}
	kept := 0
	l.Each(func(_ string, _ time.Time, k bool) {
		if k {
			kept++
		}
	})
	if kept != 1 {
		t.Errorf("%d lists are told to be kept", kept)
	}
	l, notes = reads(t, by, a.numbered(3, now, 1)).Merge(l, now)
	if want(t, notes); !l.Revoked(b.leaf(2)) {
		t.Error("it counts for one turn alone")
	}
	if same, notes := l.Lapse(now); same != l || len(notes) > 0 {
		t.Error("nothing has ended, and something is taken out")
	}
	if same, notes := l.Lapse(time.Time{}); same != l || len(notes) > 0 {
		t.Error("lists that do not end have ended")
	}
	ended := now.Add(62 * time.Minute)
	rest, notes := l.Lapse(ended)
	if want(t, notes, noteEnded); rest.Revoked(b.leaf(2)) || !rest.Revoked(a.leaf(1)) || rest.Entries() != 1 || !l.Revoked(b.leaf(2)) {
		t.Error("a list that has ended counts, or with it another one does not")
	}
	rest, notes = reads(t, by, a.numbered(4, now, 1)).Merge(l, ended)
	if want(t, notes, noteEnded); rest.Revoked(b.leaf(2)) {
		t.Error("a list that has ended counts")
	}
	back, notes := reads(t, by, a.numbered(4, now, 1), b.numbered(2, now.Add(2*time.Minute), 3)).Merge(l, now)
	if want(t, notes); back.Revoked(b.leaf(2)) || !back.Revoked(b.leaf(3)) {
		t.Error("the new list does not take the place of the one that was kept")
	}
	older, notes := reads(t, by, a.numbered(4, now, 1), b.numbered(0, now, 3)).Merge(l, now)
	if want(t, notes, noteOlder); !older.Revoked(b.leaf(2)) || older.Revoked(b.leaf(3)) {
		t.Error("an older list takes the place of the one that was kept")
	}
	if same, _ := older.Lapse(ended); same != older {
		t.Error("a list that the files have an older one of has to be renewed, not to go")
	}
}

// A part of an authority's certificates whose list vanishes is one of its own; of an authority that is trusted no more nothing is kept.
func TestMergeScopeAndTrust(t *testing.T) {
	a, b := newAuthority(t, "a", nil), newAuthority(t, "b", nil)
	other := newAuthority(t, "b", nil) // the same name, another key
	old := reads(t, []*authority{a, b}, a.numbered(1, now, 1), b.numbered(1, now, 2))
	l, notes := reads(t, []*authority{a, other}, a.numbered(1, now, 1)).Merge(old, now)
	if want(t, notes); l.Entries() != 1 {
		t.Error("a list of an authority that was replaced by one of the same name is kept")
	}
	l, notes = reads(t, []*authority{a}, a.numbered(1, now, 1)).Merge(old, now)
	if want(t, notes); l.Entries() != 1 {
		t.Error("a list of an authority that has gone is kept")
	}
	part := func(n byte) []pkix.Extension {
		return []pkix.Extension{{Id: oidScope, Critical: true, Value: []byte{0x30, 0x03, 0x81, 0x01, n}}}
	}
	parts := reads(t, []*authority{a}, a.list(now, part(1), 1), a.list(now, part(2), 2))
	l, notes = reads(t, []*authority{a}, a.list(now.Add(time.Minute), part(1), 3)).Merge(parts, now)
	if want(t, notes, noteGone); l.Revoked(a.leaf(1)) || !l.Revoked(a.leaf(2)) || !l.Revoked(a.leaf(3)) {
		t.Error("a part that has vanished does not count, or one that was renewed does")
	}
	if l, notes := old.Merge(nil, now); l != old || len(notes) > 0 {
		t.Error("the first lists come after none")
	}
	if l, notes := (*Lists)(nil).Merge(old, now); l != nil || len(notes) > 0 {
		t.Error("no files, and lists")
	}
}

// What is kept has a bound.
func TestMergeMany(t *testing.T) {
	a := newAuthority(t, "a", nil)
	l := reads(t, []*authority{a}, a.numbered(1, now, 1))
	full := l.clone()
	for i := range keptMost {
		full.put(&list{name: string(a.cert.RawSubject), issuer: "a", signature: []byte{byte(i), byte(i >> 8)}, scope: []byte{byte(i), byte(i >> 8)}, kept: true})
	}
	full.put(&list{name: string(a.cert.RawSubject), issuer: "a", signature: []byte("one more"), scope: []byte("one more")})
	m, notes := l.Merge(full, now)
	if want(t, notes, noteMany); len(m.all) != 1+keptMost {
		t.Errorf("%d lists", len(m.all))
	}
}
