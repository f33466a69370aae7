package carry

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/engine"
)

// state is how far a client of this node has come.
type state uint8

const (
	stateNew     state = iota // nothing was decided
	stateWaiting              // for somebody to lead
	stateCarried
	stateEnding // ended by us; the last bytes leave
	stateGone
)

// client is a client of this node that another one serves, or may. All but mu belongs to its loop.
type client struct {
	d        *Door
	c        *engine.Conn
	ch       *link.Channel // from stateCarried on
	since    int64         // that it speaks, monotonic
	again    int64         // when it may be tried again, after a leader has not taken it
	why      error         // the leader has refused it, and it waits to be asked about again
	first    []byte        // all that it has sent, until it is answered, so that another leader can be given it; nil: it was too much
	version  byte
	state    state
	answered bool // something has come from the leader
	keep     bool // first is all that it has sent

	took int64        // when it has taken a message last, monotonic
	held atomic.Int64 // bytes of messages that its peer has not taken
	mu   struct {
		sync.Mutex
		got    []link.Message
		end    error // why the channel has ended
		ended  bool
		room   bool // the channel takes more
		posted bool
		gone   bool
	}
	spare []link.Message // mu.got's other half
}

// data takes what the client sends.
func (cl *client) data(b []byte) int {
	switch cl.state {
	case stateNew:
		version, enough := cl.d.protocol().Version(b)
		if !enough {
			return 0
		}
		cl.version = version
		if cl.since == 0 {
			cl.since = max(cl.c.Loop().NowMono(), 1)
		}
		return cl.begin(b)
	case stateCarried:
		return cl.send(b)
	case stateWaiting:
		return 0
	default:
		return len(b)
	}
}

// begin finds out where the client belongs, now that it speaks.
func (cl *client) begin(b []byte) int {
	d := cl.d
	node, here, known := d.o.Leader.Leader()
	switch {
	case d.closed.Load():
		cl.refuse()
		return len(b)
	case here:
		cl.state = stateGone
		d.protocol().OnOpen(cl.c) // the state is the protocol's from here on
		return d.protocol().OnData(cl.c, b)
	case !known:
		return cl.await()
	case cl.elsewhere(node):
		return len(b)
	}
	switch err := cl.open(node); {
	case errors.Is(err, link.ErrDown):
		return cl.await()
	case err != nil:
		d.log.Warn("a client cannot be carried", "node", node, "err", err)
		d.refusedLeader.Add(1)
		cl.refuse()
		return len(b)
	}
	return cl.send(b)
}

// elsewhere sends the client to the node that leads, if it is there and the client can be told.
func (cl *client) elsewhere(node link.NodeID) bool {
	d := cl.d
	if d.o.Redirect == nil || !d.o.Mesh.Reaches(node) {
		return false
	}
	at := d.o.Redirect(cl.c.Listener(), node)
	if at == "" || !d.protocol().Elsewhere(cl.c, cl.version, at) {
		return false
	}
	cl.state = stateEnding
	d.redirected.Add(1)
	cl.c.CloseAfterFlush(errElsewhere, byeTimeout) // if that has not
	return true
}

func (cl *client) await() int {
	cl.state = stateWaiting
	cl.c.PauseRead()
	cl.d.wait(cl)
	return 0
}

// open opens the client's way to the leader, which keeps all deadlines from here on.
func (cl *client) open(node link.NodeID) error {
	h := headOf(cl.c)
	h.listener = cl.d.ruledBy(h.listener)
	b, after := h.append(make([]byte, 0, 128))
	ch, err := cl.d.o.Mesh.Open(node, link.KindTunnel, b, cl)
	if err == nil && after != nil {
		if err = ch.TrySend(after); err != nil {
			ch.Abort("no room for the client's certificate")
		}
	}
	if err != nil {
		return err
	}
	cl.ch, cl.state, cl.keep = ch, stateCarried, true
	cl.c.SetDeadline(0)
	cl.d.carried.Add(1)
	cl.d.carriedTotal.Add(1)
	return nil
}

// send passes on what the client has sent, as far as there is room.
func (cl *client) send(b []byte) (n int) {
	defer func() { cl.remember(b[:n]) }()
	for n < len(b) {
		part := b[n:min(len(b), n+partBytes)]
		err := cl.ch.TrySend(part)
		switch {
		case errors.Is(err, link.ErrBusy):
			cl.c.PauseRead() // Room is posted, so it comes behind this
			return n
		case err != nil:
			return len(b) // Closed tells why
		}
		n += len(part)
	}
	return n
}

// firstMost is how much of what a client sends is remembered until it is answered: most send a CONNECT and wait.
const firstMost = 4 << 10

func (cl *client) remember(b []byte) {
	switch {
	case cl.answered || !cl.keep:
	case len(cl.first)+len(b) > firstMost:
		cl.first, cl.keep = nil, false
	default:
		cl.first = append(cl.first, b...)
	}
}

// retryAfter is how soon a client that a leader has not taken is offered to it again.
const retryAfter = 500 * time.Millisecond

// retry has a client wait for another leader, or the same one, if what it has said can be said again: the one that was asked has gone, or leads no more.
func (cl *client) retry(why error) bool {
	now := cl.c.Loop().NowMono()
	if !cl.keep || len(cl.first) == 0 || cl.d.closed.Load() || now-cl.since >= int64(cl.d.o.Wait) {
		return false
	}
	cl.d.carried.Add(-1)
	cl.why = why
	cl.ch, cl.keep, cl.again = nil, false, now+int64(retryAfter)
	cl.mu.Lock()
	cl.mu.ended, cl.mu.end, cl.mu.room = false, nil, false
	cl.mu.Unlock()
	_ = cl.await() // pauses
	cl.c.Unread(cl.first)
	cl.first = nil
	return true
}

// refuse ends a client that nobody has answered.
func (cl *client) refuse() {
	cl.state = stateEnding
	cl.d.protocol().Unavailable(cl.c, cl.version)
	cl.c.CloseAfterFlush(errRefused, byeTimeout) // if that has not
}

// leave ends the connection because this node goes. Who has been answered is told nothing: it may have the half of a packet.
func (cl *client) leave() {
	switch cl.state {
	case stateNew, stateWaiting:
		cl.refuse()
	case stateCarried:
		cl.state = stateEnding
		cl.c.CloseAfterFlush(errLeaving, byeTimeout)
	default:
	}
}

// gone is the end of the client's connection.
func (cl *client) gone() {
	if cl.ch != nil {
		cl.ch.Close() // what it has sent goes before
		cl.d.carried.Add(-1)
	}
	cl.state = stateGone
	cl.mu.Lock()
	got := cl.mu.got
	cl.mu.got, cl.mu.gone = nil, true
	cl.mu.Unlock()
	for _, m := range got {
		cl.done(m)
	}
}

// Receive takes a message of the leader for the client, on the link's goroutine.
func (cl *client) Receive(_ *link.Channel, m link.Message) {
	n := int64(len(m.Bytes()))
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.mu.gone {
		m.Release()
		return
	}
	cl.held.Add(n)
	if cl.d.held.Add(n) > cl.d.o.Memory {
		cl.d.sweep()
	}
	cl.mu.got = append(cl.mu.got, m)
	cl.postLocked()
}

// Closed takes the end of the channel.
func (cl *client) Closed(_ *link.Channel, reason error) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.mu.ended, cl.mu.end = true, reason
	cl.postLocked()
}

// Room says that the channel takes more.
func (cl *client) Room(*link.Channel) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.mu.room = true
	cl.postLocked()
}

func (cl *client) postLocked() {
	if !cl.mu.posted && !cl.mu.gone {
		cl.mu.posted = true
		cl.c.Loop().Post(cl)
	}
}

// done lets go of a message.
func (cl *client) done(m link.Message) {
	n := int64(len(m.Bytes()))
	cl.held.Add(-n)
	cl.d.held.Add(-n)
	cl.took = cl.c.Loop().NowMono()
	m.Release()
}

// stuck ends a client that has taken nothing for a while of what is held of it.
func (cl *client) stuck(now int64) {
	if cl.state == stateCarried && cl.held.Load() > heldFair && now-cl.took > int64(stuckAfter) {
		cl.d.endedSlow.Add(1)
		cl.c.Close(errSlow)
	}
}

// Run is the loop's part: it writes what has come, and sees to what has happened.
func (cl *client) Run(*engine.Loop) {
	cl.mu.Lock()
	got, ended, end, room := cl.mu.got, cl.mu.ended, cl.mu.end, cl.mu.room
	cl.mu.got, cl.mu.room, cl.mu.posted = cl.spare[:0], false, false
	cl.mu.Unlock()
	if room && cl.state == stateCarried {
		cl.c.ResumeRead()
	}
	for i, m := range got {
		cl.write(m)
		got[i] = link.Message{}
	}
	if cl.spare = got[:0]; cap(got) > spareMost {
		cl.spare = nil
	}
	if ended && cl.state == stateCarried {
		cl.finish(end)
	}
}

// spareMost is how many messages' room a client keeps.
const spareMost = 4

// write queues a message for the client. What is copied is let go of at once, so that most messages cost no more than their bytes; of what waits behind
// that the leader hears by its credit, for it is let go of when the kernel has it.
func (cl *client) write(m link.Message) {
	cl.answered, cl.first = true, nil
	p := m.Bytes()
	if len(p) < copyBelow && cl.c.Queued() < queueSmall {
		cl.c.Write(p)
		cl.done(m)
		return
	}
	h := &held{cl: cl, m: m}
	h.n.Store(1)
	cl.c.WriteRef(p, h)
	h.Release()
}

// held is a message that lies in a connection's out queue.
type held struct {
	cl *client
	m  link.Message
	n  atomic.Int32
}

// Retain makes it an alloc.Ref.
func (h *held) Retain() { h.n.Add(1) }

// Release makes it an alloc.Ref.
func (h *held) Release() {
	if h.n.Add(-1) == 0 {
		h.cl.done(h.m)
	}
}

// finish ends the connection of a client whose channel has ended. It is not told why by a packet of its protocol: what the leader wanted to say has been
// said, and where the leader is gone there may be a half of a packet before it. Clients come back when a connection breaks, and not all of them do
// when they are told to go.
func (cl *client) finish(end error) {
	if !cl.answered && end != nil {
		if cl.retry(end) {
			return
		}
		cl.d.refusedLeader.Add(1)
		cl.d.say(cl.c.Listener(), end)
		cl.refuse()
		return
	}
	cl.state = stateEnding
	if end != nil {
		cl.d.lost.Add(1)
		end = errors.Join(errLeaderGone, end)
	}
	cl.c.CloseAfterFlush(end, byeTimeout)
}
