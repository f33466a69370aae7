package cluster

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/cluster/cert"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/meta"
)

// skewed is a clock that goes wrong by a constant.
type skewed struct {
	clock.Real
	by time.Duration
}

func (c skewed) Now() time.Time { return c.Real.Now().Add(c.by) }

// stranger is a program that takes itself for a node and calls one.
func stranger(t *testing.T, at string, o link.Options) error {
	t.Helper()
	o.Feature = meta.Level
	m, err := link.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	_, err = m.Dial(t.Context(), at)
	return err
}

// counts waits until the node's metrics have a line.
func (n *node) counts(line string) {
	n.t.Helper()
	testx.Eventually(n.t, soon, func() bool {
		r, err := http.Get("http://" + n.Listeners["http"] + "/metrics")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return err == nil && strings.Contains(string(b), "\n"+line)
	}, "node", n.id, "counts", line)
}

// Who is no node of the cluster is refused by name, at both ends and in the metrics; a clock that goes wrong is warned of.
func TestStrangersAreRefused(t *testing.T) {
	at, addr := testx.ClosedAddr(t), testx.ClosedAddr(t)
	one := newNode(t, 1, "listeners.cluster="+at, "cluster.token=the token")
	one.must("node", "add", "2", "--address", addr)
	two := newNode(t, 2, "listeners.cluster="+addr, "cluster.peers="+at, "cluster.token=the token")
	two.active(2)
	one.counts(`sluice_link_peers 1`)
	one.counts(`sluice_meta_group_leads 1`)
	two.Kill()
	token := []byte("the token")
	refused := func(reason, text string, o link.Options) {
		t.Helper()
		if err := stranger(t, at, o); err == nil || link.ReasonOf(err).String() != reason || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %s: %s", err, reason, text)
		}
		one.counts(fmt.Sprintf(`sluice_link_refusals_total{reason="%s"}`, reason))
	}
	refused("token", "another cluster token", link.Options{ID: 9, Token: []byte("guessed")})
	refused("cluster", "is of cluster", link.Options{ID: 9, Token: token, Cluster: [16]byte{1}})
	refused("node", "another data directory", link.Options{ID: 2, Token: token})
	refused("node_in_use", "this is node 1 too", link.Options{ID: 1, Token: token})
	newer(t, at)
	one.counts(`sluice_link_refusals_total{reason="version"}`)
	if err := stranger(t, at, link.Options{ID: 9, Token: token, Clock: skewed{by: time.Minute}}); err != nil {
		t.Errorf("a node that is not known yet, with a wrong clock: %v", err)
	}
	one.counts(`sluice_link_clock_warnings_total 1`)
	if log := one.Log(); !strings.Contains(log, "the clock of a node differs") || !strings.Contains(log, "reason=token") || strings.Contains(log, "the token") {
		t.Errorf("the log:\n%s", log)
	}
	two.start()
	two.eventually("shard", "move", "--to", "2")
	two.eventually("node", "remove", "1")
	refusedBy := func() bool {
		err := stranger(t, addr, link.Options{ID: 1, Token: token})
		return link.ReasonOf(err) == link.ReasonNotAdmitted && strings.Contains(err.Error(), "was removed")
	}
	testx.Eventually(t, soon, refusedBy, "a removed node is refused")
	two.counts(`sluice_link_peers 0`)
}

// newer says hello in versions that this program does not speak.
func newer(t *testing.T, at string) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hello := append([]byte("SLUICELK"), 2, 7)
	hello = append(hello, make([]byte, 120)...)
	if _, err := c.Write(append(binary.LittleEndian.AppendUint16(nil, uint16(len(hello))), append([]byte{1}, hello...)...)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if len(b) < 4 || b[2] != 4 || link.Reason(b[3]) != link.ReasonVersion || !bytes.Contains(b, []byte("peer speaks 2 to 7")) {
		t.Errorf("a newer version is answered %q, %v", b, err)
	}
}

// Certificates say who is a node. SIGHUP has them read again: who is not vouched for any more is cut off, and a file that is no good changes nothing.
func TestCertificatesOfNodes(t *testing.T) {
	mine, other := makeCerts(t, 1, 2), makeCerts(t, 1, 2)
	at := testx.ClosedAddr(t)
	one := newNode(t, 1, "listeners.cluster="+at, "cluster.cert="+filepath.Join(mine, "node-1.pem"), "cluster.key="+filepath.Join(mine, "node-1-key.pem"), "cluster.ca="+filepath.Join(mine, cert.CAFile))
	source := func(dir string) *cert.Source {
		s, err := cert.NewSource(cert.Files{Cert: filepath.Join(dir, "node-2.pem"), Key: filepath.Join(dir, "node-2-key.pem"), CA: filepath.Join(dir, cert.CAFile)}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := stranger(t, at, link.Options{ID: 2, TLS: source(other), Token: []byte("no cluster.token")}); err == nil {
		t.Error("a certificate of another authority is taken")
	}
	if err := stranger(t, at, link.Options{ID: 2, Token: []byte("no cluster.token")}); err == nil {
		t.Error("a node without a certificate is taken")
	}
	m, err := link.New(link.Options{ID: 2, TLS: source(mine), Token: []byte("no cluster.token"), Feature: meta.Level})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Dial(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	one.counts("sluice_link_peers 1")
	reload := func(dir string, said string) {
		t.Helper()
		for _, f := range []string{"node-1.pem", "node-1-key.pem", cert.CAFile} {
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err == nil {
				err = os.WriteFile(filepath.Join(mine, f), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := one.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		testx.Eventually(t, soon, func() bool { return strings.Contains(one.Log(), said) }, said)
	}
	broken := makeCerts(t, 1)
	if err := os.WriteFile(filepath.Join(broken, "node-1.pem"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	reload(broken, "reload refused")
	one.counts("sluice_link_peers 1")
	reload(other, "certificates, users and rules read again")
	one.counts("sluice_link_peers 0")
	one.counts(`sluice_link_ends_total{reason="certificate"} 1`)
	if err := stranger(t, at, link.Options{ID: 2, TLS: source(other), Token: []byte("no cluster.token")}); err != nil {
		t.Errorf("a certificate of the new authority: %v", err)
	}
}

// A node whose certificate the list names is cut off without a reload, and does not come back; until when the list counts is a metric.
func TestRevokedNode(t *testing.T) {
	dir, at := makeCerts(t, 1, 2), testx.ClosedAddr(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	revoke := func(files ...string) {
		t.Helper()
		if err := cert.Revoke(in(cert.CRLFile), in(cert.CAFile), in(cert.CAKeyFile), files, time.Hour, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	revoke()
	one := newNode(t, 1, "listeners.cluster="+at, "cluster.cert="+in("node-1.pem"), "cluster.key="+in("node-1-key.pem"), "cluster.ca="+in(cert.CAFile),
		"cluster.crl="+in(cert.CRLFile), "tls.crl_refresh=1s")
	src, err := cert.NewSource(cert.Files{Cert: in("node-2.pem"), Key: in("node-2-key.pem"), CA: in(cert.CAFile)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	o := link.Options{ID: 2, TLS: src, Token: []byte("no cluster.token"), Feature: meta.Level}
	m, err := link.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Dial(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	one.counts("sluice_link_peers 1")
	one.counts(`sluice_tls_crl_expiry_seconds{issuer="CN=sluice cluster authority test",key="cluster.crl"}`)
	one.counts(`sluice_tls_certificate_expiry_seconds{key="cluster.cert",subject="CN=sluice node 1"}`)
	revoke(in("node-2.pem"))
	one.counts("sluice_link_peers 0")
	one.counts(`sluice_link_ends_total{reason="certificate"} 1`)
	if err := stranger(t, at, o); err == nil {
		t.Error("a revoked node came back")
	}
}

func makeCerts(t *testing.T, ids ...uint32) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := cert.MakeCA(dir, "test", cert.CAValid, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if err := cert.MakeNode(dir, filepath.Join(dir, cert.CAFile), filepath.Join(dir, cert.CAKeyFile), cert.NodeOptions{ID: id, Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
