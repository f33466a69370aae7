package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

var _ net.Conn = (*Stream)(nil)

func streams(t *testing.T) (here, there *Stream, a, b *node) {
	t.Helper()
	got := make(chan *Stream, 1)
	a = newNode(t, 1, nil, nil)
	b = newNode(t, 2, nil, func(m *Mesh) { m.Handle(KindRaft, Streams(func(s *Stream) { got <- s })) })
	join(t, a, b)
	here, err := a.OpenStream(2, KindRaft, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := here.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	there = testx.Receive(t, got, wait)
	b5 := make([]byte, 5)
	if _, err := io.ReadFull(there, b5); err != nil || string(b5) != "first" {
		t.Fatalf("%q, %v", b5, err)
	}
	return here, there, a, b
}

// More than fits into windows and queues goes both ways at the same time, and is what was sent.
func TestStreamCarriesBytes(t *testing.T) {
	here, there, a, b := streams(t)
	data := pattern(24<<20, 3)
	done := make(chan error, 2)
	for _, s := range []*Stream{here, there} {
		go func() {
			_, err := s.Write(data)
			done <- err
		}()
	}
	for _, s := range []*Stream{here, there} {
		got := make([]byte, len(data))
		if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("other bytes, %v", err)
		}
	}
	for range 2 {
		if err := testx.Receive(t, done, wait); err != nil {
			t.Error(err)
		}
	}
	if _, err := here.Write([]byte("last words")); err != nil {
		t.Error(err)
	}
	if err := here.Close(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(there); err != nil || string(got) != "last words" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := here.Write(nil); err != nil {
		t.Error(err)
	}
	if _, err := here.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := here.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	_ = there.Close()
	testx.Eventually(t, wait, func() bool { return a.Stats().MemoryBytes == 0 && b.Stats().MemoryBytes == 0 }, "memory")
}

func TestStreamDeadlines(t *testing.T) {
	here, there, _, b := streams(t)
	began := time.Now()
	_ = here.SetReadDeadline(began.Add(30 * time.Millisecond))
	if _, err := here.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) < 30*time.Millisecond {
		t.Error(err)
	}
	_ = here.SetReadDeadline(time.Time{})
	if _, err := there.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := here.Read(make([]byte, 9)); n != 1 || err != nil {
		t.Error(n, err)
	}
	_ = here.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := here.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || n == 64<<20 {
		t.Error(n, err)
	}
	read := make(chan error)
	go func() { _, err := here.Read(make([]byte, 1)); read <- err }()
	_ = here.SetDeadline(time.Unix(1, 0))
	if err := testx.Receive(t, read, wait); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	_ = here.SetDeadline(time.Time{})
	go func() { _, err := here.Read(make([]byte, 1)); read <- err }()
	b.Close()
	if err := testx.Receive(t, read, wait); ReasonOf(err) != ReasonClosing {
		t.Error(err)
	}
	_ = there.Close()
	_ = here.Close()
}
