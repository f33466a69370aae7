package engine

import "errors"

type netpollConn struct{}
type netpollShared struct{}

func (*netpollShared) close()        {}
func (n *netpollConn) shut(c *Conn)  {}
func (n *netpollConn) rearm(c *Conn) {}
func (c *Conn) netpollAdd() error    { return errors.ErrUnsupported }
