package mqtt

import (
	"cmp"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/heavy"
)

// Topics of the default tenant are counted: a metric's label has no room for whose a topic is. They are counted in a table for each loop, which hands on what it has counted once a second to one of the handler's, so that a topic's numbers only grow whichever loop
// its messages come by.

// Bounds of what is counted.
const (
	busyRowsPerTopic = 8 // rows of a table for each topic that is shown, so that those are counted well
	busyRowsLeast    = 256
	busyTopicMax     = 200 // bytes; longer topics are counted with none
	fadeEvery        = 60  // seconds after which half of what a topic had counts for its place
)

// busyTopics is the handler's table.
type busyTopics struct {
	sync.Mutex
	table *heavy.Table // nil: nobody wants to know
	faded int64        // the second
}

// countIn and countOut count a message of a topic.
func (l *loopState) countIn(topic []byte, size int) {
	if len(topic) > busyTopicMax {
		return
	}
	r := l.busy.Hit(topic, 1)
	r.Counts.MessagesIn++
	r.Counts.BytesIn += uint64(size)
}

func (l *loopState) countOut(topic []byte, size int) {
	if len(topic) > busyTopicMax {
		return
	}
	r := l.busy.Hit(topic, 1)
	r.Counts.MessagesOut++
	r.Counts.BytesOut += uint64(size)
}

// tickBusy keeps the table what the settings say, and hands on what it has counted, once a second.
func (l *loopState) tickBusy(s *Settings) {
	rows := 0
	if s.BusyTopics > 0 {
		rows = max(busyRowsLeast, busyRowsPerTopic*s.BusyTopics)
	}
	if l.busy != nil {
		l.h.busy.take(l.busy.Rows(), rows, l.loop.NowMono()/1e9)
	}
	switch {
	case rows == 0:
		l.busy = nil
	case l.busy == nil || l.busy.Size() != rows:
		l.busy = heavy.New(rows)
	default:
		if sec := l.loop.NowMono() / 1e9; sec-l.faded >= fadeEvery {
			l.faded = sec
			l.busy.Fade()
		}
	}
}

// take adds what a loop has counted since it was asked last. rows 0: nobody wants to know any more.
func (b *busyTopics) take(list []*heavy.Row, rows int, sec int64) {
	b.Lock()
	defer b.Unlock()
	if rows == 0 {
		b.table = nil
		return
	}
	if b.table == nil || b.table.Size() != rows {
		b.table = heavy.New(rows)
	}
	if sec-b.faded >= fadeEvery {
		b.faded = sec
		b.table.Fade()
	}
	for _, r := range list {
		if c := &r.Counts; c.MessagesIn+c.MessagesOut > 0 {
			b.table.Hit(r.Name, c.MessagesIn+c.MessagesOut).Counts.Add(c)
			r.Reset()
		}
	}
}

// Busy gives the busiest topics, Settings.BusyTopics at most, with what was counted of each for as long as it was among them, as of at most a second ago. Any goroutine may
// call it.
func (h *Handler) Busy() (list []broker.BusyTopic) {
	b := &h.busy
	b.Lock()
	defer b.Unlock()
	if b.table == nil {
		return nil
	}
	rows := slices.Clone(b.table.Rows())
	slices.SortFunc(rows, func(a, b *heavy.Row) int {
		return cmp.Or(cmp.Compare(b.Weight(), a.Weight()), cmp.Compare(string(a.Name), string(b.Name)))
	})
	for _, r := range rows[:min(len(rows), h.settings.Load().BusyTopics)] {
		if !utf8.Valid(r.Name) {
			continue // it would be no label
		}
		c := &r.Counts
		list = append(list, broker.BusyTopic{Topic: string(r.Name), MessagesIn: c.MessagesIn, BytesIn: c.BytesIn, MessagesOut: c.MessagesOut, BytesOut: c.BytesOut})
	}
	return list
}
