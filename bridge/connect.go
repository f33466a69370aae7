package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"syscall"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// windowOld is how many messages are under way to a broker of version 3.1.1, which cannot say how many it takes: Mosquitto takes 20, unless it
// is told otherwise, and ends the connection of whoever sends more.
const windowOld = 20

// met is a filter that nothing matches. The session here has it once the other broker has been told to forget what it knows of an earlier one: so this is known
// as long as the session is, whoever leads and whatever was killed.
const met = "$bridge/met"

// dial connects to the first address that answers.
func (b *Bridge) dial(ctx context.Context) (*side, error) {
	var errs []error
	for _, address := range b.o.Addresses {
		s, err := b.dialAddress(ctx, address)
		if err == nil {
			s.address = address
			return s, nil
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (b *Bridge) dialAddress(ctx context.Context, address string) (*side, error) {
	var secure *tls.Config
	if b.o.TLS != nil {
		var err error
		if secure, err = b.o.TLS(); err != nil {
			return nil, err
		}
	}
	k := wire.Connect{Version: b.o.Version, ClientID: []byte(b.o.ClientID), KeepAlive: uint16(b.o.KeepAlive / time.Second)}
	if b.o.User != "" {
		k.UserName, k.Password = []byte(b.o.User), []byte(b.o.Password)
	}
	// A session here that is new knows nothing of identifiers which one there may still hold: a message under one of them would be taken for
	// one that is there.
	k.CleanStart = !b.o.Node.Subscribed(b.SessionID(), met)
	if b.o.Version == wire.V5 {
		k.SessionExpiry = math.MaxUint32
		k.ReceiveMaximum, k.MaximumPacketSize = b.o.Node.Takes()
	}
	if b.o.Version != wire.V5 && k.CleanStart { // which would end the session with the connection
		c, _, err := b.connect(ctx, address, secure, k)
		if err != nil {
			return nil, err
		}
		if err := c.Disconnect(); err != nil {
			return nil, err
		}
		k.CleanStart = false
	}
	c, ack, err := b.connect(ctx, address, secure, k)
	if err != nil {
		return nil, err
	}
	return newSide("other", c, ack), nil
}

// connect makes one connection. With version 3.1.1 it says that it is a bridge: what that publishes does not come back, and the retain flag of what it gets
// is the publisher's. Who does not know this refuses it, and is asked again without.
func (b *Bridge) connect(ctx context.Context, address string, secure *tls.Config, k wire.Connect) (*mqttclient.Client, *wire.Connack, error) {
	o := mqttclient.Options{URL: address, TLS: secure, Connect: k, Timeout: b.o.Timeout}
	if k.Version == wire.V311 && !b.plain {
		o.Connect.Bridge = true
		c, ack, err := mqttclient.Connect(ctx, o)
		if err == nil {
			b.drops = 0
			return c, ack, nil
		}
		if !b.unknown(err) {
			return nil, nil, fmt.Errorf("%s: %w", address, err)
		}
		o.Connect.Bridge = false
		if c, ack, err = mqttclient.Connect(ctx, o); err == nil {
			b.plain = true
			b.log.Warn("the other broker knows no bridges: what goes out by a topic of direction both comes back", "address", address)
			return c, ack, nil
		}
		return nil, nil, fmt.Errorf("%s: %w", address, err)
	}
	c, ack, err := mqttclient.Connect(ctx, o)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", address, err)
	}
	return c, ack, nil
}

// dropsMost is after how many connections in a row that end without a word it is the bit that is taken to be why. A broker that is being restarted, or
// has no room, drops some as well.
const dropsMost = 3

// unknown says that a broker which answers so does not know the bit of bridges.
func (b *Bridge) unknown(err error) bool {
	if refused := new(mqttclient.RefusedError); errors.As(err, &refused) {
		return refused.Reason == wire.UnsupportedProtocolVersion
	}
	if dropped(err) {
		b.drops++
		return b.drops >= dropsMost
	}
	return false
}

// newSide takes what a broker says of itself.
func newSide(name string, c *mqttclient.Client, ack *wire.Connack) *side {
	s := &side{name: name, c: c, present: ack.SessionPresent, qosMax: 2, noRetain: ack.NoRetain, packetMax: ack.MaximumPacketSize}
	if ack.HasMaximumQoS {
		s.qosMax = ack.MaximumQoS
	}
	size := int(ack.ReceiveMaximum)
	if size == 0 {
		if size = math.MaxUint16; c.Version != wire.V5 {
			size = windowOld
		}
	}
	s.open.init(size)
	return s
}

// greet connects to the own node, with so many messages under way to the bridge.
func (b *Bridge) greet(window uint16) (*side, error) {
	conn, err := b.o.Node.Dial()
	if err != nil {
		return nil, fmt.Errorf("connect to the own node: %w", err)
	}
	c := mqttclient.Over(conn, wire.V5, b.o.Timeout)
	k := wire.Connect{Version: wire.V5, ClientID: []byte(b.SessionID()), SessionExpiry: math.MaxUint32, ReceiveMaximum: window}
	ack, err := c.Connect(&k)
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("connect to the own node: %w", err)
	}
	return newSide("own", c, ack), nil
}

// join opens the session here beside the one there, and subscribes on both sides.
func (b *Bridge) join(ctx context.Context, there *side) (*side, error) {
	received, known := b.o.Node.Session(b.SessionID())
	here, err := b.greet(uint16(min(there.open.size, math.MaxUint16)))
	if err != nil {
		return nil, err
	}
	if err := b.agree(ctx, here, there, received, known); err != nil {
		_ = here.c.Close()
		return nil, err
	}
	b.prepared = true
	return here, nil
}

// agree makes the two sessions fit each other. With ctx both connections end.
func (b *Bridge) agree(ctx context.Context, here, there *side, received []uint16, known bool) error {
	defer context.AfterFunc(ctx, func() {
		here.open.close()
		there.open.close()
		_ = here.c.Close()
		_ = there.c.Close()
	})()
	if here.packetMax > 0 { // what is larger has no place here
		there.c.MaxPacket = here.packetMax + headRoom
	}
	for _, id := range received {
		if there.present {
			if !here.open.take(id, false) {
				return ctx.Err()
			}
			continue
		}
		// The session there is another one: of its own under this identifier nothing has come yet.
		if err := here.c.Release(id); err != nil {
			return fmt.Errorf("release a message of a session that the other broker has lost: %w", err)
		}
	}
	// Retained messages are for a session that is new: one that was there has them.
	if err := b.subscribe(here, b.out, there.qosMax, retainedFor(there.present)); err != nil {
		return err
	}
	if err := b.meet(here); err != nil {
		return err
	}
	if there.c.Version != wire.V5 && there.present && b.subscribed {
		return nil // it would send all retained messages again
	}
	if err := b.subscribe(there, b.in, here.qosMax, retainedFor(known && here.present)); err != nil {
		return err
	}
	b.subscribed = true
	return nil
}

// meet notes in the session here that the one there belongs to it. Nothing is subscribed to there before.
func (b *Bridge) meet(here *side) error {
	if b.o.Node.Subscribed(b.SessionID(), met) {
		return nil
	}
	codes, err := here.c.Subscribe(wire.FilterRequest{Filter: []byte(met), RetainHandling: 2})
	if err == nil && codes[0].Failed() {
		err = fmt.Errorf("the subscription is refused: %v", codes[0])
	}
	if err != nil { // else the queue there would be lost with each connection
		return fmt.Errorf("note at the own broker that the other one is known: %w", err)
	}
	return nil
}

// headRoom is how much larger a message may be on one side than on the other, by its topic and properties.
const headRoom = 64 << 10

// retainedFor is how retained messages are asked for: all if the session that gets them is new, else those of subscriptions that are.
func retainedFor(present bool) byte {
	if present {
		return 1
	}
	return 0
}

// subscribeMost is how many filters one SUBSCRIBE has.
const subscribeMost = 64

func (b *Bridge) subscribe(s *side, rs routes, qosMax, retainHandling byte) error {
	list := rs.requests(min(qosMax, s.qosMax), retainHandling)
	for len(list) > 0 {
		part := list[:min(len(list), subscribeMost)]
		list = list[len(part):]
		codes, err := s.c.Subscribe(part...)
		if err != nil {
			return fmt.Errorf("subscribe at the %s broker: %w", s.name, err)
		}
		for i, code := range codes {
			if code.Failed() && i < len(part) {
				b.log.Warn("a broker refuses a subscription of the bridge", "broker", s.name, "topic", string(part[i].Filter), "err", code)
			}
		}
	}
	return nil
}

// prepare has the session here queue what is to go out, while the other broker has not been there yet.
func (b *Bridge) prepare() error {
	if len(b.out) == 0 {
		return nil
	}
	_, known := b.o.Node.Session(b.SessionID())
	if b.prepared && known { // it may have been deleted since
		return nil
	}
	here, err := b.greet(1)
	if err != nil {
		return err
	}
	// What is retained goes out when the other broker is there.
	if err := b.subscribe(here, b.out, 2, 2); err != nil {
		_ = here.c.Close()
		return err
	}
	b.prepared = true
	return here.c.Disconnect()
}

// dropped says that a broker has closed the connection without a word, as some do when they do not know the protocol level.
func dropped(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}
