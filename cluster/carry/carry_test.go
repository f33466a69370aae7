package carry

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/testx"
)

// seen is what the leader knows of a client.
type seen struct {
	remote, listener string
	tls              *tls.ConnectionState
}

// A client of any listener is served by the leader as if it were there: all bytes both ways, its address, listener and certificate.
func TestCarried(t *testing.T) {
	opened := make(chan seen, 10)
	p := &talk{open: func(c *engine.Conn) { opened <- seen{c.Remote().String(), c.Listener(), c.TLS()} }}
	leads, carries, _ := two(t, p)
	for _, listener := range []string{"tcp", "tls", "unix"} {
		t.Run(listener, func(t *testing.T) {
			c := carries.dialAt(listener)
			remote := c.LocalAddr().String()
			if listener == "tls" {
				cfg := carries.cert.ClientConfig(true)
				s := tls.Client(c, cfg)
				if err := s.HandshakeContext(t.Context()); err != nil {
					t.Fatal(err)
				}
				c = s
			}
			for _, n := range []int{2, 10, 5000, 70_000, 3_000_000} {
				want := pattern(n)
				go func() { _, _ = c.Write(want) }()
				got := make([]byte, n)
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("echo of %d bytes: %v", n, err)
				}
			}
			s := testx.Receive(t, opened, patience)
			if listener == "unix" {
				remote = "invalid AddrPort"
			}
			if s.listener != listener || s.remote != remote || (s.tls != nil) != (listener == "tls") {
				t.Errorf("the leader sees %+v, want %s", s, remote)
			}
			if s.tls != nil && (len(s.tls.PeerCertificates) != 1 || s.tls.Version != tls.VersionTLS13 || s.tls.ServerName != "localhost") {
				t.Errorf("TLS: %+v", s.tls)
			}
			_ = c.Close()
			testx.Eventually(t, patience, func() bool { return leads.d.Stats().Brought == 0 && carries.d.Stats().Carried == 0 }, "all has gone")
		})
	}
	if n := carries.p.opened.Load(); n != 0 {
		t.Errorf("%d clients were served by the node that carries", n)
	}
	c := leads.dial()
	write(t, c, "here")
	wantRead(t, c, "here")
	if st := leads.d.Stats(); st.BroughtTotal != 3 || st.CarriedTotal != 0 {
		t.Errorf("%+v", st)
	}
}

// TestElsewhere: a client that can be told is sent to the node that leads, if that is there and has a listener of the kind; all others are carried, or wait.
func TestElsewhere(t *testing.T) {
	p := &talk{}
	_, carries, r := two(t, p, func(o *Options) {
		o.Wait = time.Minute
		o.Redirect = func(listener string, leader link.NodeID) string {
			if listener != "tcp" {
				return ""
			}
			return fmt.Sprint(listener, " of ", leader)
		}
	})
	c := carries.dial()
	write(t, c, "x5 and more")
	wantEnd(t, c, "AT tcp of 1")
	for listener, says := range map[string]string{"tcp": "x3", "unix": "x5"} { // who cannot be told; a listener that the other one does not have
		c := carries.dialAt(listener)
		write(t, c, says)
		wantRead(t, c, says)
	}
	r.who.Store(0)
	c = carries.dial()
	write(t, c, "x5")
	testx.Eventually(t, patience, func() bool { return carries.d.Stats().Waiting == 1 }, "while nobody leads it waits")
	r.who.Store(9) // who is not there
	c2 := carries.dial()
	write(t, c2, "x5")
	testx.Eventually(t, patience, func() bool { return carries.d.Stats().Waiting == 2 }, "nobody is sent to a node that is not there")
	r.who.Store(1)
	wantEnd(t, c, "AT tcp of 1")
	wantEnd(t, c2, "AT tcp of 1")
	if st := carries.d.Stats(); st.Redirected != 3 || st.RefusedLeader != 0 || st.RefusedNobody != 0 {
		t.Errorf("%+v", st)
	}
}

// The leader's end of a connection ends the client's, behind all that was written; a client that says its last and goes is heard to the end.
func TestEnds(t *testing.T) {
	said := &kept{}
	why := make(chan error, 4)
	big := pattern(4 << 20)
	p := &talk{data: func(c *engine.Conn, b []byte) int {
		switch {
		case bytes.HasPrefix(b, []byte("bye")):
			c.Write(big)
			c.CloseAfterFlush(nil, patience)
		case bytes.HasPrefix(b, []byte("die")):
			c.Close(errors.New("killed"))
		default:
			said.add(b)
		}
		return len(b)
	}, close: func(_ *engine.Conn, err error) { why <- err }}
	_, carries, _ := two(t, p)
	c := carries.dial()
	write(t, c, "bye")
	wantEnd(t, c, string(big))
	_ = c.Close()
	_ = testx.Receive(t, why, patience)
	c = carries.dial()
	write(t, c, "die")
	wantEnd(t, c, "")
	_ = testx.Receive(t, why, patience)
	c = carries.dial()
	if _, err := c.Write(big); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if err := testx.Receive(t, why, patience); !errors.Is(err, io.EOF) {
		t.Errorf("closed with %v", err)
	}
	if !bytes.Equal(said.b, big) {
		t.Errorf("%d of %d bytes came before the end", len(said.b), len(big))
	}
}

// While nobody leads a client waits, a bounded time: then it is answered. One that waits is served as soon as somebody leads, here or there.
func TestNobodyLeads(t *testing.T) {
	leads, carries, r := two(t, &talk{}, func(o *Options) { o.Wait = time.Minute })
	r.who.Store(0)
	there, here := carries.dial(), leads.dial()
	write(t, there, "hello there")
	write(t, here, "hello here")
	testx.Eventually(t, patience, func() bool { return carries.d.Stats().Waiting == 1 && leads.d.Stats().Waiting == 1 }, "they wait")
	gone := carries.dial()
	write(t, gone, "I go")
	testx.Eventually(t, patience, func() bool { return carries.d.Stats().Waiting == 2 }, "it waits")
	_ = gone.(*net.TCPConn).SetLinger(0)
	_ = gone.Close()
	r.who.Store(1)
	wantRead(t, there, "hello there")
	wantRead(t, here, "hello here")
	testx.Eventually(t, patience, func() bool { return carries.d.Stats().Waiting == 0 && leads.d.Stats().Waiting == 0 }, "nobody waits")

	impatient := start(t, 3, &reign{}, &talk{}, func(o *Options) { o.Wait = 100 * time.Millisecond })
	c := impatient.dial()
	write(t, c, "x") // too little to be answered by
	write(t, c, "5")
	wantEnd(t, c, "NO5")
	if st := impatient.d.Stats(); st.RefusedNobody != 1 || st.Waiting != 0 {
		t.Errorf("%+v", st)
	}
}

// A leader that is not reached is waited for; one that refuses has its clients answered.
func TestLeaderRefuses(t *testing.T) {
	// The node that carries takes 1 for the leader, which knows better.
	nobody, other := &reign{}, &reign{}
	other.who.Store(1)
	leads := start(t, 1, nobody, &talk{})
	carries := start(t, 2, other, &talk{}, func(o *Options) { o.Wait = 100 * time.Millisecond })
	join(t, leads, carries)
	c := carries.dial()
	write(t, c, "v5")
	wantEnd(t, c, "NO5")
	other.who.Store(7) // nobody has heard of
	c = carries.dial()
	write(t, c, "v5")
	wantEnd(t, c, "NO5")
	if st := carries.d.Stats(); st.RefusedNobody+st.RefusedLeader != 2 || st.Carried != 0 {
		t.Errorf("%+v", st)
	}
}

// A client that a leader has not answered is taken to the next one, or served here, and all that it has said counts once.
func TestNextLeader(t *testing.T) {
	mute := &talk{data: func(_ *engine.Conn, b []byte) int { return len(b) }}
	leads, carries, r := two(t, mute, func(o *Options) { o.Wait = time.Minute })
	third := start(t, 3, r, &talk{})
	join(t, leads, carries, third)
	there, here := carries.dial(), carries.dial()
	for _, c := range []net.Conn{there, here} {
		write(t, c, "v5 hello")
	}
	large := carries.dial()
	if _, err := large.Write(pattern(2 * firstMost)); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, patience, func() bool { return leads.d.Stats().Brought == 3 && leads.e.Stats().BytesIn >= 2*firstMost }, "the first leader has them")
	write(t, there, ", and more")
	r.who.Store(3)
	leads.m.Close()
	wantRead(t, there, "v5 hello, and more")
	wantRead(t, here, "v5 hello")
	if b, err := io.ReadAll(large); err != nil || !bytes.HasPrefix(b, []byte("NO")) {
		t.Errorf("one that has said too much to say it again: %q, %v", b, err)
	}
	_ = large.Close()
	testx.Eventually(t, patience, func() bool {
		st := carries.d.Stats()
		return st.Carried == 2 && st.Waiting == 0 && st.RefusedLeader == 1
	}, "two are carried, one was refused")
	third.m.Close()
	wantEnd(t, there, "")
	r.who.Store(0)
	c := carries.dial()
	write(t, c, "v5 here")
	testx.Eventually(t, patience, func() bool { return carries.d.Stats().Waiting == 1 }, "it waits")
	r.who.Store(2)
	wantRead(t, c, "v5 here")
}

// When the way to the leader is cut, in the middle of what it writes, its clients' connections end, and they are served again when they come back.
func TestCut(t *testing.T) {
	half := make(chan struct{})
	p := &talk{data: func(c *engine.Conn, b []byte) int {
		c.Write(b)
		if bytes.HasPrefix(b, []byte("half")) {
			c.Write([]byte("a packet of"))
			close(half)
		}
		return len(b)
	}}
	leads, carries, r := two(t, p)
	third := start(t, 3, r, &talk{})
	join(t, leads, carries, third)
	c := carries.dial()
	write(t, c, "half")
	wantRead(t, c, "halfa packet of")
	<-half
	carries.m.Disconnect(1, "cut")
	wantEnd(t, c, "")
	c = carries.dial()
	write(t, c, "again")
	wantRead(t, c, "again")
	leads.m.Close()
	wantEnd(t, c, "")
	r.who.Store(3)
	c = carries.dial()
	write(t, c, "to the third")
	wantRead(t, c, "to the third")
	if st := carries.d.Stats(); st.Lost != 2 {
		t.Errorf("%+v", st)
	}
	testx.Eventually(t, patience, func() bool { return leads.d.Stats().Brought == 0 }, "the leader that is cut off has let go")
}

// A client that does not read holds up itself, and no more is held of it than a window; it misses nothing when it reads again.
func TestSlowClient(t *testing.T) {
	const size = 24 << 20
	want := pattern(size)
	var queued atomic.Int64
	drained := make(chan struct{}, 10)
	p := &talk{data: func(c *engine.Conn, b []byte) int {
		if bytes.HasPrefix(b, []byte("flood")) {
			c.Write(want)
			queued.Store(int64(c.Queued()))
		} else {
			c.Write(b)
		}
		return len(b)
	}, drain: func(*engine.Conn) { drained <- struct{}{} }}
	_, carries, _ := two(t, p)
	slow, quick := carries.dial(), carries.dial()
	write(t, slow, "flood")
	testx.Eventually(t, patience, func() bool { return queued.Load() == size }, "written")
	testx.Eventually(t, patience, func() bool { return carries.d.Stats().HeldBytes > 16<<10 }, "the client's node holds what it does not read")
	for range 50 {
		write(t, quick, "are you there?")
		wantRead(t, quick, "are you there?")
	}
	if held := carries.d.Stats().HeldBytes; held > 32<<10 {
		t.Errorf("%d bytes are held of one client", held)
	}
	if len(drained) > 0 {
		t.Error("drained before the client read")
	}
	got := make([]byte, size)
	if _, err := io.ReadFull(slow, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("what came differs: %v", err)
	}
	testx.Receive(t, drained, patience)
	testx.Eventually(t, patience, func() bool { return carries.d.Stats().HeldBytes == 0 }, "nothing is held")
}

// A loop of the leader's that stands still holds up its own clients alone, at most a window of what each sends, and goes on where it was.
func TestStalledLoop(t *testing.T) {
	stall, stalled := make(chan struct{}), make(chan struct{})
	p := &talk{data: func(c *engine.Conn, b []byte) int {
		if bytes.HasPrefix(b, []byte("stall")) {
			close(stalled)
			<-stall
		}
		c.Write(b)
		return len(b)
	}}
	leads, carries, _ := two(t, p)
	first, second := carries.dial(), carries.dial() // the leader gives them to one loop and the other
	write(t, first, "hello")
	wantRead(t, first, "hello")
	write(t, second, "hello")
	wantRead(t, second, "hello")
	write(t, first, "stall")
	<-stalled
	go func() { _, _ = first.Write(pattern(1 << 20)) }()
	testx.Eventually(t, patience, func() bool { return leads.d.Stats().HeldBytes >= 16<<10 }, "it waits for the loop")
	for range 50 {
		write(t, second, "are you there?")
		wantRead(t, second, "are you there?")
	}
	if held := leads.d.Stats().HeldBytes; held > 33<<10 {
		t.Errorf("%d bytes are held", held)
	}
	close(stall)
	wantRead(t, first, "stall"+string(pattern(1<<20)))
}

// A client that sends without end, to a leader that does not read, is not read from either, and nothing of it is lost.
func TestFlood(t *testing.T) {
	const size = 48 << 20
	conns := make(chan *engine.Conn, 1)
	var sum, got atomic.Int64
	p := &talk{open: func(c *engine.Conn) { c.PauseRead(); conns <- c }, data: func(_ *engine.Conn, b []byte) int {
		for _, x := range b {
			sum.Add(int64(x))
		}
		got.Add(int64(len(b)))
		return len(b)
	}}
	leads, carries, _ := two(t, p)
	c := carries.dial()
	chunk := pattern(64 << 10)
	var sent, want atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for sent.Load() < size {
			if _, err := c.Write(chunk); err != nil {
				t.Error(err)
				return
			}
			sent.Add(int64(len(chunk)))
		}
	})
	for _, x := range chunk {
		want.Add(int64(x) * size / int64(len(chunk)))
	}
	conn := testx.Receive(t, conns, patience)
	last, still := int64(-1), 0
	testx.Eventually(t, patience, func() bool {
		if n := sent.Load(); n != last {
			last, still = n, 0
		} else {
			still++
		}
		return still > 20 && last > 0
	})
	if held := leads.d.Stats().HeldBytes; last >= size/2 || held > 32<<10 {
		t.Errorf("%d bytes were taken, the leader holds %d", last, held)
	}
	conn.Loop().Post(engine.TaskFunc(func(*engine.Loop) { conn.ResumeRead() }))
	wg.Wait()
	testx.Eventually(t, patience, func() bool { return got.Load() == size }, "all came")
	if sum.Load() != want.Load() {
		t.Error("what came differs")
	}
}

// When too much is held of all, those of whom much is held are ended; who takes what comes is not.
func TestMemory(t *testing.T) {
	p := &talk{data: func(c *engine.Conn, b []byte) int {
		if bytes.HasPrefix(b, []byte("flood")) {
			c.Write(make([]byte, 24<<20))
		} else {
			c.Write(b)
		}
		return len(b)
	}}
	_, carries, _ := two(t, p, func(o *Options) { o.Memory = 40 << 10 })
	quick := carries.dial()
	write(t, quick, "hello")
	wantRead(t, quick, "hello")
	for range 4 {
		write(t, carries.dial(), "flood")
	}
	testx.Eventually(t, patience, func() bool { return carries.d.Stats().Slow > 0 && carries.d.Stats().HeldBytes <= 40<<10 }, "those who take nothing are ended")
	write(t, quick, "still")
	wantRead(t, quick, "still")
}

// A node that goes ends the connections of those whom it carries, and those who wait, and takes in nobody.
func TestShutdown(t *testing.T) {
	leads, carries, r := two(t, &talk{}, func(o *Options) { o.Wait = time.Minute })
	carried := carries.dial()
	write(t, carried, "hello")
	wantRead(t, carried, "hello")
	r.who.Store(0)
	waits, silent := carries.dial(), carries.dial()
	write(t, waits, "v5")
	testx.Eventually(t, patience, func() bool { return carries.d.Stats().Waiting == 1 && carries.e.Stats().Opened == 3 }, "it waits")
	carries.d.Shutdown()
	wantEnd(t, carried, "")
	wantEnd(t, waits, "NO5")
	wantEnd(t, silent, "NO\x00")
	late := carries.dial()
	write(t, late, "v5")
	wantEnd(t, late, "NO5")
	testx.Eventually(t, patience, func() bool { return leads.d.Stats().Brought == 0 }, "the leader has let go")
	m, err := link.New(link.Options{ID: 9, Token: []byte("a token")})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	early := New(Options{Mesh: m, Engine: carries.e, Leader: leaderOf{r, 2}})
	if _, err := early.accept(nil, []byte{1, 0, 0, 0, 0, 0}); err == nil {
		t.Error("a client is taken before anybody serves")
	}
}

// Whoever carries garbage, or clients that nobody takes, is answered by the end of that client alone.
func TestHostileNode(t *testing.T) {
	leads, carries, _ := two(t, &talk{})
	closed := make(chan error, 1)
	try := func(head []byte, messages ...[]byte) error {
		t.Helper()
		ch, err := carries.m.Open(1, link.KindTunnel, head, ends(closed))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			_ = ch.TrySend(m) // it may be refused by now
		}
		defer ch.Close()
		return testx.Receive(t, closed, patience)
	}
	good := head{listener: "tcp"}
	ok, _ := good.append(nil)
	strange := head{listener: "kafka.tcp"}
	other, _ := strange.append(nil)
	for _, h := range [][]byte{nil, {1}, {9, 0, 0}, {1, 0xf0, 0, 0, 0, 0}, {1, 0, 3, 1, 2, 3, 0, 0, 0}, append(bytes.Clone(ok), 1), other} {
		if err := try(h); link.ReasonOf(err) != link.ReasonNotAdmitted {
			t.Errorf("%v: %v", h, err)
		}
	}
	if err := try(other); !strings.Contains(err.Error(), `no clients of "kafka.tcp"`) {
		t.Error(err)
	}
	if st := leads.d.Stats(); st.Brought != 0 || st.BroughtTotal != 0 {
		t.Errorf("%+v", st)
	}
	c := carries.dial()
	write(t, c, "fine")
	wantRead(t, c, "fine")
}

// ends tells how channels end.
type ends chan error

func (ends) Receive(_ *link.Channel, m link.Message) { m.Release() }
func (e ends) Closed(_ *link.Channel, err error)     { e <- err }

// A certificate that does not fit into the head comes behind it, and before the client's first byte.
func TestLargeCertificate(t *testing.T) {
	opened := make(chan *tls.ConnectionState, 1)
	p := &talk{data: func(c *engine.Conn, b []byte) int {
		opened <- c.TLS()
		c.Write(b)
		return len(b)
	}}
	_, carries, _ := two(t, p)
	der := largeCertificate(t)
	h := head{listener: "tls", flags: flagTLS, version: tls.VersionTLS13, serverName: "a", certificate: der}
	b, after := h.append(nil)
	if after == nil || len(b) > headMost {
		t.Fatalf("a head of %d bytes, %d after it", len(b), len(after))
	}
	ch, err := carries.m.Open(1, link.KindTunnel, b, ends(make(chan error, 1)))
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	for _, m := range [][]byte{after, []byte("hello")} {
		if err := ch.TrySend(m); err != nil {
			t.Fatal(err)
		}
	}
	s := testx.Receive(t, opened, patience)
	if s == nil || len(s.PeerCertificates) != 1 || !bytes.Equal(s.PeerCertificates[0].Raw, der) {
		t.Errorf("%+v", s)
	}
}
