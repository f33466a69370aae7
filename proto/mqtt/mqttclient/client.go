// Package mqttclient is a small blocking MQTT client for tests, for sluice pub and sub, for bridges, and for the slow paths of bench.
//
// It owns one connection and the bytes read from it, and says on the wire exactly what its caller asks for: it can also
// send what no client should (SendRaw) and see every packet that comes back (ReadPacket). It never reconnects, pings or
// acknowledges by itself unless a method says so, keeps no session, and starts no goroutine. bench has a reactor of its
// own for load; wire does the encoding.
package mqttclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// ErrTimeout says that what was waited for did not come in time; the connection can still be used.
var ErrTimeout = errors.New("mqttclient: timed out")

// Options say where to connect and how. The zero value of each field but URL works.
type Options struct {
	URL       string        // as ParseTarget takes it
	TLS       *tls.Config   // nil: the system's authorities; looked at for mqtts and wss only
	Connect   wire.Connect  // Version 0 means 5
	Timeout   time.Duration // of every exchange; 0: 10 s
	WSHeaders []string      // further request lines of a WebSocket handshake, such as "Origin: http://example.org"
}

// Client is one connection. It is not safe for concurrent use, but one goroutine may send while another one reads.
type Client struct {
	Version byte          // of the protocol, which decides how packets are read and written
	Timeout time.Duration // of every exchange
	// MaxPacket is the largest packet that is read; a larger one is an error. 0: there is no bound.
	MaxPacket uint32

	conn    net.Conn
	in      []byte // bytes that have come and are not yet a whole packet
	read    []byte
	waiting []Packet // packets that came while another one was waited for
	lastID  uint16
	readErr error // what ended the stream
}

// Packet is one packet as it came. It owns its bytes.
type Packet struct {
	wire.Header
	Raw     []byte // the whole packet; Header.Body is a view of it
	Version byte
}

// Dial opens the transport, with its TLS and WebSocket handshakes, and sends no MQTT yet.
func Dial(ctx context.Context, o Options) (*Client, error) {
	target, err := ParseTarget(o.URL)
	if err != nil {
		return nil, err
	}
	c := &Client{Version: o.Connect.Version, Timeout: o.Timeout}
	if c.Version == 0 {
		c.Version = wire.V5
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if c.conn, err = target.Dial(ctx, o.TLS, o.WSHeaders...); err != nil {
		return nil, err
	}
	return c, nil
}

// Over makes a Client of a transport that is open, with nothing of MQTT sent yet.
func Over(conn net.Conn, version byte, timeout time.Duration) *Client {
	return &Client{Version: version, Timeout: timeout, conn: conn}
}

// Connect dials, sends CONNECT and waits for CONNACK. A refusal is a *RefusedError; the connection is closed then. The
// Connack owns its bytes.
func Connect(ctx context.Context, o Options) (*Client, *wire.Connack, error) {
	c, err := Dial(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	ack, err := c.Connect(&o.Connect)
	if err != nil {
		_ = c.Close()
		return nil, ack, err
	}
	return c, ack, nil
}

// RefusedError is a CONNACK with a failure in it.
type RefusedError struct {
	Reason wire.ReasonCode
	Detail string // the server's reason string
}

// Error names the reason, and the server's own words if it sent any.
func (e *RefusedError) Error() string {
	if e.Detail != "" {
		return "the server refuses the connection: " + e.Reason.String() + ": " + e.Detail
	}
	return "the server refuses the connection: " + e.Reason.String()
}

// Connect sends k and waits for CONNACK. k.Version 0 means the client's.
func (c *Client) Connect(k *wire.Connect) (*wire.Connack, error) {
	out := *k
	if out.Version == 0 {
		out.Version = c.Version
	}
	c.Version = out.Version
	if err := c.SendRaw(wire.AppendConnect(nil, &out)); err != nil {
		return nil, fmt.Errorf("send CONNECT: %w", err)
	}
	p, err := c.ReadPacket(c.Timeout)
	if err != nil {
		return nil, fmt.Errorf("wait for CONNACK: %w", err)
	}
	if p.Type != wire.CONNACK {
		return nil, fmt.Errorf("wait for CONNACK: the server sent %v", p.Type)
	}
	ack, err := wire.DecodeConnack(p.Body, c.Version)
	if err != nil {
		return nil, err
	}
	if ack.Reason.Failed() {
		return &ack, &RefusedError{ack.Reason, string(ack.ReasonString)}
	}
	return &ack, nil
}

// Conn gives the transport: the MQTT byte stream as a connection.
func (c *Client) Conn() net.Conn { return c.conn }

// SendRaw writes b as it is.
func (c *Client) SendRaw(b []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.Timeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(b)
	return err
}

// ReadPacket gives the next packet, of whatever type, and answers nothing. ErrTimeout: none came in time, io.EOF: the
// server closed the connection in order.
func (c *Client) ReadPacket(timeout time.Duration) (Packet, error) {
	if len(c.waiting) > 0 {
		p := c.waiting[0]
		c.waiting = c.waiting[1:]
		return p, nil
	}
	return c.readPacket(time.Now().Add(timeout))
}

// Buffered tells whether ReadPacket has a whole packet, or what is wrong with it, without reading from the transport.
func (c *Client) Buffered() bool {
	if len(c.waiting) > 0 {
		return true
	}
	_, err := wire.Scan(c.in, c.MaxPacket, c.Version)
	return !errors.Is(err, wire.ErrShort)
}

func (c *Client) readPacket(deadline time.Time) (Packet, error) {
	for {
		h, err := wire.Scan(c.in, c.MaxPacket, c.Version)
		if err == nil {
			raw := append([]byte(nil), c.in[:h.Size]...)
			h.Body = raw[h.Size-len(h.Body):]
			c.in = append(c.in[:0], c.in[h.Size:]...)
			return Packet{h, raw, c.Version}, nil
		}
		if !errors.Is(err, wire.ErrShort) {
			return Packet{}, err
		}
		if c.readErr != nil {
			return Packet{}, c.readErr
		}
		if err := c.fill(deadline); err != nil {
			return Packet{}, err
		}
	}
}

// fill reads once. What ends the stream is kept, so that packets read before it are still handed out.
func (c *Client) fill(deadline time.Time) error {
	if err := c.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	if c.read == nil {
		c.read = make([]byte, 16<<10)
	}
	n, err := c.conn.Read(c.read)
	c.in = append(c.in, c.read[:n]...)
	if err == nil || n > 0 {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrTimeout
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF // a TLS peer that left without close_notify has left all the same
	}
	c.readErr = err
	return err
}

// WaitClosed reads until the server ends the connection, and returns the packets that came before that. ErrTimeout: the
// connection is still open.
func (c *Client) WaitClosed(timeout time.Duration) ([]Packet, error) {
	deadline := time.Now().Add(timeout)
	seen := c.waiting
	c.waiting = nil
	for {
		p, err := c.readPacket(deadline)
		if err != nil {
			if c.readErr != nil {
				return seen, nil
			}
			return seen, err
		}
		seen = append(seen, p)
	}
}

// Expect gives the next packet if it is of type t, and an error that tells what came if it is not.
func (c *Client) Expect(t wire.PacketType) (Packet, error) {
	p, err := c.ReadPacket(c.Timeout)
	if err != nil {
		return p, fmt.Errorf("wait for %v: %w", t, err)
	}
	if p.Type != t {
		return p, fmt.Errorf("wait for %v: the server sent %v", t, p.describe())
	}
	return p, nil
}

// await gives the next packet of type t with the given identifier. Others are kept for ReadPacket; a DISCONNECT ends it.
func (c *Client) await(t wire.PacketType, id uint16) (Packet, error) {
	deadline := time.Now().Add(c.Timeout)
	for {
		p, err := c.readPacket(deadline)
		if err != nil {
			return p, fmt.Errorf("wait for %v: %w", t, err)
		}
		if p.Type == t && (t == wire.PINGRESP || p.ID() == id) {
			return p, nil
		}
		if p.Type == wire.DISCONNECT {
			return p, fmt.Errorf("wait for %v: the server sent %s", t, p.describe())
		}
		c.waiting = append(c.waiting, p)
	}
}

// NextID gives packet identifiers in turn.
func (c *Client) NextID() uint16 {
	if c.lastID++; c.lastID == 0 {
		c.lastID = 1
	}
	return c.lastID
}

// Publish sends p and waits for all acknowledgements that its QoS has. A PacketID of 0 is chosen. The reason code is the
// last one that came; one that failed is an error too.
func (c *Client) Publish(p *wire.PublishOut) (wire.ReasonCode, error) {
	out := *p
	if out.QoS > 0 && out.PacketID == 0 {
		out.PacketID = c.NextID()
	}
	if err := c.SendRaw(wire.AppendPublish(nil, c.Version, &out)); err != nil {
		return wire.UnspecifiedError, fmt.Errorf("send PUBLISH: %w", err)
	}
	switch out.QoS {
	case 0:
		return wire.Success, nil
	case 1:
		return c.awaitAck(wire.PUBACK, out.PacketID)
	}
	if reason, err := c.awaitAck(wire.PUBREC, out.PacketID); err != nil {
		return reason, err
	}
	if err := c.SendRaw(wire.AppendShortAck(nil, wire.PUBREL, out.PacketID)); err != nil {
		return wire.UnspecifiedError, fmt.Errorf("send PUBREL: %w", err)
	}
	return c.awaitAck(wire.PUBCOMP, out.PacketID)
}

// Release sends PUBREL for an identifier that nothing is published under, and waits for the PUBCOMP, whatever it says.
func (c *Client) Release(id uint16) error {
	if err := c.SendRaw(wire.AppendShortAck(nil, wire.PUBREL, id)); err != nil {
		return fmt.Errorf("send PUBREL: %w", err)
	}
	_, err := c.await(wire.PUBCOMP, id)
	return err
}

func (c *Client) awaitAck(t wire.PacketType, id uint16) (wire.ReasonCode, error) {
	p, err := c.await(t, id)
	if err != nil {
		return wire.UnspecifiedError, err
	}
	ack, err := wire.DecodeAck(t, p.Body, c.Version)
	if err != nil {
		return wire.ReasonOf(err), err
	}
	if ack.Reason.Failed() {
		return ack.Reason, fmt.Errorf("%v: %v%s", t, ack.Reason, colon(ack.ReasonString))
	}
	return ack.Reason, nil
}

// Subscribe sends one SUBSCRIBE and waits for its SUBACK. The codes are returned as they came, failures included.
func (c *Client) Subscribe(filters ...wire.FilterRequest) ([]wire.ReasonCode, error) {
	return c.SubscribeWith(&wire.SubscribeOut{Filters: filters})
}

// SubscribeWith is Subscribe with properties. A PacketID of 0 is chosen.
func (c *Client) SubscribeWith(s *wire.SubscribeOut) ([]wire.ReasonCode, error) {
	out := *s
	if out.PacketID == 0 {
		out.PacketID = c.NextID()
	}
	if err := c.SendRaw(wire.AppendSubscribe(nil, c.Version, &out)); err != nil {
		return nil, fmt.Errorf("send SUBSCRIBE: %w", err)
	}
	p, err := c.await(wire.SUBACK, out.PacketID)
	if err != nil {
		return nil, err
	}
	ack, err := wire.DecodeSuback(p.Body, c.Version)
	return ack.Codes, err
}

// Unsubscribe sends one UNSUBSCRIBE and waits for its UNSUBACK, whose codes it returns (none before version 5).
func (c *Client) Unsubscribe(filters ...string) ([]wire.ReasonCode, error) {
	out := wire.UnsubscribeOut{PacketID: c.NextID()}
	for _, f := range filters {
		out.Filters = append(out.Filters, []byte(f))
	}
	if err := c.SendRaw(wire.AppendUnsubscribe(nil, c.Version, &out)); err != nil {
		return nil, fmt.Errorf("send UNSUBSCRIBE: %w", err)
	}
	p, err := c.await(wire.UNSUBACK, out.PacketID)
	if err != nil {
		return nil, err
	}
	ack, err := wire.DecodeUnsuback(p.Body, c.Version)
	return ack.Codes, err
}

// Receive gives the next PUBLISH and acknowledges it: PUBACK at QoS 1; at QoS 2 PUBREC, and PUBCOMP once PUBREL has come,
// which it waits for. Acknowledgements of the client's own packets that come in between are passed over. The Publish owns
// its bytes.
func (c *Client) Receive(timeout time.Duration) (wire.Publish, error) {
	deadline := time.Now().Add(timeout)
	for {
		p, err := c.ReadPacket(time.Until(deadline))
		if err != nil {
			return wire.Publish{}, err
		}
		switch p.Type {
		case wire.PUBLISH:
			m, err := wire.DecodeServerPublish(p.Flags, p.Body, c.Version)
			if err != nil {
				return m, err
			}
			return m, c.acknowledge(&m)
		case wire.DISCONNECT:
			return wire.Publish{}, fmt.Errorf("the server sent %s", p.describe())
		default: // nothing to do
		}
	}
}

func (c *Client) acknowledge(m *wire.Publish) error {
	switch m.QoS {
	case 1:
		return c.SendRaw(wire.AppendShortAck(nil, wire.PUBACK, m.PacketID))
	case 2:
		if err := c.SendRaw(wire.AppendShortAck(nil, wire.PUBREC, m.PacketID)); err != nil {
			return err
		}
		if _, err := c.await(wire.PUBREL, m.PacketID); err != nil {
			return err
		}
		return c.SendRaw(wire.AppendShortAck(nil, wire.PUBCOMP, m.PacketID))
	}
	return nil
}

// Ping sends PINGREQ and waits for PINGRESP. Since the server answers in order, it has then read all that was sent before.
func (c *Client) Ping() error {
	if err := c.SendRaw(wire.AppendPingreq(nil)); err != nil {
		return err
	}
	_, err := c.await(wire.PINGRESP, 0)
	return err
}

// Disconnect sends DISCONNECT and closes the connection.
func (c *Client) Disconnect() error { return c.DisconnectWith(&wire.Disconnect{}) }

// DisconnectWith sends d and closes the connection.
func (c *Client) DisconnectWith(d *wire.Disconnect) error {
	err := c.SendRaw(wire.AppendDisconnect(nil, c.Version, d))
	return errors.Join(err, c.Close())
}

// Close ends the connection without DISCONNECT, so that the server publishes the will.
func (c *Client) Close() error { return c.conn.Close() }

// ID gives the packet identifier that an acknowledgement carries, and a PUBLISH above QoS 0; 0 for other packets.
func (p *Packet) ID() uint16 {
	at := 0
	switch p.Type {
	case wire.PUBLISH:
		if p.Flags&0x06 == 0 || len(p.Body) < 2 {
			return 0
		}
		at = 2 + int(p.Body[0])<<8 + int(p.Body[1])
	case wire.PUBACK, wire.PUBREC, wire.PUBREL, wire.PUBCOMP, wire.SUBACK, wire.UNSUBACK:
	default:
		return 0
	}
	if len(p.Body) < at+2 {
		return 0
	}
	return uint16(p.Body[at])<<8 | uint16(p.Body[at+1])
}

// Publish decodes a PUBLISH that a server sent.
func (p *Packet) Publish() (wire.Publish, error) {
	return wire.DecodeServerPublish(p.Flags, p.Body, p.Version)
}

// Connack decodes a CONNACK.
func (p *Packet) Connack() (wire.Connack, error) { return wire.DecodeConnack(p.Body, p.Version) }

// Ack decodes a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (p *Packet) Ack() (wire.Ack, error) { return wire.DecodeAck(p.Type, p.Body, p.Version) }

// Suback decodes a SUBACK or UNSUBACK.
func (p *Packet) Suback() (wire.Suback, error) {
	if p.Type == wire.UNSUBACK {
		return wire.DecodeUnsuback(p.Body, p.Version)
	}
	return wire.DecodeSuback(p.Body, p.Version)
}

// Disconnect decodes a DISCONNECT that a server sent.
func (p *Packet) Disconnect() (wire.Disconnect, error) {
	return wire.DecodeServerDisconnect(p.Body, p.Version)
}

// describe names the packet, with the reason of a DISCONNECT.
func (p *Packet) describe() string {
	if p.Type != wire.DISCONNECT {
		return p.Type.String()
	}
	d, err := p.Disconnect()
	if err != nil {
		return "DISCONNECT: " + err.Error()
	}
	return "DISCONNECT: " + d.Reason.String() + colon(d.ReasonString)
}

func colon(s []byte) string {
	if len(s) == 0 {
		return ""
	}
	return ": " + string(s)
}
