package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

// served is the leader's end of one follower's stream.
type served struct {
	r     *Replicas
	ch    *link.Channel
	epoch record.Epoch
	moved *marks
	late  atomic.Bool   // the bell will be rung for what has moved
	from  chan []uint64 // what the follower wants first, once
	ended chan struct{}

	hist []history // of the leader, in its epoch
	next []uint64  // the frames to be sent next
	told []uint64  // watermarks

	meter *pace.Meter
	hand  atomic.Int64 // bytes that are being sent
	mu    struct {
		sync.Mutex
		over     bool
		acked    []uint64
		target   []uint64 // ends of this node's log at targetAt
		targetAt time.Duration
		caughtUp time.Duration
		log      *journal.Scanner // nil: it has not begun
	}
}

// accept takes a follower's stream, in an epoch of the set.
func (r *Replicas) accept(ch *link.Channel, epoch record.Epoch) (link.Receiver, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.closed || r.mu.leading == 0 || r.mu.leading != epoch {
		return nil, fmt.Errorf("this node does not lead in epoch %d", epoch)
	}
	for i, s := range r.mu.serving {
		if s.ch.Peer() == ch.Peer() {
			s.end("another stream of the same node has come")
			r.mu.serving = append(r.mu.serving[:i:i], r.mu.serving[i+1:]...)
			break
		}
	}
	s := &served{r: r, ch: ch, epoch: epoch, moved: newMarks(r.set.Shards), from: make(chan []uint64, 1), ended: make(chan struct{}), meter: pace.NewMeter(r.clk)}
	s.mu.acked = make([]uint64, r.set.Shards)
	r.mu.serving = append(r.mu.serving, s)
	r.publishLocked()
	r.wg.Go(s.run)
	return s, nil
}

// Receive takes what the follower says.
func (s *served) Receive(ch *link.Channel, m link.Message) {
	defer m.Release()
	b := m.Bytes()
	err := errMessage
	switch {
	case len(b) > 0 && b[0] == msgFrom:
		var from []uint64
		if from, err = decodeFrom(b[1:], s.r.set.Shards); err == nil {
			select {
			case s.from <- from:
			default:
				err = errMessage // it was said already
			}
		}
	case len(b) > 0 && b[0] == msgAcks:
		err = s.acks(b[1:])
	}
	if err != nil {
		ch.Abort(err.Error())
	}
}

func (s *served) acks(b []byte) error {
	node := uint64(s.ch.Peer())
	return eachPair(b, &s.r.set, func(slot int, index uint64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.mu.over { // another stream of the node may have begun: what it acknowledges counts
			return
		}
		s.mu.acked[slot] = index
		_ = s.r.o.Core.Acked(s.r.set.shard(slot), s.epoch, node, index) // the end of the epoch ends the stream
	})
}

// Closed ends it.
func (s *served) Closed(*link.Channel, error) {
	r := s.r
	r.mu.Lock()
	for i := range r.mu.serving {
		if r.mu.serving[i] == s {
			r.mu.serving = append(r.mu.serving[:i:i], r.mu.serving[i+1:]...)
			break
		}
	}
	r.publishLocked()
	r.mu.Unlock()
	s.over()
}

func (s *served) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.over {
		s.mu.over = true
		close(s.ended)
	}
}

func (s *served) end(why string) {
	s.over()
	s.ch.Abort(why)
}

func (s *served) run() {
	err := s.serve()
	if err == nil || errors.Is(err, link.ErrEnded) || errors.Is(err, journal.ErrClosed) {
		s.end("the stream is over")
		return
	}
	s.r.log.Warn("a follower is not served any more", "node", s.ch.Peer(), "epoch", s.epoch, "err", err)
	if errors.Is(err, journal.ErrGone) {
		s.over()
		s.ch.Close() // behind the message that says so, which Abort would drop
		return
	}
	s.end(err.Error())
}

// serve sends until the stream ends.
func (s *served) serve() error {
	shards := s.r.set.Shards
	s.hist, s.told = make([]history, shards), make([]uint64, shards)
	msg := []byte{msgHistory}
	for i := range s.hist {
		// What the node has acknowledged by another stream was of another log, if its disk is a new one since.
		_ = s.r.o.Core.Acked(s.r.set.shard(i), s.epoch, uint64(s.ch.Peer()), 0)
		h := &s.hist[i]
		h.epochs, h.end = s.r.o.Core.ReplicaHistory(s.r.set.shard(i))
		msg = appendHistory(msg, h)
	}
	if err := s.ch.Send(msg); err != nil {
		return err
	}
	select {
	case s.next = <-s.from:
	case <-s.ended:
		return nil
	}
	sc, err := s.r.o.Log.Scan(s.place())
	if err != nil {
		if errors.Is(err, journal.ErrGone) {
			return errors.Join(err, s.ch.Send([]byte{msgGone}))
		}
		return err
	}
	defer sc.Close()
	sc.Ahead()
	sc.Only(s.r.set.First, s.r.set.Shards)
	s.mu.Lock()
	s.mu.log = sc
	s.mu.Unlock()
	for i := range shards {
		s.moved.mark(i)
	}
	s.moved.bell.ring()
	ctx, cancel := within(context.Background(), s.ended)
	defer cancel()
	return s.pump(ctx, sc)
}

// place is where the log has to be read from so that no shard misses anything.
func (s *served) place() (at journal.Position) {
	for i, from := range s.next {
		p := s.r.o.Log.ShardPosition(s.r.set.shard(i), from)
		if i == 0 || p.Before(at) {
			at = p
		}
	}
	return at
}

// watermarkWait is how long a high watermark that has moved waits for frames to go with. A follower's tables are behind by so much, and nobody waits for
// them; a message for itself would wake both nodes for each flush.
const watermarkWait = 5 * time.Millisecond

// movedTo notes that a shard has moved. The pump is woken for it if frames do not come first.
func (s *served) movedTo(slot int) {
	s.moved.mark(slot)
	if !s.late.Load() && s.late.CompareAndSwap(false, true) {
		s.r.clk.AfterFunc(watermarkWait, func() {
			s.late.Store(false)
			s.moved.bell.ring()
		})
	}
}

// pump sends frames as the log has them, and watermarks with them.
func (s *served) pump(ctx context.Context, sc *journal.Scanner) error {
	for ctx.Err() == nil {
		group, _, err := sc.Next()
		switch {
		case errors.Is(err, journal.ErrGone):
			return errors.Join(err, s.ch.Send([]byte{msgGone}))
		case err != nil:
			return err
		case len(group) > 0:
			s.hand.Store(int64(len(group)))
			if err := s.send(ctx, group); err != nil {
				return err
			}
			s.hand.Store(0)
			continue
		}
		select {
		case <-sc.Ready():
			continue
		case <-s.moved.bell:
		case <-ctx.Done():
		}
		if err := s.watermarks(s.ch.Send); err != nil {
			return err
		}
	}
	return nil
}

// progress measures how far the stream is.
func (s *served) progress(sc *journal.Scanner) pace.Progress {
	hand := s.hand.Load()
	at, passed := sc.Position()
	s.meter.See(passed-hand, passed+s.r.o.Log.SizeFrom(at))
	return s.meter.Progress()
}

// along sends a message with the frames that come next.
func (s *served) along(msg []byte) error {
	err := s.ch.Queue(msg)
	if errors.Is(err, link.ErrBusy) {
		return s.ch.Send(msg)
	}
	return err
}

// send sends what the follower is to have of a group, in messages of about framesBytes, and the watermarks that have moved with it. If there is nothing of the
// group to be sent, they wait for the bell: what is queued along with nothing would wait for what comes next to the node, whenever that is.
func (s *served) send(ctx context.Context, group []byte) error {
	for len(group) > 0 {
		first, err := record.FrameSize(group)
		if err != nil {
			return err
		}
		most, paced := framesBytes, s.paced()
		if paced {
			most = s.r.o.Pace.Step(most)
		}
		block := alloc.NewBlock(1 + min(len(group), max(most, first)))
		out := append(block.Bytes()[:0], msgFrames)
		if out, group, err = s.add(out, group); err != nil || len(out) == 1 {
			block.Release()
			if err != nil {
				return err
			}
			continue
		}
		if paced {
			if s.r.o.Pace.Wait(ctx, len(out)) != nil { // the stream is over
				block.Release()
				return link.ErrEnded
			}
		}
		if err := s.watermarks(s.along); err != nil {
			block.Release()
			return err
		}
		if err := s.ch.SendRefWait(block, out); err != nil {
			block.Release()
			return err
		}
	}
	return nil
}

// add takes a group's frames that the follower is to have, as many as out has room for, and gives the rest. What a truncation has taken back is in the
// log as well: its epoch is another one's.
func (s *served) add(out, group []byte) (_, rest []byte, err error) {
	for len(group) > 0 {
		f, size, err := record.ViewFrame(group)
		if err != nil {
			return out, nil, err
		}
		if size > cap(out)-len(out) {
			break
		}
		frame := group[:size]
		group = group[size:]
		slot, ok := s.r.set.slot(uint64(f.Shard))
		if f.Kind != record.KindRecords && f.Kind != record.KindCommand || !ok || f.Index < s.next[slot] {
			continue
		}
		h := &s.hist[slot]
		if f.Epoch != s.epoch && f.Epoch != epochAt(h.epochs, f.Index) {
			continue
		}
		if f.Index != s.next[slot] {
			return out, nil, errors.Join(fmt.Errorf("shard %d: the log goes on with frame %d, %d is asked for: %w", f.Shard, f.Index, s.next[slot], journal.ErrGone), s.ch.Send([]byte{msgGone}))
		}
		s.next[slot]++
		out = append(out, frame...)
	}
	return out, group, nil
}

// watermarks tells those that have moved.
func (s *served) watermarks(send func([]byte) error) error {
	msg := []byte{msgWatermarks}
	s.moved.take(func(slot int) {
		shard := s.r.set.shard(slot)
		if hw := s.r.o.Core.Replica(shard).HighWatermark; hw > s.told[slot] {
			s.told[slot] = hw
			msg = appendPair(msg, shard, hw)
		}
	})
	if len(msg) == 1 {
		return nil
	}
	return send(msg)
}

// follower is where it stands. It is caught up at a moment at which this node's log had ended where the follower's does now.
func (s *served) follower() (f Follower, ok bool) {
	now := s.r.clk.Mono()
	s.mu.Lock()
	sc := s.mu.log
	s.mu.Unlock()
	if sc == nil {
		return f, false
	}
	f.Progress = s.progress(sc)
	ends := make([]uint64, s.r.set.Shards)
	for i := range ends {
		ends[i] = s.r.o.Core.Replica(s.r.set.shard(i)).Durable
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.over {
		return f, false
	}
	reached, current := s.mu.target != nil, true
	for i, a := range s.mu.acked {
		reached = reached && a >= s.mu.target[i]
		if a < ends[i] {
			current = false
			f.Lag += ends[i] - a
		}
	}
	switch {
	case current:
		s.mu.caughtUp = now
		s.mu.target, s.mu.targetAt = ends, now
	case reached:
		s.mu.caughtUp = s.mu.targetAt
		s.mu.target, s.mu.targetAt = ends, now
	case s.mu.target == nil:
		s.mu.target, s.mu.targetAt = ends, now
	}
	f.Node, f.CaughtUp = s.ch.Peer(), s.mu.caughtUp
	return f, true
}
