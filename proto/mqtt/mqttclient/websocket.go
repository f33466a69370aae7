package mqttclient

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// WebSocket opcodes.
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xA
)

// maxUpgradeHead bounds the answer to an upgrade request.
const maxUpgradeHead = 16 << 10

var (
	errFrame  = errors.New("websocket: malformed frame")
	errMasked = errors.New("websocket: the server masks its frames")
)

// Frames decodes the frames that a WebSocket server sends, whatever pieces they come in. The zero value is ready.
type Frames struct {
	head [10]byte // of the frame under way, as far as it has come
	n    int      // bytes in head
	left uint64   // payload bytes to come
	open bool     // the frame's header is complete
	ctl  []byte   // payload of the control frame under way
}

// Feed decodes b in place and gives the data that was in it, which lies at the front of b. control is called with each
// whole control frame; its payload dies at return.
func (f *Frames) Feed(b []byte, control func(op byte, payload []byte)) ([]byte, error) {
	out := 0
	for at := 0; at < len(b) || (f.open && f.left == 0); {
		if !f.open {
			f.head[f.n] = b[at]
			f.n++
			at++
			if err := f.header(); err != nil {
				return b[:out], err
			}
			continue
		}
		take := int(min(f.left, uint64(len(b)-at)))
		if op := f.head[0] & 0x0F; op >= OpClose {
			f.ctl = append(f.ctl, b[at:at+take]...)
			if f.left == uint64(take) {
				control(op, f.ctl)
				f.ctl = f.ctl[:0]
			}
		} else {
			out += copy(b[out:], b[at:at+take])
		}
		at += take
		if f.left -= uint64(take); f.left == 0 {
			f.open, f.n = false, 0
		}
	}
	return b[:out], nil
}

// header looks whether the header is complete.
func (f *Frames) header() error {
	if f.n < 2 {
		return nil
	}
	if f.head[0]&0x70 != 0 {
		return errFrame
	}
	if f.head[1]&0x80 != 0 {
		return errMasked
	}
	size := f.head[1]
	op := f.head[0] & 0x0F
	if op == OpText || (op > OpBinary && op < OpClose) || op > OpPong || (op >= OpClose && size > 125) {
		return errFrame
	}
	switch {
	case size < 126:
		f.left = uint64(size)
	case size == 126 && f.n == 4:
		f.left = uint64(binary.BigEndian.Uint16(f.head[2:]))
	case size == 127 && f.n == 10:
		f.left = binary.BigEndian.Uint64(f.head[2:])
	default:
		return nil
	}
	f.open = true
	return nil
}

// AppendFrame appends one whole frame of a client, masked with mask.
func AppendFrame(dst []byte, op byte, payload []byte, mask uint32) []byte {
	dst = append(dst, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n <= 0xFFFF:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	dst = binary.LittleEndian.AppendUint32(dst, mask)
	from := len(dst)
	dst = append(dst, payload...)
	Mask(dst[from:], mask)
	return dst
}

// Mask applies a WebSocket mask to b.
func Mask(b []byte, mask uint32) {
	wide := uint64(mask) | uint64(mask)<<32
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(mask >> (8 * (i & 3)))
	}
}

// UpgradeRequest gives the request that opens a WebSocket for MQTT, and the Sec-WebSocket-Accept that must answer it.
func UpgradeRequest(t Target, headers ...string) (request []byte, accept string) {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", t.Path, t.Addr)
	fmt.Fprintf(&b, "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n", key)
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes(), AcceptKey(key)
}

// AcceptKey gives the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key.
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// CheckUpgrade looks for the whole answer to an upgrade request in b. n is its length, or 0 while it is not whole.
func CheckUpgrade(b []byte, accept string) (n int, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > maxUpgradeHead {
			return 0, errors.New("websocket: the answer to the upgrade has no end")
		}
		return 0, nil
	}
	lines := strings.Split(string(b[:end]), "\r\n")
	if status := strings.SplitN(lines[0], " ", 3); len(status) < 2 || status[1] != "101" {
		return 0, fmt.Errorf("websocket: the server answers %q", lines[0])
	}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Sec-WebSocket-Accept") && strings.TrimSpace(value) == accept {
			return end + 4, nil
		}
	}
	return 0, errors.New("websocket: the server's answer does not fit the key")
}

// WSConn is the MQTT byte stream over a WebSocket: each Write is one binary frame.
type WSConn struct {
	net.Conn // what carries the frames
	frames   Frames
	ready    []byte // decoded, not yet handed out
	raw      []byte
	closed   bool
}

func upgrade(ctx context.Context, conn net.Conn, t Target, headers []string) (*WSConn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
		defer func() { _ = conn.SetDeadline(time.Time{}) }()
	}
	request, accept := UpgradeRequest(t, headers...)
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	var got []byte
	part := make([]byte, 4<<10)
	for {
		n, err := conn.Read(part)
		got = append(got, part[:n]...)
		end, bad := CheckUpgrade(got, accept)
		if bad != nil {
			return nil, bad
		}
		if end > 0 {
			w := &WSConn{Conn: conn}
			return w, w.feed(got[end:])
		}
		if err != nil {
			return nil, err
		}
	}
}

// feed decodes bytes that came from the server and answers control frames.
func (w *WSConn) feed(b []byte) error {
	var answer []byte
	data, err := w.frames.Feed(b, func(op byte, payload []byte) {
		switch op {
		case OpPing:
			answer = AppendFrame(answer, OpPong, payload, 0x5A17C3D4)
		case OpClose:
			w.closed = true
			answer = AppendFrame(answer, OpClose, payload, 0x5A17C3D4)
		}
	})
	w.ready = append(w.ready, data...)
	if err == nil && answer != nil {
		if _, werr := w.Conn.Write(answer); werr != nil && !w.closed {
			err = werr
		}
	}
	return err
}

// Read gives bytes of the MQTT stream; io.EOF after the server's close frame.
func (w *WSConn) Read(b []byte) (int, error) {
	for len(w.ready) == 0 {
		if w.closed {
			return 0, io.EOF
		}
		if w.raw == nil {
			w.raw = make([]byte, 16<<10)
		}
		n, err := w.Conn.Read(w.raw)
		if ferr := w.feed(w.raw[:n]); ferr != nil {
			return 0, ferr
		}
		if err != nil && len(w.ready) == 0 {
			return 0, err
		}
	}
	n := copy(b, w.ready)
	w.ready = append(w.ready[:0], w.ready[n:]...)
	return n, nil
}

// Write sends b as one binary frame.
func (w *WSConn) Write(b []byte) (int, error) {
	if err := w.WriteFrame(OpBinary, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// WriteFrame sends one whole frame with the given opcode.
func (w *WSConn) WriteFrame(op byte, payload []byte) error {
	var mask [4]byte
	_, _ = rand.Read(mask[:])
	_, err := w.Conn.Write(AppendFrame(nil, op, payload, binary.LittleEndian.Uint32(mask[:])))
	return err
}
