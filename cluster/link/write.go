package link

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"sync"

	"github.com/klauspost/compress/s2"

	"github.com/sluicemq/sluice/alloc"
)

const (
	// turnBytes is what one turn of the writer gathers at most: it bounds how long a message of consensus waits behind others.
	turnBytes = 512 << 10
	// copyMost is the largest payload that is copied beside its header; what is larger goes to the kernel from where it lies. With TLS
	// the bytes are touched anyway, and records of 16 KiB are worth a copy.
	copyMost, copyMostTLS = 2 << 10, 16 << 10
	// stageBytes is the room for headers and what is copied.
	stageBytes = 128 << 10
	// compressLeast is the smallest payload that is worth a try.
	compressLeast = 512
	// partLeast is the least that is sent of a message which does not fit whole into the credit.
	partLeast = 16 << 10
)

// quantum is what a channel of a kind may send before the next one has its turn.
var quantum = [numKinds]int{KindRaft: 256 << 10, KindSnapshot: 64 << 10, KindReplication: 256 << 10, KindRequest: 128 << 10, KindTunnel: 32 << 10}

// item is a frame to be written.
type item struct {
	head     header
	total    int // of a long message, in its first frame
	data     []byte
	compress bool
	kind     Kind
	reason   Reason
	text     string
}

// writer is the state of the writing goroutine.
type writer struct {
	c       *conn
	control []byte
	items   []item
	release []alloc.Ref
	room    []*Channel

	stage []byte
	from  int // of stage: what is not in list yet
	list  net.Buffers
	vec   net.Buffers // list, as WriteTo consumes it
	bytes int         // in list
	pack  []byte
	frame int
	front [rawBytes + longBytes]byte // in front of a payload; here, for it would escape to the heap
}

func (w *writer) init(c *conn) {
	w.c = c
	w.stage = make([]byte, 0, stageBytes)
}

// wakeLocked has the writer look for work.
func (c *conn) wakeLocked() {
	if c.mu.idle {
		c.mu.idle = false
		c.mu.work.Signal()
	}
}

// readyLocked puts a channel that has something to send into its list, and has the writer look for it.
func (c *conn) readyLocked(ch *Channel) {
	if c.listReadyLocked(ch) {
		c.wakeLocked()
	}
}

// listReadyLocked puts a channel that has something to send into its list, and says whether it is there.
func (c *conn) listReadyLocked(ch *Channel) bool {
	if ch.ready {
		return true // the writer may not have been told
	}
	if ch.queue.empty() || ch.stalled && !ch.queue.first().end {
		return false
	}
	ch.ready = true
	if ch.kind == KindRaft {
		c.mu.first.push(ch)
	} else {
		c.mu.others.push(ch)
	}
	return true
}

// roomLocked says whether n more bytes may wait for ch. Tunnels are many and their clients may all stand still: they get half of the memory, so that
// nothing else waits for them.
func (c *conn) roomLocked(ch *Channel, n int) bool {
	switch {
	case ch.fullLocked(n):
		return false
	case ch.kind == KindTunnel && c.mu.tunnels > 0 && c.mu.tunnels+n > c.m.o.PeerMemory/2:
		return false
	}
	return ch.kind == KindRaft || c.mu.queued == 0 || c.mu.queued+n <= c.m.o.PeerMemory
}

// fullLocked says whether the channel's own queue is too full for n more bytes.
func (ch *Channel) fullLocked(n int) bool {
	return ch.queued > 0 && ch.queued+n > ch.c.m.limits[ch.kind].Queue
}

// countLocked counts n more bytes that wait for ch.
func (c *conn) countLocked(ch *Channel, n int) {
	ch.queued += n
	c.mu.queued += n
	if ch.kind == KindTunnel {
		c.mu.tunnels += n
	}
}

// listLocked has a channel that wants room hear of it once there is memory.
func (c *conn) listLocked(ch *Channel) {
	if ch.listed {
		return
	}
	ch.listed = true
	list := &c.mu.wanting[0]
	if ch.kind == KindTunnel {
		list = &c.mu.wanting[1]
	}
	*list = append(*list, ch)
}

func (c *conn) hasWorkLocked() bool {
	return len(c.mu.control) > 0 || len(c.mu.refused) > 0 || len(c.mu.grants) > 0 || c.mu.ping || c.mu.pong || c.mu.first.len() > 0 || c.mu.others.len() > 0
}

// writeLoop writes what there is, a turn at a time, until the connection ends.
func (c *conn) writeLoop() {
	defer close(c.written)
	w := &c.w
	for {
		c.mu.Lock()
		for c.mu.err == nil && !c.hasWorkLocked() {
			c.mu.idle = true
			c.mu.work.Wait()
		}
		c.mu.idle = false
		err, tell := c.mu.err, c.mu.tellPeer
		if err == nil {
			w.gatherLocked()
		}
		c.mu.Unlock()
		if err != nil {
			w.finish(err, tell)
			return
		}
		if err := w.write(); err != nil {
			c.fail(err, false)
		}
	}
}

// finish says goodbye and closes the socket, which ends the reader.
func (w *writer) finish(err error, tell bool) {
	c := w.c
	if e := asError(err); tell && e != nil {
		w.stage = appendControl(w.stage[:0], c.crc, header{typ: frameBye}, reasonPayload(e.Reason, e.Text))
		w.from = 0
		_ = w.flush() // the connection ends either way
	}
	_ = c.raw.Close()
}

// gatherLocked takes what this turn writes.
func (w *writer) gatherLocked() {
	c := w.c
	w.release = append(w.release, c.mu.dropped...)
	clear(c.mu.dropped)
	c.mu.dropped = c.mu.dropped[:0]
	w.control = append(append(w.control[:0], c.mu.refused...), c.mu.control...)
	c.mu.refused, c.mu.control = c.mu.refused[:0], c.mu.control[:0]
	if c.mu.ping {
		c.mu.ping = false
		w.control = appendStamp(w.control, c.crc, framePing, uint64(c.m.clock.Mono()))
	}
	if c.mu.pong {
		c.mu.pong = false
		w.control = appendStamp(w.control, c.crc, framePong, c.mu.pongStamp)
	}
	for i, ch := range c.mu.grants {
		if !ch.asked {
			binary.LittleEndian.PutUint32(w.front[:], uint32(ch.grant))
			w.control = appendControl(w.control, c.crc, header{channel: ch.id, typ: frameCredit}, w.front[:4])
		}
		ch.grant = 0
		c.mu.grants[i] = nil
	}
	c.mu.grants = c.mu.grants[:0]
	left := w.takeFrom(&c.mu.first, turnBytes/2)
	w.takeFrom(&c.mu.others, turnBytes/2+left)
	w.wakeSendersLocked()
}

// takeFrom gathers up to budget bytes of the channels of a list in turn, and returns what is left of the budget.
func (w *writer) takeFrom(r *ready, budget int) int {
	for r.len() > 0 && budget > 0 {
		ch := r.pop()
		ch.ready = false
		budget -= w.takeLocked(ch, min(quantum[ch.kind], max(budget, partLeast)))
		w.c.readyLocked(ch)
	}
	return budget
}

// takeLocked gathers frames of a channel, until it has had its turn or has no credit, and returns what they cost.
func (w *writer) takeLocked(ch *Channel, most int) int {
	c, taken := w.c, 0
	for taken < most && !ch.queue.empty() {
		e := ch.queue.first()
		if e.end {
			if ch.counted {
				c.mu.answers--
			}
			w.items = append(w.items, item{head: header{channel: ch.id, typ: frameClose}, reason: ch.reason, text: ch.text})
			ch.queue.pop()
			return taken + frameCost
		}
		rest := len(e.data) - e.sent
		if need := min(cost(rest), partLeast, c.windows[ch.kind]/4); ch.credit < need {
			ch.stalled = true
			c.m.counters.kinds[ch.kind].stalls.Add(1)
			return taken
		}
		n := min(rest, ch.credit, FrameMost, max(most-taken, partLeast))
		it := item{head: header{channel: ch.id, typ: frameData}, data: e.data[e.sent : e.sent+n], kind: ch.kind, compress: c.compress[ch.kind] && n >= compressLeast}
		if n < rest {
			it.head.flags |= flagMore
			if e.sent == 0 {
				it.head.flags |= flagLong
				it.total = len(e.data)
			}
		}
		w.items = append(w.items, it)
		e.sent += n
		ch.credit -= cost(n)
		taken += cost(n)
		if n == rest {
			c.countLocked(ch, -cost(len(e.data)))
			if ch.wants && ch.queued <= c.m.limits[ch.kind].Queue/2 {
				c.listLocked(ch)
			}
			if e.ref != nil {
				w.release = append(w.release, e.ref)
			}
			ch.queue.pop()
			c.m.counters.kinds[ch.kind].messagesOut.Add(1)
		}
	}
	return taken
}

// wakeSendersLocked wakes who waits for room, and notes who wants to hear of it.
func (w *writer) wakeSendersLocked() {
	c := w.c
	if c.mu.waiting > 0 {
		c.mu.room.Broadcast()
	}
	for i := range c.mu.wanting {
		list := c.mu.wanting[i]
		if len(list) == 0 || c.mu.queued > c.m.o.PeerMemory/2 || i == 1 && c.mu.tunnels > c.m.o.PeerMemory/4 {
			continue
		}
		for k, ch := range list {
			if ch.wants, ch.listed = false, false; !ch.ended.Load() {
				w.room = append(w.room, ch)
			}
			list[k] = nil
		}
		c.mu.wanting[i] = list[:0]
	}
}

// write writes the turn.
func (w *writer) write() error {
	c := w.c
	now := int64(c.m.clock.Mono())
	c.writing.Store(max(now, 1))
	err := w.encode()
	if err == nil {
		err = w.flush()
	}
	c.writing.Store(0)
	c.lastSent.Store(now)
	for i, ref := range w.release {
		ref.Release()
		w.release[i] = nil
	}
	w.release = w.release[:0]
	clear(w.items)
	w.items = w.items[:0]
	for i, ch := range w.room {
		if r, ok := ch.recv.(RoomReceiver); ok {
			r.Room(ch)
		}
		w.room[i] = nil
	}
	w.room = w.room[:0]
	return err
}

func (w *writer) encode() error {
	if len(w.control) > 0 {
		w.addRef(w.control)
	}
	for i := range w.items {
		it := &w.items[i]
		if it.head.typ == frameClose {
			if err := w.reserve(headerBytes + crcBytes + 1 + textMost); err != nil {
				return err
			}
			start := len(w.stage)
			w.stage = appendControl(w.stage, w.c.crc, it.head, reasonPayload(it.reason, it.text))
			w.bytes += len(w.stage) - start
			w.frame++
			continue
		}
		if err := w.data(it); err != nil {
			return err
		}
	}
	return nil
}

// data writes a data frame into the turn.
func (w *writer) data(it *item) error {
	h, payload := it.head, it.data
	front, n := w.front[:], 0
	packed := false
	if it.compress {
		payload, n, packed = w.compress(it, front)
	} else if h.flags&flagLong != 0 {
		binary.LittleEndian.PutUint32(front, uint32(it.total))
		n = longBytes
	}
	if packed {
		h.flags |= flagCompressed
	}
	h.length = uint32(n + len(payload))
	k := &w.c.m.counters.kinds[it.kind]
	k.framesOut.Add(1)
	k.bytesOut.Add(uint64(h.length))
	k.rawOut.Add(uint64(len(it.data)))
	most := copyMost
	if w.c.gathered != nil {
		most = copyMostTLS
	}
	room := headerBytes + crcBytes + n
	if len(payload) <= most {
		room += len(payload)
	}
	if err := w.reserve(room); err != nil {
		return err
	}
	start := len(w.stage)
	w.stage = appendHeader(w.stage, h)
	if w.c.crc {
		sum := crc32.Checksum(w.stage[start:start+headerBytes], castagnoli)
		sum = crc32.Update(crc32.Update(sum, castagnoli, front[:n]), castagnoli, payload)
		w.stage = binary.LittleEndian.AppendUint32(w.stage, sum)
	}
	w.stage = append(w.stage, front[:n]...)
	w.frame++
	if len(payload) <= most {
		w.stage = append(w.stage, payload...)
		w.bytes += len(w.stage) - start
		return nil
	}
	w.bytes += len(w.stage) - start
	w.addRef(payload)
	if packed {
		return w.flush() // the next frame is packed into the same memory
	}
	return nil
}

// compress packs a frame. It fills front with what comes before the packed bytes, or before the raw ones if packing did not pay.
func (w *writer) compress(it *item, front []byte) (payload []byte, n int, packed bool) {
	raw := it.data
	if it.head.flags&flagLong != 0 {
		binary.LittleEndian.PutUint32(front, uint32(it.total))
		return raw, longBytes, false // its length would have to be copied in front: the frames behind it are packed
	}
	if most := s2.MaxEncodedLen(len(raw)); cap(w.pack) < most {
		w.pack = make([]byte, s2.MaxEncodedLen(FrameMost))
	}
	out := s2.Encode(w.pack[:cap(w.pack)], raw)
	if len(out)+rawBytes > len(raw)-len(raw)/8 {
		return raw, 0, false
	}
	binary.LittleEndian.PutUint32(front, uint32(len(raw)))
	return out, rawBytes, true
}

// reserve makes room for n bytes in the stage.
func (w *writer) reserve(n int) error {
	if cap(w.stage)-len(w.stage) >= n {
		return nil
	}
	return w.flush()
}

// addRef puts bytes that stay where they are behind what is staged.
func (w *writer) addRef(p []byte) {
	w.closeSegment()
	w.list = append(w.list, p)
	w.bytes += len(p)
}

func (w *writer) closeSegment() {
	if len(w.stage) > w.from {
		w.list = append(w.list, w.stage[w.from:])
		w.from = len(w.stage)
	}
}

// flush hands what is encoded to the kernel, or to TLS.
func (w *writer) flush() error {
	w.closeSegment()
	c := w.c
	c.m.counters.framesOut.Add(uint64(w.frame))
	c.m.counters.bytesOut.Add(uint64(w.bytes))
	c.m.counters.writes.Add(1)
	var err error
	if c.gathered == nil {
		w.vec = w.list
		_, err = w.vec.WriteTo(c.nc)
	} else {
		for _, p := range w.list {
			if _, err = c.nc.Write(p); err != nil {
				break
			}
		}
		if err == nil {
			err = c.gathered.flush()
		}
	}
	clear(w.list)
	w.list, w.stage, w.from, w.bytes, w.frame = w.list[:0], w.stage[:0], 0, 0, 0
	return err
}

// gatherConn stands below TLS and joins its records, of 16 KiB at most, into one write.
type gatherConn struct {
	net.Conn
	mu struct {
		sync.Mutex
		on  bool
		buf []byte
		err error
	}
}

// gatherMost is what is gathered before it is written.
const gatherMost = 256 << 10

// Write is the connection's own until start.
func (g *gatherConn) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.mu.on {
		return g.Conn.Write(p)
	}
	g.mu.buf = append(g.mu.buf, p...)
	if len(g.mu.buf) >= gatherMost {
		g.flushLocked()
	}
	return len(p), g.mu.err
}

func (g *gatherConn) start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.on = true
}

func (g *gatherConn) flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flushLocked()
	return g.mu.err
}

func (g *gatherConn) flushLocked() {
	if len(g.mu.buf) == 0 || g.mu.err != nil {
		return
	}
	_, g.mu.err = g.Conn.Write(g.mu.buf)
	g.mu.buf = g.mu.buf[:0]
}
