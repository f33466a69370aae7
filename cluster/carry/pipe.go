package carry

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/engine"
)

// pipe is the leader's end of a channel, in place of a client's socket.
type pipe struct {
	d    *Door
	ch   *link.Channel
	fed  *engine.Fed
	head head
	cert bool // the certificate is the next message; of the link's goroutine

	cur   link.Message // what Next gave; of the loop
	tls   *tls.ConnectionState
	asked bool // for tls
	sent  bool // something was written; of the loop

	mu struct {
		sync.Mutex
		got    []link.Message
		first  int
		end    error
		closed bool
	}
}

// accept takes a client that another node has brought, on the link's goroutine.
func (d *Door) accept(ch *link.Channel, b []byte) (link.Receiver, error) {
	p := &pipe{d: d, ch: ch}
	if err := p.head.decode(b); err != nil {
		return nil, err
	}
	if _, here, _ := d.o.Leader.Leader(); !here || d.closed.Load() {
		return nil, errors.New("this node does not lead")
	}
	s := d.serves.Load()
	if s == nil {
		return nil, errors.New("this node has not started yet")
	}
	in := d.inlet(s, p.head.listener)
	if in == nil {
		return nil, fmt.Errorf("no clients of %q are taken here: this node has no such listener, or one with other rules", p.head.listener)
	}
	p.cert = p.head.flags&flagCertAfter != 0
	d.brought.Add(1)
	if _, err := in.Open(engine.FeedOptions{Pipe: p, Remote: p.head.remote, WebSocket: p.head.flags&flagWebSocket != 0, Made: func(f *engine.Fed) { p.fed = f }}); err != nil {
		d.brought.Add(-1)
		return nil, err
	}
	d.broughtTotal.Add(1)
	return p, nil
}

// Receive takes bytes of the client, on the link's goroutine.
func (p *pipe) Receive(_ *link.Channel, m link.Message) {
	if p.cert {
		p.cert = false
		p.mu.Lock()
		p.head.certificate = bytes.Clone(m.Bytes())
		p.mu.Unlock()
		m.Release()
		return
	}
	n := int64(len(m.Bytes()))
	p.mu.Lock()
	if p.mu.closed || n == 0 {
		p.mu.Unlock()
		m.Release()
		return
	}
	p.mu.got = append(p.mu.got, m)
	p.d.held.Add(n)
	p.mu.Unlock()
	p.fed.Wake()
}

// Closed takes the end of the channel.
func (p *pipe) Closed(_ *link.Channel, reason error) {
	p.mu.Lock()
	if p.mu.end == nil {
		if p.mu.end = reason; reason == nil {
			p.mu.end = io.EOF
		}
	}
	p.mu.Unlock()
	p.fed.Wake()
}

// Room says that the channel takes more.
func (p *pipe) Room(*link.Channel) { p.fed.Room() }

// Next makes it an engine.Pipe.
func (p *pipe) Next() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.first == len(p.mu.got) {
		return nil, p.mu.end
	}
	p.cur = p.mu.got[p.mu.first]
	p.mu.got[p.mu.first] = link.Message{}
	if p.mu.first++; p.mu.first == len(p.mu.got) {
		if p.mu.got, p.mu.first = p.mu.got[:0], 0; cap(p.mu.got) > spareMost {
			p.mu.got = nil
		}
	}
	return p.cur.Bytes(), nil
}

// Done makes it an engine.Pipe.
func (p *pipe) Done() {
	p.d.held.Add(-int64(len(p.cur.Bytes())))
	p.cur.Release()
	p.cur = link.Message{}
}

// sendMost is the largest message to a client's node: what a turn has made leaves in as few as can be.
const sendMost = 16 << 10

// Send makes it an engine.Pipe: bufs are copied into messages, of which one is enough for most turns.
func (p *pipe) Send(bufs [][]byte) (n int, err error) {
	left := 0
	for _, b := range bufs {
		left += len(b)
	}
	at := 0 // in bufs[0]
	p.sent = true
	for left > 0 {
		block := alloc.NewBlock(min(left, sendMost))
		dst := block.Bytes()
		for k := 0; k < len(dst); {
			c := copy(dst[k:], bufs[0][at:])
			k += c
			if at += c; at == len(bufs[0]) {
				bufs, at = bufs[1:], 0
			}
		}
		if err := p.ch.SendRef(block, dst); err != nil {
			block.Release()
			switch {
			case errors.Is(err, link.ErrBusy):
				return n, nil
			case errors.Is(err, link.ErrEnded):
				return n + left, nil // nobody reads it; what the client has sent before it went is still to be taken
			}
			return n, err
		}
		n += len(dst)
		left -= len(dst)
	}
	return n, nil
}

// CloseWrite makes it an engine.Pipe: the client's node closes the client's connection behind what was sent.
func (p *pipe) CloseWrite() { p.ch.Close() }

// Close makes it an engine.Pipe.
func (p *pipe) Close() {
	p.mu.Lock()
	got, ended := p.mu.got[p.mu.first:], p.mu.end != nil
	p.mu.got, p.mu.first, p.mu.closed = nil, 0, true
	p.mu.Unlock()
	for _, m := range got {
		p.d.held.Add(-int64(len(m.Bytes())))
		m.Release()
	}
	switch {
	case ended:
	case p.sent:
		p.ch.Abort("the node that leads has closed the connection") // what is queued may never be read
	default:
		p.ch.Close() // in order: this leader has seen the client, so no other is to be asked
	}
	p.d.brought.Add(-1)
}

// TLS makes it an engine.Pipe. It is asked for once the client has spoken, and what it has shown has come before.
func (p *pipe) TLS() *tls.ConnectionState {
	if !p.asked {
		p.mu.Lock()
		p.asked, p.tls = true, p.head.state()
		p.mu.Unlock()
	}
	return p.tls
}
