package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

const (
	wsHeadMax     = 8 << 10   // bytes of the upgrade request
	wsHeaderMax   = 10        // of our frames, which are not masked
	wsControlMax  = 125       // payload of a control frame
	wsFrameBytes  = 256 << 10 // a frame of ours ends when it has so much
	wsCloseLinger = 2 * time.Second
)

// CloseError is why a WebSocket connection ended, by the code of RFC 6455, section 7.4: sent by the peer, or deserved by it.
type CloseError struct {
	Code   int
	Detail string
}

// Error says it in words.
func (e *CloseError) Error() string { return fmt.Sprintf("websocket: %s (%d)", e.Detail, e.Code) }

const (
	wsNormal      = 1000
	wsProtocol    = 1002
	wsUnsupported = 1003
	wsNoStatus    = 1005
	wsBadPayload  = 1007
	wsTooBig      = 1009
)

var (
	errWSReserved     = &CloseError{wsProtocol, "reserved bits are set"}
	errWSOpcode       = &CloseError{wsProtocol, "reserved opcode"}
	errWSUnmasked     = &CloseError{wsProtocol, "frame is not masked"}
	errWSControl      = &CloseError{wsProtocol, "control frame in fragments or over 125 bytes"}
	errWSContinuation = &CloseError{wsProtocol, "continuation of no message"}
	errWSInterleaved  = &CloseError{wsProtocol, "message inside of a message"}
	errWSLength       = &CloseError{wsProtocol, "length is not in its shortest form, or too long"}
	errWSCloseCode    = &CloseError{wsProtocol, "close frame with a bad code"}
	errWSCloseText    = &CloseError{wsBadPayload, "close frame whose reason is not UTF-8"}
	errWSText         = &CloseError{wsUnsupported, "text message"}
	errWSTooBig       = &CloseError{wsTooBig, "message over the limit"}
	errWSUpgrade      = &CloseError{wsProtocol, "upgrade request refused"}
)

// wsState is the frame layer of a connection. Frames need not be complete to be read: a message's bytes go up as they come, since the
// protocols above are streams (MQTT-6.0.0-2), and a header that is cut is the only thing kept.
type wsState struct {
	subprotocol string
	message     int64  // bytes of the current message so far
	left        uint64 // bytes of the current frame that are to come
	mask        [4]byte
	header      [14]byte
	headerN     uint8
	maskAt      uint8 // bytes of the frame unmasked so far, modulo 4
	op          ws.OpCode
	fin         bool
	inFrame     bool
	inMessage   bool // a fragmented message is not at its end
	closeSent   bool
	control     []byte // payload of the current control frame
}

// beginWebSocket waits for the upgrade request.
func (c *Conn) beginWebSocket() {
	c.extend().ws = &wsState{}
	if c.lst.o.TLS == nil {
		c.setDeadline(c.loop.now + int64(c.lst.o.HandshakeTimeout))
	}
}

// wsInput takes buf[off:off+n] from the peer: the request, or frames.
func (c *Conn) wsInput(buf []byte, off, n int) {
	if c.flags&flagFramed != 0 {
		c.wsFrames(buf, off, n)
		return
	}
	p := c.pending()
	p.in = append(c.loop.pool.Grow(p.in, n), buf[off:off+n]...)
	head := bytes.Index(p.in, []byte("\r\n\r\n"))
	if head < 0 && len(p.in) <= wsHeadMax {
		return
	}
	head += 4
	if head < 4 || head > wsHeadMax {
		c.loop.local.refusedUpgrade++
		c.Write([]byte("HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
		c.CloseAfterFlush(errWSUpgrade, wsCloseLinger)
		return
	}
	in := p.in
	p.in = nil
	c.tidy()
	answer, subprotocol, err := c.upgrade(in[:head])
	c.Write(answer)
	if err != nil {
		c.loop.pool.Put(in)
		c.loop.local.refusedUpgrade++
		c.CloseAfterFlush(err, wsCloseLinger)
		return
	}
	c.ext.ws.subprotocol = subprotocol
	c.flags |= flagFramed
	if q := c.out; q != nil {
		q.open = false // the answer is no part of a frame
	}
	c.opened()
	if rest := in[head:]; len(rest) > 0 && c.flags&(flagClosed|flagClosing) == 0 {
		// At most what one read brought, so it fits where that was.
		k := copy(buf[off:], rest)
		c.loop.pool.Put(in)
		c.wsFrames(buf, off, k)
		return
	}
	c.loop.pool.Put(in)
}

// upgrade answers the request.
func (c *Conn) upgrade(head []byte) (answer []byte, subprotocol string, err error) {
	o := &c.lst.o
	asked, origin := false, true
	u := ws.Upgrader{
		Protocol: func(p []byte) bool {
			asked = true
			return slices.Contains(o.WSSubprotocols, string(p))
		},
		OnRequest: func(uri []byte) error {
			path, _, _ := bytes.Cut(uri, []byte("?"))
			if o.WSPath != "*" && string(path) != o.WSPath {
				return ws.RejectConnectionError(ws.RejectionStatus(404), ws.RejectionReason("no such path"))
			}
			return nil
		},
		OnHeader: func(key, value []byte) error {
			if len(o.WSOrigins) > 0 && bytes.EqualFold(key, []byte("Origin")) {
				origin = slices.Contains(o.WSOrigins, string(value))
			}
			return nil
		},
	}
	u.OnBeforeUpgrade = func() (ws.HandshakeHeader, error) {
		if !origin {
			return nil, ws.RejectConnectionError(ws.RejectionStatus(403), ws.RejectionReason("origin is not allowed"))
		}
		return nil, nil
	}
	rw := &requestAndAnswer{Reader: bytes.NewReader(head)}
	hs, err := u.Upgrade(rw)
	if err != nil {
		if answer = rw.Bytes(); len(answer) == 0 {
			answer = []byte(badRequest) // no HTTP at all
		}
		return answer, "", fmt.Errorf("%w: %w", errWSUpgrade, err)
	}
	if asked && hs.Protocol == "" {
		// The client would end it itself, having asked for what it did not get.
		return []byte(badRequest), "", errWSUpgrade
	}
	return rw.Bytes(), hs.Protocol, nil
}

const badRequest = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

type requestAndAnswer struct {
	*bytes.Reader
	bytes.Buffer
}

func (r *requestAndAnswer) Read(p []byte) (int, error)  { return r.Reader.Read(p) }
func (r *requestAndAnswer) Write(p []byte) (int, error) { return r.Buffer.Write(p) }

// Bytes is the answer.
func (r *requestAndAnswer) Bytes() []byte { return r.Buffer.Bytes() }

// wsFrames takes frames in any split, unmasks them in place, and delivers the bytes of their messages.
func (c *Conn) wsFrames(buf []byte, off, n int) {
	w := c.ext.ws
	from, to, end := off, off, off+n
	for from < end {
		if !w.inFrame {
			k, err := w.takeHeader(buf[from:end], c.lst.o.WSMessageMax)
			from += k
			if err != nil {
				c.deliver(buf, off, to-off)
				c.wsFail(err)
				return
			}
			if !w.inFrame {
				break // the header is cut
			}
		}
		k := int(min(w.left, uint64(end-from)))
		p := buf[from : from+k]
		w.unmask(p)
		w.left -= uint64(k)
		from += k
		if w.op >= ws.OpClose {
			w.control = append(w.control, p...)
		} else {
			to += copy(buf[to:], p)
		}
		if w.left > 0 {
			continue
		}
		w.inFrame = false
		if w.op >= ws.OpClose && !c.wsControl(buf, off, to) {
			return
		}
	}
	c.deliver(buf, off, to-off)
}

// takeHeader gathers a frame's header, and sets inFrame when it is whole. It returns how many bytes it took.
func (w *wsState) takeHeader(p []byte, messageMax int64) (took int, err *CloseError) {
	if w.headerN < 2 {
		took = copy(w.header[w.headerN:2], p)
		if w.headerN += uint8(took); w.headerN < 2 {
			return took, nil
		}
		if err := w.checkHeader(); err != nil {
			return took, err
		}
	}
	want := 6 // two, no longer length, and the mask
	switch w.header[1] & 0x7f {
	case 126:
		want += 2
	case 127:
		want += 8
	}
	k := copy(w.header[w.headerN:want], p[took:])
	took += k
	if w.headerN += uint8(k); int(w.headerN) < want {
		return took, nil
	}
	w.headerN = 0
	length := uint64(w.header[1] & 0x7f)
	at := 2
	switch length {
	case 126:
		length, at = uint64(binary.BigEndian.Uint16(w.header[2:])), 4
		if length < 126 {
			return took, errWSLength
		}
	case 127:
		length, at = binary.BigEndian.Uint64(w.header[2:]), 10
		if length < 1<<16 || length > 1<<62 {
			return took, errWSLength
		}
	}
	copy(w.mask[:], w.header[at:])
	w.left, w.maskAt, w.inFrame = length, 0, true
	w.op, w.fin = ws.OpCode(w.header[0]&0x0f), w.header[0]&0x80 != 0
	if w.op >= ws.OpClose {
		w.control = w.control[:0]
		return took, nil
	}
	w.message += int64(length)
	if w.message > messageMax {
		return took, errWSTooBig
	}
	if w.inMessage = !w.fin; w.fin {
		w.message = 0
	}
	return took, nil
}

// checkHeader judges a header by its first two bytes.
func (w *wsState) checkHeader() *CloseError {
	b0, b1 := w.header[0], w.header[1]
	op := ws.OpCode(b0 & 0x0f)
	switch {
	case b0&0x70 != 0:
		return errWSReserved
	case b1&0x80 == 0:
		return errWSUnmasked
	}
	switch op {
	case ws.OpContinuation:
		if !w.inMessage {
			return errWSContinuation
		}
	case ws.OpText, ws.OpBinary:
		if w.inMessage {
			return errWSInterleaved
		}
		if op == ws.OpText {
			return errWSText
		}
	case ws.OpClose, ws.OpPing, ws.OpPong:
		if b0&0x80 == 0 || b1&0x7f > wsControlMax {
			return errWSControl
		}
	default:
		return errWSOpcode
	}
	return nil
}

// unmask undoes the mask of the frame's next bytes.
func (w *wsState) unmask(p []byte) {
	var m [8]byte
	for i := range m {
		m[i] = w.mask[(int(w.maskAt)+i)&3]
	}
	key := binary.LittleEndian.Uint64(m[:])
	w.maskAt = uint8(int(w.maskAt)+len(p)) & 3
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^key)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= m[i]
	}
}

// wsControl acts on a control frame. False means that the rest of the input counts no more; what came before is delivered.
func (c *Conn) wsControl(buf []byte, off, to int) bool {
	w := c.ext.ws
	switch w.op {
	case ws.OpPing:
		// A peer that asks and does not read gets no more answers; it may expect one for its last ping only.
		if c.Queued() <= c.lst.o.HighWater {
			c.wsSend(ws.OpPong, w.control)
		}
		return true
	case ws.OpPong:
		return true
	default: // data
	}
	c.deliver(buf, off, to-off)
	if c.flags&(flagClosed|flagClosing) != 0 {
		return false
	}
	code, cerr := closeCode(w.control)
	switch {
	case cerr != nil:
		c.wsFail(cerr)
	case code == wsNormal || code == wsNoStatus || code == 1001:
		c.wsSendClose(wsNormal)
		c.CloseAfterFlush(io.EOF, wsCloseLinger)
	default:
		c.wsSendClose(code)
		c.CloseAfterFlush(&CloseError{code, "closed by the peer"}, wsCloseLinger)
	}
	return false
}

// closeCode is the code in a close frame.
func closeCode(p []byte) (int, *CloseError) {
	if len(p) == 0 {
		return wsNoStatus, nil
	}
	if len(p) == 1 {
		return 0, errWSCloseCode
	}
	code := int(binary.BigEndian.Uint16(p))
	known := code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006
	if !known && (code < 3000 || code > 4999) {
		return 0, errWSCloseCode
	}
	if !utf8.Valid(p[2:]) {
		return 0, errWSCloseText
	}
	return code, nil
}

// wsFail says why and closes.
func (c *Conn) wsFail(err *CloseError) {
	if c.flags&(flagClosed|flagClosing) != 0 {
		return
	}
	c.wsSendClose(err.Code)
	c.CloseAfterFlush(err, wsCloseLinger)
}

// wsSendClose queues the close frame, once.
func (c *Conn) wsSendClose(code int) {
	if c.flags&flagFramed == 0 || c.ext.ws.closeSent {
		return
	}
	c.ext.ws.closeSent = true
	c.wsSend(ws.OpClose, []byte{byte(code >> 8), byte(code)})
}

// wsSend queues a control frame between the frames of the protocol.
func (c *Conn) wsSend(op ws.OpCode, p []byte) {
	q := c.queue()
	q.seal()
	n := 2 + len(p)
	if cap(q.cur)-len(q.cur) < n {
		c.loop.nextChunk(q, n)
	}
	at := len(q.cur)
	q.cur = append(append(q.cur, 0x80|byte(op), byte(len(p))), p...)
	q.segs = append(q.segs, segment{p: q.cur[at:]})
	q.open = false
	q.size += n
	c.markDirty()
}

// beginFrame leaves room for a header in front of what the protocol writes next, and for n bytes of that.
func (q *outQueue) beginFrame(l *Loop, n int) {
	if cap(q.cur)-len(q.cur) < wsHeaderMax+n {
		l.nextChunk(q, wsHeaderMax+n)
	}
	at := len(q.cur)
	q.cur = q.cur[:at+wsHeaderMax]
	q.frameAt, q.frameSize, q.framing = len(q.segs), 0, true
	q.segs = append(q.segs, segment{p: q.cur[at:]})
	q.open = true
	q.size += wsHeaderMax
}

// seal writes the header of the frame that is open. What was left of its room is cut off in front.
func (q *outQueue) seal() {
	if !q.framing {
		return
	}
	q.framing = false
	s := &q.segs[q.frameAt]
	if q.frameSize == 0 {
		// Reserved and not committed: the header is the last segment, and goes.
		q.segs = q.segs[:q.frameAt]
		q.open = false
		q.size -= wsHeaderMax
		return
	}
	var h [wsHeaderMax]byte
	n := 2
	h[0] = 0x80 | byte(ws.OpBinary)
	switch size := q.frameSize; {
	case size < 126:
		h[1] = byte(size)
	case size < 1<<16:
		h[1], n = 126, 4
		binary.BigEndian.PutUint16(h[2:], uint16(size))
	default:
		h[1], n = 127, 10
		binary.BigEndian.PutUint64(h[2:], uint64(size))
	}
	s.p = s.p[wsHeaderMax-n:]
	copy(s.p, h[:n])
	q.size -= wsHeaderMax - n
	q.frameSize = 0
}
