package mqtt

import (
	"crypto/x509"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// meter is what a link knows of the socket beside what a conn needs.
type meter interface {
	ID() uint64
	Opened() int64
	Traffic() (in, out uint64)
	WebSocket() bool
}

var _ meter = (*engine.Conn)(nil)

// versionNames are the protocols as administrators know them.
var versionNames = map[byte]string{wire.V31: "MQTT 3.1", wire.V311: "MQTT 3.1.1", wire.V5: "MQTT 5"}

var webVersionNames = map[byte]string{wire.V31: "MQTT 3.1 over WebSocket", wire.V311: "MQTT 3.1.1 over WebSocket", wire.V5: "MQTT 5 over WebSocket"}

// protocol is what the client speaks.
func (c *conn) protocol() string {
	if m, ok := c.link.(meter); ok && m.WebSocket() {
		return webVersionNames[c.version]
	}
	return versionNames[c.version]
}

// Describe shows the connection; ok false: nobody has come in by it yet. On its loop.
func (c *conn) Describe() (info broker.ClientInfo, ok bool) {
	if c.state != stateUp {
		return info, false
	}
	info = broker.ClientInfo{ClientID: c.clientID(), Tenant: c.who.tenant, User: c.who.user, Source: c.who.source, Remote: c.link.Remote(), Listener: c.link.Listener(),
		Protocol: c.protocol(), TLS: c.link.TLS() != nil, Kept: c.flags&flagDurable != 0, QueuedBytes: c.link.Queued()}
	if c.flags&flagMounted != 0 {
		info.Prefix = c.mount()
	}
	if told := c.proxied(); told != nil {
		info.Authority, info.ProxyID = told.Authority, told.UniqueID
	}
	if m, ok := c.link.(meter); ok {
		info.Connection = m.ID()
		info.BytesIn, info.BytesOut = m.Traffic()
		info.Since = c.l.loop.NowUnixMilli() - (c.l.loop.NowMono()-m.Opened())/int64(time.Millisecond)
	}
	if c.out != nil {
		info.InFlight = c.out.flight.len()
		info.QueuedMessages = c.out.queue.count
		info.QueuedBytes += c.out.queue.bytes()
	}
	return info, true
}

// Shown is who the client is, with the certificates that it has shown, and by which listener it came; ok false: nobody has come in yet, or it is on its way
// out. On its loop.
func (c *conn) Shown() (id broker.Identity, certs []*x509.Certificate, listener string, ok bool) {
	if c.state != stateUp {
		return id, nil, "", false
	}
	return *c.identity(), c.certificates(), c.link.Listener(), true
}

// Kick ends the connection for an administrator. On its loop.
func (c *conn) Kick() { c.end(*failAdmin) }
