package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// kafkaFrameMax bounds a response: more than any broker sends to what the generator asks.
const kafkaFrameMax = 512 << 20

// kafkaRole is what a connection to a Kafka broker is for. It is called on the connection's loop.
type kafkaRole interface {
	// ready: the connection stands, logged in.
	ready()
	// answer takes a response from its correlation id on, which is valid until answer returns.
	answer(b []byte) error
	// lost: the connection has ended, or could not be had. It tells whether the role does without it.
	lost(err error) bool
}

// kafkaTurn is who has connections to a Kafka broker. It is called on its loop.
type kafkaTurn interface {
	// turn is called once in each turn of the loop.
	turn()
	// next says when it wants to be called again, in ns of the run's clock, if nothing happens.
	next() int64
}

// complaintError is what is wrong with an answer: that is never what a node that ends has done.
type complaintError struct{ err error }

// Error says what is wrong.
func (c *complaintError) Error() string { return c.err.Error() }

// Unwrap gives the error inside.
func (c *complaintError) Unwrap() error { return c.err }

func complains(err error) bool {
	var c *complaintError
	return errors.As(err, &c)
}

// kconn is what a conn has if it speaks Kafka's protocol.
type kconn struct {
	c      *conn
	role   kafkaRole
	login  [][]byte // requests that must be answered before the connection is ready
	logins int      // of them, those sent
	buf    []byte   // what was read: buf[:have]
	have   int
	corr   int32
}

// newKafkaConn makes a connection to a node, of a client that is called name.
func (r *kafkaRun) newKafkaConn(l *loop, name string, node int32, role kafkaRole) *conn {
	c := &conn{l: l, fd: -1, clientID: name, host: r.target.Host}
	if r.several() {
		n := r.nodes.table.Load().nodes[node]
		c.at, c.host = &n.at, n.target.Host
	}
	c.kafka = &kconn{c: c, role: role}
	if cfg := &r.cfg; cfg.Username != "" {
		f := kmsg.NewRequestFormatter(kmsg.FormatterClientID(r.clientID))
		h := kmsg.NewPtrSASLHandshakeRequest()
		h.Version, h.Mechanism = 1, "PLAIN"
		a := kmsg.NewPtrSASLAuthenticateRequest()
		a.Version, a.SASLAuthBytes = 1, plainToken(cfg)
		c.kafka.login = [][]byte{f.AppendRequest(nil, h, 1), f.AppendRequest(nil, a, 2)}
	}
	return c
}

var (
	errNotStanding = errors.New("the connection does not come to stand")
	errOverdue     = errors.New("no answer, and another node leads")
)

// tooLate gives up a connection that does not come to stand. A TLS handshake has a deadline of its own.
func (c *conn) tooLate() {
	if c.fd >= 0 && c.layer == nil && c.l.now-c.dialedAt > redialAfter {
		c.down(errNotStanding)
	}
}

// opened logs in, or is ready at once.
func (k *kconn) opened() {
	if k.logins < len(k.login) {
		k.c.phase = phaseConnack
		k.c.write(append(k.c.buffer(), k.login[k.logins]...))
		k.logins++
		return
	}
	k.c.l.stats.connect(k.c.l.now - k.c.dialedAt)
	k.c.l.stats.tally.connects++
	k.c.becomeReady()
	k.role.ready()
}

// readable reads once, straight to where a large response is to lie.
func (k *kconn) readable() {
	k.reserve(readBufferBytes)
	n, err := sysRead(k.c.fd, k.buf[k.have:])
	if errors.Is(err, errBlocked) {
		return
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	l := k.c.l
	l.now = l.run.clock()
	if err != nil {
		k.c.down(fmt.Errorf("the broker ended the connection: %w", err))
		return
	}
	l.stats.tally.wireOut += uint64(n)
	k.have += n
	if err := k.process(); err != nil && k.c.fd >= 0 {
		k.c.down(err)
	}
}

// reserve makes room for n more bytes.
func (k *kconn) reserve(n int) {
	if len(k.buf)-k.have < n {
		b := make([]byte, max(k.have+n, 2*len(k.buf)))
		copy(b, k.buf[:k.have])
		k.buf = b
	}
}

// input takes bytes that came through TLS.
func (k *kconn) input(b []byte) error {
	k.reserve(len(b))
	k.have += copy(k.buf[k.have:], b)
	return k.process()
}

// process passes on the whole responses in the buffer, and keeps the rest.
func (k *kconn) process() error {
	at := 0
	for k.have-at >= 4 && k.c.fd >= 0 {
		size := int(int32(binary.BigEndian.Uint32(k.buf[at:])))
		if size < 4 || size > kafkaFrameMax {
			return fmt.Errorf("the broker announces an answer of %d bytes", size)
		}
		if k.have-at < 4+size {
			if at > 0 {
				k.have = copy(k.buf, k.buf[at:k.have])
			}
			k.reserve(4 + size - k.have)
			return nil
		}
		if err := k.response(k.buf[at+4 : at+4+size]); err != nil {
			return err
		}
		at += 4 + size
	}
	k.have = copy(k.buf, k.buf[at:k.have])
	return nil
}

func (k *kconn) response(b []byte) error {
	if k.c.phase == phaseReady {
		if err := k.role.answer(b); err != nil {
			return &complaintError{err}
		}
		return nil
	}
	in := kreader{b: b} // both answers of the login begin alike
	in.i32()
	code := in.i16()
	if in.bad {
		return &complaintError{errMalformed}
	}
	if code != 0 {
		return &complaintError{fmt.Errorf("the broker refuses the login: %v", wire.ErrorCode(code))}
	}
	k.opened()
	return nil
}

// begin appends the head of a request; finish sets its size.
func (k *kconn) begin(dst []byte, key wire.APIKey, version int16) []byte {
	k.corr++
	k.c.l.stats.tally.requests++
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(key))
	dst = binary.BigEndian.AppendUint16(dst, uint16(version))
	dst = binary.BigEndian.AppendUint32(dst, uint32(k.corr))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(k.c.clientID)))
	dst = append(dst, k.c.clientID...)
	return append(dst, 0) // no tagged fields
}

func (k *kconn) finish(dst []byte, start int) []byte {
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}

// compactLen appends a length as flexible versions write it.
func compactLen(dst []byte, n int) []byte { return binary.AppendUvarint(dst, uint64(n)+1) }

func compactString(dst []byte, s string) []byte { return append(compactLen(dst, len(s)), s...) }

// kreader reads a response. After anything that does not fit, bad is set and all reads give zero.
type kreader struct {
	b   []byte
	bad bool
}

func (r *kreader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *kreader) i16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *kreader) i32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *kreader) i64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// size reads a compact length; -1 is null.
func (r *kreader) size() int {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > 1<<31 {
		r.bad, r.b = true, nil
		return -1
	}
	r.b = r.b[n:]
	return int(v) - 1
}

// count reads the length of an array whose elements take at least each bytes: an announced one that cannot be there is bad.
func (r *kreader) count(each int) int {
	n := max(r.size(), 0)
	if n > len(r.b)/each {
		r.bad, r.b = true, nil
		return 0
	}
	return n
}

func (r *kreader) bytes() []byte {
	if n := r.size(); n > 0 {
		return r.take(n)
	}
	return nil
}

// tags passes over tagged fields.
func (r *kreader) tags() {
	n, w := binary.Uvarint(r.b)
	if w <= 0 {
		r.bad, r.b = true, nil
		return
	}
	for r.b = r.b[w:]; n > 0 && !r.bad; n-- {
		if _, w = binary.Uvarint(r.b); w <= 0 {
			r.bad, r.b = true, nil
			return
		}
		r.b = r.b[w:]
		size, w := binary.Uvarint(r.b)
		if w <= 0 || size > uint64(len(r.b)-w) {
			r.bad, r.b = true, nil
			return
		}
		r.b = r.b[w+int(size):]
	}
}
