package link

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/internal/clock"
)

const (
	readBufferBytes = 64 << 10
	// answersMost bounds the ends of channels that wait to be answered, and refusedMost the bytes of refusals: what a peer can provoke
	// without credit.
	answersMost = 4096
	refusedMost = 64 << 10
	// byeTime is how long an end waits to tell the other one why.
	byeTime = 250 * time.Millisecond
)

// conn is a connection to a node, from its welcome on.
type conn struct {
	m        *Mesh
	peer     Peer
	nc       net.Conn    // TLS or not
	gathered *gatherConn // below TLS; nil without
	raw      net.Conn    // what Close closes
	certs    peerCerts
	crc      bool
	compress [numKinds]bool
	windows  [numKinds]int // what the peer lets this end send ahead
	told     chan struct{} // closed behind Up
	done     chan struct{} // closed behind Down
	written  chan struct{} // closed when the writer has ended

	live     atomic.Bool  // between Up and Down
	memory   atomic.Int64 // that received messages pin
	tunnels  atomic.Int64 // of it, those of tunnels
	lastRead atomic.Int64 // clock.Mono
	writing  atomic.Int64 // since when, clock.Mono; 0: not
	lastSent atomic.Int64

	mu struct {
		sync.Mutex
		work, room sync.Cond
		err        error
		tellPeer   bool
		idle       bool // the writer waits for work
		channels   map[uint32]*Channel
		open       [numKinds]int // by the peer
		nextID     uint32
		control    []byte // frames that open channels
		refused    []byte // frames that answer channels that this end does not take
		first      ready  // raft
		others     ready
		grants     []*Channel
		wanting    [2][]*Channel // those whose own queue has room, and that wait for memory alone: tunnels in the second
		dropped    []alloc.Ref
		queued     int // of all channels
		tunnels    int // of it, of tunnels
		waiting    int
		answers    int
		ping       bool
		pong       bool
		pongStamp  uint64
	}

	// Of the reading goroutine.
	in       *bufio.Reader
	scratch  []byte
	packed   []byte
	last     *Channel
	peerLast uint32

	// Of the writing goroutine.
	w writer

	timer   clock.Timer
	calls   calls
	own     [numKinds]atomic.Pointer[Channel] // those that Mesh.Send uses
	opening sync.Mutex                        // of own; outside mu
}

// ready is a list of channels that have something to send, in turn.
type ready struct {
	list []*Channel
	head int
}

func (r *ready) len() int { return len(r.list) - r.head }
func (r *ready) push(ch *Channel) {
	if r.head > 64 && r.head*2 > len(r.list) {
		n := copy(r.list, r.list[r.head:])
		clear(r.list[n:])
		r.list, r.head = r.list[:n], 0
	}
	r.list = append(r.list, ch)
}

func (r *ready) pop() *Channel {
	ch := r.list[r.head]
	r.list[r.head] = nil
	if r.head++; r.head == len(r.list) {
		r.list, r.head = r.list[:0], 0
	}
	return ch
}

// assembly is a message of several frames, on its way in.
type assembly struct {
	block *alloc.Block
	have  int
	total int
	held  int // of the window
}

func (m *Mesh) newConn(s *session) *conn {
	c := &conn{m: m, peer: s.peer, nc: s.nc, gathered: s.gathered, raw: s.raw, certs: s.certs, crc: !s.peer.TLS,
		told: make(chan struct{}), done: make(chan struct{}), written: make(chan struct{})}
	for k := Kind(1); k < numKinds; k++ {
		c.windows[k] = int(s.windows[k])
		c.compress[k] = m.limits[k].Compress && s.opens&compressS2 != 0
	}
	c.mu.work.L, c.mu.room.L = &c.mu.Mutex, &c.mu.Mutex
	c.mu.channels = make(map[uint32]*Channel)
	c.mu.nextID = 2
	if c.peer.Dialed {
		c.mu.nextID = 1
	}
	c.in = bufio.NewReaderSize(connReader{c}, readBufferBytes)
	c.w.init(c)
	c.calls.init(c)
	c.lastRead.Store(int64(m.clock.Mono()))
	return c
}

// ending says whether the connection has failed already.
func (c *conn) ending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.err != nil
}

func (c *conn) stats() *kindCounters { return &c.m.counters.kinds[0] }

// connReader counts what is read, and notes when: once a system call.
type connReader struct{ c *conn }

func (r connReader) Read(p []byte) (int, error) {
	n, err := r.c.nc.Read(p)
	if n > 0 {
		r.c.lastRead.Store(int64(r.c.m.clock.Mono()))
		r.c.m.counters.bytesIn.Add(uint64(n))
	}
	return n, err
}

// run reads until the connection ends, and cleans up. before is closed when the connection that this one replaces is down.
func (c *conn) run(before <-chan struct{}) {
	defer close(c.done)
	if before != nil {
		<-before
	}
	c.m.up(c)
	close(c.told)
	go c.writeLoop()
	c.startKeepalive()
	err := c.readLoop()
	c.fail(err, true)
	c.timer.Stop()
	<-c.written
	_ = c.raw.Close()
	c.cleanUp()
}

func (c *conn) cleanUp() {
	c.mu.Lock()
	err := c.mu.err
	all := make([]*Channel, 0, len(c.mu.channels))
	for _, ch := range c.mu.channels {
		c.dropLocked(ch, false)
		ch.ended.Store(true)
		all = append(all, ch)
	}
	clear(c.mu.channels)
	dropped := c.mu.dropped
	c.mu.dropped = nil
	c.mu.room.Broadcast()
	c.mu.Unlock()
	for _, ref := range dropped {
		ref.Release()
	}
	for _, ch := range all {
		c.closed(ch, err)
	}
	c.calls.end(err)
	c.m.down(c, err)
}

// closed tells a channel's receiver, and lets go of a message that is not whole. It runs on the reading goroutine.
func (c *conn) closed(ch *Channel, err error) {
	ch.forget()
	if ch.recv != nil {
		ch.recv.Closed(ch, err)
	}
}

func (ch *Channel) forget() {
	if a := &ch.assembly; a.block != nil {
		ch.c.charge(ch.kind, -a.block.Cap())
		a.block.Release()
		*a = assembly{}
	}
}

// fail ends the connection, once. tell says whether the peer hears why.
func (c *conn) fail(err error, tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.err != nil {
		return
	}
	e := asError(err)
	if e == nil {
		e = &Error{Reason: ReasonLost, Text: err.Error()}
		tell = false
	}
	c.mu.err, c.mu.tellPeer = e, tell && !e.Peer && e.Reason != ReasonNotReading
	for _, ch := range c.mu.channels {
		ch.ended.Store(true)
	}
	c.mu.room.Broadcast()
	c.mu.work.Broadcast()
	// The writer may be stuck in a write, and the reader in a read: both end with the socket, once there was time to say why.
	if c.mu.tellPeer {
		c.m.clock.AfterFunc(byeTime, func() { _ = c.raw.Close() })
	} else {
		_ = c.raw.Close()
	}
}

func (c *conn) readLoop() error {
	for {
		if err := c.readFrame(); err != nil {
			return err
		}
	}
}

// readFrame reads one frame and does what it says.
func (c *conn) readFrame() error {
	size := headerBytes
	if c.crc {
		size += crcBytes
	}
	b, err := c.in.Peek(size)
	if err != nil {
		if errors.Is(err, io.EOF) && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	h, err := decodeHeader(b)
	if err != nil {
		return err
	}
	var sum, want uint32
	if c.crc {
		sum, want = crc32.Checksum(b[:headerBytes], castagnoli), binary.LittleEndian.Uint32(b[headerBytes:])
	}
	_, _ = c.in.Discard(size)
	c.m.counters.framesIn.Add(1)
	if h.typ == frameData {
		return c.readData(h, sum, want)
	}
	p, err := c.readScratch(int(h.length), sum, want)
	if err != nil {
		return err
	}
	switch h.typ {
	case frameOpen:
		return c.opened(h.channel, Kind(p[0]), p[openBytes:])
	case frameCredit:
		return c.credited(h.channel, binary.LittleEndian.Uint32(p))
	case frameClose:
		return c.peerClosed(h.channel, p)
	case framePing:
		c.pingFrom(binary.LittleEndian.Uint64(p))
	case framePong:
		c.pongFrom(binary.LittleEndian.Uint64(p))
	default: // frameBye: decodeHeader lets nothing else through
		return decodeReason(p)
	}
	return nil
}

func (c *conn) readScratch(n int, sum, want uint32) ([]byte, error) {
	if cap(c.scratch) < n {
		c.scratch = make([]byte, max(n, 4<<10))
	}
	p := c.scratch[:n]
	return p, c.readFull(p, sum, want)
}

// readFull reads len(p) bytes of a frame, and checks them.
func (c *conn) readFull(p []byte, sum, want uint32) error {
	if _, err := io.ReadFull(c.in, p); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if c.crc && crc32.Update(sum, castagnoli, p) != want {
		return failure(ReasonChecksum, "a frame with %d bytes", len(p))
	}
	return nil
}

// channel is the open channel with that number. The reading goroutine alone removes channels, so what it found last is still there.
func (c *conn) channel(id uint32) (*Channel, error) {
	if c.last != nil && c.last.id == id {
		return c.last, nil
	}
	c.mu.Lock()
	ch := c.mu.channels[id]
	c.mu.Unlock()
	if ch == nil {
		return nil, failure(ReasonChannel, "channel %d is not open", id)
	}
	c.last = ch
	return ch, nil
}

// readData reads a data frame into its message.
func (c *conn) readData(h header, sum, want uint32) error {
	ch, err := c.channel(h.channel)
	if err != nil {
		return err
	}
	k := &c.m.counters.kinds[ch.kind]
	k.framesIn.Add(1)
	k.bytesIn.Add(uint64(h.length))
	if ch.ended.Load() {
		return c.discard(ch, h, sum, want)
	}
	if h.flags == 0 && ch.assembly.block == nil {
		return c.readWhole(ch, int(h.length), sum, want)
	}
	p, err := c.readScratch(int(h.length), sum, want)
	if err != nil {
		return err
	}
	if h.flags&flagCompressed != 0 {
		if p, err = c.unpack(p); err != nil {
			return err
		}
	}
	total := len(p)
	if h.flags&flagLong != 0 {
		total, p = int(binary.LittleEndian.Uint32(p)), p[longBytes:]
	}
	if err := ch.take(len(p)); err != nil {
		return err
	}
	return c.assemble(ch, h.flags, total, p)
}

// discard reads a frame that its peer sent before it knew that the channel has ended. It still has to keep to its window.
func (c *conn) discard(ch *Channel, h header, sum, want uint32) error {
	if _, err := c.readScratch(int(h.length), sum, want); err != nil {
		return err
	}
	ch.forget()
	n := int(h.length)
	if h.flags&flagLong != 0 {
		n -= longBytes
	}
	return ch.take(n)
}

// readWhole reads a message of one frame into a block of its own.
func (c *conn) readWhole(ch *Channel, n int, sum, want uint32) error {
	if n > c.m.limits[ch.kind].Message {
		return failure(ReasonTooLarge, "%v message of %d bytes, at most %d", ch.kind, n, c.m.limits[ch.kind].Message)
	}
	if err := ch.take(n); err != nil {
		return err
	}
	block := alloc.NewBlock(n)
	if err := c.readFull(block.Bytes(), sum, want); err != nil {
		block.Release()
		return err
	}
	c.deliver(ch, block, cost(n))
	return nil
}

// unpack opens a compressed payload. What it opens to is bounded before any of it is opened.
func (c *conn) unpack(p []byte) ([]byte, error) {
	raw := binary.LittleEndian.Uint32(p)
	p = p[rawBytes:]
	if raw > FrameMost {
		return nil, failure(ReasonTooLarge, "a frame that opens to %d bytes", raw)
	}
	n, err := s2.DecodedLen(p)
	if err != nil || n != int(raw) {
		return nil, failure(ReasonMalformed, "a compressed frame that says %d bytes and holds %d", raw, n)
	}
	if cap(c.packed) < n {
		c.packed = make([]byte, max(n, 64<<10))
	}
	out, err := s2.Decode(c.packed[:0:cap(c.packed)], p)
	if err != nil {
		return nil, failure(ReasonMalformed, "a compressed frame: %v", err)
	}
	return out, nil
}

// take counts a frame of n bytes against the window.
func (ch *Channel) take(n int) error {
	if ch.left.Add(-int64(cost(n))) < 0 {
		return failure(ReasonCredit, "%v channel %d sent %d bytes more than it may", ch.kind, ch.id, -ch.left.Load())
	}
	return nil
}

// assemble joins frames to messages. What of the window belongs to a message that is not whole is given back once it is more than half,
// or a message larger than the window could never arrive.
func (c *conn) assemble(ch *Channel, flags uint8, total int, p []byte) error {
	a := &ch.assembly
	most := c.m.limits[ch.kind].Message
	switch {
	case flags&flagLong != 0 == (a.block != nil) && (a.block != nil || flags&flagMore != 0):
		return failure(ReasonMalformed, "%v channel %d: a long message that begins within another, or without its length", ch.kind, ch.id)
	case total > most:
		return failure(ReasonTooLarge, "%v message of %d bytes, at most %d", ch.kind, total, most)
	}
	if a.block == nil {
		a.block, a.total = alloc.NewBlock(min(total, 1<<20)), total
		c.charge(ch.kind, a.block.Cap())
	}
	if a.have+len(p) > a.total {
		return failure(ReasonMalformed, "%v channel %d: a message longer than its length", ch.kind, ch.id)
	}
	c.grow(ch.kind, a, a.have+len(p))
	a.have += copy(a.block.Bytes()[a.have:], p)
	a.held += cost(len(p))
	if flags&flagMore != 0 {
		if half := c.m.limits[ch.kind].Window / 2; a.held > half {
			ch.consumed(a.held - half)
			a.held = half
		}
		if c.tooMuch(ch) {
			c.reset(ch, ReasonMemory)
		}
		return nil
	}
	if a.have != a.total {
		return failure(ReasonMalformed, "%v channel %d: a message of %d bytes that has %d", ch.kind, ch.id, a.total, a.have)
	}
	block, held := a.block, a.held
	*a = assembly{}
	c.charge(ch.kind, -block.Cap())
	c.deliver(ch, block, held)
	return nil
}

// grow makes room for n bytes of the message, doubling what there is.
func (c *conn) grow(k Kind, a *assembly, n int) {
	if n <= a.block.Len() {
		return
	}
	b := alloc.NewBlock(min(a.total, max(n, 2*a.block.Len())))
	copy(b.Bytes(), a.block.Bytes()[:a.have])
	c.charge(k, b.Cap()-a.block.Cap())
	a.block.Release()
	a.block = b
}

// charge counts memory that received messages of a kind pin.
func (c *conn) charge(k Kind, n int) {
	c.memory.Add(int64(n))
	c.m.memory.Add(int64(n))
	if k == KindTunnel {
		c.tunnels.Add(int64(n))
		c.m.tunnels.Add(int64(n))
	}
}

// tooMuch says whether memory for what is received has run out. What consensus needs is bounded by its windows alone; tunnels, which are many, get half,
// so that nothing else is ended for them.
func (c *conn) tooMuch(ch *Channel) bool {
	switch ch.kind {
	case KindRaft:
		return false
	case KindTunnel:
		return c.tunnels.Load() > int64(c.m.o.PeerMemory/2) || c.m.tunnels.Load() > c.m.o.Memory/2
	default:
		return c.memory.Load() > int64(c.m.o.PeerMemory) || c.m.memory.Load() > c.m.o.Memory
	}
}

func (c *conn) deliver(ch *Channel, block *alloc.Block, held int) {
	c.charge(ch.kind, block.Cap())
	m := Message{block: block, c: ch, cost: int32(held)}
	if ch.ended.Load() || ch.recv == nil {
		m.Release()
		return
	}
	if c.tooMuch(ch) {
		m.Release()
		c.reset(ch, ReasonMemory)
		return
	}
	c.m.counters.kinds[ch.kind].messagesIn.Add(1)
	ch.recv.Receive(ch, m)
}

// reset ends a channel from the reading side. Its receiver hears of it once the peer has answered.
func (c *conn) reset(ch *Channel, r Reason) {
	c.m.counters.resets.Add(1)
	ch.forget()
	ch.end(r, fmt.Sprintf("%v channel %d", ch.kind, ch.id), true)
}
