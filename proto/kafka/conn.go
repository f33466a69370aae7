package kafka

import (
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// lingerTimeout is how long the last bytes to a client may take to leave.
const lingerTimeout = 2 * time.Second

// pipelined is how many produce requests of one connection may be under way at once. A request of any other kind is read when all before
// it are answered, as Kafka does for every kind.
const pipelined = 64

// What reading waits for; see conn.block.
const (
	blockOrder  = 1 << iota // the answers to what came before
	blockBusy               // the core's lists are full
	blockSlow               // the client reads too slowly what it has asked for
	blockQuota              // the client is over a quota
	blockJoin               // a produce request waits for its partitions to be part of its transaction
	blockLeader             // nobody leads yet, or this node is about to
)

// queuedMax is how many bytes of answers may wait in memory for a client that goes on asking.
const queuedMax = 1 << 20

// conn is one connection.
type conn struct {
	link  link
	l     *loopState
	first *request // under way, oldest first
	last  *request

	appender *appender     // made with the first produce request
	resumed  *request      // a produce request of which a part could be appended: it comes again
	fetches  *fetchSession // the last one that was made
	turns    turns
	access   *accessCache      // made when rules are first asked
	quota    *quotaState       // made when there are quotas
	id       *broker.Identity  // who the client is; nil: it has not said so yet
	use      *broker.TenantUse // what its tenant uses, which the connection counts for; nil: the default one, or nobody knows yet
	sasl     saslState
	prev     *conn
	next     *conn
	client   string // what its last request has called it
	running  int32  // requests under way
	blocked  uint8
	closing  bool
	tls      bool // what is sent is looked at before: no views of mapped files
}

// onData takes all requests that are whole, as far as they can be taken now, and returns how many bytes that was.
func (c *conn) onData(b []byte) int {
	n, watch := 0, c.startWatch()
	limit := c.l.h.settings.Load().RequestBytes
	if c.id == nil {
		limit = min(limit, greetingBytesMax)
	}
	for n < len(b) && c.blocked == 0 && !c.closing {
		if c.sasl.bare {
			took, ok := c.scanToken(b[n:], limit)
			if n += took; !ok {
				break
			}
			continue
		}
		q, err := wire.Scan(b[n:], limit)
		if errors.Is(err, wire.ErrShort) {
			c.link.Need(q.Size)
			break
		}
		if err != nil {
			c.broken(err)
			break
		}
		took, err := c.take(&q)
		if err != nil {
			c.broken(err)
			break
		}
		if !took {
			break
		}
		n += q.Size
		c.l.n.requests[q.Key]++
		c.l.n.bytesIn += uint64(q.Size)
	}
	watch.stop(c)
	if c.closing {
		return len(b)
	}
	if n > 0 && c.blocked&blockQuota == 0 {
		c.touch()
	}
	return n
}

// scanToken takes a SASL token that has no header. ok false: nothing more can be taken now.
func (c *conn) scanToken(b []byte, limit int) (took int, ok bool) {
	if c.running > 0 {
		c.block(blockOrder)
		return 0, false
	}
	token, size, err := wire.ScanFrame(b, limit)
	if errors.Is(err, wire.ErrShort) {
		c.link.Need(size)
		return 0, false
	}
	if err != nil {
		c.broken(err)
		return 0, false
	}
	c.bareToken(token)
	return size, true
}

// take begins one request. took false says that it has to come again.
func (c *conn) take(q *wire.Request) (took bool, err error) {
	if q.Unreadable() {
		c.link.Write(wire.AppendUnreadable(c.l.out[:0], q.CorrelationID))
		return true, nil
	}
	serve := served[q.Key]
	if serve == nil {
		return false, wire.ErrUnknownAPI
	}
	if err := c.admitted(q.Key); err != nil {
		return false, err
	}
	if r := c.resumed; r != nil {
		return serve(r, q)
	}
	if c.l.awaiting != 0 && !anywhere[q.Key] && c.awaits(q) {
		c.block(blockLeader)
		return false, nil
	}
	if c.running > 0 && (q.Key != wire.Produce || c.last.call.Key != wire.Produce || c.running >= pipelined) {
		c.block(blockOrder)
		return false, nil
	}
	if c.link.Queued() > queuedMax {
		c.block(blockSlow)
		return false, nil
	}
	r := c.l.newRequest()
	r.c, r.call, r.clientID = c, q.Call, q.ClientID
	if string(q.ClientID) != c.client {
		c.client = string(q.ClientID)
	}
	c.enqueue(r)
	if c.l.h.quotas.Any() {
		c.meter(r, q)
	}
	if c.use != nil && q.Key == wire.Produce {
		r.wait(c.use.In(0, q.Size, c.l.loop.NowMono()))
	}
	took, err = serve(r, q)
	if err == nil && !took && c.resumed != r {
		c.dequeue(r)
	}
	return took, err
}

// enqueue puts r behind what is under way.
func (c *conn) enqueue(r *request) {
	if c.last == nil {
		c.first = r
	} else {
		c.last.next = r
	}
	r.prev, c.last = c.last, r
	c.running++
}

// dequeue takes back the request that was put in last.
func (c *conn) dequeue(r *request) {
	c.last = r.prev
	if c.last == nil {
		c.first = nil
	} else {
		c.last.next = nil
	}
	c.running--
	c.l.freeRequest(r)
}

// answered sends what is due: answers leave in the order of their requests.
func (c *conn) answered() {
	for r := c.first; r != nil && r.done; r = c.first {
		if c.first = r.next; c.first == nil {
			c.last = nil
		} else {
			c.first.prev = nil
		}
		c.running--
		if !c.closing {
			r.send()
		}
		c.l.freeRequest(r)
	}
	if c.running == 0 || c.last.call.Key == wire.Produce && c.running < pipelined {
		c.unblock(blockOrder)
	}
	if c.running == 0 && c.l.h.draining.Load() {
		c.shut(nil)
	}
}

// broken ends a connection whose client broke the rules. Kafka has no answer to what it cannot read.
func (c *conn) broken(err error) {
	c.l.n.broken++
	c.misbehaved("protocol error", err)
	c.shut(err)
}

// misbehaved logs what a client did wrong, a bounded number of times a second for each loop.
func (c *conn) misbehaved(what string, err error) {
	if !c.l.mayLog() {
		return
	}
	c.l.h.log.Info("kafka client refused", "conn", c.link.RemoteAddr(), "reason", what, "err", err)
}

// shut closes the connection once what is queued has left.
func (c *conn) shut(err error) {
	if c.closing {
		return
	}
	c.closing = true
	c.abandon()
	c.link.CloseAfterFlush(err, lingerTimeout)
}

// drain ends the connection as soon as it is owed nothing.
func (c *conn) drain() {
	if c.running == 0 {
		c.shut(nil)
	}
}

// abandon lets go of what is under way: its answers go nowhere.
func (c *conn) abandon() {
	for r := c.first; r != nil; {
		next := r.next
		r.abandon()
		c.l.freeRequest(r)
		r = next
	}
	c.first, c.last, c.resumed, c.running = nil, nil, nil, 0
	c.fetches = nil
}

// onClose is the end of the connection's life.
func (c *conn) onClose(error) {
	if !c.closing {
		c.closing = true
		c.abandon()
	}
	if c.appender != nil {
		c.appender.Close()
	}
	c.endQuota()
	c.use.Leave()
	c.l.unlink(c)
}

// touch moves the idle deadline on.
func (c *conn) touch() {
	c.link.SetDeadline(c.l.loop.NowMono() + int64(c.l.h.settings.Load().IdleTimeout))
}

// block stops reading until every reason for it is gone. A client that is not read from is not idle.
func (c *conn) block(why uint8) {
	if c.blocked == 0 {
		c.link.PauseRead()
		c.link.SetDeadline(0)
	}
	c.blocked |= why
}

// unblock takes one reason away.
func (c *conn) unblock(why uint8) {
	if c.blocked&why == 0 {
		return
	}
	if c.blocked &^= why; c.blocked == 0 && !c.closing {
		c.link.ResumeRead()
		c.touch()
	}
}

func (c *conn) onDrain() {
	if c.link.Queued() <= queuedMax {
		c.unblock(blockSlow)
	}
}

// Resume is the core's word that its lists have room again.
func (c *conn) Resume() { c.unblock(blockBusy) }

// tenant is whose names the client's requests use. It stays the same while one is under way: a client that has come in by SASL keeps its tenant, and before it has,
// its token is not read until all requests are answered. Nobody asks before the client is in.
func (c *conn) tenant() uint32 { return c.id.Tenant }

// address is where clients are told that this node is: what was configured, or what this one has reached.
func (c *conn) address() (host string, port int32) {
	s := c.l.h.settings.Load()
	a := s.Advertised
	if c.tls && s.AdvertisedTLS != "" {
		a = s.AdvertisedTLS
	}
	if a == "" {
		a = c.link.LocalAddr().String()
	}
	host, p, err := net.SplitHostPort(a)
	if err != nil {
		return a, 0
	}
	n, _ := strconv.ParseUint(p, 10, 16)
	return host, int32(n)
}
