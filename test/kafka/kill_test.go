package kafka

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
)

var kills = flag.Int("kills", 3, "how often TestKill kills the node")

const (
	killProducers  = 3
	killPartitions = 4
	openTimeout    = 3 * time.Second // of the transactions that their producers leave open
)

// killed is a node that is killed now and then, and what clients do to it meanwhile. Every producer goes on for as long as it takes, so that
// at the end each of its records was acknowledged, and has to be there once and in its place.
type killed struct {
	*cluster
	ctx     context.Context
	stop    chan struct{} // closed: nothing new is produced
	load    [killProducers][killPartitions]int
	in      [killPartitions]int
	acked   atomic.Int64 // of load
	through atomic.Int64 // records that the transformer has committed
	aborted atomic.Int64
	all     sync.WaitGroup
	inEnded atomic.Bool // nothing more comes into in
}

// killSettings make segments, groups and checkpoints come and go within the test.
var killSettings = []string{"journal.checkpoint_interval=200ms", "journal.segment_size=4MiB", "journal.group_size=1MiB", "limits.packet_size=256KiB"}

// TestKill: kill -9 under idempotent and transactional load. No acknowledged record is lost or doubled, each producer's order in a partition
// stays, no aborted record is seen by who reads committed ones, committed offsets do not go back, and transactions whose producers are gone
// end by their time-out.
func TestKill(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-kills %d -seed %d", *kills, *seed)
	rng := rand.New(rand.NewPCG(*seed, 1))
	c := start(t, killSettings...) // it builds the node, which takes its time where others work
	ctx, cancel := context.WithTimeout(context.Background(), patience+time.Duration(*kills)*5*time.Second)
	k := &killed{cluster: c, ctx: ctx, stop: make(chan struct{})}
	var watch sync.WaitGroup
	defer func() {
		cancel()
		k.all.Wait()
		watch.Wait()
	}()
	for _, name := range []string{"load", "in", "out"} {
		k.topic(name, killPartitions, nil)
	}
	for id := range killProducers {
		k.all.Go(func() { k.produceLoad(id) })
	}
	k.all.Go(k.produceIn)
	k.all.Go(k.transform)
	watching, unwatch := context.WithCancel(ctx)
	watch.Go(func() { k.watchOffsets(watching) })
	for round := range *kills {
		acked, through := k.acked.Load(), k.through.Load()
		k.leaveOpen(2 * round)
		k.progress(acked, through)
		k.leaveOpen(2*round + 1)
		<-time.After(time.Duration(rng.IntN(250)) * time.Millisecond) // the time of the kill is what the test draws
		k.crash()
	}
	k.progress(k.acked.Load(), k.through.Load())
	close(k.stop)
	k.all.Wait()
	unwatch()
	watch.Wait()
	if t.Failed() {
		t.Fatalf("the node says:\n%s", k.node.Log())
	}
	k.verify()
}

// progress waits until every kind of load has gone on.
func (k *killed) progress(acked, through int64) {
	k.t.Helper()
	testx.Eventually(k.t, patience, func() bool {
		return k.ctx.Err() != nil || k.acked.Load() > acked+100 && k.through.Load() > through
	}, "nothing goes on")
}

func (k *killed) stopped() bool {
	select {
	case <-k.stop:
		return true
	case <-k.ctx.Done():
		return true
	default:
		return false
	}
}

// patient are the settings of clients that try as long as it takes and tell at once if a record was lost.
func (k *killed) patient(opts ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{kgo.SeedBrokers(k.addr), kgo.MetadataMinAge(50 * time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }), kgo.RequestRetries(1 << 20), kgo.RetryTimeout(patience),
		kgo.StopProducerOnDataLossDetected(), kgo.MaxBufferedRecords(1000), kgo.UnknownTopicRetries(-1)}, opts...)
}

func (k *killed) open(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(k.patient(opts...)...)
	if err != nil {
		k.t.Error(err)
	}
	return cl
}

// produceNumbered produces numbered records to all partitions at some thousands a second until told to stop, and waits for them.
func (k *killed) produceNumbered(name, topic string, burst int, every time.Duration, count *[killPartitions]int, acked func()) {
	cl := k.open(kgo.ProducerLinger(time.Millisecond))
	defer cl.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !k.stopped() {
		for i := range burst {
			p := i % killPartitions
			r := &kgo.Record{Topic: topic, Partition: int32(p), Value: fmt.Appendf(nil, "%s/%d", name, count[p])}
			count[p]++
			cl.Produce(k.ctx, r, func(r *kgo.Record, err error) {
				if err != nil {
					k.t.Errorf("%s is not taken: %v", r.Value, err)
					return
				}
				acked()
			})
		}
		<-tick.C
	}
	if err := cl.Flush(k.ctx); err != nil {
		k.t.Errorf("%s to %s: %v", name, topic, err)
	}
}

func (k *killed) produceLoad(id int) {
	k.produceNumbered(fmt.Sprint(id), "load", 2*killPartitions, 2*time.Millisecond, &k.load[id], func() { k.acked.Add(1) })
}

func (k *killed) produceIn() {
	defer k.inEnded.Store(true)
	k.produceNumbered("in", "in", killPartitions, 10*time.Millisecond, &k.in, func() {})
}

// transform moves records from in to out by transactions, of which some are aborted, until all that was produced has come through.
func (k *killed) transform() {
	var s *kgo.GroupTransactSession
	defer func() {
		if s != nil {
			s.Close()
		}
	}()
	for i := 0; k.ctx.Err() == nil && (!k.inEnded.Load() || !k.allThrough()); i++ {
		if s == nil {
			var err error
			// One that begins anew reads the group's offsets before it makes itself known as a producer: what its predecessor has left open
			// holds them until it has timed out.
			s, err = kgo.NewGroupTransactSession(k.patient(kgo.TransactionalID("transformer"), kgo.TransactionTimeout(5*time.Second), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("in"),
				kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond),
				kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(500*time.Millisecond))...)
			if err != nil {
				k.t.Error(err)
				return
			}
		}
		if err := k.transaction(s, i%4 == 3); err != nil && k.ctx.Err() == nil {
			k.t.Logf("the transformer begins anew: %v", err)
			s.Close()
			s = nil
		}
	}
	if err := k.ctx.Err(); err != nil {
		k.t.Errorf("%d records came through: %v", k.through.Load(), err)
	}
}

func (k *killed) transaction(s *kgo.GroupTransactSession, abort bool) error {
	poll, cancel := context.WithTimeout(k.ctx, 200*time.Millisecond)
	fs := s.PollFetches(poll)
	cancel()
	if fs.NumRecords() == 0 {
		return nil
	}
	if err := s.Begin(); err != nil {
		return err
	}
	fs.EachRecord(func(r *kgo.Record) {
		value := r.Value
		if abort {
			value = append([]byte("aborted "), value...)
		}
		s.Produce(k.ctx, &kgo.Record{Topic: "out", Partition: r.Partition, Value: value}, nil)
	})
	committed, err := s.End(k.ctx, kgo.TransactionEndTry(!abort))
	switch {
	case err != nil:
		return err
	case committed && abort:
		k.t.Error("an aborted transaction was committed")
	case committed:
		k.through.Add(int64(fs.NumRecords()))
	default:
		k.aborted.Add(1)
	}
	return nil
}

// allThrough says whether the group has committed all of in.
func (k *killed) allThrough() bool {
	cl := k.open()
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ends, err := adm.ListEndOffsets(k.ctx, "in")
	if err != nil || ends.Error() != nil {
		return false
	}
	at, err := adm.FetchOffsets(k.ctx, "g")
	if err != nil {
		return false
	}
	done := true
	ends.Each(func(o kadm.ListedOffset) {
		c, ok := at.Lookup("in", o.Partition)
		done = done && ok && c.At == o.Offset
	})
	return done
}

// watchOffsets checks that what the group has committed does not go back.
func (k *killed) watchOffsets(ctx context.Context) {
	cl := k.open()
	defer cl.Close()
	adm := kadm.NewClient(cl)
	var last [killPartitions]int64
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		at, err := adm.FetchOffsets(ctx, "g")
		if err != nil {
			continue
		}
		at.Each(func(o kadm.OffsetResponse) {
			switch {
			case o.Err != nil:
			case o.At < last[o.Partition]:
				k.t.Errorf("the offset of partition %d goes from %d back to %d", o.Partition, last[o.Partition], o.At)
			default:
				last[o.Partition] = o.At
			}
		})
		for p := range last {
			if _, ok := at.Lookup("in", int32(p)); !ok && last[p] > 0 {
				k.t.Errorf("the offset of partition %d, which was %d, is gone", p, last[p])
			}
		}
	}
}

// leaveOpen begins a transaction and goes away.
func (k *killed) leaveOpen(i int) {
	k.t.Helper()
	cl := k.open(kgo.TransactionalID(fmt.Sprint("open-", i)), kgo.TransactionTimeout(openTimeout))
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		k.t.Fatal(err)
	}
	r := &kgo.Record{Topic: "out", Partition: int32(i % killPartitions), Value: fmt.Appendf(nil, "open %d", i)}
	if err := cl.ProduceSync(k.ctx, r).FirstErr(); err != nil {
		k.t.Fatalf("%v\n%s", err, k.node.Log())
	}
}

func (k *killed) verify() {
	t := k.t
	t.Helper()
	cl := k.open()
	defer cl.Close()
	adm := kadm.NewClient(cl)
	testx.Eventually(t, openTimeout+patience, func() bool {
		stable, err := adm.ListCommittedOffsets(k.ctx, "out")
		if err != nil || stable.Error() != nil {
			return false
		}
		ends, err := adm.ListEndOffsets(k.ctx, "out")
		if err != nil || ends.Error() != nil {
			return false
		}
		same := true
		ends.Each(func(o kadm.ListedOffset) {
			s, ok := stable.Lookup("out", o.Partition)
			same = same && ok && s.Offset == o.Offset
		})
		return same
	}, "transactions whose producers are gone hold the last stable offset")
	if open, err := adm.ListTransactions(k.ctx, nil, []string{"Ongoing", "PrepareCommit", "PrepareAbort"}); err != nil || len(open) > 0 {
		t.Errorf("transactions that are open: %v, %v", open, err)
	}
	want := map[string][killPartitions]int{}
	for id := range k.load {
		want[fmt.Sprint(id)] = k.load[id]
	}
	loaded := k.checkWhole("load", want, kgo.ReadUncommitted())
	moved := k.checkWhole("out", map[string][killPartitions]int{"in": k.in}, kgo.ReadCommitted())
	t.Logf("%d records, %d through transactions; %d transactions aborted, %d left open", loaded, moved, k.aborted.Load(), 2**kills)
}

// checkWhole reads a topic to its end. Of each producer, the records 0 to want are in each partition, each once, in order, and nothing else is.
func (k *killed) checkWhole(topic string, want map[string][killPartitions]int, level kgo.IsolationLevel) (records int) {
	t := k.t
	t.Helper()
	for _, count := range want {
		for _, n := range count {
			records += n
		}
	}
	cl := k.client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(level), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	adm := kadm.NewClient(cl)
	ends, err := adm.ListEndOffsets(k.ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	// A record behind all others of its partition shows that the end was reached.
	last := k.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	ends.Each(func(o kadm.ListedOffset) {
		produce(t, last, &kgo.Record{Topic: topic, Partition: o.Partition, Value: []byte("end")})
	})
	got := map[string][killPartitions]int{}
	var wrong []string
	for left := len(ends[topic]); left > 0; {
		fs := cl.PollFetches(k.ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("%s: %v, %d ends are missing", topic, err, left)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if string(r.Value) == "end" {
				left--
				return
			}
			name, number, _ := strings.Cut(string(r.Value), "/")
			next := got[name]
			if _, ok := want[name]; !ok || number != fmt.Sprint(next[r.Partition]) {
				wrong = append(wrong, fmt.Sprintf("%q at %d/%d, where %d of it is due", r.Value, r.Partition, r.Offset, next[r.Partition]))
				_, _ = fmt.Sscan(number, &next[r.Partition])
			}
			next[r.Partition]++
			got[name] = next
		})
	}
	if len(wrong) > 0 {
		t.Errorf("%s has %d records out of place: %s", topic, len(wrong), strings.Join(wrong[:min(len(wrong), 20)], "; "))
	}
	for name, count := range want {
		if have := got[name]; !slices.Equal(have[:], count[:]) {
			t.Errorf("%s of %s ends with %d, want %d", topic, name, have, count)
		}
	}
	return records
}
