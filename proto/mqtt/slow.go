package mqtt

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
)

// probe looks at one message in flight at a time. A message counts from its publish on, if the client was there by then: what was published before it came has waited for
// it, and neither what is retained nor a stream's history is late.
type probe struct {
	born  int64 // Unix milliseconds: older messages do not count
	at    int64 // of the message that is looked at
	topic []byte
	id    uint16 // its packet identifier; 0: none is looked at
	late  bool   // it was found to be
	in    bool   // the client is in slowTable.waiting
}

// slowTopicMax is how much of a topic's name is kept of a late message.
const slowTopicMax = 256

// look has the probe look at a message that was sent as id, if it looks at none.
func (p *probe) look(m *broker.Message, d *broker.Delivery, id uint16, now int64) {
	if p.id != 0 || d.Retain || d.Dup || m.Timestamp < p.born {
		return
	}
	p.id, p.late, p.at, p.topic = id, false, min(m.Timestamp, now),
		append(p.topic[:0], m.Topic[:min(len(m.Topic), slowTopicMax)]...)
}

// slowTable is a loop's clients that have been late, as many as are to be shown. Who is in it and is late again keeps its row; a new one takes that of the least late.
type slowTable struct {
	threshold time.Duration
	window    time.Duration
	rows      []broker.SlowSubscriber
	top       int
	changed   bool
	waiting   []*conn // some of those whose message is looked at: who acknowledges nothing stays
}

// waitingMax bounds slowTable.waiting.
const waitingMax = 1024

// probed is sendAcked's, while somebody wants to know who is slow.
func (c *conn) probed(m *broker.Message, d *broker.Delivery, id uint16) {
	now := c.l.loop.NowUnixMilli()
	x := c.extras()
	if x.probe == nil {
		x.probe = &probe{born: now}
		if m, ok := c.link.(meter); ok {
			x.probe.born = now - (c.l.loop.NowMono()-m.Opened())/int64(time.Millisecond)
		}
	}
	x.probe.look(m, d, id, now)
	if t := c.l.late; !x.probe.in && x.probe.id != 0 && len(t.waiting) < waitingMax {
		x.probe.in = true
		t.waiting = append(t.waiting, c)
	}
}

// wait looks at who has not acknowledged: what is looked at is as late as it is by now. Who has leaves room for the next ones.
func (t *slowTable) wait() {
	t.waiting = slices.DeleteFunc(t.waiting, func(c *conn) bool {
		if c.state != stateUp || c.out == nil || c.extra == nil || c.extra.probe == nil {
			return true
		}
		p := c.extra.probe
		if state, _ := c.out.flight.get(p.id); state == 0 {
			p.id = 0 // it has come while nobody looked
		}
		if p.in = p.id != 0; p.in {
			c.judgeProbe(p)
		}
		return !p.in
	})
}

// probeLanded takes the end of a message that may be looked at.
func (c *conn) probeLanded(id uint16) {
	if x := c.extra; x != nil && x.probe != nil && x.probe.id == id {
		c.judgeProbe(x.probe)
		x.probe.id = 0
	}
}

func (c *conn) judgeProbe(p *probe) {
	t, now := c.l.late, c.l.loop.NowUnixMilli()
	if late := time.Duration(now-p.at) * time.Millisecond; late >= t.threshold {
		first := uint64(1)
		if p.late {
			first = 0 // it was counted while it waited
		}
		p.late = true
		c.l.n.Late += first
		t.note(&broker.SlowSubscriber{Tenant: c.who.tenant, ClientID: c.clientID(), User: c.who.user, Last: late, At: now, Late: first}, p.topic)
	}
}

// note takes a late message of a client. It looks at all rows: there are some dozens, and it is called for late messages alone.
func (t *slowTable) note(found *broker.SlowSubscriber, topic []byte) {
	var r *broker.SlowSubscriber
	least := 0
	for i := range t.rows {
		if t.rows[i].ClientID == found.ClientID && t.rows[i].Tenant == found.Tenant {
			r = &t.rows[i]
			break
		}
		if t.rows[i].Longest < t.rows[least].Longest {
			least = i
		}
	}
	switch {
	case r != nil:
	case len(t.rows) < t.top:
		t.rows = append(t.rows, broker.SlowSubscriber{Tenant: found.Tenant, ClientID: found.ClientID})
		r = &t.rows[len(t.rows)-1]
	case t.rows[least].Longest < found.Last:
		r = &t.rows[least]
		*r = broker.SlowSubscriber{Tenant: found.Tenant, ClientID: found.ClientID}
	default:
		return
	}
	t.changed = true
	r.User, r.Last, r.At = found.User, found.Last, found.At
	r.Late += found.Late
	if r.Last > r.Longest {
		r.Longest, r.Topic = r.Last, string(topic)
	}
}

// expire takes out who was not late for as long as the window is.
func (t *slowTable) expire(now int64) {
	n := len(t.rows)
	t.rows = slices.DeleteFunc(t.rows, func(r broker.SlowSubscriber) bool { return now-r.At > t.window.Milliseconds() })
	t.changed = t.changed || len(t.rows) != n
}

// shownSlow is the copy of a loop's table that others may read.
type shownSlow struct {
	sync.Mutex
	rows []broker.SlowSubscriber
}

// tickSlow keeps the table what the settings say, and shows it, once a second.
func (l *loopState) tickSlow(s *Settings) {
	if s.SlowThreshold <= 0 {
		if l.late == nil {
			return
		}
		for _, c := range l.late.waiting {
			if c.extra != nil && c.extra.probe != nil {
				c.extra.probe.in = false
			}
		}
		l.late = nil
		l.showSlow(nil)
		return
	}
	if l.late == nil {
		l.late = &slowTable{}
	}
	t := l.late
	t.threshold, t.window, t.top = s.SlowThreshold, s.SlowWindow, s.SlowTop
	t.rows = t.rows[:min(len(t.rows), t.top)]
	t.wait()
	if t.expire(l.loop.NowUnixMilli()); t.changed {
		t.changed = false
		l.showSlow(t.rows)
	}
}

func (l *loopState) showSlow(rows []broker.SlowSubscriber) {
	l.shownLate.Lock()
	l.shownLate.rows = append(l.shownLate.rows[:0], rows...)
	l.shownLate.Unlock()
}

// Slow gives the clients that were late within Settings.SlowWindow, the slowest first, Settings.SlowTop at most, as they were at most a second ago. Any goroutine may
// call it.
func (h *Handler) Slow() (list []broker.SlowSubscriber) {
	for _, l := range h.loops {
		l.shownLate.Lock()
		list = append(list, l.shownLate.rows...)
		l.shownLate.Unlock()
	}
	slices.SortFunc(list, func(a, b broker.SlowSubscriber) int {
		return cmp.Or(cmp.Compare(b.Longest, a.Longest), cmp.Compare(a.ClientID, b.ClientID))
	})
	return list[:min(len(list), max(h.settings.Load().SlowTop, 0))]
}
