package broker

import (
	"errors"
	"testing"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
)

// TestAppendBehindOneThatFailed: a node that stopped to lead, and leads again, takes no batch of a connection that has not heard yet that one before it has failed. From then
// on it is the connection that knows what came before: of a producer that the partition does not know, a batch that is said to come later is out of order.
func TestAppendBehindOneThatFailed(t *testing.T) {
	tb := &testBroker{t: t, clock: clock.NewManual(clockStart)}
	tb.b = New(Options{Shards: 2, Loops: 2, Clock: tb.clock, Replicated: true})
	tb.log = &memLog{b: tb.b}
	tb.b.UseLog(tb.log)
	tb.b.SetTopic(&TopicSpec{Name: "t", ID: TopicID{1}, Partitions: []PartitionSpec{{ID: 100, Shard: trioShard}}, Config: TopicConfig{RetentionMillis: -1, RetentionBytes: -1}})
	tb.b.Recovered()
	t.Cleanup(tb.b.Close)
	lead := func(epoch record.Epoch) {
		tb.b.Lead(trioShard, epoch, nil, 1, func(err error) {
			if err != nil {
				t.Errorf("lead: %v", err)
			}
		})
	}
	lead(1)
	tb.pump()
	p := tb.part()
	home := p.shard.home
	other := tb.b.Local(1 - home.id)
	ap := &appender{results: map[Token]AppendResult{}}
	ap.a = other.NewAppender(ap)
	send := func(sequence int32, later bool, want error) {
		t.Helper()
		if err := other.Append(ap.a, p, fromProducer(7, 0, sequence, "x"), AppendOptions{Later: later}, Token(sequence)); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("sequence %d: %v, want %v", sequence, err, want)
		}
	}
	send(0, false, nil)
	lead(2)
	for range 4 { // the loop of the connection stands still
		home.Drain()
		home.EndTurn()
		tb.log.commit()
	}
	if !tb.b.Replica(trioShard).Open {
		t.Fatal("it does not lead again")
	}
	for range 2 {
		send(1, false, ErrBusy)
	}
	tb.pump()
	if f := ap.results[0].Failed; ap.resumed != 1 || !errors.Is(ap.results[0].Err, ErrNotLeader) || f == nil || *f != (FailedBatch{Partition: p, Producer: 7}) {
		t.Errorf("told of it %d times: %+v, %+v", ap.resumed, ap.results[0], f)
	}
	send(1, true, ErrOutOfOrderSequence)
	send(0, false, nil)
	send(1, true, nil)
	tb.pump()
	for i := range Token(2) {
		if r := ap.results[i]; r.Err != nil || r.Base != record.Offset(i) {
			t.Errorf("sequence %d: %+v", i, r)
		}
	}
}
