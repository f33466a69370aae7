package link

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/internal/clock"
)

// A request's messages: {type u8, id u64}, then by type.
const (
	callRequest  = 1 // {method u16, timeout in ms u32, body}
	callResponse = 2 // {body}
	callFailed   = 3 // {text}
	callCancel   = 4 // {}

	callHead    = 9
	requestHead = callHead + 6
	// callsMost bounds the requests of one connection that wait for an answer, at either end.
	callsMost = 16384
)

// CallError is a peer's answer that it could not do what was asked.
type CallError struct{ Text string }

// Error is the peer's text.
func (e *CallError) Error() string { return "peer says: " + e.Text }

// Call sends a request and waits for its answer, which is the caller's to release. The context's deadline goes with the request; when it
// ends the peer is told. Without a deadline it waits as long as the connection lasts.
func (m *Mesh) Call(ctx context.Context, to NodeID, method uint16, body []byte) (Message, error) {
	type answer struct {
		m   Message
		err error
	}
	got := make(chan answer, 1)
	var timeout time.Duration
	if t, ok := ctx.Deadline(); ok {
		if timeout = time.Until(t); timeout <= 0 {
			return Message{}, context.DeadlineExceeded
		}
	}
	p, err := m.Go(to, method, body, timeout, func(m Message, err error) { got <- answer{m, err} })
	if err != nil {
		return Message{}, err
	}
	select {
	case a := <-got:
		return a.m, a.err
	case <-ctx.Done():
		p.Cancel()
		a := <-got // the answer may have been first
		if a.err != nil {
			a.err = ctx.Err()
		}
		return a.m, a.err
	}
}

// Go sends a request; done is called once, with the answer or an error, unless Go itself fails. It may run on the goroutine that reads the
// connection, so it must not block, and it owns the message. A timeout of 0 is none.
func (m *Mesh) Go(to NodeID, method uint16, body []byte, timeout time.Duration, done func(Message, error)) (*Pending, error) {
	c := m.conn(to)
	if c == nil {
		return nil, ErrDown
	}
	return c.calls.start(method, body, timeout, done)
}

// Serve says who answers a method. It must be called before the first connection. f runs on the goroutine that reads the connection, so it
// must not block; the answer may come later, from any goroutine.
func (m *Mesh) Serve(method uint16, f func(*Request)) { m.serve[method] = f }

// calls are the requests of this end of a connection.
type calls struct {
	c  *conn
	mu struct {
		sync.Mutex
		ch      *Channel
		next    uint64
		waiting map[uint64]*Pending
		err     error
	}
}

// Pending is a request that waits for its answer.
type Pending struct {
	calls *calls
	id    uint64
	done  func(Message, error)
	timer clock.Timer // under calls.mu
}

func (cs *calls) init(c *conn) {
	cs.c = c
	cs.mu.waiting = make(map[uint64]*Pending)
}

// channel is the connection's own channel for requests, opened with the first.
func (cs *calls) channel() (*Channel, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.mu.err != nil {
		return nil, cs.mu.err
	}
	if cs.mu.ch == nil {
		ch, err := cs.c.openHere(KindRequest, nil, cs)
		if err != nil {
			return nil, err
		}
		cs.mu.ch = ch
	}
	return cs.mu.ch, nil
}

func (cs *calls) start(method uint16, body []byte, timeout time.Duration, done func(Message, error)) (*Pending, error) {
	ch, err := cs.channel()
	if err != nil {
		return nil, err
	}
	p := &Pending{calls: cs, done: done}
	cs.mu.Lock()
	if cs.mu.err != nil || len(cs.mu.waiting) >= callsMost {
		err := cs.mu.err
		cs.mu.Unlock()
		if err == nil {
			err = ErrBusy
		}
		return nil, err
	}
	cs.mu.next++
	p.id = cs.mu.next
	cs.mu.waiting[p.id] = p
	if timeout > 0 {
		p.timer = cs.c.m.clock.AfterFunc(timeout, func() { p.finish(Message{}, ErrTimeout, true) })
	}
	cs.mu.Unlock()
	var head [requestHead]byte
	head[0] = callRequest
	binary.LittleEndian.PutUint64(head[1:], p.id)
	binary.LittleEndian.PutUint16(head[callHead:], method)
	binary.LittleEndian.PutUint32(head[callHead+2:], uint32(min(max(timeout.Milliseconds(), 0), 1<<31)))
	if err := ch.send(head[:], body, false); err != nil {
		if !p.take() {
			return p, nil // the end of the connection was first, and has told
		}
		return nil, err
	}
	return p, nil
}

// Cancel gives the request up: done gets ErrCanceled, unless it was called already, and the peer is told.
func (p *Pending) Cancel() { p.finish(Message{}, ErrCanceled, true) }

// take makes the caller the one who calls done.
func (p *Pending) take() bool {
	cs := p.calls
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.mu.waiting[p.id] != p {
		return false
	}
	delete(cs.mu.waiting, p.id)
	if p.timer != nil {
		p.timer.Stop()
	}
	return true
}

func (p *Pending) finish(m Message, err error, tell bool) {
	if !p.take() {
		m.Release()
		return
	}
	if tell {
		p.calls.mu.Lock()
		ch := p.calls.mu.ch
		p.calls.mu.Unlock()
		var head [callHead]byte
		head[0] = callCancel
		binary.LittleEndian.PutUint64(head[1:], p.id)
		if ch != nil {
			_ = ch.send(head[:], nil, false) // the peer does work for nobody, until its deadline
		}
	}
	p.done(m, err)
}

// Receive takes an answer.
func (cs *calls) Receive(ch *Channel, m Message) {
	b := m.Bytes()
	if len(b) < callHead || b[0] != callResponse && b[0] != callFailed {
		m.Release()
		ch.Abort("no answer to a request")
		return
	}
	cs.mu.Lock()
	p := cs.mu.waiting[binary.LittleEndian.Uint64(b[1:])]
	cs.mu.Unlock()
	switch {
	case p == nil:
		m.Release() // it came too late
	case b[0] == callFailed:
		err := &CallError{Text: printable(b[callHead:])}
		m.Release()
		p.finish(Message{}, err, false)
	default:
		m.skip += callHead
		p.finish(m, nil, false)
	}
}

// Closed fails what waits. The next request opens another channel, if the connection lasts.
func (cs *calls) Closed(_ *Channel, err error) {
	if err == nil {
		err = ErrEnded
	}
	cs.fail(err, nil)
}

// end is the end of the connection.
func (cs *calls) end(err error) { cs.fail(err, ErrDown) }

func (cs *calls) fail(err, forGood error) {
	cs.mu.Lock()
	var all []*Pending
	for _, p := range cs.mu.waiting {
		all = append(all, p)
	}
	cs.mu.ch, cs.mu.err = nil, forGood
	cs.mu.Unlock()
	for _, p := range all {
		p.finish(Message{}, fmt.Errorf("%w: %w", ErrDown, err), false)
	}
}

// Request is what a peer asks.
type Request struct {
	Peer   NodeID
	Method uint16
	Body   Message // released with the answer

	s        *requests
	id       uint64
	deadline time.Duration // clock.Mono; 0: none
	state    atomic.Uint32
	mu       struct {
		sync.Mutex
		canceled bool
		cancel   func()
	}
}

// requests are those of one channel that a peer opened.
type requests struct {
	m  *Mesh
	ch *Channel
	mu struct {
		sync.Mutex
		open map[uint64]*Request
	}
}

func (m *Mesh) acceptRequests(ch *Channel, _ []byte) (Receiver, error) {
	s := &requests{m: m, ch: ch}
	s.mu.open = make(map[uint64]*Request)
	return s, nil
}

// Receive takes a request, or the end of the peer's patience.
func (s *requests) Receive(ch *Channel, m Message) {
	b := m.Bytes()
	switch {
	case len(b) == callHead && b[0] == callCancel:
		id := binary.LittleEndian.Uint64(b[1:])
		m.Release()
		s.mu.Lock()
		r := s.mu.open[id]
		s.mu.Unlock()
		if r != nil {
			r.cancel()
		}
		return
	case len(b) < requestHead || b[0] != callRequest:
		m.Release()
		ch.Abort("no request")
		return
	}
	r := &Request{Peer: ch.Peer(), Method: binary.LittleEndian.Uint16(b[callHead:]), Body: m, s: s, id: binary.LittleEndian.Uint64(b[1:])}
	r.Body.skip += requestHead
	if ms := binary.LittleEndian.Uint32(b[callHead+2:]); ms > 0 {
		r.deadline = s.m.clock.Mono() + time.Duration(ms)*time.Millisecond
	}
	s.mu.Lock()
	full, twice := len(s.mu.open) >= callsMost, s.mu.open[r.id] != nil
	if !full && !twice {
		s.mu.open[r.id] = r
	}
	s.mu.Unlock()
	f := s.m.serve[r.Method]
	switch {
	case twice:
		m.Release()
		ch.Abort("a request's number is taken")
	case full:
		r.Fail("busy: too many requests at the same time")
	case f == nil:
		r.Fail(fmt.Sprintf("method %d is not served here", r.Method))
	default:
		f(r)
	}
}

// Closed cancels what has not been answered.
func (s *requests) Closed(*Channel, error) {
	s.mu.Lock()
	var all []*Request
	for _, r := range s.mu.open {
		all = append(all, r)
	}
	s.mu.Unlock()
	for _, r := range all {
		r.cancel()
	}
}

// Remaining is how long the peer still waits. Without a deadline it is false.
func (r *Request) Remaining() (time.Duration, bool) {
	if r.deadline == 0 {
		return 0, false
	}
	return max(r.deadline-r.s.m.clock.Mono(), 0), true
}

// OnCancel has f called once if the peer gives up or is gone before the answer; at once, if it has already. f must not block.
func (r *Request) OnCancel(f func()) {
	r.mu.Lock()
	now := r.mu.canceled
	r.mu.cancel = f
	r.mu.Unlock()
	if now {
		f()
	}
}

func (r *Request) cancel() {
	r.mu.Lock()
	f, before := r.mu.cancel, r.mu.canceled
	r.mu.canceled = true
	r.mu.Unlock()
	if f != nil && !before && r.state.Load() == 0 {
		f()
	}
}

// Reply answers with a copy of p. The first answer counts. It never blocks: if the peer does not take its answers, it ends the channel, and
// with it the peer's requests.
func (r *Request) Reply(p []byte) { r.answer(callResponse, p) }

// Fail answers that it could not be done, with a text for people.
func (r *Request) Fail(text string) { r.answer(callFailed, []byte(cut(text))) }

func (r *Request) answer(typ byte, p []byte) {
	if r.state.Swap(1) != 0 {
		return
	}
	s := r.s
	s.mu.Lock()
	if s.mu.open[r.id] == r {
		delete(s.mu.open, r.id)
	}
	s.mu.Unlock()
	if len(p)+callHead > s.m.limits[KindRequest].Message {
		typ, p = callFailed, []byte("the answer is too large")
	}
	b := alloc.NewBlock(callHead + len(p))
	b.Bytes()[0] = typ
	binary.LittleEndian.PutUint64(b.Bytes()[1:], r.id)
	copy(b.Bytes()[callHead:], p)
	r.Body.Release()
	if !s.ch.answer(b) {
		b.Release()
	}
}

// answer queues an answer past the queue's bound, for who answers cannot wait; what all of a peer's queues may have still bounds it.
func (ch *Channel) answer(b *alloc.Block) bool {
	c, n := ch.c, cost(b.Len())
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case ch.ended.Load():
		return false
	case c.mu.queued > 0 && c.mu.queued+n > c.m.o.PeerMemory:
		c.m.counters.resets.Add(1)
		c.endLocked(ch, ReasonMemory, "answers are not taken", true)
		return false
	}
	ch.queue.push(entry{data: b.Bytes(), ref: b})
	c.countLocked(ch, n)
	c.readyLocked(ch)
	return true
}

// Send sends a message on the node's own channel of that kind, which is opened when there is none. It waits while the queue is full, and
// must not be called from a Receiver. What is queued when a connection breaks is lost: Events.Down tells.
func (m *Mesh) Send(to NodeID, k Kind, p []byte) error { return m.sendOn(to, k, p, true) }

// TrySend is Send, but answers ErrBusy instead of waiting.
func (m *Mesh) TrySend(to NodeID, k Kind, p []byte) error { return m.sendOn(to, k, p, false) }

func (m *Mesh) sendOn(to NodeID, k Kind, p []byte, wait bool) error {
	c := m.conn(to)
	if c == nil {
		return ErrDown
	}
	if k == 0 || k >= numKinds {
		return fmt.Errorf("link: no kind %d", k)
	}
	ch := c.own[k].Load()
	if ch == nil || ch.ended.Load() {
		var err error
		if ch, err = c.openOwn(k); err != nil {
			return err
		}
	}
	return ch.send(nil, p, wait)
}

// openOwn opens the connection's own channel of a kind, once.
func (c *conn) openOwn(k Kind) (*Channel, error) {
	c.opening.Lock()
	defer c.opening.Unlock()
	if ch := c.own[k].Load(); ch != nil && !ch.ended.Load() {
		return ch, nil
	}
	ch, err := c.openHere(k, nil, nil)
	if err != nil {
		return nil, err
	}
	c.own[k].Store(ch)
	return ch, nil
}
