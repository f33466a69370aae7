// Package events carries what happens to clients, sessions and subscriptions from the loops to whoever tells it on. It knows neither MQTT nor the core,
// and who hears of it: who calls Add says what has happened, and one reader takes it.
//
// A loop that has something to tell looks at one atomic word, to see whether anybody wants to know. If so it fills in an Event and appends it to the list
// under its lock. What makes text of it, and sends that anywhere, runs elsewhere. The list is bounded; what finds it full is counted and gone.
package events

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is what has happened.
type Kind uint8

// The kinds.
const (
	ClientConnected     Kind = iota // CONNACK of success was sent
	ClientDisconnected              // the connection of such a client has ended
	SessionCreated                  // by a client that had none, or wanted a new one
	SessionResumed                  // by a client that has come back to it
	SessionEnded                    // it is gone, with its subscriptions and what waited for it
	SessionDiscarded                // likewise, since its client wanted a new one
	SessionTakenOver                // another connection has come in by its name: the one before is closed
	SessionSubscribed               // a filter was subscribed to
	SessionUnsubscribed             // and left
	Kinds                           // how many there are
)

var kindNames = [Kinds]string{"client.connected", "client.disconnected", "session.created", "session.resumed", "session.ended", "session.discarded",
	"session.taken_over", "session.subscribed", "session.unsubscribed"}

// String is the kind as the configuration and the events say it.
func (k Kind) String() string { return kindNames[k] }

// Topic is the last part of the MQTT topic of the kind's events: client/connected.
func (k Kind) Topic() string { return strings.Replace(kindNames[k], ".", "/", 1) }

// Set is a set of kinds.
type Set uint32

// Has says whether the set has a kind.
func (s Set) Has(k Kind) bool { return s&(1<<k) != 0 }

// ParseSet makes a set of names: of kinds, and of all kinds of clients or sessions ("client", "session"). Names that there are not are left out.
func ParseSet(names []string) (s Set) {
	for k := range Kinds {
		family, _, _ := strings.Cut(k.String(), ".")
		for _, name := range names {
			if name == k.String() || name == family {
				s |= 1 << k
			}
		}
	}
	return s
}

// Event is something that has happened. Its strings live as long as it does: who adds it gives away no views.
type Event struct {
	At         int64 // Unix milliseconds
	Connection uint64
	Since      int64 // ClientDisconnected: when it was opened, Unix milliseconds; 0: not known
	BytesIn    uint64
	BytesOut   uint64
	Expiry     int64 // ClientConnected: how long the session outlives the connection, in seconds; -1: for good
	ClientID   string
	User       string
	Listener   string
	Protocol   string
	Filter     string // SessionSubscribed, SessionUnsubscribed
	Group      string // of a shared subscription
	By         string // ClientDisconnected: who has ended it: client, server or network
	Reason     string // why
	Detail     string
	Remote     netip.AddrPort
	KeepAlive  uint16 // seconds
	Kind       Kind
	Code       uint8 // the reason code
	QoS        uint8
	CleanStart bool
	Present    bool // the session was there before
	Will       bool
	TLS        bool
	NoLocal    bool
}

// size is what the event counts in the list's bound.
func (e *Event) size() int {
	return 320 + len(e.ClientID) + len(e.User) + len(e.Filter) + len(e.Group) // the other strings are constants, or names of listeners
}

// Bounds of the list.
const (
	waitingMax = 1 << 14
	bytesMax   = 16 << 20
)

// Queue is the list between the loops and the reader. Its zero value wants nothing. All methods may be called from any goroutine; nil is a Queue that
// wants nothing.
type Queue struct {
	wants atomic.Uint32
	added [Kinds]atomic.Uint64
	full  atomic.Uint64
	ready chan struct{}
	mu    struct {
		sync.Mutex
		list  []Event
		bytes int
	}
}

// New makes a list that wants nothing yet.
func New() *Queue { return &Queue{ready: make(chan struct{}, 1)} }

// Want says which kinds are to be added from now on.
func (q *Queue) Want(s Set) { q.wants.Store(uint32(s)) }

// Wants says whether events of a kind are to be added. It is what a loop asks before it makes one.
func (q *Queue) Wants(k Kind) bool { return q != nil && Set(q.wants.Load()).Has(k) }

// Add appends events, or counts them where the list is full. It keeps no pointer, and does not wait for the reader.
func (q *Queue) Add(list ...Event) {
	if q == nil || len(list) == 0 {
		return
	}
	q.mu.Lock()
	first := len(q.mu.list) == 0
	for i := range list {
		e := &list[i]
		if n := e.size(); len(q.mu.list) >= waitingMax || q.mu.bytes+n > bytesMax {
			q.full.Add(1)
			continue
		} else {
			q.mu.bytes += n
		}
		q.mu.list = append(q.mu.list, *e)
		q.added[e.Kind].Add(1)
	}
	q.mu.Unlock()
	if first {
		select {
		case q.ready <- struct{}{}:
		default:
		}
	}
}

// Lose counts events that found no room with who was to add them.
func (q *Queue) Lose(n int) {
	if q != nil {
		q.full.Add(uint64(n))
	}
}

// Ready gives a value when there is something to Take.
func (q *Queue) Ready() <-chan struct{} { return q.ready }

// Take gives all that waits, in the order in which it was added, and keeps spare, whose elements it clears, to append to.
func (q *Queue) Take(spare []Event) []Event {
	clear(spare[:cap(spare)])
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.mu.list
	q.mu.list, q.mu.bytes = spare[:0], 0
	return list
}

// Counts are what a Queue has counted since it was made.
type Counts struct {
	Added   [Kinds]uint64
	Full    uint64 // found no room
	Waiting int    // now
}

// Counts gives them.
func (q *Queue) Counts() (c Counts) {
	for k := range c.Added {
		c.Added[k] = q.added[k].Load()
	}
	c.Full = q.full.Load()
	q.mu.Lock()
	c.Waiting = len(q.mu.list)
	q.mu.Unlock()
	return c
}

// Seconds is a time as Event.Expiry has it.
func Seconds(d, never time.Duration) int64 {
	if d == never {
		return -1
	}
	return int64((d + time.Second - 1) / time.Second)
}
