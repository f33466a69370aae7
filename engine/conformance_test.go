package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/internal/testx"
)

// frames is a protocol of frames with a length of four bytes in front. It asks for what is missing, as a protocol should.
func frames(each func(c *Conn, p []byte)) *hooks {
	return &hooks{data: func(c *Conn, b []byte) int {
		took := 0
		for len(b)-took >= 4 {
			n := 4 + int(binary.BigEndian.Uint32(b[took:]))
			if len(b)-took < n {
				c.Need(n)
				break
			}
			each(c, b[took+4:took+n])
			took += n
		}
		return took
	}}
}

func frame(p []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(p))), p...)
}

func TestSplits(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		var calls atomic.Int64
		s := start(t, w, frames(func(c *Conn, p []byte) {
			calls.Add(1)
			b := c.Reserve(4 + len(p))
			b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
			c.Commit(len(append(b, p...)))
		}))
		c := s.dial()
		var want []byte
		sizes := []int{0, 1, 100, 5000, 70_000, 300_000, 3, 65_536, 2_000_000, 17}
		for i, n := range sizes {
			want = append(want, frame(pattern(n + i)[:n])...)
		}
		go func() {
			r := rand.New(rand.NewPCG(1, 2))
			for b := want; len(b) > 0; {
				n := min(len(b), 1+r.IntN(1<<r.IntN(18)))
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
				b = b[n:]
			}
		}()
		if got := read(t, c, len(want)); !bytes.Equal(got, want) {
			t.Error("echo differs")
		}
		if n := calls.Load(); n != int64(len(sizes)) {
			t.Errorf("%d frames, sent %d", n, len(sizes))
		}
	})
}

func TestOneByteAtATime(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s := start(t, w, frames(func(c *Conn, p []byte) { c.Write(p) }))
		c := s.dial()
		want := pattern(200)
		for _, b := range frame(want) {
			write(t, c, []byte{b})
		}
		wantRead(t, c, string(want))
	})
}

func TestWriteBlock(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		var want []byte
		big := pattern(200_000)
		for i := range 40 {
			want = append(want, byte(i))
			want = append(want, big[:10_000+i*4000]...)
			want = append(want, "tail"...)
		}
		s := start(t, w, &hooks{data: func(c *Conn, b []byte) int {
			blk := alloc.CopyBlock(big)
			for i := range 40 {
				c.Write([]byte{byte(i)})
				c.WriteBlock(blk, blk.Bytes()[:10_000+i*4000])
				c.Write([]byte("ta"))
				c.Commit(copy(c.Reserve(100)[:100], "il"))
			}
			blk.Release()
			return len(b)
		}})
		c := s.dial()
		write(t, c, []byte("x"))
		if got := read(t, c, len(want)); !bytes.Equal(got, want) {
			t.Error("what came differs")
		}
	})
}

// TestSlowReader: one that does not read holds up nobody, and is told of when it reads again.
func TestSlowReader(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		const size = 24 << 20
		big := pattern(1 << 20)
		var drained, queued atomic.Int64
		h := &hooks{data: func(c *Conn, b []byte) int {
			if string(b) != "flood" {
				c.Write(b)
				return len(b)
			}
			blk := alloc.CopyBlock(big)
			for range size / len(big) {
				c.WriteBlock(blk, blk.Bytes())
			}
			blk.Release()
			queued.Store(int64(c.Queued()))
			return len(b)
		}, drain: func(c *Conn) {
			if c.Queued() > 1<<18 {
				t.Errorf("drained, but %d bytes are queued", c.Queued())
			}
			drained.Add(1)
		}}
		s := start(t, w, h, func(o *Options, _ *ListenerOptions) { o.Loops = 1 })
		slow, fast := s.dial(), s.dial()
		write(t, slow, []byte("flood"))
		testx.Eventually(t, patience, func() bool { return queued.Load() >= size })
		for i := range 50 {
			write(t, fast, []byte{byte(i)})
			wantRead(t, fast, string(rune(byte(i))))
		}
		if drained.Load() != 0 {
			t.Error("drained before the peer read")
		}
		for range size / len(big) {
			if got := read(t, slow, len(big)); !bytes.Equal(got, big) {
				t.Fatal("what came differs")
			}
		}
		testx.Eventually(t, patience, func() bool { return drained.Load() == 1 })
		write(t, slow, []byte("more"))
		wantRead(t, slow, "more")
	})
}

// TestPause: a paused connection takes little from a peer that sends without end, and loses nothing.
func TestPause(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		const most = 24 << 20
		conns := make(chan *Conn, 1)
		var got, sum, mostAtOnce atomic.Int64
		var paused atomic.Bool
		h := &hooks{open: func(c *Conn) { conns <- c }, data: func(c *Conn, b []byte) int {
			if paused.Load() {
				t.Error("data while paused")
			}
			mostAtOnce.Store(max(mostAtOnce.Load(), int64(len(b))))
			n := len(b)
			if got.Load() == 0 {
				c.PauseRead()
				paused.Store(true)
				n /= 2
			}
			sum.Add(sumOf(b[:n]))
			got.Add(int64(n))
			return n
		}}
		s := start(t, w, h)
		c := s.dial()
		chunk := pattern(64 << 10)
		var sent, want atomic.Int64
		var enough atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for !enough.Load() {
				if _, err := c.Write(chunk); err != nil {
					t.Error(err)
					return
				}
				sent.Add(int64(len(chunk)))
				want.Add(sumOf(chunk))
			}
		})
		conn := testx.Receive(t, conns, patience)
		testx.Eventually(t, patience, paused.Load, "nothing came")
		// The writer stands still when the sockets' buffers, and what the engine holds, are full.
		last, still := int64(-1), 0
		testx.Eventually(t, patience, func() bool {
			if n := sent.Load(); n != last {
				last, still = n, 0
			} else {
				still++
			}
			return still > 20 && last > 0
		})
		// netpoll reads until its callback has run: how much that is depends on when the machine runs it.
		if last > most && w.transport != "netpoll" {
			t.Errorf("%d bytes were taken from the peer while paused", last)
		}
		enough.Store(true)
		conn.Loop().Post(TaskFunc(func(*Loop) { paused.Store(false); conn.ResumeRead() }))
		wg.Wait()
		testx.Eventually(t, patience, func() bool { return got.Load() == sent.Load() }, "not all came")
		if sum.Load() != want.Load() {
			t.Error("what came differs")
		}
	})
}

// TestEndWhilePaused: what a peer has sent before its end is taken before the end, however often the handler pauses on the way.
func TestEndWhilePaused(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		const size = 1 << 20
		var got []byte // the loop's
		all, why := make(chan []byte, 1), make(chan error, 1)
		h := &hooks{data: func(c *Conn, b []byte) int {
			n := min(len(b), 10_000)
			got = append(got, b[:n]...)
			c.PauseRead()
			c.Loop().Post(TaskFunc(func(*Loop) { c.ResumeRead() }))
			return n
		}, close: func(_ *Conn, err error) { all <- got; why <- err }}
		s := start(t, w, h)
		c := s.dial()
		want := pattern(size)
		write(t, c, want)
		_ = c.Close()
		if got := testx.Receive(t, all, patience); !bytes.Equal(got, want) {
			t.Errorf("%d of %d bytes came before the end", len(got), size)
		}
		if err := testx.Receive(t, why, patience); !errors.Is(err, io.EOF) {
			t.Errorf("closed with %v", err)
		}
	})
}

// TestPauseAgain: a handler that takes a part of what is kept, and pauses again, has no more kept than what had been read.
func TestPauseAgain(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		const size, step = 2 << 20, 20_000
		var took, most int // the loop's
		done := make(chan int, 1)
		h := &hooks{data: func(c *Conn, b []byte) int {
			most = max(most, len(b))
			n := min(len(b), step)
			if took += n; took >= size {
				done <- most
			}
			c.PauseRead()
			c.Loop().Post(TaskFunc(func(*Loop) { c.ResumeRead() }))
			return n
		}}
		s := start(t, w, h)
		c := s.dial()
		go func() { _, _ = c.Write(pattern(size)) }()
		if most := testx.Receive(t, done, patience); most > 3*readBytes {
			t.Errorf("%d bytes were kept", most)
		}
	})
}

func sumOf(b []byte) (n int64) {
	for _, x := range b {
		n += int64(x)
	}
	return n
}

func TestClientCloses(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		why := make(chan error, 4)
		h := echo()
		h.close = func(_ *Conn, err error) { why <- err }
		s := start(t, w, h)
		c := s.dial()
		write(t, c, []byte("hello"))
		wantRead(t, c, "hello")
		_ = c.Close()
		if err := testx.Receive(t, why, patience); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("closed with %v", err)
		}
		testx.Eventually(t, patience, func() bool { return s.e.Stats().Open == 0 })
	})
}

// TestHalfClose: a peer that has ended its side still gets what it has asked for.
func TestHalfClose(t *testing.T) {
	for _, w := range ways() {
		if w.layer != "tcp" && w.layer != "unix" && w.layer != "tls" {
			continue
		}
		t.Run(w.name(), func(t *testing.T) {
			why := make(chan error, 1)
			h := echo()
			h.close = func(_ *Conn, err error) { why <- err }
			s := start(t, w, h)
			c := s.dial()
			want := pattern(6 << 20)
			go func() {
				_, _ = c.Write(want)
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d of %d bytes came, %v", len(got), len(want), err)
			}
			if err := testx.Receive(t, why, patience); !errors.Is(err, io.EOF) {
				t.Errorf("closed with %v", err)
			}
		})
	}
}

func TestReset(t *testing.T) {
	for _, w := range ways() {
		if w.layer != "tcp" {
			continue
		}
		t.Run(w.name(), func(t *testing.T) {
			why := make(chan error, 1)
			h := echo()
			h.close = func(_ *Conn, err error) { why <- err }
			s := start(t, w, h)
			c := s.dial().(*net.TCPConn)
			write(t, c, []byte("hello"))
			wantRead(t, c, "hello")
			_ = c.SetLinger(0)
			_ = c.Close()
			_ = testx.Receive(t, why, patience)
		})
	}
}

func TestServerCloses(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		mine := errors.New("mine")
		why := make(chan error, 1)
		h := &hooks{data: func(c *Conn, b []byte) int {
			c.Close(mine)
			c.Close(nil)
			c.CloseAfterFlush(nil, time.Second)
			c.Write(b) // all of these do nothing
			c.WriteBlock(alloc.CopyBlock(b), b)
			c.PauseRead()
			c.ResumeRead()
			c.SetDeadline(c.Loop().NowMono() + 1)
			return 0
		}}
		h.close = func(c *Conn, err error) {
			c.Close(nil)
			c.Write([]byte("x"))
			_ = c.RemoteAddr()
			why <- err
		}
		s := start(t, w, h)
		c := s.dial()
		write(t, c, []byte("hello"))
		if err := testx.Receive(t, why, patience); !errors.Is(err, mine) {
			t.Errorf("closed with %v", err)
		}
		if b, _ := io.ReadAll(c); len(b) != 0 {
			t.Errorf("%q came", b)
		}
	})
}

// TestCloseAfterFlush: all that was queued arrives, though the peer goes on sending what nobody reads.
func TestCloseAfterFlush(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		want := pattern(8 << 20)
		mine := errors.New("mine")
		why := make(chan error, 1)
		h := &hooks{data: func(c *Conn, b []byte) int {
			blk := alloc.CopyBlock(want)
			c.WriteBlock(blk, blk.Bytes())
			blk.Release()
			c.CloseAfterFlush(mine, patience)
			c.Write([]byte("too late"))
			return 0
		}, close: func(_ *Conn, err error) { why <- err }}
		s := start(t, w, h)
		c := s.dial()
		write(t, c, pattern(1<<20))
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d of %d bytes came, %v", len(got), len(want), err)
		}
		_ = c.Close()
		if err := testx.Receive(t, why, patience); !errors.Is(err, mine) {
			t.Errorf("closed with %v", err)
		}
	})
}

// TestCloseAfterFlushTimeout: neither a peer that does not read, nor one that does not close, keeps the connection.
func TestCloseAfterFlushTimeout(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		mine := errors.New("mine")
		why := make(chan error, 2)
		h := &hooks{data: func(c *Conn, b []byte) int {
			size := 10
			if b[0] == 'b' {
				size = 24 << 20
			}
			c.Write(make([]byte, size))
			c.CloseAfterFlush(mine, 200*time.Millisecond)
			return 0
		}, close: func(_ *Conn, err error) { why <- err }}
		s := start(t, w, h)
		begin := time.Now()
		for _, size := range []string{"a", "b"} {
			write(t, s.dial(), []byte(size))
		}
		for range 2 {
			if err := testx.Receive(t, why, patience); !errors.Is(err, mine) {
				t.Errorf("closed with %v", err)
			}
		}
		if d := time.Since(begin); d < 150*time.Millisecond {
			t.Errorf("closed after %v", d)
		}
	})
}

func TestWriteTimeout(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		why := make(chan error, 1)
		h := &hooks{data: func(c *Conn, b []byte) int {
			c.Write(make([]byte, 24<<20))
			return 0
		}, close: func(_ *Conn, err error) { why <- err }}
		s := start(t, w, h, func(_ *Options, o *ListenerOptions) { o.WriteTimeout = 200 * time.Millisecond })
		write(t, s.dial(), []byte("x"))
		if err := testx.Receive(t, why, patience); !errors.Is(err, ErrWriteTimeout) {
			t.Errorf("closed with %v", err)
		}
	})
}

func TestDeadline(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		why := make(chan error, 1)
		// A far deadline is moved near: each packet puts it off by a second, which is longer than a starved machine stands still.
		h := &hooks{open: func(c *Conn) { c.SetDeadline(c.Loop().NowMono() + int64(time.Hour)) },
			data: func(c *Conn, b []byte) int {
				c.SetDeadline(c.Loop().NowMono() + int64(time.Second))
				c.Write(b)
				return len(b)
			}, close: func(_ *Conn, err error) { why <- err }}
		s := start(t, w, h)
		c := s.dial()
		begin := time.Now()
		for time.Since(begin) < 1300*time.Millisecond {
			write(t, c, []byte("ping"))
			wantRead(t, c, "ping")
		}
		last := time.Now()
		if err := testx.Receive(t, why, patience); !errors.Is(err, ErrIdle) {
			t.Errorf("closed with %v", err)
		}
		if d := time.Since(last); d < 500*time.Millisecond || d > patience {
			t.Errorf("closed %v after the last packet", d)
		}
	})
}

func TestFirstPacketTimeout(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		why := make(chan error, 2)
		h := echo()
		h.close = func(_ *Conn, err error) { why <- err }
		h.open = func(c *Conn) {
			if c.ID()%2 == 0 {
				c.SetDeadline(0) // lifted
			}
		}
		s := start(t, w, h, func(_ *Options, o *ListenerOptions) { o.FirstPacketTimeout = 200 * time.Millisecond })
		odd := s.dial()
		even := s.dial()
		if err := testx.Receive(t, why, patience); !errors.Is(err, ErrIdle) {
			t.Errorf("closed with %v", err)
		}
		if _, err := odd.Read(make([]byte, 1)); err == nil {
			t.Error("the first connection still reads")
		}
		write(t, even, []byte("still here"))
		wantRead(t, even, "still here")
	})
}

// TestNeverSpeaks: connections that never begin their handshake cost no goroutine, and go.
func TestNeverSpeaks(t *testing.T) {
	for _, w := range ways() {
		if w.layer == "tcp" || w.layer == "unix" || w.layer == "fed" {
			continue
		}
		t.Run(w.name(), func(t *testing.T) {
			s := start(t, w, echo(), func(_ *Options, o *ListenerOptions) { o.HandshakeTimeout = 200 * time.Millisecond })
			var conns []net.Conn
			for range 20 {
				c := s.dialRaw()
				conns = append(conns, c)
			}
			write(t, conns[0], []byte{0x16}) // begins, and goes no further
			for _, c := range conns {
				if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
					t.Error(err)
				}
			}
			testx.Eventually(t, patience, func() bool { return s.e.Stats().Open == 0 })
			if st := s.e.Stats(); st.Refused.Timeout != 20 || st.Opened != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

type postTask struct {
	from, n int
	seen    *[8]int
	bad     *atomic.Int64
	done    *sync.WaitGroup
}

func (p *postTask) Run(*Loop) {
	if p.seen[p.from]++; p.seen[p.from] != p.n {
		p.bad.Add(1)
	}
	p.done.Done()
}

func TestPost(t *testing.T) {
	s := start(t, ways()[0], echo(), func(o *Options, _ *ListenerOptions) { o.Loops = 1 })
	l := s.e.Loops()[0]
	var seen [8]int
	var bad atomic.Int64
	var done, wg sync.WaitGroup
	for from := range seen {
		wg.Go(func() {
			for n := range 2000 {
				done.Add(1)
				l.Post(&postTask{from, n + 1, &seen, &bad, &done})
			}
		})
	}
	wg.Wait()
	done.Wait()
	if bad.Load() != 0 {
		t.Errorf("%d tasks out of order", bad.Load())
	}
}

// TestTurnEnd: what a turn's tasks and its hooks write leaves in one system call.
func TestTurnEnd(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		conns := make(chan *Conn, 1)
		h := &hooks{open: func(c *Conn) { conns <- c }}
		s := start(t, w, h, func(o *Options, _ *ListenerOptions) { o.Loops = 1 })
		l := s.e.Loops()[0]
		pending := 0
		var conn atomic.Pointer[Conn]
		l.OnTurnEnd(func() {
			if c := conn.Load(); c != nil && pending > 0 {
				c.Write([]byte("end"))
				pending = 0
			}
		})
		client := s.dial()
		c := testx.Receive(t, conns, patience)
		conn.Store(c)
		before := s.e.Stats().Writes
		l.Post(TaskFunc(func(l *Loop) {
			for range 100 {
				c.Write([]byte("0123456789"))
				pending++
			}
		}))
		got := read(t, client, 1003)
		if string(got[1000:]) != "end" {
			t.Errorf("%q", got[990:])
		}
		l.Post(noTask{})
		testx.Eventually(t, patience, func() bool { return s.e.Stats().BytesOut >= 1003 || s.e.Stats().Writes > before })
		if n := s.e.Stats().Writes - before; n > 2 { // a handshake's last record may be among them
			t.Errorf("%d writes", n)
		}
	})
}

// TestTurnEndAfterClose: what OnClose leaves for the hooks of a turn does not wait for another turn, even if the connection was found to be
// broken only when the turn's output was written.
func TestTurnEndAfterClose(t *testing.T) {
	for _, transport := range []string{"epoll", "netpoll"} {
		if transport == "epoll" && !epollHere {
			continue
		}
		conns, heard := make(chan *Conn, 1), make(chan struct{}, 1)
		closed := false // the loop's
		h := &hooks{open: func(c *Conn) { conns <- c }, close: func(*Conn, error) { closed = true }}
		s := start(t, way{transport, "tcp"}, h, func(o *Options, _ *ListenerOptions) { o.Loops = 1 })
		l := s.e.Loops()[0]
		l.OnTurnEnd(func() {
			if closed {
				closed = false
				heard <- struct{}{}
			}
		})
		client := s.dialRaw()
		c := testx.Receive(t, conns, patience)
		l.Post(TaskFunc(func(*Loop) {
			_ = client.(*net.TCPConn).SetLinger(0)
			_ = client.Close() // a reset; nothing has told the loop of it when it writes
			c.Write([]byte("x"))
		}))
		testx.Receive(t, heard, patience)
	}
}

func TestEvery(t *testing.T) {
	s := start(t, ways()[0], echo())
	ticks := make(chan int64, 100)
	l := s.e.Loops()[1]
	stop := l.Every(10*time.Millisecond, func() { ticks <- l.NowMono() })
	last := int64(0)
	for range 5 {
		at := testx.Receive(t, ticks, patience)
		if at-last < int64(4*time.Millisecond) {
			t.Errorf("tick at %v, last at %v", at, last)
		}
		last = at
	}
	stop()
}

// A listener that is full refuses, and leaves room at another one of the engine.
func TestListenerMaxConns(t *testing.T) {
	for _, w := range ways() {
		if w.layer != "tcp" {
			continue
		}
		t.Run(w.name(), func(t *testing.T) {
			s := start(t, w, echo(), func(_ *Options, o *ListenerOptions) { o.MaxConns = func() int { return 1 } })
			other := s.o
			other.MaxConns = func() int { return 0 }
			first := s.dial()
			write(t, first, []byte("x"))
			wantRead(t, first, "x")
			if _, err := s.dialRaw().Read(make([]byte, 1)); err == nil {
				t.Error("a second connection is open")
			}
			full := s.addr
			var err error
			if s.addr, err = s.e.Listen(other); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				c := s.dial()
				write(t, c, []byte("x"))
				wantRead(t, c, "x")
			}
			s.addr = full
			_ = first.Close()
			testx.Eventually(t, patience, func() bool { return s.e.Stats().Open == 2 })
			again := s.dial()
			write(t, again, []byte("x"))
			wantRead(t, again, "x")
			if r := s.e.Stats().Refused; r.ListenerConns != 1 || r.MaxConns != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestMaxConns(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		var most atomic.Int64
		most.Store(3)
		s := start(t, w, echo(), func(o *Options, _ *ListenerOptions) { o.MaxConns = func() int { return int(most.Load()) } })
		var conns []net.Conn
		for range 3 {
			conns = append(conns, s.dial())
		}
		over := s.dialRaw()
		if _, err := over.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("one too many: %v", err)
		}
		_ = conns[0].Close()
		testx.Eventually(t, patience, func() bool { return s.e.Stats().Open == 2 })
		c := s.dial()
		write(t, c, []byte("room again"))
		wantRead(t, c, "room again")
		if n := s.e.Stats().Refused.MaxConns; n != 1 {
			t.Errorf("%d refused", n)
		}
		most.Store(4) // changed while it runs
		more := s.dial()
		write(t, more, []byte("more"))
		wantRead(t, more, "more")
	})
}

func TestAcceptRate(t *testing.T) {
	s := start(t, way{ways()[0].transport, "tcp"}, echo(), func(_ *Options, o *ListenerOptions) { o.AcceptRate = func() int { return 50 } })
	begin := time.Now()
	for range 20 {
		s.dialRaw()
	}
	testx.Eventually(t, patience, func() bool { return s.e.Stats().Opened == 20 })
	if d := time.Since(begin); d < 250*time.Millisecond {
		t.Errorf("20 connections in %v at 50 per second", d)
	}
}

// TestShutdown closes an engine with connections in all states.
func TestShutdown(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		why := make(chan error, 10)
		h := &hooks{data: func(c *Conn, b []byte) int {
			switch b[0] {
			case 'b':
				c.Write(make([]byte, 24<<20)) // blocked
			case 'c':
				c.Write(make([]byte, 24<<20))
				c.CloseAfterFlush(nil, time.Minute)
			case 'p':
				c.PauseRead()
				return 0
			}
			return len(b)
		}, close: func(_ *Conn, err error) { why <- err }}
		s := start(t, w, h)
		for _, state := range []string{"idle", "b", "c", "p"} {
			write(t, s.dial(), []byte(state))
		}
		s.dialRaw()
		testx.Eventually(t, patience, func() bool { st := s.e.Stats(); return st.Opened >= 4 && st.Open == 5 && st.BytesIn > 0 })
		s.stop()
		close(why)
		n := 0
		for err := range why {
			if n++; !errors.Is(err, ErrShutdown) && !errors.Is(err, ErrClosed) {
				t.Errorf("closed with %v", err)
			}
		}
		if _, err := net.Dial(s.addr.Network(), s.addr.String()); err == nil {
			t.Error("it still accepts")
		}
	})
}
