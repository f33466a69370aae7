package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// validateLDAP looks at how the directory server is asked.
func (l *loader) validateLDAP(c *Config) {
	for i, name := range c.Auth.Order {
		if slices.Contains(c.Auth.Order[:i], name) {
			l.reject("auth.order", fmt.Errorf("%s is there twice", name))
			break
		}
	}
	d := &c.Auth.LDAP
	if d.URL == "" {
		if d.BindDN != "" || d.SearchBase != "" || len(d.Groups)+len(d.SuperGroups) > 0 {
			l.reject("auth.ldap.url", errors.New("the other keys of auth.ldap need it: want ldaps://HOST"))
		}
		return
	}
	u, err := url.Parse(d.URL)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "ldap" && u.Scheme != "ldaps" || strings.Trim(u.Path, "/")+u.RawQuery != "" || u.User != nil:
		l.reject("auth.ldap.url", fmt.Errorf("want ldaps://HOST or ldap://HOST, with a port if it is another one, found %q", d.URL))
	case u.Scheme == "ldap" && !d.StartTLS && !Loopback(net.JoinHostPort(u.Hostname(), "1")):
		l.reject("auth.ldap.url", fmt.Errorf("passwords go there: want ldaps://…, auth.ldap.start_tls, or a server on loopback; found %q", d.URL))
	case u.Scheme == "ldaps" && d.StartTLS:
		l.reject("auth.ldap.start_tls", errors.New("is for ldap://: ldaps:// begins with TLS"))
	}
	users := func(key, text string) {
		if !strings.Contains(strings.ReplaceAll(text, "%%", ""), "%u") {
			l.reject(key, fmt.Errorf("want %%u in it, where the user's name goes; found %q", text))
		}
	}
	if d.BindDN != "" && d.Recheck > 0 {
		l.reject("auth.ldap.recheck", errors.New("needs auth.ldap.search_base in place of auth.ldap.bind_dn: without a client's password nobody can bind as it"))
	}
	if d.BindDN != "" {
		users("auth.ldap.bind_dn", d.BindDN)
	} else {
		users("auth.ldap.search_filter", d.SearchFilter)
		if d.SearchBase == "" {
			l.reject("auth.ldap.search_base", errors.New("want it, or auth.ldap.bind_dn: users are below it"))
		}
	}
	if (d.SearchDN != "") != d.SearchPassword.IsSet() {
		l.reject("auth.ldap.search_password", errors.New("auth.ldap.search_dn and auth.ldap.search_password go together"))
	}
	if len(d.Groups)+len(d.SuperGroups) > 0 {
		if d.GroupBase == "" {
			l.reject("auth.ldap.group_base", errors.New("groups are named, and looked for below it"))
		}
		if text := strings.ReplaceAll(d.GroupFilter, "%%", ""); !strings.Contains(text, "%d") && !strings.Contains(text, "%u") {
			l.reject("auth.ldap.group_filter", fmt.Errorf("want %%d in it for the user's entry, or %%u for the user; found %q", d.GroupFilter))
		}
	}
}
