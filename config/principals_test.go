package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestPrincipals(t *testing.T) {
	const secret, other = "do-not-show-this-one", "nor-this-other-one"
	file := write(t, "token", secret+"\n")
	environ := []string{"T=" + other, "SHORT=abc"}
	for _, tt := range []struct{ list, says string }{
		{`{}`, "want a list of principals such as {name: grafana"},
		{`[a]`, "want a principal such as"},
		{`[{name: a, role: viewer, token: ` + secret + `}]`, "token: want file:PATH or env:NAME"},
		{`[{name: a, role: viewer, token: env:ABSENT}]`, "ABSENT is not set"},
		{`[{name: a, role: viewer, token: env:SHORT}]`, "want at least 16 bytes in env:SHORT, found 3"},
		{`[{name: a, role: viewer, token: 'file:/absent/token'}]`, "no such file"},
		{`[{name: a, role: root, token: env:T}]`, `role: want viewer, operator or admin, found "root"`},
		{`[{name: a, token: env:T}]`, "the principal a needs a role"},
		{`[{name: a, role: admin, tenant: Acme, token: env:T}]`, `tenant: want the name of a tenant`},
		{`[{name: a, role: admin, tenant: '', token: env:T}]`, `tenant: want the name of a tenant`},
		{`[{name: a, role: admin}]`, "the principal a needs a token or a certificate"},
		{`[{role: admin, token: env:T}]`, "a principal needs a name"},
		{`[{name: a b, role: admin, token: env:T}]`, "a principal needs a name of at most 100 bytes without spaces"},
		{`[{name: loopback, role: admin, token: env:T}]`, "the name loopback is that of callers without a principal"},
		{`[{name: a, role: [admin], token: env:T}]`, "role: want a value"},
		{`[{name: a, roles: admin, token: env:T}]`, `a principal has no key "roles"`},
		{`[{name: a, role: admin, token: env:T}, {name: a, role: viewer, token: 'file:` + file + `'}]`, `two principals of the name "a"`},
		{`[{name: a, role: admin, token: env:T}, {name: b, role: viewer, token: env:T}]`, "a and b have the same token"},
		{`[{name: a, role: admin, certificate: x}, {name: b, role: viewer, certificate: x}]`, "a and b have the same certificate"},
		{`[{name: a, role: admin, certificate: ''}]`, "certificate: want the common name"},
		{`[{name: a, role: admin, certificate: x}]`, "the certificate of a needs control.client_ca"},
	} {
		_, err := Load(LoadOptions{Set: []string{"control.principals=" + tt.list}, Environ: environ})
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want %q", tt.list, err, tt.says)
		}
	}
	list := `[{name: a, role: viewer, token: env:T}, {name: b, role: admin, token: 'file:` + file + `'}]`
	if _, err := Load(LoadOptions{Set: []string{"control.principals=" + list, "auth.control_token=env:T"}, Environ: environ}); err == nil || !strings.Contains(err.Error(), "the token of a is auth.control_token") {
		t.Errorf("a principal with the token of all: %v", err)
	}
	if _, err := Load(LoadOptions{Set: []string{"control.crl=x"}}); err == nil || !strings.Contains(err.Error(), "needs control.client_ca") {
		t.Errorf("revocations of nobody: %v", err)
	}
	if _, err := Load(LoadOptions{Set: []string{"control.audit_required=true"}}); err == nil || !strings.Contains(err.Error(), "needs control.audit") {
		t.Errorf("a trail that goes nowhere: %v", err)
	}
	got, err := Load(LoadOptions{Set: []string{"control.client_ca=x", "tls.cert=x", "tls.key=file:" + file, "control.principals=[{name: a, role: admin, certificate: 'CN, with comma'}]"}})
	if err != nil || got.Config.Control.Principals.String() != `[{name: "a", role: admin, certificate: "CN, with comma"}]` {
		t.Errorf("%v, %v", got, err)
	}
	got, err = Load(LoadOptions{Set: []string{"control.principals=[{name: a, role: admin, tenant: acme-1, token: env:T}]"}, Environ: environ})
	if err != nil || got.Config.Control.Principals[0].Tenant != "acme-1" || got.Config.Control.Principals.String() != `[{name: "a", role: admin, tenant: "acme-1", token: "env:T"}]` {
		t.Errorf("%v, %v", got, err)
	}
	yaml := write(t, "c.yaml", "listeners: {grpc: \"0.0.0.0:0\"}\ncontrol:\n  principals:\n    - {name: a, role: viewer, token: env:T}\n    - {name: b, role: root, token: env:T}\n")
	if _, err := Load(LoadOptions{File: yaml, Environ: environ}); err == nil || !strings.Contains(err.Error(), "c.yaml:5:23: control.principals: role: want") {
		t.Errorf("the place of a fault: %v", err)
	}
	for _, l := range []LoadOptions{{Set: []string{"control.principals=" + list, "listeners.grpc=0.0.0.0:0"}, Environ: environ}, {Environ: append(environ, "SLUICE_CONTROL_PRINCIPALS="+list)}} {
		got, err := Load(l)
		if err != nil {
			t.Fatal(err)
		}
		ps := got.Config.Control.Principals
		if len(ps) != 2 || ps[0].Token.Reveal() != other || ps[1].Token.Reveal() != secret || ps[1].Role != "admin" || !got.Config.ControlClosed() {
			t.Errorf("%v", ps)
		}
		var b strings.Builder
		if err := got.Print(&b); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%s %v %+v %#v", b.String(), got.Config, ps, ps)
		if strings.Contains(text, secret) || strings.Contains(text, other) || !strings.Contains(text, `{name: "b", role: admin, token: "file:`) {
			t.Errorf("shown as %s", text)
		}
	}
}
