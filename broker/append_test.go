package broker

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// batchOf makes a batch of records with these values.
func batchOf(o record.BatchOptions, values ...string) record.Batch {
	var b record.BatchBuilder
	b.Begin(nil, 1000)
	for i, v := range values {
		b.Append(&record.Input{Key: []byte("k"), Value: []byte(v), Timestamp: 1000 + int64(i), OffsetDelta: int32(i)})
	}
	return b.Finish(&o)
}

func fromProducer(id int64, epoch int16, sequence int32, values ...string) record.Batch {
	return batchOf(record.BatchOptions{Producer: record.Producer{Known: true, ID: id, Epoch: epoch, Sequence: sequence}}, values...)
}

// appender is an AppendSink that remembers.
type appender struct {
	tb      *groupBench
	a       *Appender
	results map[Token]AppendResult
	resumed int
}

func (gb *groupBench) appender(loop int) *appender {
	ap := &appender{tb: gb, results: map[Token]AppendResult{}}
	ap.a = gb.b.Local(loop).NewAppender(ap)
	return ap
}

func (ap *appender) Appended(t Token, r AppendResult) { ap.results[t] = r }
func (ap *appender) Resume()                          { ap.resumed++ }

func (ap *appender) append(p *Partition, b record.Batch, t Token) error {
	return ap.a.local.Append(ap.a, p, b, AppendOptions{}, t)
}

// read gives the values of a partition from an offset on.
func (gb *groupBench) read(p *Partition, from record.Offset) string {
	var f StreamFetch
	out := ""
	for {
		l := gb.b.Local(0)
		if l.FetchTail(p, from, 1<<20, false, &f) {
			done := false
			l.FetchCold(p, from, 1<<20, false, &f, func() { done = true })
			for !done {
				gb.pump()
			}
		}
		if f.Err != nil {
			return f.Err.Error()
		}
		if f.Bytes == 0 {
			return out
		}
		for _, b := range f.Batches {
			for it := record.Batch(b).Records(); it.Next(); {
				r := it.Record()
				if r.Offset >= from {
					out += fmt.Sprintf("%d:%s ", r.Offset, r.Value)
					from = r.Offset + 1
				}
			}
		}
	}
}

func TestAppendFetch(t *testing.T) {
	gb := newGroupBench(t)
	p, q := gb.b.Topic(0, "t").Partition(0), gb.b.Topic(0, "t").Partition(1)
	a := gb.appender(0)
	if err := errors.Join(a.append(p, batchOf(record.BatchOptions{}, "a", "b"), 1), a.append(q, batchOf(record.BatchOptions{}, "x"), 2),
		a.append(p, batchOf(record.BatchOptions{}, "c"), 3)); err != nil {
		t.Fatal(err)
	}
	if got := gb.read(p, 0); got != "" {
		t.Errorf("before the commit %q is seen", got)
	}
	gb.pump()
	if a.results[1].Base != 0 || a.results[2].Base != 0 || a.results[3].Base != 2 || len(a.results) != 3 {
		t.Errorf("results are %+v", a.results)
	}
	for _, cold := range []bool{false, true} {
		gb.log.cold = cold
		if got := gb.read(p, 0) + "| " + gb.read(q, 0) + "| " + gb.read(p, 1); got != "0:a 1:b 2:c | 0:x | 1:b 2:c " {
			t.Errorf("cold %v: read %q", cold, got)
		}
		if got := gb.read(p, 4); got != ErrOffsetOutOfRange.Error() {
			t.Errorf("behind the end: %q", got)
		}
	}
	gb = gb.crashed()
	p = gb.b.Topic(0, "t").Partition(0)
	a = gb.appender(1)
	_ = a.append(p, batchOf(record.BatchOptions{}, "d"), 1)
	gb.pump()
	if got := gb.read(p, 0); got != "0:a 1:b 2:c 3:d " || a.results[1].Base != 3 {
		t.Errorf("after a crash %q", got)
	}
}

// What the log does not take is answered with the error, never seen, and its sequences are free again.
func TestAppendFails(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.b.Topic(0, "t").Partition(0)
	a := gb.appender(0)
	gb.log.fail = errors.New("disk is full")
	_ = a.append(p, fromProducer(7, 0, 0, "lost"), 1)
	gb.pump()
	if err := a.results[1].Err; !errors.Is(err, ErrUnavailable) {
		t.Errorf("answered %v", err)
	}
	gb.log.fail = nil
	_ = a.append(p, fromProducer(7, 0, 0, "kept"), 2)
	gb.pump()
	if got := gb.read(p, 0); got != "0:kept " || a.results[2].Err != nil {
		t.Errorf("read %q, answered %v", got, a.results[2].Err)
	}
}

// An idempotent producer's batches are taken once and in order, over a crash too.
func TestAppendIdempotent(t *testing.T) {
	gb := newGroupBench(t)
	var a *appender
	var p *Partition
	find := func() {
		a, p = gb.appender(0), gb.b.Topic(0, "t").Partition(0)
	}
	find()
	send := func(want error, base record.Offset, b record.Batch) {
		t.Helper()
		err := a.append(p, b, 9)
		gb.pump()
		if !errors.Is(err, want) || want == nil && (err != nil || a.results[9].Err != nil || a.results[9].Base != base) {
			t.Errorf("answered %v, %+v; want %v, base %d", err, a.results[9], want, base)
		}
	}
	send(nil, 0, fromProducer(7, 0, 0, "a", "b"))
	send(nil, 2, fromProducer(7, 0, 2, "c"))
	send(nil, 0, fromProducer(7, 0, 0, "a", "b"))
	send(ErrOutOfOrderSequence, 0, fromProducer(7, 0, 5, "x"))
	// Twice before the commit: both are answered with the one place.
	_ = a.append(p, fromProducer(7, 0, 3, "d"), 1)
	_ = a.append(p, fromProducer(7, 0, 3, "d"), 2)
	if gb.pump(); a.results[1].Base != 3 || a.results[2].Base != 3 {
		t.Errorf("answered %+v", a.results)
	}
	gb = gb.crashed()
	find()
	send(nil, 3, fromProducer(7, 0, 3, "d"))
	send(nil, 4, fromProducer(7, 1, 0, "e"))
	send(ErrInvalidProducerEpoch, 0, fromProducer(7, 0, 4, "x"))
	send(ErrOutOfOrderSequence, 0, fromProducer(7, 2, 4, "x"))
	if got := gb.read(p, 0); got != "0:a 1:b 2:c 3:d 4:e " {
		t.Errorf("read %q", got)
	}
}

func TestWatch(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.b.Topic(0, "t").Partition(0)
	a := gb.appender(0)
	var ws [3]Watcher
	var woken [3]int
	for i := range ws {
		gb.b.Local(i%2).Watch(p, 0, &ws[i], func() { woken[i]++ })
	}
	gb.b.Local(1).Unwatch(&ws[1])
	_ = a.append(p, batchOf(record.BatchOptions{}, "a"), 1)
	gb.pump()
	if woken != [3]int{1, 0, 1} {
		t.Errorf("woken %v", woken)
	}
	_ = a.append(p, batchOf(record.BatchOptions{}, "b"), 1)
	gb.pump()
	if woken != [3]int{1, 0, 1} {
		t.Errorf("woken again: %v", woken)
	}
	gb.b.Local(0).Watch(p, 1, &ws[0], func() { woken[0]++ }) // it is there already
	gb.b.Local(0).Watch(p, 2, &ws[2], func() { woken[2]++ })
	if gb.pump(); woken != [3]int{2, 0, 1} {
		t.Errorf("woken %v", woken)
	}
	gb.b.DropTopic(0, TopicID{1})
	if gb.pump(); woken != [3]int{2, 0, 2} {
		t.Errorf("when the topic went: %v", woken)
	}
}

func TestOffsetAt(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.b.Topic(0, "t").Partition(0)
	a := gb.appender(0)
	_ = a.append(p, batchOf(record.BatchOptions{}, "1000", "1001", "1002"), 1)
	_ = a.append(p, batchOf(record.BatchOptions{}, "1000"), 1)
	gb.pump()
	for _, c := range []struct{ at, offset, time int64 }{{LatestOffset, 4, -1}, {EarliestOffset, 0, -1}, {1001, 1, 1001}, {0, 0, 1000}, {1003, -1, -1},
		{MaxTimestampOffset, 2, 1002}} {
		var got FoundOffset
		asked := false
		gb.b.Local(0).OffsetAt(p, c.at, false, func(f FoundOffset, err error) {
			if err != nil {
				t.Error(err)
			}
			got, asked = f, true
		})
		for !asked {
			gb.pump()
		}
		if got != (FoundOffset{record.Offset(c.offset), c.time}) {
			t.Errorf("at %d: %+v", c.at, got)
		}
	}
}

// A full list answers busy, and the appender hears when there is room.
func TestAppendBusy(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.b.Topic(0, "t").Partition(0)
	a := gb.appender(0)
	big := batchOf(record.BatchOptions{}, string(bytes.Repeat([]byte("x"), 1<<20)))
	n := 0
	for ; n < 100; n++ {
		if err := a.append(p, big, Token(n)); err != nil {
			if !errors.Is(err, ErrBusy) {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 2 || n == 100 {
		t.Fatalf("busy after %d MiB", n)
	}
	gb.pump()
	if a.resumed != 1 || len(a.results) != n {
		t.Errorf("resumed %d times, %d results of %d", a.resumed, len(a.results), n)
	}
	if err := a.append(p, big, 1); err != nil {
		t.Error(err)
	}
}
