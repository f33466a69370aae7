package engine

type wsState struct{ subprotocol string }

const (
	wsNormal     = 1000
	wsFrameBytes = 256 << 10
)

func (c *Conn) wsInput(buf []byte, off, n int)  {}
func (c *Conn) wsSendClose(code int)            {}
func (c *Conn) wsBeginFrame(q *outQueue, n int) {}
func (q *outQueue) seal()                       {}
func (c *Conn) beginWebSocket()                 {}
