package broker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/journal/record"
)

// toldGone takes what was told.
func (tb *testBroker) toldGone() string {
	var list []string
	for _, e := range tb.b.Events().Take(nil) {
		list = append(list, e.Kind.String()+" "+e.ClientID+": "+e.Reason)
	}
	return strings.Join(list, "; ")
}

// The end of a session is told once, when it is in the log, by whoever had it written; a restart says nothing.
func TestSessionGone(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	tb.b.opts.Events = events.New()
	tb.b.opts.Events.Want(events.ParseSet([]string{"session"}))
	check(t, "live", tb.toldGone(), "")
	a := tb.connect(0, live("a"))
	a.disconnect()
	tb.pump()
	check(t, "live", tb.toldGone(), "session.ended a: its connection has ended")

	b := tb.connect(1, kept("b"))
	b.disconnect()
	tb.pump()
	check(t, "kept", tb.toldGone(), "")
	req := kept("b")
	req.CleanStart = true
	b = tb.connect(1, req)
	check(t, "discarded", tb.toldGone(), "session.discarded b: its client wanted a new one")
	b.disconnect()
	tb.pump()
	req = live("b")
	b = tb.connect(0, req)
	check(t, "discarded for a live one", tb.toldGone(), "session.discarded b: its client wanted a new one")
	b.disconnect()
	tb.pump()
	check(t, "which ends", tb.toldGone(), "session.ended b: its connection has ended")

	req = kept("c")
	req.Expiry = time.Minute
	c := tb.connect(0, req)
	c.disconnect()
	tb.pump()
	tb.clock.Advance(2 * time.Minute)
	tb.tick()
	tb.tick()
	check(t, "expired", tb.toldGone(), "session.ended c: it has expired")

	tb.connect(0, kept("d")).disconnect()
	tb.pump()
	tb.b.EndSession(0, "d", func(error) {})
	check(t, "not in the log yet", tb.toldGone(), "")
	tb.pump()
	check(t, "an administrator's", tb.toldGone(), "session.ended d: an administrator has ended it")

	again := openTestBroker(t, 2, nil)
	defer again.b.Close()
	again.b.opts.Events = events.New()
	again.b.opts.Events.Want(events.ParseSet([]string{"session"}))
	tb.log.frames(func(f record.Frame) {
		if err := again.b.Replay(f, Place{}); err != nil {
			t.Fatal(err)
		}
	})
	check(t, "replayed", again.toldGone(), "")
}

// The node's own records go to the partition of their key, in order, and are refused where a client's would be.
func TestAppendRecord(t *testing.T) {
	gb := newGroupBench(t)
	topic, l := gb.b.Topic(0, "t"), gb.b.Local(0)
	for _, key := range []string{"a", "b", "a", "c", "a", ""} {
		if err := l.AppendRecord(topic, &record.Input{Key: []byte(key), Value: []byte("of " + key), Timestamp: 1000}); err != nil {
			t.Fatal(err)
		}
	}
	gb.pump()
	found := 0
	for i := range topic.Partitions() {
		p := topic.Partition(int32(i))
		var f StreamFetch
		l.FetchTail(p, 0, 1<<20, true, &f)
		for _, data := range f.Batches {
			for it := record.Batch(data).Records(); it.Next(); {
				r := it.Record()
				if topic.partitionOf(r.Key) != p || string(r.Value) != "of "+string(r.Key) {
					t.Errorf("partition %d has %q: %q", i, r.Key, r.Value)
				}
				found++
			}
		}
	}
	check(t, "records", found, 6)
	large := record.Input{Key: []byte("a"), Value: make([]byte, 2<<20), Timestamp: 1000}
	if limit := topic.Spec().Config.MaxMessageBytes; limit > 0 && int(limit) < len(large.Value) {
		check(t, "large", errors.Is(l.AppendRecord(topic, &large), ErrMessageTooLarge), true)
	}
	n := 0
	var err error
	for ; err == nil && n < 1<<20; n++ {
		err = l.AppendRecord(topic, &record.Input{Key: []byte("a"), Value: make([]byte, 1<<10), Timestamp: 1000})
	}
	if !errors.Is(err, ErrBusy) || n < 100 {
		t.Errorf("a full list after %d: %v", n, err)
	}
	gb.pump()
	check(t, "room again", l.AppendRecord(topic, &record.Input{Key: []byte("a"), Timestamp: 1000}), error(nil))
	gb.b.DeleteTopic(topic, func(error) {})
	gb.pump()
	check(t, "gone", errors.Is(l.AppendRecord(topic, &record.Input{Key: []byte("a"), Timestamp: 1000}), ErrUnknownTopic), true)
}
