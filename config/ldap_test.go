package config

import (
	"strings"
	"testing"
)

func TestLDAPProblems(t *testing.T) {
	word := write(t, "word", "s3cret")
	for _, tt := range []struct{ in, want string }{
		{"ldap: {url: 'ldaps://ldap.example', search_base: dc=example}", ""},
		{"ldap: {url: 'ldap://127.0.0.1:3890', bind_dn: 'uid=%u,dc=example'}", ""},
		{"ldap: {url: 'ldap://ldap.example', start_tls: true, search_base: dc=example, search_dn: cn=s, search_password: 'file:" + word + "'}", ""},
		{"ldap: {url: 'ldap://ldap.example', search_base: dc=example}", "auth.ldap.url: passwords go there"},
		{"ldap: {url: 'https://ldap.example', search_base: dc=example}", "auth.ldap.url: want ldaps://HOST"},
		{"ldap: {url: 'ldaps://ldap.example/dc=example', search_base: dc=example}", "auth.ldap.url: want ldaps://HOST"},
		{"ldap: {url: 'ldaps://ldap.example', start_tls: true, search_base: dc=example}", "auth.ldap.start_tls: is for ldap://"},
		{"ldap: {url: 'ldaps://ldap.example'}", "auth.ldap.search_base: want it, or auth.ldap.bind_dn"},
		{"ldap: {url: 'ldaps://ldap.example', bind_dn: 'uid=%%u,dc=example'}", "auth.ldap.bind_dn: want %u in it"},
		{"ldap: {url: 'ldaps://ldap.example', search_base: dc=example, search_filter: '(uid=*)'}", "auth.ldap.search_filter: want %u in it"},
		{"ldap: {url: 'ldaps://ldap.example', search_base: dc=example, search_dn: cn=s}", "go together"},
		{"ldap: {url: 'ldaps://ldap.example', search_base: dc=example, groups: [a]}", "auth.ldap.group_base: groups are named"},
		{"ldap: {url: 'ldaps://ldap.example', search_base: dc=example, groups: [a], group_base: dc=example, group_filter: '(cn=a)'}", "auth.ldap.group_filter: want %d in it"},
		{"ldap: {search_base: dc=example}", "auth.ldap.url: the other keys of auth.ldap need it"},
		{"order: [ldap, file]", ""},
		{"order: [ldap, file, ldap]", "auth.order: ldap is there twice"},
		{"order: [ldap, cow]", "auth.order: want"},
	} {
		l, err := Parse("c.yaml", []byte("auth:\n  "+tt.in+"\n"))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s\ngot  %v\nwant %s", tt.in, err, tt.want)
		}
		if err == nil && strings.Contains(tt.in, "url") && l.Config.Anonymous() != "off" {
			t.Errorf("%s: anonymous clients come in", tt.in)
		}
	}
}
