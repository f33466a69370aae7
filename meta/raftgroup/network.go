package raftgroup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Network opens streams of bytes between nodes, and knows nothing of what they carry. A stream keeps the order of its bytes, holds its writer
// back when its reader does not come along, and says who is at the other end by the means of the network alone (certificates): what a node
// calls itself is said and checked on the stream. Implementations are safe for concurrent use.
type Network interface {
	// Open opens a stream to the node at an address, HOST:PORT.
	Open(ctx context.Context, address string) (net.Conn, error)
	// Serve has accept called with each stream that another node opens, on a goroutine of its own, until Close; accept closes the stream.
	// It is called once.
	Serve(accept func(net.Conn))
	// Close ends it, and returns when accept does not run any more. Streams that are open are closed.
	Close() error
}

// purpose says what a stream is for.
type purpose uint8

const (
	forMessages purpose = 1 // of Raft, one way
	forImage    purpose = 2 // parts of a snapshot, one way
	forJoin     purpose = 3 // one question and its answer
)

// Bounds of streams.
const (
	greetingMax   = 1 << 10
	joinMax       = 512 << 10 // an answer has all nodes
	messagesMax   = 80 << 20  // Dragonboat's own bound of a batch is 64 MiB
	chunkMax      = 4 << 20   // Dragonboat's are 2 MiB
	frameAhead    = 1 << 20   // what is made room for before it has come
	streamTimeout = 10 * time.Second
)

const (
	greetingMagic   = "SLRG"
	greetingVersion = 1
)

// greeting is what who opens a stream says first.
type greeting struct {
	purpose purpose
	cluster string // empty: not known yet, to join
	from    uint64 // the opener
	to      uint64 // who it takes the other for; 0: whoever
	replica uint64 // the opener's copy of the catalog
	level   uint64 // the highest feature level of its program
	disk    string
	address string // where the opener is reached
}

func (g *greeting) append(b []byte) []byte {
	b = append(append(b, greetingMagic...), greetingVersion, byte(g.purpose))
	for _, v := range []uint64{g.from, g.to, g.replica, g.level} {
		b = binary.AppendUvarint(b, v)
	}
	for _, s := range []string{g.cluster, g.disk, g.address} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

var errGreeting = errors.New("raftgroup: who opened the stream is no node of Sluice")

func (g *greeting) decode(b []byte) error {
	if len(b) < len(greetingMagic)+2 || string(b[:len(greetingMagic)]) != greetingMagic {
		return errGreeting
	}
	b = b[len(greetingMagic):]
	if b[0] != greetingVersion {
		return fmt.Errorf("raftgroup: the other node greets in version %d, this one in %d", b[0], greetingVersion)
	}
	g.purpose = purpose(b[1])
	r := reader{b: b[2:]}
	for _, v := range []*uint64{&g.from, &g.to, &g.replica, &g.level} {
		*v = r.uvarint()
	}
	for _, s := range []*string{&g.cluster, &g.disk, &g.address} {
		*s = r.string(greetingMax)
	}
	if r.bad || len(r.b) > 0 {
		return errGreeting
	}
	return nil
}

// Refusals of a stream, by code on the wire. A code that is not here is a refusal without a name.
var refusals = map[byte]error{
	1: ErrOtherCluster, 2: ErrOtherNode, 3: ErrRemoved, 4: ErrTooOld, 5: ErrNotAdded, 6: ErrNotNow,
}

// Errors of nodes that do not belong together.
var (
	ErrOtherCluster = errors.New("raftgroup: the node is of another cluster")
	ErrOtherNode    = errors.New("raftgroup: it is another node than the one it is taken for")
	ErrRemoved      = errors.New("raftgroup: the node was removed from the cluster, or replaced")
	ErrTooNew       = errors.New("raftgroup: the node's program is too new for the cluster")
	ErrTooOld       = errors.New("raftgroup: the node's program is too old for the cluster")
	ErrNotAdded     = errors.New("raftgroup: the node was not added to the cluster: sluice node add does")
	ErrStranger     = errors.New("raftgroup: the nodes do not take each other for nodes of one cluster") // a Network says so: another token, or TLS at one end alone
	ErrNotNow       = errors.New("raftgroup: the node cannot answer now")
)

// refusedStream is a refusal as it came, with what the other node says.
type refusedStream struct {
	err  error
	text string
}

// Error makes it an error.
func (r *refusedStream) Error() string { return r.text }

// Unwrap gives the refusal's name.
func (r *refusedStream) Unwrap() error { return r.err }

// answer is what who accepted a stream says first: code 0 and nothing, or what refuses it.
func answer(err error) []byte {
	if err == nil {
		return []byte{0}
	}
	code := byte(255)
	for c, known := range refusals {
		if errors.Is(err, known) {
			code = c
		}
	}
	text := err.Error()
	return append([]byte{code}, text[:min(len(text), greetingMax-1)]...)
}

func answered(b []byte) error {
	switch {
	case len(b) == 0:
		return errGreeting
	case b[0] == 0:
		return nil
	}
	err := refusals[b[0]]
	if err == nil {
		err = ErrNotNow
	}
	return &refusedStream{err, string(b[1:])}
}

// writeFrame writes one length and what it is of, by one write. buf has four bytes of room before the content.
func writeFrame(c net.Conn, buf []byte) error {
	binary.LittleEndian.PutUint32(buf, uint32(len(buf)-4))
	if err := c.SetWriteDeadline(time.Now().Add(streamTimeout)); err != nil {
		return err
	}
	_, err := c.Write(buf)
	return err
}

// readFrame reads one frame into buf, which grows as its content comes: a length alone makes no room.
func readFrame(r io.Reader, buf []byte, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return buf, err
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	if n > limit {
		return buf, fmt.Errorf("raftgroup: a frame of %d bytes on a stream; want at most %d", n, limit)
	}
	buf = buf[:0]
	for len(buf) < n {
		part := min(n-len(buf), frameAhead)
		at := len(buf)
		if cap(buf) < at+part {
			next := make([]byte, at, min(n, max(2*cap(buf), at+part)))
			copy(next, buf)
			buf = next
		}
		buf = buf[:at+part]
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			return buf, noEOF(err)
		}
	}
	return buf, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// openStream opens a stream, greets and waits for the answer.
func openStream(ctx context.Context, n Network, address string, g *greeting) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	c, err := n.Open(ctx, address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = writeFrame(c, g.append(make([]byte, 4)))
	if err == nil {
		var b []byte
		if b, err = readFrame(c, nil, greetingMax); err == nil {
			err = answered(b)
		}
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
