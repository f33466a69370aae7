package link

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// Streams by address go over one connection, are refused until somebody serves, and end with the network and with the mesh.
func TestNetworkByAddress(t *testing.T) {
	var na, nb *Network
	a := newNode(t, 1, nil, func(m *Mesh) { na = m.Network(KindRaft) })
	b := newNode(t, 2, nil, func(m *Mesh) { nb = m.Network(KindRaft) })
	open := func() net.Conn {
		t.Helper()
		c, err := na.Open(t.Context(), b.addr)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	early := open()
	if _, err := early.Read(make([]byte, 1)); ReasonOf(err) != ReasonNotAdmitted {
		t.Errorf("before Serve: %v", err)
	}
	_ = early.Close()
	nb.Serve(func(c net.Conn) {
		defer c.Close()
		_, _ = io.Copy(c, c)
	})
	echo := func(c net.Conn) {
		t.Helper()
		if _, err := c.Write([]byte("echo")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "echo" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	for range 20 {
		c := open()
		echo(c)
		_ = c.Close()
	}
	if s := b.Stats(); s.Connects != 1 {
		t.Errorf("%d connections", s.Connects)
	}
	b.Disconnect(1, "cut")
	testx.Eventually(t, wait, func() bool { return len(a.Connected()) == 0 }, "cut")
	c := open()
	echo(c)
	if err := nb.Close(); err != nil {
		t.Error(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(wait))
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the other network has closed: %v", err)
	}
	_ = c.Close()
	if err := na.Close(); err != nil {
		t.Error(err)
	}
	if _, err := na.Open(t.Context(), b.addr); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := na.Open(ctx, "127.0.0.1:1"); err == nil {
		t.Error("somebody is at port 1")
	}
}

// Who calls an address finds out that its node is connected already, whichever end has dialed, and takes that connection.
func TestNetworkByAddressOfConnected(t *testing.T) {
	a := newNode(t, 1, nil, func(m *Mesh) { m.Network(KindRaft).Serve(func(c net.Conn) { _ = c.Close() }) })
	var nb *Network
	b := newNode(t, 2, nil, func(m *Mesh) { nb = m.Network(KindRaft) })
	if err := a.SetPeers(map[NodeID]string{2: b.addr}); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return len(b.Connected()) == 1 && len(a.Connected()) == 1 }, "connected")
	for range 2 {
		c, err := nb.Open(t.Context(), a.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	if s := b.Stats(); s.Connects != 1 || s.Refusals[ReasonDuplicate] != 1 {
		t.Errorf("%d connections, %v", s.Connects, s.Refusals)
	}
}
