package auth

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
)

const slapdEntries = `dn: dc=example
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: ou=people,dc=example
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example
objectClass: organizationalUnit
ou: groups

dn: cn=sluice,dc=example
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: sluice
userPassword: s3cret

dn: uid=ann,ou=people,dc=example
objectClass: inetOrgPerson
uid: ann
cn: Ann
sn: A
userPassword: pass

dn: uid=zoe (2)\, x*,ou=people,dc=example
objectClass: inetOrgPerson
uid: zoe (2), x*
cn: Zoe
sn: Z
userPassword: zap

dn: cn=staff,ou=groups,dc=example
objectClass: groupOfNames
cn: staff
member: uid=ann,ou=people,dc=example
member: uid=zoe (2)\, x*,ou=people,dc=example

dn: cn=admins,ou=groups,dc=example
objectClass: groupOfNames
cn: admins
member: uid=zoe (2)\, x*,ou=people,dc=example
`

// slapd starts OpenLDAP's server, if it is there.
func slapd(t *testing.T, cert *testx.Cert) (plain, secure string) {
	t.Helper()
	bin, err := exec.LookPath("slapd")
	if err != nil {
		if bin = "/usr/sbin/slapd"; !executable(bin) {
			t.Skip("slapd is not installed")
		}
	}
	dir := t.TempDir()
	conf, entries, data := filepath.Join(dir, "slapd.conf"), filepath.Join(dir, "entries.ldif"), filepath.Join(dir, "data")
	text := ""
	for _, schema := range []string{"core", "cosine", "inetorgperson"} {
		text += fmt.Sprintf("include /etc/ldap/schema/%s.schema\n", schema)
	}
	text += fmt.Sprintf("modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile %s/pid\nargsfile %s/args\nTLSCACertificateFile %s\nTLSCertificateFile %s\nTLSCertificateKeyFile %s\n",
		dir, dir, cert.CAFile, cert.ServerCertFile, cert.ServerKeyFile)
	text += fmt.Sprintf("database mdb\nmaxsize 10485760\nsuffix dc=example\ndirectory %s\nrootdn cn=root,dc=example\n", data)
	// Users may bind and read themselves; the searcher reads all but passwords.
	text += "access to attrs=userPassword by anonymous auth by * none\naccess to * by dn.exact=cn=sluice,dc=example read by self read by anonymous auth by * none\n"
	if err := errors.Join(os.Mkdir(data, 0o700), os.WriteFile(conf, []byte(text), 0o600), os.WriteFile(entries, []byte(slapdEntries), 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(bin, "-T", "add", "-f", conf, "-l", entries).CombinedOutput(); err != nil {
		t.Fatalf("slapadd: %v: %s", err, out)
	}
	plain, secure = testx.ClosedAddr(t), testx.ClosedAddr(t)
	var log bytes.Buffer
	cmd := exec.Command(bin, "-d", "0", "-f", conf, "-h", "ldap://"+plain+" ldaps://"+secure)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("slapd: %s", log.String())
		}
	})
	return plain, secure
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode()&0o111 != 0
}

// OpenLDAP's own server, in each way of asking it: who comes in, as whom, and who does not.
func TestSlapd(t *testing.T) {
	cert := testx.TempCert(t)
	plain, secure := slapd(t, cert)
	search := LDAPOptions{SearchBase: "ou=people,dc=example", SearchFilter: "(&(objectClass=inetOrgPerson)(uid=%u))", SearchDN: "cn=sluice,dc=example", SearchPassword: "s3cret",
		UserAttribute: "uid", GroupBase: "ou=groups,dc=example", GroupFilter: "(member=%d)", GroupName: "cn", Groups: []string{"staff"}, SuperGroups: []string{"admins"}}
	template := LDAPOptions{BindDN: "uid=%u,ou=people,dc=example", UserAttribute: "uid"}
	for name, how := range map[string]LDAPOptions{"search": search, "template": template} {
		for _, url := range []string{"ldap://" + plain, "starttls://" + plain, "ldaps://" + secure} {
			t.Run(name+"/"+url[:5], func(t *testing.T) {
				o := how
				o.URL, o.CAFile, o.Timeout, o.Concurrency, o.CacheTTL = url, cert.CAFile, 20*time.Second, 2, 0
				if url[0] == 's' {
					o.URL, o.StartTLS = "ldap://"+plain, true
				}
				b := newBench(t, nil)
				b.o.LDAP, b.o.OpenWithoutACL = &o, "false"
				if err := b.Reload(b.o); err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				testx.Eventually(t, 20*time.Second, func() bool { // it listens
					b.now = b.now.Add(time.Minute)
					_, err := b.Authenticate(t.Context(), creds("ann", "pass"))
					return err == nil
				})
				for _, c := range []struct{ user, password, as string }{
					{"ann", "pass", "ann"}, {"ANN", "pass", "ann"}, {"zoe (2), x*", "zap", "zoe (2), x*"}, {"ann", "wrong", ""}, {"ann", "", ""}, {"nobody", "pass", ""}, {"*", "pass", ""},
					{"ann)(cn=*", "pass", ""}, {"ann,ou=people,dc=example", "pass", ""}, {"zoe*", "zap", ""}, {" ann", "x", ""},
				} {
					id, err := b.Authenticate(t.Context(), creds(c.user, c.password))
					if errors.Is(err, broker.ErrAuthBusy) || id.User != c.as || (err == nil) != (c.as != "") {
						t.Errorf("%q: %+v, %v", c.user, id, err)
					}
					if super := err == nil && b.Authorize(&id, pub, []byte("x")); super != (name == "search" && c.password == "zap" && c.as != "") {
						t.Errorf("%q may do everything: %v", c.user, super)
					}
				}
			})
		}
	}
}
