package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/internal/trace"
)

// Local is the core's part of one loop: its route cache, the bundles it has for other loops, and the inbox in which it gets
// theirs. Everything but post runs on the loop's goroutine.
type Local struct {
	id     int
	b      *Broker
	wake   func()
	awake  atomic.Bool
	inbox  inbox
	routes routeCache
	out    []*bundle // for each loop, what this turn has for it
	acks   [][]post  // for each loop, the completions of this turn: they go behind its bundles

	matches     topics.Matches
	cache       EncodeCache
	delivery    Delivery
	message     Message
	request     ConnectRequest // of the Connect that runs
	probe       topics.Cursor  // of the SUBSCRIBE that runs
	props       []byte
	headers     []byte
	body        []byte
	seqs        []uint64
	joined      []uint64      // numbers of filters that the publisher has asked for and that match; see joinedBy
	resumed     []*Client     // to look at again: retained messages or a backlog wait
	changed     []*feed       // progress to be journaled at the next tick
	lowered     []*feed       // with subscriptions that were lowered to QoS 0
	failedFeeds []*Client     // could not read the log: again at the next tick
	grants      []*feed       // grants to be journaled at the end of this turn
	promising   []*Client     // the same of promises
	willNext    time.Duration // when the next will has its turn, by the clock's Mono
	willLeast   time.Duration // when one that waits has its turn whoever has come back
	dropped     seldom        // wills and delayed messages that nobody gets
	paceTimer   LoopTimer     // of wills that wait
	paceFrom    int           // the shard that has its turn first
	pacing      atomic.Bool   // it is set, or the loop is on its way to them
	limitWork   []*Session    // to be checked against the limits
	readers     []*Session

	trace        *trace.Loop // nil: nobody asks what becomes of messages
	times        turnTimes
	timers       loopTimers
	wakeFn       func(to *Local, what post) // wakeLater, made once
	sweeping     []*Partition
	behindRelays []*Partition
	plain        []byte // a batch that had to be opened
	opening      []byte // the same, of a stream that MQTT subscribers get
	packed       []byte // one that was compressed anew
	milli        int64  // of this turn; 0: not asked for yet
	groupTable   groupTable
	txns         map[txnKey]*txn
}

type postKind uint8

const (
	postApply postKind = iota + 1
	postFailed
	postCompleted
	postResume
	postBundle
	postKick
	postTurn
	postConnected
	postFetched
	postRun
	postAppended
	postResumeAppender
	postWatch
	postReplicated
)

// post is what crosses from one goroutine to a loop. One struct for all kinds keeps the inbox free of allocations.
type post struct {
	kind   postKind
	c      *Client
	s      *shard
	p      *pending
	place  Place
	bundle *bundle
	res    Result
	err    error
	run    func()

	app      *Appender // of streams
	appended AppendResult
	watcher  *Watcher
}

// inbox takes posts from any goroutine.
type inbox struct {
	mu    sync.Mutex
	posts []post
	spare []post
}

func newLocal(b *Broker, id, loops int) *Local {
	l := &Local{id: id, b: b, out: make([]*bundle, loops), acks: make([][]post, loops)}
	l.wake = func() {}
	l.timers.l = l
	l.wakeFn = l.wakeLater
	return l
}

// SetWake tells how the loop is woken: fn makes it call Drain soon. Any goroutine calls it. Before Start.
func (l *Local) SetWake(fn func()) { l.wake = fn }

// post hands p to the loop, from any goroutine.
func (l *Local) post(p ...post) {
	l.inbox.mu.Lock()
	l.inbox.posts = append(l.inbox.posts, p...)
	l.inbox.mu.Unlock()
	if !l.awake.Swap(true) {
		l.wake()
	}
}

// Run posts fn to the loop: for control commands and tickers, not for messages.
func (l *Local) Run(fn func()) { l.post(post{kind: postRun, run: fn}) }

// Drain runs what other goroutines have posted. The server calls it when the loop is woken.
func (l *Local) Drain() {
	for range 4 {
		l.awake.Store(false)
		l.inbox.mu.Lock()
		posts := l.inbox.posts
		l.inbox.posts = l.inbox.spare
		l.inbox.mu.Unlock()
		if len(posts) == 0 {
			l.inbox.spare = posts
			break
		}
		for i := range posts {
			l.handle(&posts[i])
		}
		clear(posts)
		if cap(posts) > 1<<16 {
			posts = nil
		}
		l.inbox.spare = posts[:0]
	}
	l.resume()
}

func (l *Local) handle(p *post) {
	switch p.kind {
	case postApply:
		l.apply(p.s, p.p, p.place)
	case postFailed:
		l.fail(p.s, p.p, p.err)
	case postCompleted:
		l.completed(p.c, p.res)
	case postResume:
		p.c.flags &^= clientStarved
		if p.c.state == clientConnected {
			p.c.sub.Control(Control{Kind: ControlResume})
		}
		if len(p.c.jobs()) > 0 {
			l.later(p.c)
		}
	case postBundle:
		l.unpack(p.bundle)
	case postKick:
		if p.c.state == clientConnected || p.c.state == clientConnecting {
			p.c.sub.Kicked(p.err)
		}
	case postTurn:
		l.turn(p.c)
	case postConnected:
		l.connected(p.c, p.err)
	case postFetched:
		l.fetched(p.c, p.bundle)
	case postRun:
		p.run()
	case postAppended:
		if p.appended.Err != nil {
			p.app.failing.Add(-1)
		}
		if p.app.sink != nil {
			p.app.sink.Appended(p.res.Token, p.appended)
		}
	case postResumeAppender:
		if p.app.starved = false; p.app.sink != nil {
			p.app.sink.Resume()
		}
	case postReplicated:
		l.applyReplicated(p.s)
	case postWatch:
		p.watcher.woken(p.res.Token)
	}
}

// resume goes on with the clients for whom this loop has more in hand than one turn should do.
func (l *Local) resume() {
	list := l.resumed
	l.resumed = nil
	for i, c := range list {
		c.flags &^= clientQueued
		if c.state == clientConnected {
			l.feed(c)
		}
		list[i] = nil
	}
	if l.resumed == nil {
		l.resumed = list[:0]
	}
	if len(l.resumed) > 0 && !l.awake.Swap(true) {
		l.wake()
	}
}

// later puts c on the list that resume looks at.
func (l *Local) later(c *Client) {
	if c.flags&clientQueued != 0 {
		return
	}
	c.flags |= clientQueued
	l.resumed = append(l.resumed, c)
	if len(l.resumed) == 1 && !l.awake.Swap(true) {
		l.wake()
	}
}

// EndTurn posts what this turn gathered for other loops. The server calls it at the end of each turn, before writes are
// flushed.
func (l *Local) EndTurn() {
	l.milli = 0
	l.endTimes()
	if len(l.grants) > 0 {
		l.flushGrants()
	}
	if len(l.promising) > 0 {
		l.flushPromises()
	}
	for i, bu := range l.out {
		if bu != nil {
			l.out[i] = nil
			l.b.locals[i].post(post{kind: postBundle, bundle: bu})
		}
	}
	// A publisher that hears of its message may send the next one by the short way, from its own loop: it must not overtake.
	for i := range l.acks {
		if len(l.acks[i]) > 0 {
			l.b.locals[i].post(l.acks[i]...)
			clear(l.acks[i])
			l.acks[i] = l.acks[i][:0]
		}
	}
}

// kick makes sure that the loop comes round again.
func (l *Local) kick() {
	if !l.awake.Swap(true) {
		l.wake()
	}
}

// complete ends a request of c, on whatever loop c lives.
func (l *Local) complete(c *Client, r Result) {
	if c == nil {
		return
	}
	if c.local == l {
		l.completed(c, r)
		return
	}
	l.acks[c.local.id] = append(l.acks[c.local.id], post{kind: postCompleted, c: c, res: r})
}

// completed runs on c's loop.
func (l *Local) completed(c *Client, r Result) {
	c.waiting--
	if c.state == clientConnected {
		c.sub.Completed(r)
	}
	if c.waiting == 0 && c.state == clientClosing {
		l.detach(c)
	}
}

// settled ends one of the things that c waits for without having asked for them.
func (l *Local) settled(c *Client) {
	if c.waiting--; c.waiting == 0 && c.state == clientClosing {
		l.detach(c)
	}
}

// nowMilli is the time of this turn, in Unix milliseconds: one look at the clock for all that comes in it.
func (l *Local) nowMilli() int64 {
	if l.milli == 0 {
		l.milli = l.b.nowMilli()
	}
	return l.milli
}
