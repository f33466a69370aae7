package raftgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/sluicemq/sluice/meta"
)

// target is what Dragonboat knows a node by: its number, never its address, which may change.
func target(id meta.NodeID) string { return "n" + strconv.FormatUint(uint64(id), 10) }

func nodeOf(target string) (meta.NodeID, bool) {
	s, ok := strings.CutPrefix(target, "n")
	n, err := strconv.ParseUint(s, 10, 16)
	return meta.NodeID(n), ok && err == nil && n > 0 && "n"+strconv.FormatUint(n, 10) == target
}

// replicaOf is Dragonboat's number for a node's copy. One that was removed never comes back, so a node that lost its disk gets another.
func replicaOf(id meta.NodeID, copy uint32) uint64 { return uint64(id)<<16 | uint64(copy) }

func nodeOfReplica(replica uint64) meta.NodeID { return meta.NodeID(replica >> 16) }

// transportFactory makes Dragonboat use the group's streams.
type transportFactory struct{ g *Group }

// Create makes it a config.TransportFactory.
func (f transportFactory) Create(_ config.NodeHostConfig, messages raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	f.g.handlers.Store(&handlers{messages, chunks})
	return &transport{f.g}
}

// Validate makes it a config.TransportFactory.
func (transportFactory) Validate(s string) bool {
	_, ok := nodeOf(s)
	return ok
}

// handlers are what Dragonboat does with what comes.
type handlers struct {
	messages raftio.MessageHandler
	chunks   raftio.ChunkHandler
}

// transport is Dragonboat's way to other nodes.
type transport struct{ g *Group }

// Name makes it a raftio.ITransport.
func (*transport) Name() string { return "sluice" }

// Start makes it a raftio.ITransport. Streams are accepted once the group has started.
func (*transport) Start() error { return nil }

// Close makes it a raftio.ITransport. Nothing is handed to Dragonboat afterwards.
func (t *transport) Close() error {
	t.g.handlers.Store(nil)
	return nil
}

// GetConnection makes it a raftio.ITransport.
func (t *transport) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	c, err := t.g.stream(ctx, target, forMessages)
	if err != nil {
		return nil, err
	}
	return &sender{c: c, voice: &t.g.voice}, nil
}

// GetSnapshotConnection makes it a raftio.ITransport.
func (t *transport) GetSnapshotConnection(ctx context.Context, target string) (raftio.ISnapshotConnection, error) {
	c, err := t.g.stream(ctx, target, forImage)
	if err != nil {
		return nil, err
	}
	return &sender{c: c, voice: &t.g.voice}, nil
}

// sender is an open stream of messages, or of a snapshot. One goroutine uses it.
type sender struct {
	c     net.Conn
	voice *voice
	buf   []byte
}

// Close makes it a raftio.IConnection.
func (s *sender) Close() { _ = s.c.Close() }

// sendKeep is how large a buffer a stream keeps.
const sendKeep = 256 << 10

func (s *sender) send(size int, marshal func([]byte) (int, error), limit int) error {
	if size > limit {
		return fmt.Errorf("raftgroup: %d bytes for one frame of a stream; it takes at most %d", size, limit)
	}
	if cap(s.buf) < size+4 {
		s.buf = make([]byte, size+4)
	}
	b := s.buf[:size+4]
	if cap(s.buf) > sendKeep {
		s.buf = nil
	}
	n, err := marshal(b[4:])
	if err != nil {
		return err
	}
	return writeFrame(s.c, b[:4+n])
}

// SendMessageBatch makes it a raftio.IConnection.
func (s *sender) SendMessageBatch(batch raftpb.MessageBatch) error {
	if batch.Requests = s.voice.said(batch.Requests); len(batch.Requests) == 0 {
		return nil
	}
	return s.send(batch.SizeUpperLimit(), batch.MarshalTo, messagesMax)
}

// SendChunk makes it a raftio.ISnapshotConnection.
func (s *sender) SendChunk(chunk raftpb.Chunk) error {
	return s.send(chunk.Size(), chunk.MarshalTo, chunkMax)
}

// stream opens a stream to a node and greets it.
func (g *Group) stream(ctx context.Context, target string, p purpose) (net.Conn, error) {
	id, ok := nodeOf(target)
	if !ok {
		return nil, fmt.Errorf("raftgroup: %q is no node", target)
	}
	address := g.addressOf(id)
	if address == "" {
		return nil, fmt.Errorf("raftgroup: node %d has no address that is known here", id)
	}
	hello := g.greeting(p, id)
	c, err := openStream(ctx, g.o.Network, address, &hello)
	if err != nil {
		g.refused(id, err)
		return nil, fmt.Errorf("raftgroup: node %d at %s: %w", id, address, err)
	}
	return c, nil
}

// accept serves one stream that another node has opened.
func (g *Group) accept(c net.Conn) {
	defer c.Close()
	if c.SetDeadline(time.Now().Add(streamTimeout)) != nil {
		return
	}
	b, err := readFrame(c, nil, greetingMax)
	if err != nil {
		return
	}
	var hello greeting
	if err = hello.decode(b); err == nil {
		err = g.admit(&hello)
	}
	if writeFrame(c, append(make([]byte, 4), answer(err)...)) != nil || err != nil {
		if err != nil {
			g.complain("a node was refused", "from", hello.from, "address", c.RemoteAddr().String(), "err", err)
		}
		return
	}
	if hello.purpose == forJoin {
		g.answerJoin(c, &hello)
		return
	}
	g.heard(&hello)
	if c.SetDeadline(time.Time{}) != nil {
		return
	}
	if err := g.receive(c, hello.purpose); err != nil && !errors.Is(err, net.ErrClosed) {
		g.o.Logger.Debug("a stream of another node ended", "from", hello.from, "err", err)
	}
}

// receive hands what comes to Dragonboat, which takes copies.
func (g *Group) receive(c net.Conn, p purpose) error {
	r := bufio.NewReaderSize(c, 64<<10)
	limit := messagesMax
	if p == forImage {
		limit = chunkMax
	}
	var buf []byte
	for {
		var err error
		if buf, err = readFrame(r, buf, limit); err != nil {
			return err
		}
		h := g.handlers.Load()
		if h == nil {
			return net.ErrClosed
		}
		if p == forImage {
			var chunk raftpb.Chunk
			if err := chunk.Unmarshal(buf); err != nil {
				return err
			}
			if !h.chunks(chunk) {
				return errors.New("raftgroup: a part of a snapshot does not fit")
			}
			continue
		}
		var batch raftpb.MessageBatch
		if err := batch.Unmarshal(buf); err != nil {
			return err
		}
		if batch.Requests = g.voice.heard(batch.Requests); len(batch.Requests) > 0 {
			h.messages(batch)
		}
		if cap(buf) > sendKeep {
			buf = nil
		}
	}
}
