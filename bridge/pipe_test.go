package bridge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/sluicemq/sluice/engine"
)

// echo is a handler that says what it hears, and ends the connection when it hears a zero.
type echo struct{ ended chan error }

func (echo) OnOpen(*engine.Conn) {}
func (echo) OnData(c *engine.Conn, b []byte) int {
	c.Write(b)
	if bytes.IndexByte(b, 0) >= 0 {
		c.CloseAfterFlush(nil, patience)
	}
	return len(b)
}
func (echo) OnDrain(*engine.Conn)              {}
func (h echo) OnClose(_ *engine.Conn, e error) { h.ended <- e }

func piped(t *testing.T) (net.Conn, echo) {
	t.Helper()
	h := echo{make(chan error, 1)}
	e, err := engine.New(engine.Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(func() { _ = e.Close(context.Background()) })
	c, err := Open(e.Inlet(engine.ListenerOptions{Name: "bridge", Network: "unix", Handler: h, FirstPacketTimeout: -1}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, h
}

// TestPipe: more goes through than it holds, in order, both ways at once; its end comes behind all that was said.
func TestPipe(t *testing.T) {
	c, h := piped(t)
	want := bytes.Repeat([]byte("0123456789abcde\n"), 5*pipeBytes/16)
	go func() {
		for at := 0; at < len(want); at += 7000 {
			_, _ = c.Write(want[at:min(at+7000, len(want))])
		}
		_, _ = c.Write([]byte{0})
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, append(want, 0)) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(want), err)
	}
	_ = c.Close()
	<-h.ended //nolint:errcheck // that it has ended is enough
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write behind the end: %v", err)
	}
}

// TestPipeDeadlines: who reads or writes waits no longer than it wants to, and may go on afterwards.
func TestPipeDeadlines(t *testing.T) {
	c, h := piped(t)
	b := make([]byte, 10)
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read: %v", err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(-time.Second))
	if _, err := c.Write(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a write: %v", err)
	}
	if _, err := c.(*near).WriteNow([]byte("now")); err != nil {
		t.Errorf("what does not wait has a deadline: %v", err)
	}
	_ = c.SetReadDeadline(time.Time{})
	if n, err := io.ReadFull(c, b[:3]); err != nil || string(b[:n]) != "now" {
		t.Errorf("%q, %v", b[:n], err)
	}
	_ = c.SetDeadline(time.Time{})
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	if n, err := c.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("%q, %v", b[:n], err)
	}
	_ = c.Close()
	if err := <-h.ended; !errors.Is(err, io.EOF) {
		t.Errorf("the node hears %v", err)
	}
	if _, err := c.Read(b); !errors.Is(err, io.EOF) {
		t.Errorf("a read behind the end: %v", err)
	}
}
