package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

// fetcher follows one leader in one epoch.
type fetcher struct {
	r      *Replicas
	leader link.NodeID
	epoch  record.Epoch
	moved  *marks
	room   bell // rung when a shard has moved: what was busy may go on
	ctx    context.Context
	stop   context.CancelFunc
}

func newFetcher(r *Replicas, leader link.NodeID, epoch record.Epoch) *fetcher {
	f := &fetcher{r: r, leader: leader, epoch: epoch, moved: newMarks(r.o.Shards), room: newBell()}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// run keeps a stream open until told to stop.
func (f *fetcher) run() {
	for tries := 1; f.ctx.Err() == nil; tries++ {
		began := f.r.clk.Mono()
		err := f.follow()
		switch {
		case f.ctx.Err() != nil:
			return
		case errors.Is(err, journal.ErrGone), errors.Is(err, broker.ErrDiverged):
			f.r.log.Warn("what the leader has does not go on from what this node has", "leader", f.leader, "epoch", f.epoch, "err", err)
			if f.r.o.Behind != nil {
				f.r.wg.Go(func() { f.r.o.Behind(f.leader, err) })
			}
			return
		}
		if f.r.clk.Mono()-began > time.Second {
			tries = 1
		}
		f.r.log.Debug("the leader's stream has ended", "leader", f.leader, "epoch", f.epoch, "err", err)
		_ = pace.Sleep(f.ctx, f.r.clk, again.Wait(tries))
	}
}

// stream is the follower's end of one stream.
type stream struct {
	f     *fetcher
	ended chan struct{}
	bell  bell
	mu    struct {
		sync.Mutex
		queue []link.Message // bounded by the channel's window
		err   error
		over  bool
	}
}

// Receive takes a message to be worked on.
func (s *stream) Receive(_ *link.Channel, m link.Message) {
	s.mu.Lock()
	s.mu.queue = append(s.mu.queue, m)
	s.mu.Unlock()
	s.bell.ring()
}

// Closed ends it.
func (s *stream) Closed(_ *link.Channel, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.err = err
	if !s.mu.over {
		s.mu.over = true
		close(s.ended)
	}
}

func (s *stream) take() (m link.Message, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.queue) == 0 {
		return m, false
	}
	m = s.mu.queue[0]
	s.mu.queue = s.mu.queue[:copy(s.mu.queue, s.mu.queue[1:])]
	return m, true
}

// next waits for a message.
func (s *stream) next(ctx context.Context) (link.Message, error) {
	for {
		if m, ok := s.take(); ok {
			return m, nil
		}
		select {
		case <-s.bell:
		case <-ctx.Done():
			s.mu.Lock()
			err := s.mu.err
			s.mu.Unlock()
			return link.Message{}, errors.Join(link.ErrEnded, err)
		}
	}
}

// release lets go of what is left.
func (s *stream) release() {
	for {
		m, ok := s.take()
		if !ok {
			return
		}
		m.Release()
	}
}

// follow opens a stream and works on what comes, until it ends.
func (f *fetcher) follow() error {
	s := &stream{f: f, ended: make(chan struct{}), bell: newBell()}
	ch, err := f.r.o.Mesh.Open(f.leader, link.KindReplication, appendHead(nil, f.epoch), s)
	if err != nil {
		return err
	}
	ctx, cancel := within(f.ctx, s.ended)
	var acks sync.WaitGroup
	defer func() {
		cancel()
		ch.Abort("the stream is over")
		<-s.ended
		acks.Wait()
		s.release()
	}()
	if err := f.begin(ctx, ch, s); err != nil {
		return err
	}
	for i := range f.r.o.Shards {
		f.moved.mark(record.ShardID(i))
	}
	acks.Go(func() { f.acknowledge(ctx, ch) })
	for {
		m, err := s.next(ctx)
		if err != nil {
			return err
		}
		err = f.work(ctx, m.Bytes())
		m.Release()
		if err != nil {
			return err
		}
	}
}

// begin hears the leader's history, takes back what is not in it, and asks for what comes behind.
func (f *fetcher) begin(ctx context.Context, ch *link.Channel, s *stream) error {
	m, err := s.next(ctx)
	if err != nil {
		return err
	}
	b := m.Bytes()
	if len(b) == 0 || b[0] != msgHistory {
		m.Release()
		return errMessage
	}
	list, err := decodeHistories(b[1:], f.r.o.Shards)
	m.Release()
	if err != nil {
		return err
	}
	type answer struct {
		shard int
		from  uint64
		err   error
	}
	answers := make(chan answer, len(list))
	for i := range list {
		f.r.o.Core.FollowLeader(record.ShardID(i), f.epoch, list[i].epochs, list[i].end, func(from uint64, err error) { answers <- answer{i, from, err} })
	}
	from := make([]uint64, len(list))
	for range list {
		select {
		case a := <-answers:
			if a.err != nil {
				return fmt.Errorf("shard %d: %w", a.shard, a.err)
			}
			from[a.shard] = a.from
		case <-ctx.Done():
			return link.ErrEnded
		}
	}
	msg := []byte{msgFrom}
	for _, n := range from {
		msg = binary.AppendUvarint(msg, n)
	}
	return ch.Send(msg)
}

// work does what a message says.
func (f *fetcher) work(ctx context.Context, b []byte) error {
	if len(b) == 0 {
		return errMessage
	}
	switch b[0] {
	case msgFrames:
		return f.frames(ctx, b[1:])
	case msgWatermarks:
		return eachPair(b[1:], f.r.o.Shards, func(shard record.ShardID, index uint64) {
			_ = f.r.o.Core.Watermark(shard, f.epoch, index) // a role that has changed ends the stream
		})
	case msgGone:
		return fmt.Errorf("the leader: %w", journal.ErrGone)
	}
	return errMessage
}

// frames hands frames on, those of a shard that lie together at once.
func (f *fetcher) frames(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		first, n, err := record.ViewFrame(b)
		if err != nil {
			return err
		}
		for n < len(b) {
			next, size, err := record.ViewFrame(b[n:])
			if err != nil {
				return err
			}
			if next.Shard != first.Shard {
				break
			}
			n += size
		}
		if err := f.give(ctx, first.Shard, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// busyWait is how long a shard that has no room is left alone if nothing is heard of it.
const busyWait = 20 * time.Millisecond

// give waits until the shard takes its frames. Those that it has by then it passes over.
func (f *fetcher) give(ctx context.Context, shard record.ShardID, frames []byte) error {
	for {
		err := f.r.o.Core.Follow(shard, f.epoch, frames)
		if !errors.Is(err, broker.ErrBusy) {
			return err
		}
		over := make(chan struct{})
		t := f.r.clk.AfterFunc(busyWait, func() { close(over) })
		select {
		case <-f.room:
		case <-over:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return link.ErrEnded
		}
	}
}

// acknowledge tells the leader how far the log is, in one message for all shards that have moved.
func (f *fetcher) acknowledge(ctx context.Context, ch *link.Channel) {
	acked := make([]uint64, f.r.o.Shards)
	var msg []byte
	for {
		msg = append(msg[:0], msgAcks)
		f.moved.take(func(shard record.ShardID) {
			st := f.r.o.Core.Replica(shard)
			if st.Role == broker.RoleFollower && st.Synced && st.Epoch == f.epoch && st.Durable > acked[shard] {
				acked[shard] = st.Durable
				msg = appendPair(msg, shard, st.Durable)
			}
		})
		if len(msg) > 1 && ch.Send(msg) != nil {
			return
		}
		select {
		case <-f.moved.bell:
		case <-ctx.Done():
			return
		}
	}
}
