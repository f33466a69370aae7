package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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
	room   bell        // rung when a shard has moved: what was busy may go on
	busy   atomic.Bool // somebody waits for room
	acks   atomic.Pointer[acker]
	stream atomic.Pointer[stream] // the one that is open
	ctx    context.Context
	stop   context.CancelFunc
	ended  chan struct{} // its stream is closed, and there will be none
}

func newFetcher(r *Replicas, leader link.NodeID, epoch record.Epoch) *fetcher {
	f := &fetcher{r: r, leader: leader, epoch: epoch, moved: newMarks(r.set.Shards), room: newBell(), ended: make(chan struct{})}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// over tells whether it has ended.
func (f *fetcher) over() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

// run keeps a stream open until told to stop.
func (f *fetcher) run() {
	defer close(f.ended)
	for tries := 1; f.ctx.Err() == nil; tries++ {
		began := f.r.clk.Mono()
		err := f.follow()
		switch {
		case f.ctx.Err() != nil:
			return
		case errors.Is(err, journal.ErrGone), errors.Is(err, broker.ErrDiverged):
			f.r.log.Warn("what the leader has does not go on from what this node has", "leader", f.leader, "epoch", f.epoch, "err", err)
			if f.r.o.Behind != nil {
				f.r.wg.Go(func() { f.r.o.Behind(f.r.set.Number, f.leader, err) })
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
	f      *fetcher
	ended  chan struct{} // there is nothing more to be done
	closed chan struct{} // the link has let go of it
	bell   bell
	mu     struct {
		sync.Mutex
		direct bool      // messages are worked on where they are read
		begun  bool      // the core follows by what the stream has begun with
		queue  []message // else here; bounded by the channel's window
		err    error
		over   bool
	}
}

// message is one that waits, with what was done of it already.
type message struct {
	link.Message
	done int
}

// Receive works on a message, or hands it to the stream's goroutine if there is something to wait for. High watermarks overtake what waits: a follower may have no
// room for frames until it is told that what it has is committed, and that may come behind them.
func (s *stream) Receive(ch *link.Channel, m link.Message) {
	s.mu.Lock()
	direct := s.mu.direct // it is this goroutine alone that ends it
	overtakes := s.mu.begun && len(m.Bytes()) > 0 && m.Bytes()[0] == msgWatermarks
	s.mu.Unlock()
	done := 0
	if direct || overtakes {
		var err error
		if done, err = s.f.work(m.Bytes(), 0); err == nil {
			m.Release()
			return
		}
		if !errors.Is(err, broker.ErrBusy) {
			m.Release()
			ch.Abort(err.Error())
			s.fail(err)
			return
		}
	}
	s.mu.Lock()
	s.mu.direct = false
	s.mu.queue = append(s.mu.queue, message{m, done})
	s.mu.Unlock()
	s.bell.ring()
}

// Closed ends it.
func (s *stream) Closed(_ *link.Channel, err error) {
	s.fail(err)
	close(s.closed)
}

// errLost ends a stream when what came by it has not come into the log.
var errLost = errors.New("replica: the log has not taken what came")

// fail ends it, for one reason or one more.
func (s *stream) fail(err error) {
	s.mu.Lock()
	s.mu.err = errors.Join(s.mu.err, err)
	s.mu.Unlock()
	s.over()
}

// over has next answer with the stream's error.
func (s *stream) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.over {
		s.mu.over = true
		close(s.ended)
	}
}

// take gives what came first. direct: when there is nothing, what comes next is worked on where it is read.
func (s *stream) take(direct bool) (m message, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.queue) == 0 {
		s.mu.direct = direct
		return m, false
	}
	m = s.mu.queue[0]
	s.mu.queue = s.mu.queue[:copy(s.mu.queue, s.mu.queue[1:])]
	return m, true
}

// next waits for a message that is not worked on where it is read.
func (s *stream) next(ctx context.Context, direct bool) (message, error) {
	for {
		if m, ok := s.take(direct); ok {
			return m, nil
		}
		select {
		case <-s.bell:
		case <-ctx.Done():
			s.mu.Lock()
			err := s.mu.err
			s.mu.Unlock()
			return message{}, errors.Join(link.ErrEnded, err)
		}
	}
}

// release lets go of what is left.
func (s *stream) release() {
	for {
		m, ok := s.take(false)
		if !ok {
			return
		}
		m.Release()
	}
}

// follow opens a stream and works on what comes, until it ends.
func (f *fetcher) follow() error {
	s := &stream{f: f, ended: make(chan struct{}), closed: make(chan struct{}), bell: newBell()}
	ch, err := f.r.o.Mesh.Open(f.leader, link.KindReplication, appendHead(nil, f.r.set.Number, f.epoch), s)
	if err != nil {
		return err
	}
	ctx, cancel := within(f.ctx, s.ended)
	f.stream.Store(s)
	var acks sync.WaitGroup
	defer func() {
		cancel()
		f.stream.Store(nil)
		f.acks.Store(nil)
		ch.Abort("the stream is over")
		<-s.closed // nothing is worked on any more
		acks.Wait()
		s.release()
	}()
	if err := f.begin(ctx, ch, s); err != nil {
		return err
	}
	for i := range f.r.set.Shards {
		f.moved.mark(i)
	}
	a := newAcker(f, ch)
	acks.Go(func() { a.run(ctx) })
	f.acks.Store(a)
	for {
		m, err := s.next(ctx, true)
		if err != nil {
			return err
		}
		err = f.insist(ctx, m)
		m.Release()
		if err != nil {
			return err
		}
	}
}

// begin hears the leader's history, takes back what is not in it, and asks for what comes behind.
func (f *fetcher) begin(ctx context.Context, ch *link.Channel, s *stream) error {
	m, err := s.next(ctx, false)
	if err != nil {
		return err
	}
	b := m.Bytes()
	if len(b) == 0 || b[0] != msgHistory {
		m.Release()
		return errMessage
	}
	list, err := decodeHistories(b[1:], f.r.set.Shards)
	m.Release()
	if err != nil {
		return err
	}
	type answer struct {
		slot int
		from uint64
		err  error
	}
	answers := make(chan answer, len(list))
	for i := range list {
		f.r.o.Core.FollowLeader(f.r.set.shard(i), f.epoch, list[i].epochs, list[i].end, func(from uint64, err error) { answers <- answer{i, from, err} })
	}
	from := make([]uint64, len(list))
	for range list {
		select {
		case a := <-answers:
			if a.err != nil {
				return fmt.Errorf("shard %d: %w", f.r.set.shard(a.slot), a.err)
			}
			from[a.slot] = a.from
		case <-ctx.Done():
			return link.ErrEnded
		}
	}
	msg := []byte{msgFrom}
	for _, n := range from {
		msg = binary.AppendUvarint(msg, n)
	}
	s.mu.Lock()
	s.mu.begun = true
	s.mu.Unlock()
	return ch.Send(msg)
}

// work does what a message says, from where it was left, and says how far it came. It does not wait: broker.ErrBusy.
func (f *fetcher) work(b []byte, done int) (int, error) {
	if len(b) == 0 {
		return 0, errMessage
	}
	switch b[0] {
	case msgFrames:
		done = max(done, 1)
		n, err := f.frames(b[done:])
		return done + n, err
	case msgWatermarks:
		return len(b), eachPair(b[1:], &f.r.set, func(slot int, index uint64) {
			_ = f.r.o.Core.Watermark(f.r.set.shard(slot), f.epoch, index) // a role that has changed ends the stream
		})
	case msgGone:
		return 0, fmt.Errorf("the leader: %w", journal.ErrGone)
	}
	return 0, errMessage
}

// frames hands frames on, those of a shard that lie together at once, and says how many bytes of them were taken.
func (f *fetcher) frames(b []byte) (done int, err error) {
	for done < len(b) {
		rest := b[done:]
		first, n, err := record.ViewFrame(rest)
		if err != nil {
			return done, err
		}
		if _, ok := f.r.set.slot(uint64(first.Shard)); !ok {
			return done, errMessage // another set's leader gives them
		}
		for n < len(rest) {
			next, size, err := record.ViewFrame(rest[n:])
			if err != nil {
				return done, err
			}
			if next.Shard != first.Shard {
				break
			}
			n += size
		}
		if err := f.r.o.Core.Follow(first.Shard, f.epoch, rest[:n]); err != nil { // those that it has by then it passes over
			return done, err
		}
		done += n
	}
	return done, nil
}

// busyWait is how long a shard that has no room is left alone if nothing is heard of it.
const busyWait = 20 * time.Millisecond

// stuckWait is how long there may be no room while nothing moves that this node does itself.
var stuckWait = 2 * time.Second

// errStuck ends a stream when there is no room before the leader says that more is committed, and the leader cannot: what it sent before fills the channel. The next stream
// begins with that.
var errStuck = errors.New("replica: there is no room, and the leader is not heard")

// insist works on a message until all of it is done.
func (f *fetcher) insist(ctx context.Context, m message) error {
	defer f.busy.Store(false)
	var was uint64
	since := f.r.clk.Mono()
	for {
		var err error
		if m.done, err = f.work(m.Bytes(), m.done); !errors.Is(err, broker.ErrBusy) {
			return err
		}
		if !f.busy.Swap(true) {
			continue // it may have moved before
		}
		now := f.r.clk.Mono()
		if at, idle := f.stands(); !idle || at != was {
			was, since = at, now
		} else if now-since > stuckWait {
			return errStuck
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

// stands is where the set's shards are, in one number that each step of one of them raises. idle: the log has all that came.
func (f *fetcher) stands() (at uint64, idle bool) {
	idle = true
	for i := range f.r.set.Shards {
		st := f.r.o.Core.Replica(f.r.set.shard(i))
		at += st.Last + st.HighWatermark + st.Applied
		idle = idle && st.Durable == st.Last
	}
	return at, idle
}

// flushed acknowledges what the log has by now.
func (f *fetcher) flushed() {
	if a := f.acks.Load(); a != nil {
		a.flushed()
	}
}
