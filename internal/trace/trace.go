// Package trace remembers what happens to chosen messages, for as long as somebody asks: probes say which, each loop writes events into a ring of
// its own, and streams read the rings. It knows neither MQTT nor the core: who calls Add says what has happened.
//
// Nobody asks: a loop has no *Loop, and looks at that one pointer of its own. Somebody does: it compares, and what a probe wants is written under
// the ring's lock. A ring takes eventsPerSecond, and counts what it leaves out. Spans are the other ones who ask: they take a few messages out of all,
// for a collector of OpenTelemetry, which internal/otlp speaks to.
package trace

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is what has happened.
type Kind uint8

// The kinds.
const (
	Received     Kind = iota + 1 // a client has published it; Text: topic, Label: its trace property
	Denied                       // it may not, or not so; Text: why
	Busy                         // it was not taken yet: the log's list is full
	Matched                      // Text: filter, Client: who is subscribed by it; without: Size more are
	NoMatch                      // nobody is subscribed
	Streamed                     // a binding has it; Text: the stream
	Kept                         // it is in the log; Shard, Seq
	Answered                     // its publisher was told; Text: why not, if it failed
	Queued                       // it waits for room; Text: where
	Sent                         // to Client, which knows it by PacketID; Text: topic
	Acknowledged                 // by Client
	Dropped                      // Text: why
	Connected
	Refused // a connection; Text: why
	Ended   // a connection; Text: why
	kinds
)

var kindNames = [kinds]string{Received: "received", Denied: "denied", Busy: "busy", Matched: "matched", NoMatch: "nobody", Streamed: "stream", Kept: "logged",
	Answered: "answered", Queued: "queued", Sent: "sent", Acknowledged: "acknowledged", Dropped: "dropped", Connected: "connected", Refused: "refused",
	Ended: "ended"}

// String is the kind as the control plane says it.
func (k Kind) String() string { return kindNames[k] }

// Bounds.
const (
	ProbesMax       = 8 // one of them may be Standing's
	ringEvents      = 4096
	eventsPerSecond = 2000 // of a loop
	textMax         = 256  // bytes of a text; the rest is cut off
	refsMax         = 1024 // messages in the log that are known by their place; a power of two
)

// Mark is what a message bears that somebody asks about: which probes in its upper eight bits, its number in the others. 0: nobody does.
type Mark uint64

const numberBits = 56

// Number tells messages apart, in one run of the node.
func (m Mark) Number() uint64 { return uint64(m) & (1<<numberBits - 1) }

func (m Mark) probes() uint8 { return uint8(m >> numberBits) }

// Asked says whether some probe is about the message. One that spans alone are about has a number and no probes.
func (m Mark) Asked() bool { return m.probes() != 0 }

// only is the mark with no other probes than these; 0: none of its own is among them.
func (m Mark) only(probes uint8) Mark {
	if probes &= m.probes(); probes != 0 {
		return Mark(m.Number()) | Mark(probes)<<numberBits
	}
	return 0
}

// Event is something that has happened.
type Event struct {
	At       int64 // Unix nanoseconds; Add sets it
	Mark     Mark  // Add sets it
	Seq      uint64
	Client   string
	Text     string
	Label    string
	Size     int32
	Shard    uint16
	PacketID uint16
	Kind     Kind
	QoS      uint8
}

// Probe says what is asked about: one of its fields, of one tenant.
type Probe struct {
	Tenant  uint32
	Client  string
	Topic   func(topic []byte) bool // whether it is about a topic
	Address netip.Prefix
	Label   string // the value of the trace property
	Labels  bool   // whatever the value
}

// What a probe is about.
const (
	byLabel = iota
	byClient
	byTopic
	byAddress
)

func (p *Probe) kind() uint8 {
	switch {
	case p.Client != "":
		return byClient
	case p.Topic != nil:
		return byTopic
	case p.Address.IsValid():
		return byAddress
	}
	return byLabel
}

// ring is a loop's.
type ring struct {
	mu struct {
		sync.Mutex
		events []Event // ringEvents of them once there was one
		n      uint64  // events that were written
		second int64
		taken  int
	}
	full atomic.Int64 // the second that has had its events
	lost [ProbesMax]atomic.Uint64
}

// leaveOut counts something that there is no room for.
func (r *ring) leaveOut(probes uint8) {
	for i := range r.lost {
		if probes&(1<<i) != 0 {
			r.lost[i].Add(1)
		}
	}
}

// Tracer has a node's probes and rings. It is safe for concurrent use.
type Tracer struct {
	now    func() time.Time
	rings  []ring
	number atomic.Uint64
	mu     struct {
		sync.Mutex
		probes   [ProbesMax]*Probe
		next     int           // where Open looks first
		attached []func(*Loop) // and of which loop
		loops    []int
		last     *armed
		spans    *Spans
		epoch    uint64
	}
	refs struct {
		sync.Mutex
		at     [refsMax]ref
		probes uint8 // that are armed
	}
}

type ref struct {
	seq   uint64
	mark  Mark
	shard uint16
}

// armed are the probes of one time.
type armed struct {
	probes    []numbered
	spans     *Spans // nil: there is no collector
	epoch     uint64
	bits      uint8 // of them all
	addresses bool  // some probe is about addresses
	labels    bool  // about labels
}

type numbered struct {
	Probe
	bit  uint8
	kind uint8
}

// New makes a Tracer for so many loops.
func New(loops int, now func() time.Time) *Tracer {
	t := &Tracer{now: now, rings: make([]ring, loops)}
	for i := range t.rings {
		t.rings[i].full.Store(-1)
	}
	return t
}

// ErrBusy says that ProbesMax probes are armed already.
var ErrBusy = errors.New("as many traces run as may")

// Attach has set called with what a loop is to use from then on, nil for nothing, whenever probes come or go, and at once if there are some. set is
// called on any goroutine and hands it to the loop.
func (t *Tracer) Attach(loop int, set func(*Loop)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.attached, t.mu.loops = append(t.mu.attached, set), append(t.mu.loops, loop)
	if t.mu.last != nil {
		set(t.loop(loop, t.mu.last))
	}
}

func (t *Tracer) loop(i int, a *armed) *Loop { return &Loop{t: t, a: a, r: &t.rings[i]} }

// tellLocked tells the loops.
func (t *Tracer) tellLocked() {
	last := t.mu.last
	t.mu.last = nil
	if t.mu.probes != [ProbesMax]*Probe{} || t.mu.spans != nil {
		a := &armed{spans: t.mu.spans}
		for i, p := range t.mu.probes {
			if p != nil {
				a.probes = append(a.probes, numbered{*p, 1 << i, p.kind()})
				a.bits |= 1 << i
				a.addresses = a.addresses || p.Address.IsValid()
				a.labels = a.labels || p.Labels || p.Label != ""
			}
		}
		if last == nil || last.bits&^a.bits != 0 {
			t.mu.epoch++
		}
		a.epoch = t.mu.epoch
		t.mu.last = a
	}
	t.forget()
	for i, set := range t.mu.attached {
		if t.mu.last == nil {
			set(nil)
		} else {
			set(t.loop(t.mu.loops[i], t.mu.last))
		}
	}
}

// forget has messages in the log know no probes that are gone: the next one in such a place is not about them. With mu.
func (t *Tracer) forget() {
	t.refs.Lock()
	defer t.refs.Unlock()
	was := t.refs.probes
	if t.refs.probes = 0; t.mu.last != nil {
		t.refs.probes = t.mu.last.bits
	}
	if was&^t.refs.probes == 0 {
		return
	}
	for i := range t.refs.at {
		t.refs.at[i].mark = t.refs.at[i].mark.only(t.refs.probes)
	}
}

// Standing arms a probe of all messages of the default tenant with a trace property, for Find, or takes it away. It has no stream, and the last place.
func (t *Tracer) Standing(on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := &t.mu.probes[ProbesMax-1]
	if on == (*at != nil) {
		return
	}
	*at = nil
	if on {
		*at = &Probe{Labels: true}
	}
	t.tellLocked()
}

// Export has messages be traced by spans from now on; nil: by none. Spans that have begun by others before end there.
func (t *Tracer) Export(spans *Spans) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if spans != t.mu.spans {
		t.mu.spans = spans
		t.tellLocked()
	}
}

// Open arms a probe. Close the stream.
func (t *Tracer) Open(p Probe) (*Stream, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// A place that has just become free is the last to be taken: messages that are under way still bear it.
	i, tried := t.mu.next, 0
	for ; t.mu.probes[i] != nil; i = (i + 1) % (ProbesMax - 1) {
		if tried++; tried == ProbesMax-1 {
			return nil, ErrBusy
		}
	}
	t.mu.next = (i + 1) % (ProbesMax - 1)
	t.mu.probes[i] = &p
	s := &Stream{t: t, probe: i, from: make([]uint64, len(t.rings)), lost: make([]uint64, len(t.rings))}
	for k := range t.rings {
		r := &t.rings[k]
		r.mu.Lock()
		s.from[k], s.lost[k] = r.mu.n, r.lost[i].Load()
		r.mu.Unlock()
	}
	t.tellLocked()
	return s, nil
}

// Stream gives what one probe sees.
type Stream struct {
	t     *Tracer
	probe int
	from  []uint64
	lost  []uint64
}

// Close takes the probe away.
func (s *Stream) Close() {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.t.mu.probes[s.probe] = nil
	s.t.tellLocked()
}

// Read gives what has happened since the last Read, of all loops, in order; lost: how many events there was no room for.
func (s *Stream) Read() (list []Event, lost uint64) {
	until := s.t.now().UnixNano() // what comes from now on waits: another ring may have something that was before it
	for i := range s.t.rings {
		r := &s.t.rings[i]
		r.mu.Lock()
		if r.mu.n-s.from[i] > ringEvents {
			lost += r.mu.n - ringEvents - s.from[i] // those of other probes too
			s.from[i] = r.mu.n - ringEvents
		}
		for ; s.from[i] < r.mu.n; s.from[i]++ {
			e := &r.mu.events[s.from[i]%ringEvents]
			if e.At > until {
				break
			}
			if e.Mark.probes()&(1<<s.probe) != 0 {
				list = append(list, *e)
			}
		}
		left := r.lost[s.probe].Load()
		lost += left - s.lost[i]
		s.lost[i] = left
		r.mu.Unlock()
	}
	byTime(list)
	return list, lost
}

func byTime(list []Event) {
	slices.SortStableFunc(list, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
}

// Find gives what the rings still have of the messages that want picks by one of their events, in order, and how many messages these are.
func (t *Tracer) Find(want func(*Event) bool) (list []Event, messages int) {
	numbers := make(map[uint64]bool)
	t.each(func(e *Event) {
		if n := e.Mark.Number(); n != 0 && want(e) {
			numbers[n] = true
		}
	})
	t.each(func(e *Event) {
		if numbers[e.Mark.Number()] {
			list = append(list, *e)
		}
	})
	byTime(list)
	return list, len(numbers)
}

// each calls fn with all events, those of one ring in order.
func (t *Tracer) each(fn func(*Event)) {
	for i := range t.rings {
		r := &t.rings[i]
		r.mu.Lock()
		for k := range r.mu.events {
			if e := &r.mu.events[k]; e.Kind != 0 {
				fn(e)
			}
		}
		r.mu.Unlock()
	}
}

// Armed says how many probes there are, Standing's among them.
func (t *Tracer) Armed() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.mu.probes {
		if p != nil {
			n++
		}
	}
	return n
}

// Loop is what one loop uses while somebody asks. It belongs to that loop.
type Loop struct {
	t *Tracer
	a *armed
	r *ring
}

// Epoch is another one whenever some probe is no more.
func (l *Loop) Epoch() uint64 { return l.a.epoch }

// Probes says whether there are any: else spans alone want to know.
func (l *Loop) Probes() bool { return l.a.bits != 0 }

// Spans decides which messages are traced for a collector; nil: there is none.
func (l *Loop) Spans() *Spans { return l.a.spans }

// Number gives a message a number that has none yet, for those who trace it by spans.
func (l *Loop) Number(m Mark) Mark {
	if m.Number() == 0 {
		m |= Mark(l.t.number.Add(1) & (1<<numberBits - 1))
	}
	return m
}

// Addresses says whether some probe is about addresses: else none need be given.
func (l *Loop) Addresses() bool { return l.a.addresses }

// Labels says the same of labels.
func (l *Loop) Labels() bool { return l.a.labels }

// Wants says which probes are about a message of a tenant: by who publishes it or is to get it, its topic, its label. 0, mostly: none is.
func (l *Loop) Wants(tenant uint32, client string, at netip.Addr, topic, label []byte) (probes uint8) {
	for i := range l.a.probes {
		p := &l.a.probes[i]
		if p.Tenant != tenant {
			continue
		}
		switch p.kind {
		case byClient:
			if p.Client != client {
				continue
			}
		case byTopic:
			if len(topic) == 0 || !p.Topic(topic) {
				continue
			}
		case byAddress:
			if !p.Address.Contains(at) {
				continue
			}
		default:
			if len(label) == 0 || !p.Labels && p.Label != string(label) {
				continue
			}
		}
		probes |= p.bit
	}
	return probes
}

// Mark adds probes to a message's mark. One that has none yet gets a number, unless the ring has no room for it in this second, which ms is in, in Unix
// milliseconds.
func (l *Loop) Mark(ms int64, probes uint8, m Mark) Mark {
	if m.Number() == 0 {
		if l.r.full.Load() == ms/1000 { // what would be left out is not looked at closer
			l.r.leaveOut(probes)
			return m
		}
		m = l.Number(m)
	}
	return m | Mark(probes)<<numberBits
}

// Peer gives the mark of a client's connection, without a number.
func (l *Loop) Peer(tenant uint32, client string, at netip.Addr) Mark {
	return Mark(l.Wants(tenant, client, at, nil, nil)) << numberBits
}

// Add writes an event of a message, or of a connection, for those who ask about it.
func (l *Loop) Add(m Mark, e Event) {
	if m.probes() == 0 {
		return
	}
	r := l.r
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At, e.Mark = l.t.now().UnixNano(), m
	second := e.At / int64(time.Second)
	if second != r.mu.second {
		r.mu.second, r.mu.taken = second, 0
	}
	if r.mu.taken >= eventsPerSecond {
		r.full.Store(second)
		r.leaveOut(m.probes())
		return
	}
	if r.mu.events == nil {
		r.mu.events = make([]Event, ringEvents)
	}
	r.mu.taken++
	r.mu.events[r.mu.n%ringEvents] = e
	r.mu.n++
}

// Text makes a text for an event: a copy, with what is too long cut off.
func Text[T ~string | ~[]byte](s T) string {
	if len(s) > textMax {
		return string(s[:textMax]) + "…"
	}
	return string(s)
}

// Remember has Of know a message by its place in the log, until others take its place.
func (l *Loop) Remember(m Mark, shard uint16, seq uint64) {
	refs := &l.t.refs
	refs.Lock()
	defer refs.Unlock()
	refs.at[place(shard, seq)] = ref{seq, m.only(refs.probes), shard} // the loop may not have heard yet of what is gone
}

// Of is the mark of a message in the log; 0: it has none, or too many others have come since.
func (l *Loop) Of(shard uint16, seq uint64) Mark {
	if !l.Probes() {
		return 0
	}
	refs := &l.t.refs
	refs.Lock()
	defer refs.Unlock()
	if r := &refs.at[place(shard, seq)]; r.seq == seq && r.shard == shard {
		return r.mark.only(l.a.bits)
	}
	return 0
}

func place(shard uint16, seq uint64) uint64 {
	return (seq + uint64(shard)*0x9e3779b97f4a7c15) % refsMax
}
