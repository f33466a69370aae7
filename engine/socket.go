package engine

import (
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// peerAddr is a peer's address without pointers.
type peerAddr struct {
	ip   [16]byte
	zone uint32
	port uint16
	size uint8 // of ip: 4, 16, or 0 for a Unix socket
}

func peerOf(sa unix.Sockaddr) (p peerAddr) {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		copy(p.ip[:], a.Addr[:])
		p.size, p.port = 4, uint16(a.Port)
	case *unix.SockaddrInet6:
		p.ip, p.zone = a.Addr, a.ZoneId
		p.size, p.port = 16, uint16(a.Port)
	}
	return p
}

func (p *peerAddr) addr(network string) net.Addr {
	if p.size == 0 {
		return &net.UnixAddr{Net: network} // clients seldom have a name
	}
	a := &net.TCPAddr{IP: make(net.IP, p.size), Port: int(p.port)}
	copy(a.IP, p.ip[:])
	if p.zone != 0 {
		a.Zone = zoneName(int(p.zone))
	}
	return a
}

func (p *peerAddr) addrPort() netip.AddrPort {
	var a netip.Addr
	switch p.size {
	case 0:
		return netip.AddrPort{}
	case 4:
		a = netip.AddrFrom4([4]byte(p.ip[:4]))
	default:
		a = netip.AddrFrom16(p.ip).Unmap()
		if p.zone != 0 && a.Is6() {
			a = a.WithZone(zoneName(int(p.zone)))
		}
	}
	return netip.AddrPortFrom(a, p.port)
}

func zoneName(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return strconv.Itoa(index)
}

func sockLocalAddr(fd int) net.Addr {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil
	}
	if p := peerOf(sa); p.size != 0 {
		return p.addr("tcp")
	}
	return nil
}

// sockError is why a socket has failed.
func sockError(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || n == 0 {
		return syscall.ECONNRESET
	}
	return syscall.Errno(n)
}

// sockSend offers the kernel the head of q: as much as one call takes.
func (c *Conn) sockSend(q *outQueue) (n, offered int, err error) {
	if c.ext != nil && c.ext.fed != nil {
		return c.ext.fed.send(c.loop, q)
	}
	return c.fdSend(q)
}

func (c *Conn) sockClose() {
	switch {
	case c.ext == nil:
	case c.ext.np != nil:
		c.ext.np.shut(c)
		return
	case c.ext.fed != nil:
		c.ext.fed.pipe.Close()
		return
	}
	_ = unix.Close(int(c.fd))
}

func (c *Conn) sockCloseWrite() {
	if c.ext != nil && c.ext.fed != nil {
		c.ext.fed.pipe.CloseWrite()
		return
	}
	_ = unix.Shutdown(int(c.fd), unix.SHUT_WR) // it fails when the peer has reset, which is found out by reading
}

// rearm tells the transport what c waits for.
func (c *Conn) rearm() {
	if c.flags&flagClosed != 0 {
		return
	}
	switch {
	case c.ext == nil:
	case c.ext.np != nil:
		c.ext.np.rearm(c)
		return
	case c.ext.fed != nil:
		c.ext.fed.rearm(c)
		return
	}
	c.pollRearm()
}

// watch begins to tell c of events.
func (c *Conn) watch() error {
	if c.ext != nil && c.ext.fed != nil {
		return nil // who feeds it wakes the loop
	}
	if c.lst.netpoll {
		return c.netpollAdd()
	}
	return c.pollAdd()
}
