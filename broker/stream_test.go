package broker

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/journal/record"
)

// configured gives the topic another configuration.
func (gb *groupBench) configured(change func(*TopicSpec)) *Partition {
	spec := topicSpec("t", 1, 100, 101)
	change(spec)
	gb.b.SetTopic(spec)
	return gb.b.Topic(0, "t").Partition(0)
}

func (ap *appender) txn(p *Partition, producer int64, epoch int16, seq int32, values ...string) error {
	b := batchOf(record.BatchOptions{Attributes: record.Transactional, Producer: record.Producer{Known: true, ID: producer, Epoch: epoch, Sequence: seq}}, values...)
	return ap.a.local.Append(ap.a, p, b, AppendOptions{Transactional: true}, 1)
}

func (gb *groupBench) marker(t *testing.T, p *Partition, producer int64, epoch int16, commit bool) {
	t.Helper()
	gb.b.appendMarker(p, producer, epoch, commit, func(err error) {
		if err != nil {
			t.Errorf("marker: %v", err)
		}
	})
	gb.pump()
}

// What a batch may not be.
func TestAppendRefused(t *testing.T) {
	gb := newGroupBench(t)
	a := gb.appender(0)
	now := gb.clock.Now().UnixMilli()
	at := func(ms int64) record.Batch {
		var b record.BatchBuilder
		b.Begin(nil, ms)
		b.Append(&record.Input{Value: []byte("v"), Timestamp: ms})
		return b.Finish(&record.BatchOptions{})
	}
	for _, c := range []struct {
		name   string
		change func(*TopicSpec)
		batch  record.Batch
		want   error
	}{
		{"internal", func(s *TopicSpec) { s.Internal = true }, at(now), ErrInternalTopic},
		{"large", func(s *TopicSpec) { s.Config.MaxMessageBytes = 68 }, at(now), ErrMessageTooLarge},
		{"not large", func(s *TopicSpec) { s.Config.MaxMessageBytes = 69 }, at(now), nil},
		{"early", func(s *TopicSpec) { s.Config.TimestampAfterMaxMillis = 1000 }, at(now + 1001), ErrInvalidTimestamp},
		{"not early", func(s *TopicSpec) { s.Config.TimestampAfterMaxMillis = 1000 }, at(now + 1000), nil},
		{"late", func(s *TopicSpec) { s.Config.TimestampBeforeMaxMillis = 1000 }, at(now - 1001), ErrInvalidTimestamp},
		{"late where the log's time counts", func(s *TopicSpec) { s.Config.TimestampBeforeMaxMillis, s.Config.LogAppendTime = 1000, true }, at(now - 1001), nil},
		{"no key", func(s *TopicSpec) { s.Config.Compact = true }, at(now), ErrInvalidRecord},
		{"control", func(*TopicSpec) {}, markerBatch(7, 0, true, now), ErrInvalidTxnState},
		{"transactional unasked", func(*TopicSpec) {}, batchOf(record.BatchOptions{Attributes: record.Transactional}, "v"), ErrInvalidTxnState},
	} {
		if err := a.append(gb.configured(c.change), c.batch, 1); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	p := gb.configured(func(*TopicSpec) {})
	gb.b.DropTopic(0, TopicID{1})
	if err := a.append(p, at(now), 1); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("dropped: %v", err)
	}
	gb.marker(t, p, 7, 0, true)
	gb.pump()
}

// The broker's time is in the batch, under a right checksum, and in the answer, also that to a duplicate.
func TestLogAppendTime(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.configured(func(s *TopicSpec) { s.Config.LogAppendTime = true })
	a := gb.appender(0)
	now := gb.clock.Now().UnixMilli()
	_ = a.append(p, fromProducer(7, 0, 0, "a"), 1)
	gb.pump()
	gb = gb.crashed()
	p, a = gb.b.Topic(0, "t").Partition(0), gb.appender(0)
	gb.clock.Advance(time.Hour)
	gb.b.Local(0).EndTurn()
	_ = a.append(p, fromProducer(7, 0, 0, "a"), 2)
	gb.pump()
	if r := a.results[2]; r.AppendTime != now || r.Base != 0 {
		t.Errorf("the duplicate is answered %+v, now was %d", r, now)
	}
	var f StreamFetch
	gb.b.Local(0).FetchTail(p, 0, 1, false, &f)
	b := record.Batch(f.Batches[0])
	if err := b.Verify(); err != nil || b.MaxTimestamp() != now || b.Attributes()&record.LogAppendTime == 0 {
		t.Errorf("%v, time %d", err, b.MaxTimestamp())
	}
}

// Transactional batches: let in by the coordinator, seen when the transaction has ended, fenced by epochs.
func TestTransactionalAppend(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.b.Topic(0, "t").Partition(0)
	a := gb.appender(0)
	expect := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
		gb.pump()
		if r := a.results[1]; r.Err != nil {
			t.Errorf("%s: answered %v", what, r.Err)
		}
	}
	expect("not let in", a.txn(p, 7, 0, 0, "x"), ErrTxnNotAnnounced)
	p.announceTxn(7, 0)
	expect("first", a.txn(p, 7, 0, 0, "a"), nil)
	expect("second", a.txn(p, 7, 0, 1, "b"), nil)
	expect("beside it", a.append(p, fromProducer(7, 0, 2, "x"), 1), ErrInvalidTxnState)
	_ = a.append(p, batchOf(record.BatchOptions{}, "plain"), 1)
	gb.pump()
	if p.LastStable() != 0 || p.HighWatermark() != 3 {
		t.Errorf("stable to %d of %d", p.LastStable(), p.HighWatermark())
	}
	gb.b.appendMarker(p, 7, 1, false, func(error) {})
	expect("behind a marker that is on its way", a.txn(p, 7, 0, 2, "x"), ErrInvalidProducerEpoch)
	expect("the same in its epoch", a.txn(p, 7, 1, 0, "x"), ErrTxnNotAnnounced)
	gb.marker(t, p, 7, 1, false) // again
	p.announceTxn(7, 1)
	expect("next", a.txn(p, 7, 1, 0, "c"), nil)
	for range 2 {
		if p.LastStable() != 5 || p.HighWatermark() != 6 {
			t.Errorf("stable to %d of %d", p.LastStable(), p.HighWatermark())
		}
		var f StreamFetch
		gb.b.Local(0).FetchTail(p, 0, 1<<20, true, &f)
		if len(f.Batches) != 5 || len(f.Aborted) != 1 || f.Aborted[0] != (AbortedTxn{7, 0}) {
			t.Errorf("%d batches, aborted %+v", len(f.Batches), f.Aborted)
		}
		if gb.b.Local(0).FetchTail(p, 4, 1<<20, true, &f); len(f.Aborted) != 0 {
			t.Errorf("behind it %+v", f.Aborted)
		}
		// Over a restart from rows alone.
		points := &memCheckpoints{}
		if err := gb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		next, err := gb.restartWith(2, points, gb.b.Topic(0, "t").Spec())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(next.b.Close)
		gb = &groupBench{next}
		p, a = gb.b.Topic(0, "t").Partition(0), gb.appender(1)
	}
	expect("before the coordinator has let it in again", a.txn(p, 7, 1, 1, "d"), ErrTxnNotAnnounced)
	p.announceTxn(7, 1)
	expect("goes on", a.txn(p, 7, 1, 1, "d"), nil)
	gb.marker(t, p, 7, 1, true)
	if p.LastStable() != 8 {
		t.Errorf("stable to %d", p.LastStable())
	}
	expect("behind a marker of its epoch", a.txn(p, 7, 1, 2, "x"), ErrTxnNotAnnounced)
	p.announceTxn(7, 1)
	expect("sequences go on", a.txn(p, 7, 1, 2, "e"), nil)
}

// A watcher of committed records waits for the transaction's end, one of bytes for the bytes.
func TestWatchFor(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.b.Topic(0, "t").Partition(0)
	a := gb.appender(0)
	woken := ""
	var committed, bytes, any Watcher
	l := gb.b.Local(1)
	var f StreamFetch
	l.FetchTail(p, 0, 1, false, &f)
	l.WatchRead(p, &f, true, 1, &committed, func() { woken += "committed " })
	l.WatchRead(p, &f, false, 250, &bytes, func() { woken += "bytes " })
	l.Watch(p, 0, &any, func() { woken += "any " })
	step := func(want string) {
		t.Helper()
		if gb.pump(); woken != want {
			t.Errorf("woken: %q, want %q", woken, want)
		}
		woken = ""
	}
	p.announceTxn(7, 0)
	_ = a.txn(p, 7, 0, 0, "a")
	step("any ")
	_ = a.append(p, batchOf(record.BatchOptions{}, "b"), 1)
	step("")
	gb.marker(t, p, 7, 0, true)
	step("committed ")
	_ = a.append(p, batchOf(record.BatchOptions{}, "b"), 1)
	step("bytes ")
	if p.mu.watchers.head != nil {
		t.Error("somebody still waits")
	}
	// What came between a read and the wait for more is seen.
	l.FetchTail(p, 4, 1, false, &f)
	_ = a.append(p, batchOf(record.BatchOptions{}, "b"), 1)
	gb.pump()
	l.WatchRead(p, &f, false, 1, &any, func() { woken += "meanwhile " })
	l.WatchRead(p, &f, false, 1000, &bytes, func() { woken += "too many " })
	step("meanwhile ")
	l.Unwatch(&bytes)
	// Woken, given up, and armed again before the wake-up arrives.
	l.Watch(p, 5, &any, func() { woken += "first " })
	_ = a.append(p, batchOf(record.BatchOptions{}, "b"), 1)
	gb.log.commit()
	gb.b.Local(0).Drain()
	gb.b.Local(0).EndTurn()
	l.Unwatch(&any)
	l.Watch(p, p.HighWatermark(), &any, func() { woken += "second " })
	step("")
	_ = a.append(p, batchOf(record.BatchOptions{}, "b"), 1)
	step("second ")
}

// Producers that are silent are forgotten, but not in a transaction, nor if more of them is on its way.
func TestProducerExpiry(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.b.Topic(0, "t").Partition(0)
	a := gb.appender(0)
	for i := range int64(40) {
		_ = a.append(p, fromProducer(i, 0, 0, "v"), 1)
	}
	p.announceTxn(100, 0)
	_ = a.txn(p, 100, 0, 0, "v")
	gb.pump()
	points := &memCheckpoints{}
	if err := gb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	if n := gb.b.Stats().Producers.Load(); n != 41 || p.mu.producers.index == nil {
		t.Errorf("%d producers", n)
	}
	gb.clock.Advance(25 * time.Hour)
	gb.b.Local(0).EndTurn()
	_ = a.append(p, fromProducer(3, 0, 1, "v"), 1)
	gb.pump()
	for range 60 {
		for i := range gb.b.Loops() {
			gb.b.Local(i).Tick()
		}
	}
	gb.log.between = func() { _ = a.append(p, fromProducer(5, 0, 1, "v"), 1) } // is on its way when the command is applied
	gb.log.commit()
	gb.pump()
	if n := gb.b.Stats().Producers.Load(); n != 3 {
		t.Errorf("%d producers are left", n)
	}
	if st := p.mu.producers.find(5).state; st.n != 1 || st.batches[0].first != 1 {
		t.Errorf("of 5 is known %+v", st)
	}
	if err := a.append(p, fromProducer(9, 0, 77, "v"), 1); err != nil {
		t.Errorf("one that was forgotten: %v", err)
	}
	gb.pump()
	if err := gb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	rows := 0
	for key := range points.flushed[p.shard.id].rows {
		if key[0] == rowProducer {
			rows++
		}
	}
	if rows != 4 {
		t.Errorf("%d rows of producers", rows)
	}
	gb.b.DropTopic(0, TopicID{1})
	if err := gb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	for key := range points.flushed[p.shard.id].rows {
		if key[0] == rowProducer || key[0] == rowLogStart {
			t.Errorf("a row %q of a topic that is gone", key)
		}
	}
	if n := gb.b.Stats().Producers.Load(); n != 0 {
		t.Errorf("%d producers of a topic that is gone", n)
	}
}

// Too many producers: a new one is refused, the most silent ones make room.
func TestProducerLimit(t *testing.T) {
	gb := newGroupBench(t)
	gb.b.SetLimits(Limits{Stream: StreamLimits{PartitionProducers: 16}})
	p := gb.b.Topic(0, "t").Partition(0)
	a := gb.appender(0)
	for i := range int64(16) {
		gb.clock.Advance(time.Second)
		gb.b.Local(0).EndTurn()
		_ = a.append(p, fromProducer(i, 0, 0, "v"), 1)
		gb.pump()
	}
	if err := a.append(p, fromProducer(77, 0, 0, "v"), 1); !errors.Is(err, ErrQuota) {
		t.Errorf("one too many: %v", err)
	}
	if p.mu.next != 16 {
		t.Errorf("next is %d", p.mu.next)
	}
	for range 60 {
		gb.tick()
	}
	if err := a.append(p, fromProducer(77, 0, 0, "v"), 1); err != nil {
		t.Error(err)
	}
	if p.mu.producers.find(0) != nil || p.mu.producers.find(15) == nil {
		t.Error("not the most silent ones are gone")
	}
	gb.pump()
}

func TestRetention(t *testing.T) {
	gb := newGroupBench(t)
	a := gb.appender(0)
	p := gb.configured(func(s *TopicSpec) {
		s.Config.Delete, s.Config.RetentionMillis, s.Config.RetentionBytes = true, 10_000, -1
	})
	put := func() {
		t.Helper()
		now := gb.clock.Now().UnixMilli()
		var b record.BatchBuilder
		b.Begin(nil, now)
		b.Append(&record.Input{Key: []byte("k"), Value: []byte("v"), Timestamp: now})
		if err := a.append(p, b.Finish(&record.BatchOptions{}), 1); err != nil {
			t.Fatal(err)
		}
		gb.pump()
	}
	sweep := func(want record.Offset) {
		t.Helper()
		for range 60 {
			gb.tick()
		}
		if p.LogStart() != want {
			t.Errorf("begins at %d, want %d", p.LogStart(), want)
		}
	}
	for range 5 {
		put()
		gb.clock.Advance(4 * time.Second)
	}
	sweep(3)
	if got := gb.read(p, 0); got != ErrOffsetOutOfRange.Error() {
		t.Errorf("before the start: %q", got)
	}
	p = gb.configured(func(s *TopicSpec) { s.Config.Delete, s.Config.RetentionMillis, s.Config.RetentionBytes = true, -1, 70 })
	sweep(4)
	p = gb.configured(func(s *TopicSpec) { s.Config.Compact, s.Config.RetentionMillis, s.Config.RetentionBytes = true, 0, 0 })
	sweep(4)
	// Over a restart from rows, with a log that has forgotten where it begins.
	points := &memCheckpoints{}
	if err := gb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	gb.log.start = nil
	next, err := gb.restartWith(2, points, p.topic.Spec())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.b.Close)
	p = next.b.Topic(0, "t").Partition(0)
	if start, _ := next.log.Bounds(p.ID()); p.LogStart() != 4 || start != 4 || p.HighWatermark() != 5 {
		t.Errorf("from %d (the log: %d) to %d", p.LogStart(), start, p.HighWatermark())
	}
}

func TestDeleteRecords(t *testing.T) {
	gb := newGroupBench(t)
	a := gb.appender(0)
	p := gb.b.Topic(0, "t").Partition(0)
	_ = a.append(p, batchOf(record.BatchOptions{}, "a", "b", "c"), 1)
	gb.pump()
	ask := func(to record.Offset) (out string) {
		gb.b.Local(0).DeleteRecords(p, to, func(start record.Offset, err error) { out = fmt.Sprint(start, err) })
		gb.pump()
		return out
	}
	for _, c := range []struct {
		to   record.Offset
		want string
	}{{2, "2 <nil>"}, {1, "2 <nil>"}, {4, "-1 " + ErrOffsetOutOfRange.Error()}, {-2, "-1 " + ErrOffsetOutOfRange.Error()}, {-1, "3 <nil>"}} {
		if got := ask(c.to); got != c.want {
			t.Errorf("to %d: %s, want %s", c.to, got, c.want)
		}
	}
	gb.log.fail = errors.New("full")
	_ = a.append(p, batchOf(record.BatchOptions{}, "d"), 1)
	gb.pump()
	gb.log.fail = nil
	_ = a.append(p, batchOf(record.BatchOptions{}, "d"), 1)
	gb.pump()
	gb.log.fail = errors.New("full")
	if got := ask(4); got == "4 <nil>" || p.LogStart() != 3 {
		t.Errorf("on a full disk: %s", got)
	}
}

// A log start that was moved behind the last checkpoint is found in the log, though the records before it are not replayed.
func TestLogStartReplayed(t *testing.T) {
	gb := newGroupBench(t)
	p, a := gb.b.Topic(0, "t").Partition(0), gb.appender(0)
	_ = a.append(p, batchOf(record.BatchOptions{}, "a", "b", "c"), 1)
	gb.pump()
	points := &memCheckpoints{}
	if err := gb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	gb.b.Local(0).DeleteRecords(p, 2, func(record.Offset, error) {})
	gb.pump()
	gb.log.start = nil
	next, err := gb.restartWith(1, points, p.topic.Spec())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.b.Close)
	if p = next.b.Topic(0, "t").Partition(0); p.LogStart() != 2 || p.HighWatermark() != 3 {
		t.Errorf("from %d to %d", p.LogStart(), p.HighWatermark())
	}
}

// Rows and frames of partitions that the catalog creates later in the replay, and of such as it does not know any more.
func TestStrayRows(t *testing.T) {
	gb := newGroupBench(t)
	p, a := gb.b.Topic(0, "t").Partition(0), gb.appender(0)
	_ = a.append(p, fromProducer(7, 0, 0, "a"), 1)
	gb.pump()
	points := &memCheckpoints{}
	if err := gb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	for _, known := range []bool{true, false} {
		b := New(Options{Shards: modelShards})
		t.Cleanup(b.Close)
		log := &memLog{b: b, groups: gb.log.groups}
		b.UseLog(log)
		if err := b.Load(points); err != nil {
			t.Fatal(err)
		}
		if known {
			b.SetTopic(topicSpec("t", 1, 100, 101))
		}
		b.Recovered()
		if known {
			if st := b.Topic(0, "t").Partition(0).mu.producers.find(7).state; st.n != 1 {
				t.Errorf("known is %+v", st)
			}
			continue
		}
		if start, _ := log.Bounds(100); start != 1<<62 {
			t.Error("the log was not told that the partition is gone")
		}
		b.setCommitted(Place{Segment: 1, Offset: 9})
		if err := b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		if n := len(points.written[p.shard.id].rows); n != 1 {
			t.Errorf("%d rows are left", n)
		}
	}
}

// A large batch that somebody holds is not copied, and held until it is in the log's buffer, or until the log has failed.
func TestAppendHeld(t *testing.T) {
	gb := newGroupBench(t)
	p, a := gb.b.Topic(0, "t").Partition(0), gb.appender(0)
	block := alloc.CopyBlock(batchOf(record.BatchOptions{}, strings.Repeat("x", 20_000)))
	send := func() {
		t.Helper()
		if err := a.a.local.Append(a.a, p, block.Bytes(), AppendOptions{Held: block}, 1); err != nil {
			t.Fatal(err)
		}
		if n := block.Refs(); n != 2 {
			t.Errorf("%d holders while it waits", n)
		}
		gb.pump()
		if n := block.Refs(); n != 1 {
			t.Errorf("%d holders behind it", n)
		}
	}
	send()
	gb.log.fail = errors.New("full")
	send()
	gb.log.fail = nil
	send()
	var f StreamFetch
	if gb.b.Local(0).FetchTail(p, 0, 1<<20, false, &f); len(f.Batches) != 2 || record.Batch(f.Batches[1]).BaseOffset() != 1 {
		t.Errorf("%d batches", len(f.Batches))
	}
	if record.Batch(block.Bytes()).BaseOffset() != 0 {
		t.Error("what was held has changed")
	}
	block.Release()
}
