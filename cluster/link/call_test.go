package link

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
)

func TestCalls(t *testing.T) {
	ways(t, func(t *testing.T, with func(*Options)) {
		a := newNode(t, 1, with, nil)
		b := newNode(t, 2, with, func(m *Mesh) {
			m.Serve(1, func(r *Request) { r.Reply(r.Body.Bytes()) })
			m.Serve(2, func(r *Request) { r.Fail("not my shard: " + string(r.Body.Bytes())) })
			m.Serve(3, func(r *Request) { go r.Reply(bytes.Repeat(r.Body.Bytes(), 100)) })
		})
		join(t, a, b)
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				body := pattern(i*100, uint64(i))
				for _, method := range []uint16{1, 3} {
					got, err := a.Call(t.Context(), 2, method, body)
					if err != nil {
						t.Error(err)
						return
					}
					want := body
					if method == 3 {
						want = bytes.Repeat(body, 100)
					}
					if !bytes.Equal(got.Bytes(), want) {
						t.Errorf("another answer to %d bytes", len(body))
					}
					got.Release()
				}
			}()
		}
		wg.Wait()
		var said *CallError
		if _, err := a.Call(t.Context(), 2, 2, []byte("seven")); !errors.As(err, &said) || said.Text != "not my shard: seven" {
			t.Error(err)
		}
		if _, err := a.Call(t.Context(), 2, 9, nil); !errors.As(err, &said) || !strings.Contains(said.Text, "method 9 is not served") {
			t.Error(err)
		}
		if _, err := a.Call(t.Context(), 3, 1, nil); !errors.Is(err, ErrDown) {
			t.Error(err)
		}
		testx.Eventually(t, wait, func() bool { return a.Stats().MemoryBytes == 0 && b.Stats().MemoryBytes == 0 }, "memory")
	})
}

// Who gives up is answered at once, the peer is told, and an answer that comes too late does no harm.
func TestCallsAreGivenUp(t *testing.T) {
	asked := make(chan *Request, 1)
	canceled := make(chan struct{}, 4)
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, nil, func(m *Mesh) {
		m.Serve(1, func(r *Request) {
			r.OnCancel(func() { canceled <- struct{}{} })
			asked <- r
		})
	})
	join(t, a, b)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		r := testx.Receive(t, asked, wait)
		if _, limited := r.Remaining(); limited {
			t.Error("a deadline that nobody gave")
		}
		cancel()
		testx.Receive(t, canceled, wait)
		r.Reply(nil)
		r.Reply(nil)
	}()
	if _, err := a.Call(ctx, 2, 1, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Call(ctx, 2, 1, nil); !errors.Is(err, ErrTimeout) && !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	r := testx.Receive(t, asked, wait)
	if _, limited := r.Remaining(); !limited {
		t.Error("the deadline did not come along")
	}
	testx.Receive(t, canceled, wait)
	r.Fail("late")
	done := make(chan error, 1)
	if _, err := a.Go(2, 1, nil, 0, func(_ Message, err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	r = testx.Receive(t, asked, wait)
	b.Close()
	if err := testx.Receive(t, done, wait); !errors.Is(err, ErrDown) {
		t.Errorf("%v", err)
	}
	testx.Receive(t, canceled, wait)
	r.Reply(nil)
	testx.Eventually(t, wait, func() bool { return b.Stats().MemoryBytes == 0 }, "memory")
}

// A timeout is of the clock that the node was given.
func TestCallTimeout(t *testing.T) {
	clk := clock.NewManual(time.Now())
	a := newNode(t, 1, func(o *Options) { o.Clock = clk; o.DeadAfter = time.Hour; o.WriteTimeout = time.Hour }, nil)
	b := newNode(t, 2, nil, func(m *Mesh) { m.Serve(1, func(*Request) {}) })
	b.o.DeadAfter = time.Hour
	if _, err := a.Dial(t.Context(), b.addr); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return len(a.Connected()) == 1 }, "up")
	done := make(chan error, 1)
	if _, err := a.Go(2, 1, nil, time.Second, func(_ Message, err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	clk.Advance(999 * time.Millisecond)
	select {
	case err := <-done:
		t.Fatalf("too early: %v", err)
	default:
	}
	clk.Advance(time.Millisecond)
	if err := testx.Receive(t, done, wait); !errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
}

// A caller that does not take its answers costs its own channel, within the bound of what may wait for it.
func TestAnswersThatNobodyTakes(t *testing.T) {
	n := newNode(t, 1, func(o *Options) { o.PeerMemory = 1 << 20 }, func(m *Mesh) {
		m.Serve(1, func(r *Request) { r.Reply(make([]byte, 100000)) })
	})
	i := intrude(t, n, 2)
	i.open(1, KindRequest)
	go func() {
		for id := range byte(40) {
			req := make([]byte, requestHead)
			req[0], req[1], req[callHead] = callRequest, id, 1
			i.data(1, 0, req)
		}
	}()
	testx.Eventually(t, wait, func() bool { return n.Stats().Resets == 1 }, "the channel ended")
	if n.events.count("down 2") != 0 {
		t.Error("the connection ended")
	}
}

// The same number twice, and what is no request, end the channel.
func TestBadRequests(t *testing.T) {
	n := newNode(t, 1, nil, func(m *Mesh) { m.Serve(1, func(*Request) {}) })
	i := intrude(t, n, 2)
	req := make([]byte, requestHead)
	req[0], req[callHead] = callRequest, 1
	i.open(1, KindRequest)
	i.data(1, 0, req)
	i.data(1, 0, req)
	i.open(3, KindRequest)
	i.data(3, 0, []byte{9})
	ended := map[uint32]string{}
	for len(ended) < 2 {
		h, p := i.frame()
		if h.typ == frameClose {
			ended[h.channel] = string(p[1:])
		}
	}
	if ended[1] != "a request's number is taken" || ended[3] != "no request" {
		t.Errorf("%v", ended)
	}
}
