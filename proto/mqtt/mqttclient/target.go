package mqttclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Target is a server's address and how to reach it.
type Target struct {
	Network string // tcp or unix
	Addr    string // host:port, or a path
	Host    string // the name that a certificate must have
	Path    string // of the WebSocket, else empty
	TLS     bool
	WS      bool
}

var schemes = map[string]struct {
	tls, ws bool
	port    string
}{
	"mqtt": {port: "1883"}, "tcp": {port: "1883"},
	"mqtts": {tls: true, port: "8883"}, "ssl": {tls: true, port: "8883"}, "tls": {tls: true, port: "8883"},
	"ws": {ws: true, port: "8083"}, "wss": {tls: true, ws: true, port: "8084"},
}

// ParseTarget reads mqtt://host:port, mqtts://, ws://host:port/path, wss://, unix:///path, or host:port alone, which is
// mqtt. Ports default to 1883, 8883, 8083 and 8084, the WebSocket path to /mqtt.
func ParseTarget(s string) (Target, error) {
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		if path == "" {
			return Target{}, fmt.Errorf("address %q: no path", s)
		}
		return Target{Network: "unix", Addr: path}, nil
	}
	if !strings.Contains(s, "://") {
		s = "mqtt://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return Target{}, fmt.Errorf("address %q: %w", s, err)
	}
	scheme, ok := schemes[u.Scheme]
	if !ok {
		return Target{}, fmt.Errorf("address %q: scheme %q is none of mqtt, mqtts, ws, wss, unix", s, u.Scheme)
	}
	if u.User != nil {
		return Target{}, fmt.Errorf("address %q: a user does not go into the address; see --user and --password-file", u.Redacted())
	}
	t := Target{Network: "tcp", Host: u.Hostname(), TLS: scheme.tls, WS: scheme.ws}
	if t.Host == "" {
		t.Host = "127.0.0.1"
	}
	port := u.Port()
	if port == "" {
		port = scheme.port
	}
	t.Addr = net.JoinHostPort(t.Host, port)
	if t.WS {
		if t.Path = u.RequestURI(); t.Path == "/" || t.Path == "" {
			t.Path = "/mqtt"
		}
	} else if u.Path != "" && u.Path != "/" {
		return Target{}, fmt.Errorf("address %q: a path belongs to ws:// and wss:// only", s)
	}
	return t, nil
}

// TLSConfig gives the configuration to use for t: base, with the server's name filled in.
func (t Target) TLSConfig(base *tls.Config) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		cfg = base.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = t.Host
	}
	return cfg
}

// Dial connects, and does the TLS and WebSocket handshakes, until ctx ends.
func (t Target) Dial(ctx context.Context, base *tls.Config, wsHeaders ...string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, t.Network, t.Addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.Addr, err)
	}
	if t.TLS {
		secure := tls.Client(conn, t.TLSConfig(base))
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("TLS handshake with %s: %w", t.Addr, err)
		}
		conn = secure
	}
	if t.WS {
		ws, err := upgrade(ctx, conn, t, wsHeaders)
		if err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("WebSocket handshake with %s: %w", t.Addr, err)
		}
		conn = ws
	}
	return conn, nil
}
