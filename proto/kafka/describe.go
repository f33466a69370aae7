package kafka

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
)

// meter is what a link knows of the socket beside what a conn needs.
type meter interface {
	ID() uint64
	Remote() netip.AddrPort
	Opened() int64
	Traffic() (in, out uint64)
}

var _ meter = (*engine.Conn)(nil)

// errKicked ends a connection for an administrator.
var errKicked = errors.New("ended by an administrator")

// Describe shows the connection; ok false: it is on its way out. On its loop.
func (c *conn) Describe() (info broker.ClientInfo, ok bool) {
	if c.closing {
		return info, false
	}
	info = broker.ClientInfo{ClientID: c.client, Listener: c.link.Listener(), Protocol: "Kafka", TLS: c.tls, InFlight: int(c.running), QueuedBytes: c.link.Queued()}
	if c.id != nil {
		info.User, info.Source, info.Tenant = c.id.User, c.id.Source, c.id.Tenant
	}
	if m, ok := c.link.(meter); ok {
		info.Connection, info.Remote = m.ID(), m.Remote()
		info.BytesIn, info.BytesOut = m.Traffic()
		info.Since = c.l.loop.NowUnixMilli() - (c.l.loop.NowMono()-m.Opened())/int64(time.Millisecond)
	}
	return info, true
}

// Shown is who the client is, with the certificates that it has shown, and by which listener it came; ok false: nobody has come in yet, or it is on its way
// out. On its loop.
func (c *conn) Shown() (id broker.Identity, certs []*x509.Certificate, listener string, ok bool) {
	if c.closing || c.id == nil {
		return id, nil, "", false
	}
	return *c.id, c.certificates(), c.link.Listener(), true
}

// Kick ends the connection for an administrator. Kafka has no goodbye; the client may come again at once. On its loop.
func (c *conn) Kick() { c.shut(errKicked) }
