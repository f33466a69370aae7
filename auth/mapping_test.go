package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/broker"
)

// The first seven are Kafka's own examples and tests of ssl.principal.mapping.rules.
func TestMapping(t *testing.T) {
	const kafka = "RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/,RULE:^CN=(.*?),OU=(.*?),O=(.*?),L=(.*?),ST=(.*?),C=(.*?)$/$1@$2/L,RULE:^.*[Cc][Nn]=([a-zA-Z0-9.]*).*$/$1/L,DEFAULT"
	for _, tt := range []struct{ rules, subject, want string }{
		{kafka, "CN=Duke,OU=ServiceUsers,O=Org,C=US", "Duke"},
		{kafka, "CN=Duke,OU=SME,O=mycp,L=Fulton,ST=MD,C=US", "duke@sme"},
		{kafka, "cn=Duke,ou=JavaSoft,o=Sun Microsystems", "duke"},
		{kafka, "OU=JavaSoft,O=Sun Microsystems,C=US", "OU=JavaSoft,O=Sun Microsystems,C=US"},
		{"RULE:^CN=([^,ADEFLTU,]+)(,.*|$)/$1/", "CN=user1,OU=x", "user1"},
		{`RULE:^.*[Cc][Nn]=([a-zA-Z0-9. ]*)\/CCCC,.*$/$1/L , DEFAULT`, "CN=Some One/CCCC,OU=x", "some one"},
		{"DEFAULT", "CN=a", "CN=a"},
		{"", "CN=a", "CN=a"},
		{"RULE:CN=(.*)/$1/U", "CN=a", "A"},
		{"RULE:CN=(.)(.)/$2$1$3$10$x$/", "CN=ab", "ba$3a0$x$"},
		{`RULE:CN=(.*)/\$1\/$1,\\/`, "CN=a", `$1/a,\`},
		{"RULE:C/x/,RULE:CN=a/y/", "CN=a", "y"},
		{"RULE:CN=(.*)/$1@x/", "CN=a", "a@x"},
		{"RULE:a/b/L,\n  RULE:c/d/", "c", "d"},
		{"RULE:(x)|(y)/<$1$2>/", "y", "<y>"},
	} {
		m, err := parseMapping(tt.rules)
		if err != nil {
			t.Errorf("%s: %v", tt.rules, err)
			continue
		}
		if got, err := m.apply(tt.subject); err != nil || got != tt.want {
			t.Errorf("%s of %s: %q, %v, want %q", tt.rules, tt.subject, got, err, tt.want)
		}
	}
	m, err := parseMapping("RULE:CN=a/b/,RULE:CN=()x/$1/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.apply("CN=ab"); !errors.Is(err, errNoRule) {
		t.Errorf("no rule fits: %v", err)
	}
	if got, err := m.apply("CN=x"); err == nil {
		t.Errorf("an empty name: %q", got)
	}
}

func TestMappingRefused(t *testing.T) {
	for _, bad := range []string{"x", "RULE:", "RULE:a", "RULE:a/", "RULE:a/b", "RULE:a/b/X", "RULE:a/b/LU", "RULE:(/b/", "DEFAULT,", "DEFAULT DEFAULT", ",DEFAULT",
		"RULE:a/b/,,DEFAULT", "default", "RULE:(?=x)/b/", `RULE:a\/b/`, strings.Repeat("DEFAULT,", mappingRulesMax) + "DEFAULT", strings.Repeat("x", mappingBytesMax+1)} {
		if m, err := parseMapping(bad); err == nil {
			t.Errorf("%.40q: %d rules", bad, len(m))
		}
	}
	if _, err := New(Options{Anonymous: "off", Mapping: "nonsense"}); err == nil || !strings.Contains(err.Error(), "auth.certificate_mapping") {
		t.Errorf("%v", err)
	}
}

// A subject is written as Java writes it.
func TestSubject(t *testing.T) {
	oid := func(n ...int) asn1.ObjectIdentifier { return n }
	rdn := pkix.RDNSequence{
		{{Type: oid(2, 5, 4, 6), Value: "US"}},
		{{Type: oid(2, 5, 4, 10), Value: `Acme, "Inc"`}},
		{{Type: oid(2, 5, 4, 11), Value: "#1 "}},
		{{Type: oid(0, 9, 2342, 19200300, 100, 1, 25), Value: "example"}},
		{{Type: oid(1, 2, 840, 113549, 1, 9, 1), Value: "a@b"}},
		{{Type: oid(2, 5, 4, 3), Value: "Zoë+x"}, {Type: oid(0, 9, 2342, 19200300, 100, 1, 1), Value: "z"}},
	}
	raw, err := asn1.Marshal(rdn)
	if err != nil {
		t.Fatal(err)
	}
	email, err := asn1.Marshal("a@b")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`CN=Zoë\+x+UID=z`, `1.2.840.113549.1.9.1=#` + hex.EncodeToString(email), "DC=example", `OU=\#1\ `, `O=Acme\, \"Inc\"`, "C=US"}
	got := subjectOf(&x509.Certificate{RawSubject: raw})
	swapped := append([]string{`UID=z+CN=Zoë\+x`}, want[1:]...) // DER sorts a set
	if got != strings.Join(want, ",") && got != strings.Join(swapped, ",") {
		t.Errorf("%s", got)
	}
}

// Rules decide about a certificate when it comes, and again when they have changed.
func TestMappedCertificate(t *testing.T) {
	certs := []*x509.Certificate{{Subject: pkix.Name{CommonName: "Duke", OrganizationalUnit: []string{"Java"}}}}
	o := Options{Anonymous: "off", CertificateUser: "subject", Mapping: "RULE:^CN=(.*?),.*$/$1/L"}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	id, done, err := p.Quick(broker.Credentials{PeerCertificates: certs})
	if !done || err != nil || id.User != "duke" || p.Recheck(&id, certs) != nil {
		t.Errorf("%+v, %v", id, err)
	}
	o.Mapping = "RULE:^CN=(.*?),.*$/$1/U"
	if err := p.Reload(o); err != nil || p.Recheck(&id, certs) == nil {
		t.Errorf("another name, and in: %v", err)
	}
	o.Mapping = "RULE:nobody/x/"
	if err := p.Reload(o); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Quick(broker.Credentials{PeerCertificates: certs}); !errors.Is(err, broker.ErrNotAuthorized) || !errors.Is(err, errNoRule) {
		t.Errorf("no rule fits: %v", err)
	}
}

func FuzzMapping(f *testing.F) {
	f.Add("RULE:^CN=(.*?),OU=(.*?)$/$1@$2/L,DEFAULT", "CN=a,OU=b")
	f.Add(`RULE:\/(a|b)+/\$$1$9/`, "/ab")
	f.Fuzz(func(_ *testing.T, rules, name string) {
		if m, err := parseMapping(rules); err == nil {
			_, _ = m.apply(name)
		}
	})
}
