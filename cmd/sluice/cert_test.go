package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCert makes what docs/operate/certificates.md makes.
func TestCert(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	run := func(args ...string) (string, error) {
		root := newRoot()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(append([]string{"cert"}, args...))
		err := root.Execute()
		return out.String(), err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, args := range [][]string{
		{"ca", "--dir", dir, "--cluster", "fleet"},
		{"node", "1", "--dir", dir},
		{"node", "2", "--dir", dir, "--host", "broker-2.example", "--host", "10.0.0.2", "--days", "30"},
	} {
		if out, err := run(args...); err != nil || !strings.HasPrefix(out, "made "+dir) {
			t.Fatalf("%v: %s %v", args, out, err)
		}
	}
	for _, f := range []string{"ca.pem", "ca-key.pem", "node-1.pem", "node-1-key.pem", "node-2.pem", "node-2-key.pem"} {
		if st, err := os.Stat(in(f)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, st, err)
		}
	}
	out, err := run("check", "--cert", in("node-1.pem"), "--key", in("node-1-key.pem"), "--ca", in("ca.pem"))
	if err != nil || !strings.Contains(out, "node-1.pem: node 1, until ") {
		t.Errorf("%s %v", out, err)
	}
	if out, err := run("revoke", in("node-2.pem"), "--dir", dir); err != nil || out != "made "+in("crl.pem")+"\n" {
		t.Errorf("%s %v", out, err)
	}
	if out, err := run("check", "--cert", in("node-1.pem"), "--key", in("node-1-key.pem"), "--ca", in("ca.pem"), "--crl", in("crl.pem")); err != nil {
		t.Errorf("%s %v", out, err)
	}
	for want, args := range map[string][]string{
		"is revoked":         {"check", "--cert", in("node-2.pem"), "--key", in("node-2-key.pem"), "--ca", in("ca.pem"), "--crl", in("crl.pem")},
		"no PEM certificate": {"revoke", in("node-2-key.pem"), "--dir", dir},
		"is there already":   {"node", "1", "--dir", dir},
		"ca.pem is there":    {"ca", "--dir", dir},
		"a number":           {"node", "one", "--dir", dir},
		"want 1 to 65535":    {"node", "70000", "--dir", dir},
		"validity":           {"node", "3", "--dir", dir, "--days", "99999"},
		"private key does":   {"check", "--cert", in("node-1.pem"), "--key", in("node-2-key.pem"), "--ca", in("ca.pem")},
		"want --cert, --key": {"check"},
	} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}
