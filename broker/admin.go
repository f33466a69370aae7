package broker

import (
	"github.com/sluicemq/sluice/journal/record"
)

// What administrators ask, beside what the protocols ask for them. Tables of a million rows are gone through a slice at a time: who is there
// from the beginning to the end of such a way is seen once.

// TopicsGeneration moves whenever a topic comes, goes or changes.
func (b *Broker) TopicsGeneration() uint64 { return b.topicTable.generation.Load() }

// RowPlace is how far a way through a table has come: a part of it (a loop or a shard) and a row. The zero value is its beginning.
type RowPlace struct{ Part, Row int }

// groupsMembersMax is how many members of groups a loop looks at, at once.
const groupsMembersMax = 4096

// Groups gives the groups of a tenant among the next rows from at on, n at most. done runs once, on some loop; end: that was all.
func (b *Broker) Groups(tenant uint32, at RowPlace, n int, done func(list []GroupDescription, next RowPlace, end bool)) {
	if at.Part < 0 || at.Part >= len(b.locals) || at.Row < 0 {
		done(nil, RowPlace{}, true)
		return
	}
	l := b.locals[at.Part]
	l.Run(func() {
		rows := l.groupTable.rows
		var list []GroupDescription
		to, work := min(at.Row+n, len(rows)), 0
		for i := at.Row; i < to; i++ {
			if work > groupsMembersMax { // a consumer group's state is that of its members
				to = i
				break
			}
			if g := rows[i]; g != nil && g.key.tenant == tenant {
				d := g.listed()
				d.Size = len(g.members)
				if g.consumer != nil {
					d.Size = len(g.consumer.members)
				}
				list = append(list, d)
				work += d.Size
			}
		}
		next := RowPlace{at.Part, to}
		if to == len(rows) {
			next = RowPlace{at.Part + 1, 0}
		}
		done(list, next, next.Part == len(b.locals))
	})
}

// OffLoop runs fn in the bounded pool that reads the log: for what may wait for a disk, or takes long. It must end soon.
func (b *Broker) OffLoop(fn func()) { b.fetcher.submit(fetchJob{run: fn}) }

// TimeAt gives the time of the first record at or behind an offset that readers see, in Unix milliseconds; found false: there is none. It reads
// in a bounded pool, and done runs there, or at once with what refuses it: it must not block.
func (b *Broker) TimeAt(p *Partition, from record.Offset, done func(ms int64, found bool, err error)) {
	b.read(p, func() { done(b.timeAt(p, from)) }, func(err error) { done(0, false, err) })
}

func (b *Broker) timeAt(p *Partition, from record.Offset) (ms int64, found bool, err error) {
	end := p.HighWatermark()
	from = max(from, p.LogStart())
	if from >= end || p.topic.Dropped() {
		return 0, false, nil
	}
	err = b.log.Read(p.id, from, func(batch record.Batch) bool {
		if batch.BaseOffset() >= end {
			return false
		}
		if batch.Attributes()&record.Control == 0 {
			ms, found = timeFrom(batch, from)
		}
		return !found
	})
	return ms, found, err
}

// timeFrom is the time of the first record of a batch from an offset on.
func timeFrom(b record.Batch, from record.Offset) (ms int64, found bool) {
	if b.Attributes().Compressed() {
		opened, err := openBatch(nil, b)
		if err != nil {
			return b.MaxTimestamp(), true // about then
		}
		b = opened
	}
	for it := b.Records(); it.Next(); {
		if r := it.Record(); r.Offset >= from {
			return r.Timestamp, true
		}
	}
	return 0, false
}
