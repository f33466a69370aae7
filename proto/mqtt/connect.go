package mqtt

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// setup is what a connection needs between CONNECT and CONNACK.
type setup struct {
	creds     broker.Credentials // copies: the packet may be gone when it is looked at
	will      *broker.Will
	clean     bool
	assigned  bool
	wantsInfo bool
	keepAlive uint16
	told      uint16 // the keep-alive that the client has to be told; 0: its own
	asked     uint32 // session expiry in seconds
	aliasMax  uint16
	proof     []byte // the server's last word of an enhanced authentication
}

// setupsKept is how many of them a loop keeps for the next ones.
const setupsKept = 64

func (l *loopState) newSetup() *setup {
	n := len(l.setups)
	if n == 0 {
		return &setup{}
	}
	st := l.setups[n-1]
	l.setups = l.setups[:n-1]
	return st
}

// dropSetup ends what was needed until CONNACK.
func (c *conn) dropSetup() {
	if st := c.setup; st != nil {
		c.setup = nil
		c.l.freeSetup(st)
	}
}

func (l *loopState) freeSetup(st *setup) {
	*st = setup{}
	if len(l.setups) < setupsKept {
		l.setups = append(l.setups, st)
	}
}

// neverExpires is the session expiry in seconds that stands for never.
const neverExpires = 1<<32 - 1

// insider says that the client is one of the node's own.
func (c *conn) insider(s *Settings) bool { return s.Insiders != "" && c.link.Listener() == s.Insiders }

// expiry is the session expiry for so many seconds, within the limit. The node's own have none: what a bridge's session holds is not lost by a long outage.
func (c *conn) expiry(s *Settings, sec uint32) time.Duration {
	d := time.Duration(sec) * time.Second
	if sec == neverExpires {
		d = broker.NeverExpires
	}
	if s.SessionExpiryMax > 0 && !c.insider(s) {
		d = min(d, s.SessionExpiryMax)
	}
	return d
}

// onConnect takes the first packet.
func (c *conn) onConnect(body []byte) error {
	p, err := wire.DecodeConnect(body)
	if err != nil {
		if errors.Is(err, wire.ErrProtocolName) {
			c.misbehaved(asFailure(err))
			c.shut(err)
			return nil
		}
		c.version = p.Version
		if errors.Is(err, wire.ErrUnsupportedVersion) {
			c.version = wire.V311 // a version below 5 is answered in the form that it reads
			if p.Version > wire.V5 {
				c.version = wire.V5
			}
		}
		return err
	}
	s := c.l.h.settings.Load()
	c.version = p.Version
	c.maxPacket = p.MaximumPacketSize
	c.receiveMax = 65535
	if p.ReceiveMaximum != 0 {
		c.receiveMax = p.ReceiveMaximum
	}
	c.flags |= saidFlags(&p)
	st := c.l.newSetup()
	st.clean, st.wantsInfo, st.aliasMax = p.CleanStart, p.RequestResponseInfo, p.TopicAliasMaximum
	st.creds = broker.Credentials{
		ClientID: string(p.ClientID), Username: string(p.UserName), HasUsername: p.UserName != nil,
		Remote: c.link.Remote(), PeerCertificates: c.certificates(), Listener: c.link.Listener(),
		ProxyUser: c.proxyUser(),
	}
	c.setup = st
	if f := c.judge(&p, s); f != nil {
		c.misbehaved(*f)
		c.refuse(*f)
		return nil
	}
	if f := c.l.h.draining.Load(); f != nil {
		c.refuse(*f)
		return nil
	}
	if c.l.h.pressure.Load() >= PressureRefuse {
		c.refuse(*failMemory)
		return nil
	}
	if c.l.h.quotas.Connect(c.link.Remote().Addr(), c.l.loop.NowMono()) > 0 {
		c.misbehaved(*failConnectRate)
		c.refuse(*failConnectRate)
		return nil
	}
	st.setKeepAlive(&p, s)
	switch {
	case p.Version == wire.V5:
		st.asked = p.SessionExpiry
	case !p.CleanStart:
		st.asked = s.SessionExpiryV3
	}
	if p.HasWill {
		st.will = copyWill(&p.Will)
	}
	if len(p.ClientID) == 0 {
		st.creds.ClientID, st.assigned = assignClientID(), true
	}
	c.verify(&p)
	return nil
}

// saidFlags are those that a CONNECT sets.
func saidFlags(p *wire.Connect) (f connFlags) {
	if !p.NoProblemInfo {
		f |= flagProblemInfo
	}
	if p.Bridge {
		f |= flagBridge
	}
	return f
}

// judge looks for what makes a CONNECT unacceptable whoever sends it. The will has the topic that rules made of its own then.
func (c *conn) judge(p *wire.Connect, s *Settings) *failure {
	if p.AuthMethod != nil && !c.l.h.offers(p.AuthMethod) {
		return failAuthMethod
	}
	if len(p.ClientID) == 0 && (p.Version == wire.V31 || p.Version == wire.V311 && !p.CleanStart) {
		return failClientIDEmpty
	}
	if s.ClientIDMax > 0 && len(p.ClientID) > s.ClientIDMax {
		return failClientIDLong
	}
	if p.HasWill {
		if s.Rewrite != nil {
			p.Will.Topic = c.rewriteTopic(s, p.Will.Topic)
		}
		return judgeWill(&p.Will, s)
	}
	return nil
}

// setKeepAlive decides how long the client may be silent.
func (st *setup) setKeepAlive(p *wire.Connect, s *Settings) {
	st.keepAlive = p.KeepAlive
	if p.Version != wire.V5 {
		return
	}
	if s.ServerKeepAlive != 0 {
		st.keepAlive = s.ServerKeepAlive
	} else if s.KeepAliveMax != 0 && (p.KeepAlive == 0 || p.KeepAlive > s.KeepAliveMax) {
		st.keepAlive = s.KeepAliveMax
	}
	if st.keepAlive != p.KeepAlive {
		st.told = st.keepAlive
	}
}

// assignClientID makes an identifier that nobody can guess.
func assignClientID() string {
	var b [15]byte
	_, _ = rand.Read(b[:]) // never fails: the runtime ends the process first
	return "sluice-" + base32.StdEncoding.EncodeToString(b[:])
}

// admit goes on with a verified client: the will is judged by the rules, and the core opens the session.
func (c *conn) admit(id broker.Identity) {
	st := c.setup
	c.vouch(&id)
	s := c.l.h.settings.Load()
	f := c.enterTenant()
	if f == nil {
		f = c.mountSet(s, &id)
	}
	if f == nil && st.will != nil {
		f = c.mountWill(st.will)
	}
	if f != nil {
		c.misbehaved(*f)
		c.refuse(*f)
		return
	}
	if st.will != nil {
		if f := c.judgeWillTopic(st.will.Topic); f != nil {
			c.misbehaved(*f)
			c.refuse(*f)
			return
		}
	}
	if st.will != nil {
		c.applyWillRules(s, st.will)
	}
	req := &c.l.connect // the core keeps a copy if it needs one
	*req = broker.ConnectRequest{
		Tenant: id.Tenant, ClientID: st.creds.ClientID, CleanStart: st.clean, Expiry: c.expiry(s, st.asked), Will: st.will,
		ReceiveMax: min(c.receiveMax, s.InflightMax),
	}
	if st.asked != 0 {
		c.flags |= flagExpirySet
	}
	c.state = stateConnecting
	c.client = c.l.core.NewClient(c)
	c.l.core.Connect(c.client, req)
	if c.state == stateConnecting {
		c.block(blockConnect)
	}
}

// vouch takes over who the client is, and until when that holds.
func (c *conn) vouch(id *broker.Identity) {
	c.who = c.l.principal(id)
	if id.Expires != 0 {
		c.extras().expires = max(c.l.loop.NowMono()+(id.Expires-c.l.loop.NowUnixMilli())*int64(time.Millisecond), 1)
	} else if c.extra != nil {
		c.extra.expires = 0
	}
}

// Connected answers the CONNECT with what the core says.
func (c *conn) Connected(r broker.ConnectResult) {
	if c.state != stateConnecting {
		return
	}
	if r.Err != nil {
		f := connectFailure(r.Err)
		if errors.Is(r.Err, broker.ErrTakenOver) {
			c.shut(failTakenOver)
			return
		}
		c.refuse(*f)
		return
	}
	s, st := c.l.h.settings.Load(), c.setup
	c.state = stateUp
	c.setup = nil
	defer c.l.freeSetup(st)
	if c.promised = s.ReceiveMax; c.insider(s) {
		// A bridge hands on what a broker sends that cannot be told how much is taken: it must never have to hold a message back, behind which comes what
		// would make room.
		c.promised = 65535
	}
	if r.Expiry > 0 {
		c.flags |= flagDurable
	}
	c.l.n.Connected++
	c.l.n.Connects[wire.Success]++
	c.traceConnected()
	c.eventConnected(st, &r)
	c.connack(s, st, &r)
	if c.version == wire.V5 {
		c.aliasInMax, c.aliasOutMax = s.TopicAliasMax, min(st.aliasMax, s.TopicAliasMaxOut)
	}
	for _, id := range r.Received {
		c.inbound().received.put(id, receivedHeld)
	}
	c.patience = uint32(st.keepAlive) * 1500
	c.link.SetDeadline(0)
	c.touch()
	if !r.Present {
		c.beginAuto(s)
	}
	c.unblock(blockConnect)
	var f *failure
	switch {
	case c.flags&flagRecheck != 0: // everybody was looked at while its session was being opened
		c.flags &^= flagRecheck
		f = c.unwelcome()
	case r.Present && c.revoked(): // while it was away
		f = failNoLongerAllowed
	}
	if f != nil {
		c.l.put(after{c: c, fail: f})
	}
}

// connack writes the CONNACK of success: in version 5 with exactly the limits in force.
func (c *conn) connack(s *Settings, st *setup, r *broker.ConnectResult) {
	a := wire.Connack{SessionPresent: r.Present}
	if c.version == wire.V5 {
		if granted := expirySeconds(r.Expiry); granted != st.asked {
			a.HasSessionExpiry, a.SessionExpiry = true, granted
		}
		if s.MaxQoS < 2 {
			a.HasMaximumQoS, a.MaximumQoS = true, s.MaxQoS
		}
		a.NoRetain, a.NoWildcards, a.NoSubscriptionIDs, a.NoShared = !s.Retain, !s.Wildcards, !s.SubscriptionIDs, !s.Shared
		if c.promised < 65535 {
			a.ReceiveMaximum = c.promised
		}
		a.TopicAliasMaximum = s.TopicAliasMax
		if s.MaxPacket < maxPacketSize {
			a.MaximumPacketSize = s.MaxPacket
		}
		if st.told != 0 {
			a.HasServerKeepAlive, a.ServerKeepAlive = true, st.told
		}
		if st.assigned {
			a.AssignedClientID = wire.View(st.creds.ClientID)
		}
		if st.wantsInfo && s.ResponseInfo != "" {
			a.ResponseInfo = wire.View(s.ResponseInfo + st.creds.ClientID)
		}
		if t := c.talk(); t != nil {
			a.AuthMethod, a.AuthData = wire.View(t.method), st.proof
		}
	}
	if n := wire.SizeConnack(c.version, &a); c.maxPacket != 0 && n > int(c.maxPacket) {
		// The limits cannot be told within the client's own, and a CONNACK without them would promise too much.
		c.end(failure{wire.PacketTooLarge, "CONNACK is larger than the client takes"})
		return
	} else {
		c.link.Commit(len(wire.AppendConnack(c.link.Reserve(n), c.version, &a)))
	}
	c.l.sent(wire.CONNACK)
}

// expirySeconds is a session expiry as the wire has it.
func expirySeconds(d time.Duration) uint32 {
	if d == broker.NeverExpires {
		return neverExpires
	}
	return min(seconds(d), neverExpires-1)
}

// refuse answers a CONNECT with a failure and closes. Versions below 5 get a return code where they have one.
func (c *conn) refuse(f failure) {
	if c.state == stateClosing {
		return
	}
	if f.code == wire.ServerShuttingDown {
		f.code = wire.ServerUnavailable // CONNACK has no other word for it
	}
	c.l.n.Connects[f.code]++
	c.traceRefused(&f)
	a := wire.Connack{Reason: f.code}
	if c.version == wire.V5 {
		if c.flags&flagProblemInfo != 0 {
			a.ReasonString = wire.View(f.detail)
		}
		if s := c.l.h.settings.Load(); (f.code == wire.UseAnotherServer || f.code == wire.ServerMoved) && s.ServerReference != "" {
			a.ServerReference = wire.View(s.ServerReference)
		}
		a.Fit(c.version, c.maxPacket)
	}
	if c.answers(f.code) {
		if n := wire.SizeConnack(c.version, &a); c.maxPacket == 0 || n <= int(c.maxPacket) {
			c.link.Commit(len(wire.AppendConnack(c.link.Reserve(n), c.version, &a)))
			c.l.sent(wire.CONNACK)
		}
	}
	c.shut(&f)
}

// answers tells whether a refusal has a CONNACK: before version 5 a packet that breaks the rules has none.
func (c *conn) answers(code wire.ReasonCode) bool {
	if c.version == wire.V5 {
		return true
	}
	_, ok := code.ConnackCode()
	return ok && c.version != 0
}
