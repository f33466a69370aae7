package mqtt

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// connState is how far a connection has come.
type connState uint8

const (
	stateNew        connState = iota // waits for CONNECT
	stateVerify                      // the client is verified: off the loop, or by what it says next
	stateConnecting                  // the core opens the session
	stateUp                          // CONNACK has been sent
	stateClosing                     // ended by us; the last words leave
)

type connFlags uint16

const (
	flagGoodbye     connFlags = 1 << iota // the client said DISCONNECT: no will
	flagProblemInfo                       // reason strings may be sent
	flagDurable                           // the session outlives the connection
	flagStarved                           // the core was told that there is no room
	flagSlow                              // in loopState.slow
	flagMoveOn                            // acknowledgements made room; looked at when OnData ends
	flagInData                            // onData runs
	flagExpirySet                         // CONNECT asked for a session expiry above 0
	flagEnded                             // its session ends with it, whatever CONNECT asked for
	flagMetered                           // in loopState.metered
	flagOverQuota                         // what it was sent over its quota is not paid for yet
	flagBridge                            // a bridge of version 3.1.1
	flagHeard                             // it has acknowledged something; looked at when OnData ends
	flagRecheck                           // it is looked at again once its session is open
	flagMounted                           // its topics lie under a prefix: extra.mount
	flagOverTenant                        // what its tenant's clients were sent is not paid for yet
)

// What reading waits for; see conn.block.
const (
	blockConnect  = 1 << iota // verification or the core
	blockBusy                 // ControlResume
	blockAcks                 // answers to a client without a receive maximum
	blockRequests             // answers to SUBSCRIBE and UNSUBSCRIBE
	blockQuota                // what was published or asked over a quota is paid for
	blockAuto                 // the subscriptions that its session begins with
	blockTenant               // what its tenant's clients have published is paid for
)

// lingerTimeout is how long the last words to a client may take to leave.
const lingerTimeout = 2 * time.Second

// conn is one connection. There may be a million of them that do nothing, so what not every connection needs hangs on pointers, made
// when first needed.
type conn struct {
	link   link
	l      *loopState
	client *broker.Client // from CONNECT to the core's last word
	who    *principal     // once verified
	in     *inbound       // publishes that are not answered yet
	out    *outbound      // deliveries that are not acknowledged yet
	extra  *extra
	setup  *setup // until CONNACK

	maxPacket   uint32 // the client's; 0: none
	patience    uint32 // milliseconds without a packet; 0: for ever
	receiveMax  uint16 // the client's
	promised    uint16 // the receive maximum that the client was told
	aliasInMax  uint16 // the topic aliases that the client may set, and
	aliasOutMax uint16 // that it lets be set
	flags       connFlags
	state       connState
	version     byte // 0 until CONNECT
	blocked     uint8
	quotaSeen   uint16 // loopState.quotaNow when no quota was found for the client
}

// extra is what only some connections have.
type extra struct {
	alias aliases
	mount string // the prefix of its topics; see mount.go
	acl   *aclCache
	quota *quotaState
	limit *tenantState
	talk  *talk // nil: CONNECT named no authentication method

	expires int64 // see conn.expires
	drops   *[dropReasons]uint64
	traced  *tracedFlight
	spans   *openSpans
	probe   *probe
	told    *[]events.Event // of the subscriptions that its session begins with, until the core has them

	autoAgain bool // the core had no room for them
}

func (c *conn) extras() *extra {
	if c.extra == nil {
		c.extra = &extra{}
	}
	return c.extra
}

// principal is what a connection's identity has in common with others': those of one account share it.
type principal struct {
	user, source string
	tenant       uint32
	generation   uint64
	secret       uint64
	own          any               // a pointer
	use          *broker.TenantUse // what its tenant uses, which the connection counts for; nil: the default one
}

// principal gives id's, the last one of the loop if it is the same: many clients are anonymous, or come by one account.
func (l *loopState) principal(id *broker.Identity) *principal {
	p := principal{user: id.User, source: id.Source, tenant: id.Tenant, generation: id.Generation, secret: id.Secret, own: id.Own, use: l.h.tenants.Use(id.Tenant)}
	if l.who == nil || *l.who != p {
		kept := p // p itself would be on the heap for those who are alike as well
		l.who = &kept
	}
	return l.who
}

// identity is who the client acts as. It lies in the loop's scratch and holds until the next one is asked for.
func (c *conn) identity() *broker.Identity {
	id := &c.l.identity
	*id = broker.Identity{User: c.who.user, Source: c.who.source, Tenant: c.who.tenant, Generation: c.who.generation, Secret: c.who.secret,
		Own: c.who.own, ClientID: c.clientID(), Remote: c.link.Remote().Addr()}
	return id
}

// onData takes all packets that are whole, as far as they can be taken now, and returns how many bytes that was.
func (c *conn) onData(b []byte) int {
	began := c.startWatch()
	c.flags |= flagInData
	n, publishes, published := c.packets(b)
	c.flags &^= flagInData
	if c.flags&flagHeard != 0 {
		c.flags &^= flagHeard
		if c.out != nil {
			c.out.heard = c.l.loop.NowMono()
		}
	}
	if c.flags&flagMoveOn != 0 {
		c.flags &^= flagMoveOn
		c.moveOn()
	}
	if published > 0 || !began.IsZero() {
		c.meter(published, began)
	}
	if publishes > 0 && c.who.use != nil {
		c.meterTenant(publishes, published)
	}
	if c.state == stateClosing {
		return len(b)
	}
	if n > 0 && c.blocked == 0 {
		c.touch()
	}
	return n
}

// packets takes packets; publishes is how many of them were PUBLISH, and published how many bytes.
func (c *conn) packets(b []byte) (n, publishes, published int) {
	maxPacket := c.l.h.settings.Load().MaxPacket
	for n < len(b) && c.blocked == 0 && c.state != stateClosing {
		h, err := wire.Scan(b[n:], maxPacket, c.version)
		if err != nil {
			if errors.Is(err, wire.ErrShort) {
				c.link.Need(h.Size)
			} else {
				c.broken(h.Type, err)
			}
			break
		}
		took, err := c.packet(&h)
		if err != nil {
			c.broken(h.Type, err)
			break
		}
		if !took {
			break
		}
		n += h.Size
		if h.Type == wire.PUBLISH {
			publishes++
			published += h.Size
		}
		c.l.n.PacketsIn[h.Type&15]++
		c.l.n.BytesIn += uint64(h.Size)
	}
	return n, publishes, published
}

// packet takes one packet. took false says that the core is busy: the packet comes again after ControlResume. An error ends the
// connection.
func (c *conn) packet(h *wire.Header) (took bool, err error) {
	if c.state == stateNew {
		return true, c.onConnect(h.Body) // Scan lets nothing else through before CONNECT
	}
	if c.state == stateVerify && h.Type != wire.AUTH && h.Type != wire.DISCONNECT {
		return true, failInBetween
	}
	switch h.Type {
	case wire.PUBLISH:
		return c.onPublish(h)
	case wire.PUBACK, wire.PUBREC, wire.PUBCOMP:
		return c.onAck(h)
	case wire.PUBREL:
		return c.onPubrel(h)
	case wire.SUBSCRIBE:
		return c.onSubscribe(h)
	case wire.UNSUBSCRIBE:
		return c.onUnsubscribe(h)
	case wire.PINGREQ:
		c.link.Commit(len(wire.AppendPingresp(c.link.Reserve(2))))
		c.l.sent(wire.PINGRESP)
		return true, nil
	case wire.DISCONNECT:
		return true, c.onDisconnect(h.Body)
	case wire.CONNECT:
		return true, failSecondConnect
	case wire.AUTH:
		return true, c.onAuth(h.Body)
	default:
		return true, failServerPacket
	}
}

// broken ends a connection whose client broke the rules.
func (c *conn) broken(t wire.PacketType, err error) {
	f := asFailure(err)
	if f != *failElsewhere {
		c.misbehaved(f)
	}
	if c.state == stateNew {
		if t == wire.CONNECT {
			c.refuse(f)
		} else {
			c.shut(err)
		}
		return
	}
	if c.state == stateVerify {
		c.refuse(f)
		return
	}
	c.end(f)
}

// onDisconnect is the client's goodbye.
func (c *conn) onDisconnect(body []byte) error {
	d, err := wire.DecodeDisconnect(body, c.version)
	if err != nil {
		return err
	}
	req := broker.DisconnectRequest{PublishWill: d.Reason != wire.Success}
	if d.HasSessionExpiry {
		if d.SessionExpiry != 0 && c.flags&flagExpirySet == 0 {
			return failExpiryRaised
		}
		req.HasExpiry, req.Expiry = true, c.expiry(c.l.h.settings.Load(), d.SessionExpiry)
	}
	c.l.n.Disconnects[d.Reason]++
	c.traceEnd("the client has said DISCONNECT")
	c.eventEnd(byClient, failure{code: d.Reason})
	c.flags |= flagGoodbye
	c.detach(req)
	c.state = stateClosing
	c.link.CloseAfterFlush(nil, lingerTimeout)
	return nil
}

// end ends the connection from our side: an MQTT 5 client is told why. The will is published. A client whose leader is another node now is told
// nothing, unless the node is to send it there: all clients come back when a connection breaks, and some stay away when they are told to go, for whatever reason.
func (c *conn) end(f failure) {
	if c.state == stateClosing {
		return
	}
	c.traceEnd(f.detail)
	c.eventEnd(byServer, f)
	next := c.next(&f)
	if c.state == stateUp && c.version == wire.V5 && (f != *failElsewhere || next != "") {
		d := wire.Disconnect{Reason: f.code}
		if c.flags&flagProblemInfo != 0 && f.code.Failed() {
			d.ReasonString = wire.View(f.detail)
		}
		if next != "" {
			d.ServerReference = wire.View(next)
		}
		d.Fit(c.version, c.maxPacket)
		if n := wire.SizeDisconnect(c.version, &d); c.maxPacket == 0 || n <= int(c.maxPacket) {
			c.link.Commit(len(wire.AppendDisconnect(c.link.Reserve(n), c.version, &d)))
			c.l.sent(wire.DISCONNECT)
		}
	}
	c.l.n.Disconnects[f.code]++
	c.shut(&f)
}

// next is the other server that a client hears of which is ended for f; empty: none.
func (c *conn) next(f *failure) string {
	switch h := c.l.h; {
	case *f == *failElsewhere:
		if h.next != nil {
			return h.next(c.link.Listener())
		}
	case f.code == wire.UseAnotherServer, f.code == wire.ServerMoved:
		return h.settings.Load().ServerReference
	}
	return ""
}

// shut lets the session go and closes the connection once what is queued has left.
func (c *conn) shut(err error) {
	if c.state == stateClosing {
		return
	}
	c.detach(broker.DisconnectRequest{PublishWill: true})
	c.state = stateClosing
	c.flags |= flagGoodbye
	c.link.CloseAfterFlush(err, lingerTimeout)
}

// detach gives the session back to the core, once. Nothing comes from the core afterwards.
func (c *conn) detach(req broker.DisconnectRequest) {
	if c.client == nil {
		return
	}
	client := c.client
	c.client = nil
	if c.flags&flagEnded != 0 {
		req.HasExpiry, req.Expiry = true, 0
	}
	if c.state == stateUp {
		c.l.n.Connected--
	}
	c.l.core.Disconnect(client, req)
	if c.out != nil {
		c.l.n.Dropped[DropPendingAtClose] += uint64(c.out.queue.count)
		c.out.queue.free(c.l.loop.Pool())
		c.out = nil
	}
	c.endQuota()
	c.spansEnd()
	c.in, c.extra = nil, nil
	c.dropSetup()
}

// onClose is the end of the connection's life.
func (c *conn) onClose(err error) {
	if c.state != stateClosing {
		if end := c.expires(); end != 0 && c.state == stateUp && errors.Is(err, engine.ErrIdle) && c.l.loop.NowMono() >= end {
			c.l.n.Disconnects[wire.NotAuthorized]++
			c.eventEnd(byServer, *failExpired)
		} else if errors.Is(err, engine.ErrIdle) && c.state == stateUp {
			c.l.n.Disconnects[wire.KeepAliveTimeout]++
			c.traceEnd(failSilent.detail)
			c.eventEnd(byServer, *failSilent)
		} else if c.state == stateUp {
			c.l.n.Lost++
			c.traceEnd(failLost.detail)
			c.eventEnd(byNetwork, *failLost)
		}
	}
	c.detach(broker.DisconnectRequest{PublishWill: true})
	c.state = stateClosing
	c.dropSetup()
	if c.who != nil {
		c.who.use.Leave()
	}
	c.l.n.Open--
}

// touch moves the keep-alive on: a whole packet has come. No further than to the end of what has vouched for the client.
func (c *conn) touch() {
	if c.state != stateUp {
		return
	}
	deadline := int64(0)
	if c.patience != 0 {
		deadline = c.l.loop.NowMono() + int64(c.patience)*int64(time.Millisecond)
	}
	if end := c.expires(); end != 0 && (deadline == 0 || end < deadline) {
		deadline = end
	}
	if deadline != 0 {
		c.link.SetDeadline(deadline)
	}
}

// expires is when the client's token ends, by the loop's clock; 0: it has none, or one without an end.
func (c *conn) expires() int64 {
	if c.extra == nil {
		return 0
	}
	return c.extra.expires
}

// block stops reading until every reason for it is gone. A client that is not read from cannot be late.
func (c *conn) block(why uint8) {
	if c.blocked == 0 {
		c.link.PauseRead()
		if c.state == stateUp {
			c.link.SetDeadline(0)
		}
	}
	c.blocked |= why
}

// unblock takes one reason away.
func (c *conn) unblock(why uint8) {
	if c.blocked&why == 0 {
		return
	}
	if c.blocked &^= why; c.blocked == 0 && c.state != stateClosing {
		c.link.ResumeRead()
		c.touch()
	}
}

// onDrain goes on after the out queue has shrunk.
func (c *conn) onDrain() { c.moveOn() }

// Kicked ends the connection for the core.
func (c *conn) Kicked(why error) {
	f := kickFailure(why)
	if errors.Is(why, broker.ErrEnded) {
		c.flags |= flagEnded
	}
	if errors.Is(why, broker.ErrTakenOver) {
		c.eventTakenOver()
	}
	if c.state == stateConnecting {
		c.shut(f)
		return
	}
	c.end(*f)
}

// Control takes the core's rarer events.
func (c *conn) Control(e broker.Control) {
	switch e.Kind {
	case broker.ControlResume:
		if x := c.extra; x != nil && x.autoAgain {
			x.autoAgain = false
			c.l.put(after{c: c, auto: true})
		}
		c.unblock(blockBusy)
	case broker.ControlRelease:
		c.release(e.PacketID)
	}
}

// Completed takes the end of a request that was pending.
func (c *conn) Completed(r broker.Result) {
	if c.state != stateUp {
		return
	}
	if errors.Is(r.Err, broker.ErrNotLeader) {
		c.end(*failElsewhere)
		return
	}
	switch kind, seq, id := untoken(r.Token); kind {
	case tokenPublish:
		c.publishDone(seq, r)
	case tokenRelease:
		c.releaseDone(id, r.Err)
	case tokenReceived:
		c.receivedDone(id, r.Err)
	case tokenRequest:
		c.requestDone(seq, r.Err)
	case tokenAuto:
		c.autoDone(r.Err)
	}
}

// What a token asks for; its other parts are a running number and a packet identifier.
const (
	tokenPublish = iota + 1
	tokenRelease
	tokenReceived
	tokenRequest
	tokenAuto
	tokenRevoke // nobody waits
)

func token(kind uint8, seq uint32, id uint16) broker.Token {
	return broker.Token(uint64(kind)<<48 | uint64(seq)<<16 | uint64(id))
}

func untoken(t broker.Token) (kind uint8, seq uint32, id uint16) {
	return uint8(t >> 48), uint32(t >> 16), uint16(t)
}

// clientID is the client's identifier as far as it is known.
func (c *conn) clientID() string {
	switch {
	case c.setup != nil:
		return c.setup.creds.ClientID
	case c.client != nil:
		return c.client.ClientID()
	}
	return ""
}

// certificates is what the peer has shown of itself in the TLS handshake.
func (c *conn) certificates() []*x509.Certificate {
	if t := c.link.TLS(); t != nil {
		return t.PeerCertificates
	}
	return nil
}

// proxyUser is whom a trusted proxy in front says the client's certificate to be of.
func (c *conn) proxyUser() string {
	if told := c.proxied(); told != nil {
		return told.CommonName
	}
	return ""
}

// proxied is what a trusted proxy in front has told of the client; nil: nothing.
func (c *conn) proxied() *engine.Proxied {
	if k, ok := c.link.(interface{ Proxied() *engine.Proxied }); ok {
		return k.Proxied()
	}
	return nil
}

// reply appends an acknowledgement. The reason string is left out if the client does not want it or cannot take it.
func (c *conn) reply(t wire.PacketType, id uint16, code wire.ReasonCode, detail string) {
	c.l.sent(t)
	if code == wire.Success || c.version != wire.V5 {
		c.link.Commit(len(wire.AppendShortAck(c.link.Reserve(4), t, id)))
		return
	}
	a := wire.Ack{PacketID: id, Reason: code}
	if code.Failed() && detail != "" && c.flags&flagProblemInfo != 0 {
		a.ReasonString = wire.View(detail)
	}
	a.Fit(c.version, c.maxPacket)
	c.link.Commit(len(wire.AppendAck(c.link.Reserve(wire.SizeAck(c.version, &a)), c.version, t, &a)))
}
