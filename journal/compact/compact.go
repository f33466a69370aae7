// Package compact decides what compaction leaves of a stretch of a partition: of each key the latest record, deletions and markers for a time, nothing
// of aborted transactions. It owns that rule and the memory for keys; it reads nothing, writes nothing, and knows neither files nor objects. Its neighbours: the
// journal compacts its segments by it, journal/tier/offload what lies in a store.
package compact

import (
	"math"
	"sort"

	"github.com/sluicemq/sluice/journal/record"
)

// KeyBytes is what a pass may take in memory for keys, without Options.KeyBytes.
const KeyBytes = 16 << 20

// noTime is the timestamp of a batch without one.
const noTime = math.MinInt64

// Options say what a pass is about.
type Options struct {
	Base     record.Offset // keys are noted from here on
	KeyBytes int           // 0: KeyBytes
	// Now and KeepDeletes say how long a record without a value, and a marker without a transaction, stays after it was first met: from Now on
	// for KeepDeletes milliseconds; below 0: for good.
	Now, KeepDeletes int64
	// Aborted are the transactions whose records go, those of a producer by their ends.
	Aborted []Aborted
}

// Aborted is an aborted transaction of a partition: its producer's records from First to the marker at Last.
type Aborted struct {
	Producer    int64
	First, Last record.Offset
}

// Pass is one pass over a partition: first it notes the keys of what no pass has seen, in order, then it says of each batch from the partition's start on
// what stays. It is for one goroutine.
type Pass struct {
	o       Options
	keys    *keyMap
	aborted map[int64][]Aborted // by producer, by their ends
	open    map[int64]bool      // producers that have records left in the transaction under way
	ended   []record.Offset
	filter  batchFilter
}

// NewPass begins one. It takes memory for keys as they come.
func NewPass(o *Options) *Pass {
	p := &Pass{o: *o, open: make(map[int64]bool)}
	if p.o.KeyBytes == 0 {
		p.o.KeyBytes = KeyBytes
	}
	p.keys = newKeyMap(o.Base, p.o.KeyBytes)
	for _, a := range o.Aborted {
		if p.aborted == nil {
			p.aborted = make(map[int64][]Aborted)
		}
		p.aborted[a.Producer] = append(p.aborted[a.Producer], a)
	}
	return p
}

// Ended are the markers of aborted transactions that Keep has left out: nothing is left of those.
func (p *Pass) Ended() []record.Offset { return p.ended }

// Note notes the keys of a batch. false: they do not fit, and the pass ends before the batch. What was noted of it then does no harm: what has a later
// record there goes one pass early.
func (p *Pass) Note(b record.Batch) bool {
	if b.Attributes()&record.Control != 0 || p.isAborted(b) {
		return true
	}
	opened, ok := p.filter.opened(b)
	if !ok {
		return true // nobody can read it: it stays as it is
	}
	for it := opened.Records(); it.Next(); {
		if rec := it.Record(); rec.Key != nil && !p.keys.put(rec.Key, rec.Offset) {
			return false
		}
	}
	return true
}

// isAborted tells whether the records of a batch belong to an aborted transaction.
func (p *Pass) isAborted(b record.Batch) bool {
	if b.Attributes()&record.Transactional == 0 {
		return false
	}
	list := p.aborted[b.ProducerID()]
	i := sort.Search(len(list), func(i int) bool { return list[i].Last >= b.BaseOffset() })
	return i < len(list) && list[i].First <= b.BaseOffset()
}

// Keep is what stays of a batch: itself, another one with fewer records under the same offsets, or nil. Another one is the pass's memory until the next
// call. seen: an earlier pass has seen all that lies before it, so that the time of its deletions, which that pass has set, counts.
func (p *Pass) Keep(b record.Batch, seen bool) record.Batch {
	switch {
	case b.Attributes()&record.Control != 0:
		return p.marker(b, seen)
	case p.isAborted(b):
		return nil
	}
	out := p.filter.apply(p, b, seen)
	if out != nil && b.Attributes()&record.Transactional != 0 {
		p.open[b.ProducerID()] = true
	}
	return out
}

// marker is what stays of a control batch: all of it while its transaction has records left, and for a time after.
func (p *Pass) marker(b record.Batch, seen bool) record.Batch {
	id := b.ProducerID()
	left := p.open[id]
	delete(p.open, id)
	list := p.aborted[id]
	i := sort.Search(len(list), func(i int) bool { return list[i].Last >= b.BaseOffset() })
	ends := i < len(list) && list[i].Last == b.BaseOffset()
	if left || p.o.KeepDeletes < 0 {
		return b
	}
	if !seen || b.Attributes()&record.DeleteHorizon == 0 {
		return p.filter.stamp(b, b, p.o.Now+p.o.KeepDeletes)
	}
	if b.BaseTimestamp() > p.o.Now {
		return b
	}
	if ends {
		p.ended = append(p.ended, b.BaseOffset())
	}
	return nil
}
