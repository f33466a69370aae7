package engine

import (
	"errors"
	"net/netip"
)

// ErrProxyTrust is why a connection was refused: on a listener for proxies, who comes from elsewhere could say to be anybody.
var ErrProxyTrust = errors.New("PROXY protocol: the address is not one of a trusted proxy")

// ErrBanned is why a connection whose client is behind a proxy was refused: ListenerOptions.Admit says so of its address.
var ErrBanned = errors.New("the address is banned")

// beginProxy waits for the header.
func (c *Conn) beginProxy() {
	c.extend().proxy = true
	c.setDeadline(c.loop.now + int64(c.lst.o.HandshakeTimeout))
}

// proxyInput takes buf[off:off+n] before anything else does, until the header is there; what stands behind it goes where it belongs.
func (c *Conn) proxyInput(buf []byte, off, n int) {
	p := c.pending()
	p.in = append(c.loop.pool.Grow(p.in, n), buf[off:off+n]...)
	h, size, err := parseProxy(p.in)
	if err != nil {
		c.loop.local.refusedProxy++
		ln := c.lst
		ln.headers.warn("connection refused: no header of the PROXY protocol", "listener", ln.o.Name, "proxy", c.peer.addrPort().String(), "err", err)
		c.shut(err)
		return
	}
	if size == 0 {
		return
	}
	in := p.in
	p.in = nil
	c.tidy()
	c.comeFrom(h)
	c.ext.proxy = false
	if *c.ext == (extension{}) {
		c.ext = nil
	}
	if !c.lst.admits(&c.peer) {
		c.loop.local.refusedBanned++
		c.loop.pool.Put(in)
		c.shut(ErrBanned)
		return
	}
	c.begin()
	// The header ended in this read, so what stands behind it fits where that was.
	k := copy(buf[off:off+n], in[size:])
	c.loop.pool.Put(in)
	if k > 0 && c.flags&flagClosed == 0 {
		c.route(buf, off, k)
	}
}

// comeFrom makes the client's address that of the connection. A client that the proxy does not name keeps the proxy's, but never one of this
// machine: it would have what clients on loopback may do.
func (c *Conn) comeFrom(h proxyHeader) {
	if h.told != (Proxied{}) {
		told := h.told
		c.extend().proxied = &told
	}
	switch {
	case h.local:
	case h.source.IsValid():
		c.peer = peerOfAddr(h.source)
	case c.peer.size == 0 || c.peer.addrPort().Addr().IsLoopback():
		c.peer = peerOfAddr(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	}
}

// trusts tells whether a is to be asked for a header. Who may connect to a Unix socket is for its directory to say.
func (ln *listener) trusts(a *peerAddr) bool {
	return a.size == 0 || ln.o.Proxy(a.addrPort().Addr())
}
