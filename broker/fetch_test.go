package broker

import (
	"slices"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// A record that is gone below the log's start is nobody's loss; above it, it is one, and counted.
func TestRecordsThatAreGone(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, a := tb.connect(0, live("p")), tb.connect(0, kept("a"))
	a.subscribe(1, "t")
	a.disconnect()
	for i, text := range []string{"1", "2", "3", "4"} {
		p.publish("t", text, 1, Token(i))
		tb.pump()
	}
	s := tb.b.shardOf(0, []byte("t"))
	read := func() (list []string) {
		bu := tb.b.fetcher.read(&fetchJob{shard: uint16(s.id), seqs: []uint64{1, 2, 3, 4}})
		defer putBundle(bu)
		check(t, "through", bu.through, uint64(4))
		for i := range bu.msgs {
			var m Message
			bu.view(i, &m)
			list = append(list, string(m.Payload))
		}
		return list
	}
	lost := func() int64 { return tb.b.stats.QueueDropped[DropLost].Load() }
	check(t, "all", read(), []string{"1", "2", "3", "4"})
	check(t, "lost", lost(), int64(0))
	n := len(tb.log.groups)
	tb.log.groups = slices.Delete(tb.log.groups, n-3, n-2)
	tb.log.SetLogStart(unboundPartition(s.id), 2)
	check(t, "what is left", read(), []string{"3", "4"})
	check(t, "lost above the start, and said", []int64{lost(), tb.faults.Load()}, []int64{1, 1})
	tb.log.SetLogStart(unboundPartition(s.id), record.Offset(4))
	check(t, "above the start", read(), []string{"4"})
	check(t, "lost no more", []int64{lost(), tb.faults.Load()}, []int64{1, 1})
	check(t, "it goes on", tb.connect(0, kept("a")).payloads(), []string{"4"})
}
