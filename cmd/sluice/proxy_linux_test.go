package main

import (
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

// A client behind a proxy is who the proxy says it is: it is logged so, and does not have what clients on loopback may do. Whom the node
// trusts changes by a reload.
func TestProxyProtocol(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	trust := func(who string) {
		rewrite(t, path, "listeners: {mqtt: {proxy_protocol: tcp, proxy_trusted: ["+who+"]}}\nlog: {level: debug}\n")
	}
	trust("192.0.2.0/24")
	n, at := begin(t, t.TempDir(), "--config", path)
	connect := func(header string) (code byte, answered bool) {
		c, err := net.Dial("tcp", at["mqtt.tcp"])
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, header+"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a") // it may have been closed already
		var ack [4]byte
		_, err = io.ReadFull(c, ack[:])
		return ack[3], err == nil && ack[0] == 0x20
	}
	if _, ok := connect("PROXY TCP4 127.0.0.5 127.0.0.1 1 2\r\n"); ok {
		t.Error("who is not trusted was let in")
	}
	testx.Eventually(t, 10*time.Second, n.said("not one of a trusted proxy"))
	trust("127.0.0.1")
	n.signal(t, syscall.SIGHUP)
	testx.Eventually(t, 10*time.Second, func() bool {
		code, ok := connect("PROXY TCP4 127.0.0.5 127.0.0.1 1 2\r\n")
		return ok && code == 0
	}, "the proxy is trusted after a reload")
	if code, ok := connect("PROXY TCP4 203.0.113.9 127.0.0.1 4660 2\r\n"); !ok || code == 0 {
		t.Errorf("a client from elsewhere without credentials: code %d, answered %t", code, ok)
	}
	testx.Eventually(t, 10*time.Second, n.said("remote=203.0.113.9:4660"))
	if code, ok := connect("PROXY UNKNOWN\r\n"); !ok || code == 0 {
		t.Errorf("a client from nobody knows where: code %d, answered %t", code, ok)
	}
	if _, ok := connect(""); ok {
		t.Error("a connection without a header was let in")
	}
	testx.Eventually(t, 10*time.Second, n.said("no header of the PROXY protocol"))
	n.signal(t, syscall.SIGTERM)
	if code := n.end(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A listener's own bound of connections counts from a reload on, and is of that protocol alone.
func TestListenerConnections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	rewrite(t, path, "listeners: {mqtt: {connections: 1}}\n")
	n, at := begin(t, t.TempDir(), "--config", path)
	connect := func() error {
		c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: "mqtt://" + at["mqtt.tcp"]})
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return err
	}
	if err := connect(); err != nil {
		t.Fatal(err)
	}
	if connect() == nil {
		t.Fatal("a second connection came in")
	}
	testx.Eventually(t, 10*time.Second, n.said("too many are open at this listener"))
	rewrite(t, path, "listeners: {mqtt: {connections: 2}}\n")
	n.signal(t, syscall.SIGHUP)
	testx.Eventually(t, 10*time.Second, func() bool { return connect() == nil }, "room for a second one after a reload")
	if connect() == nil {
		t.Error("a third connection came in")
	}
	n.signal(t, syscall.SIGTERM)
	if code := n.end(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
