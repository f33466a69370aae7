// Package identity has tests of who comes in and who has to go, with whole nodes in this process and clients of both protocols: certificates, their lists of
// revocations and staples, and servers that are asked about users.
package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/server"
)

const patience = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines is a log that several may write.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

// node is a whole one.
type node struct {
	t   testing.TB
	set []string
	s   *server.Server
	at  map[string]string
	log lines
}

// start opens the listeners named, and HTTP.
func start(t testing.TB, listeners []string, set ...string) *node {
	t.Helper()
	n := &node{t: t}
	n.set = append(append(testx.Listeners(append(listeners, "http")...), "node.data="+t.TempDir(), "journal.segment_size=8MiB", "mqtt.sys_interval=0s"), set...)
	var err error
	if n.s, err = server.New(n.load(), server.Options{Logger: slog.New(slog.NewTextHandler(&n.log, nil)), Version: "test"}); err != nil {
		t.Fatal(err)
	}
	ready, err := n.s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n.at = ready.Listeners
	t.Cleanup(func() {
		if err := n.s.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) load(more ...string) config.Config {
	n.t.Helper()
	loaded, err := config.Load(config.LoadOptions{Set: append(append([]string{}, n.set...), more...)})
	if err != nil {
		n.t.Fatal(err)
	}
	return loaded.Config
}

func (n *node) reload(more ...string) {
	n.t.Helper()
	if _, err := n.s.Reload(n.load(more...)); err != nil {
		n.t.Fatal(err)
	}
}

// get is what HTTP answers.
func (n *node) get(path string) string {
	n.t.Helper()
	resp, err := http.Get("http://" + n.at["http"] + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(body)
}

// metric is the value of a series that begins with name and has all of the texts in it; ok false: there is none.
func (n *node) metric(name string, texts ...string) (value float64, ok bool) {
	n.t.Helper()
next:
	for line := range strings.Lines(n.get("/metrics")) {
		if !strings.HasPrefix(line, name) {
			continue
		}
		for _, s := range texts {
			if !strings.Contains(line, s) {
				continue next
			}
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
		if err != nil {
			n.t.Fatal(err)
		}
		return v, true
	}
	return 0, false
}

// shows is what a client with these certificates goes by.
func shows(ca *testx.Cert, pairs ...tls.Certificate) *tls.Config {
	cfg := ca.ClientConfig(false)
	cfg.Certificates = pairs
	return cfg
}

// try connects an MQTT client to a listener.
func (n *node) try(listener, id string, cfg *tls.Config, change ...func(*wire.Connect)) (*mqttclient.Client, error) {
	scheme, path := "mqtt", ""
	switch {
	case strings.HasSuffix(listener, ".wss"):
		scheme, path = "wss", "/mqtt"
	case cfg != nil:
		scheme = "mqtts"
	}
	k := wire.Connect{ClientID: []byte(id), CleanStart: true}
	for _, f := range change {
		f(&k)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, ack, err := mqttclient.Connect(ctx, mqttclient.Options{URL: scheme + "://" + n.at[listener] + path, TLS: cfg, Connect: k, Timeout: patience})
	switch {
	case err != nil:
		return nil, err
	case ack.Reason != wire.Success:
		_ = c.Close()
		return nil, errors.New(ack.Reason.String())
	}
	n.t.Cleanup(func() { _ = c.Close() })
	return c, nil
}

func (n *node) connect(listener, id string, cfg *tls.Config, change ...func(*wire.Connect)) *mqttclient.Client {
	n.t.Helper()
	c, err := n.try(listener, id, cfg, change...)
	if err != nil {
		n.t.Fatalf("%s: %v", id, err)
	}
	return c
}

func as(user, password string) func(*wire.Connect) {
	return func(k *wire.Connect) {
		k.UserName, k.Password = []byte(user), []byte(password)
	}
}

// told is what the client is told when the connection ends; it has to.
func told(t testing.TB, c *mqttclient.Client) wire.Disconnect {
	t.Helper()
	packets, err := c.WaitClosed(patience)
	if err != nil {
		t.Fatalf("the connection does not end: %v", err)
	}
	for _, p := range packets {
		if p.Type == wire.DISCONNECT {
			d, err := wire.DecodeServerDisconnect(p.Body, c.Version)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	return wire.Disconnect{}
}

// passwordFile has one user.
func passwordFile(t testing.TB, user, password string) string {
	t.Helper()
	hash, err := auth.Hash([]byte(password), auth.DefaultParams)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte(user+":"+hash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// configError is what is wrong with a configuration.
func configError(set ...string) error {
	_, err := config.Load(config.LoadOptions{Set: set})
	return err
}
