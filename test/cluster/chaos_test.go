package cluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

var (
	chaosFaults = flag.Int("chaos.faults", 4, "how many faults TestChaos makes, one behind the other")
	chaosTime   = flag.Duration("chaos.time", 0, "for how long TestChaos makes faults at least, however many that are")
	chaosOnly   = flag.String("chaos.only", "", "a regular expression of the faults that TestChaos makes")
	chaosSeed   = flag.Uint64("chaos.seed", 0, "draws the faults; 0: another one each time")
	chaosSpread = flag.String("chaos.spread", "", "whether the leaders of Kafka's topics are spread over the nodes: yes or no; empty: the seed says so")
)

// longest bounds how long clients may stand still behind a fault on a machine that others work on as well.
const longest = 60 * time.Second

// pollTime is how long a reader waits before it looks whether it has all.
const pollTime = 200 * time.Millisecond

const (
	chaosPartitions = 4
	chaosProducers  = 2
	chaosSets       = 3 // of shards, beside the first, where leaders are spread
)

// load is what clients of both protocols do to a cluster meanwhile, and what they have been promised.
type load struct {
	t         *testing.T
	c         *common.Cluster
	net       *common.Network // nil: there is none to be broken
	spread    bool            // topics have leaders spread over the nodes
	ctx       context.Context
	stop      chan struct{} // closed: nothing new is published
	sent      chan struct{} // closed: nothing more will be published
	over      chan struct{} // closed: receivers go
	produced  [chaosProducers][chaosPartitions]int
	acked     atomic.Int64
	tx        transactions
	committed atomic.Int64 // transactions
	senders   []*common.Sender
	receivers []*common.Receiver
	sending   sync.WaitGroup
	receiving sync.WaitGroup
}

// TestChaos: nodes are killed, stopped in order, paused and lose their disks, and what lies between them and the others is slow, narrow, cut and silent, one fault
// behind the other, while clients of both protocols come in through all of them. No acknowledged record is lost, doubled or out of its order, transactions are
// there whole or not at all, committed offsets do not go back, QoS 1 comes at least once, QoS 2 exactly once.
func TestChaos(t *testing.T) {
	if *chaosSeed == 0 {
		*chaosSeed = rand.Uint64()
	}
	rnd := rand.New(rand.NewPCG(*chaosSeed, 1))
	spread := *chaosSpread == "yes" || *chaosSpread == "" && rand.New(rand.NewPCG(*chaosSeed, 2)).IntN(2) == 0
	t.Logf("-chaos.faults %d -chaos.seed %d; leaders are spread: %v", *chaosFaults, *chaosSeed, spread)
	net := common.NewNetwork(t)
	c := common.StartClusterOn(t, common.Ground{Net: net}, 3)
	ctx, cancel := context.WithTimeout(context.Background(), longest*time.Duration(*chaosFaults+2)+*chaosTime)
	defer cancel()
	l := newLoad(ctx, t, c)
	l.net, l.spread = net, spread
	l.begin()
	d := newDeck(t, rnd)
	begun := time.Now()
	for i := 0; i < *chaosFaults || time.Since(begun) < *chaosTime; i++ {
		f := d.draw()
		n := c.Nodes[rnd.IntN(len(c.Nodes))]
		if rnd.IntN(2) == 0 {
			n = c.Leader()
		}
		t.Logf("fault %d: node %d: %s", i, n.ID, f.name)
		f.do(l, n, rnd)
		l.progress()
		c.AwaitSynced() // the next fault may not take the majority
	}
	l.end()
	if t.Failed() {
		t.Log(c.Logs())
	}
}

func newLoad(ctx context.Context, t *testing.T, c *common.Cluster) *load {
	t.Helper()
	return &load{t: t, c: c, ctx: ctx, stop: make(chan struct{}), sent: make(chan struct{}), over: make(chan struct{})}
}

func (l *load) begin() {
	l.t.Helper()
	var settings map[string]*string
	if l.spread {
		l.c.Must("shard", "sets", fmt.Sprint(chaosSets), "--wait")
		settings = map[string]*string{"leader.spread": kadm.StringPtr("true")}
	}
	cl := l.open()
	made, err := kadm.NewClient(cl).CreateTopics(l.ctx, chaosPartitions, -1, settings, "chaos", "whole")
	cl.Close()
	if err = errors.Join(err, made.Error()); err != nil {
		l.t.Fatal(err)
	}
	for id := range chaosProducers {
		l.sending.Go(func() { l.produce(id) })
	}
	l.sending.Go(l.transact)
	l.receiving.Go(l.consume)
	l.receiving.Go(func() { l.verifyTransactions("who read all along", l.readCommitted(l.ctx, l.haveLast)) })
	l.receiving.Go(l.watchOffsets)
	urls := make([]string, 0, len(l.c.Nodes))
	for _, n := range l.c.Nodes {
		urls = append(urls, "mqtt://"+n.MQTT)
	}
	var subscribed sync.WaitGroup
	for i := range 2 {
		r := common.NewReceiver(fmt.Sprint("receiver-", i), 2)
		r.MayEnd = true
		l.receivers = append(l.receivers, r)
		subscribed.Add(1)
		l.receiving.Go(func() { common.KeepReceiving(l.t, r, "chaos/#", turned(urls, i), l.over, subscribed.Done) })
	}
	subscribed.Wait()
	for i := range 3 {
		s := &common.Sender{Exchange: common.Exchange{ID: fmt.Sprint("sender-", i)}, QoS: byte(1 + i%2), Topic: fmt.Sprint("chaos/", i)}
		l.senders = append(l.senders, s)
		l.sending.Go(func() { common.KeepSending(l.t, s, turned(urls, i), l.stop) })
	}
}

// turned is the list, begun at another place.
func turned(list []string, by int) []string {
	by %= len(list)
	return slices.Concat(list[by:], list[:by])
}

func (l *load) open(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(l.c.KafkaAddrs()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }), kgo.RequestRetries(1 << 20), kgo.RetryTimeout(longest),
		kgo.StopProducerOnDataLossDetected(), kgo.MaxBufferedRecords(500), kgo.UnknownTopicRetries(-1), kgo.ProducerLinger(time.Millisecond)}, opts...)...)
	if err != nil {
		l.t.Error(err)
	}
	return cl
}

// produce writes numbered records to all partitions until stop, and waits until all are acknowledged.
func (l *load) produce(id int) {
	cl := l.open()
	defer cl.Close()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			if err := cl.Flush(l.ctx); err != nil {
				l.t.Errorf("producer %d: %v", id, err)
			}
			return
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		for p := range l.produced[id] {
			r := &kgo.Record{Topic: "chaos", Partition: int32(p), Value: fmt.Appendf(nil, "%d/%d", id, l.produced[id][p])}
			l.produced[id][p]++
			cl.Produce(l.ctx, r, func(_ *kgo.Record, err error) {
				if err != nil {
					l.t.Errorf("producer %d: %v", id, err)
					return
				}
				l.acked.Add(1)
			})
		}
	}
}

// consume reads as a member of a group, and commits.
func (l *load) consume() {
	cl := l.open(kgo.ConsumerGroup("chaos"), kgo.ConsumeTopics("chaos"), kgo.AutoCommitInterval(100*time.Millisecond), kgo.SessionTimeout(10*time.Second))
	defer cl.Close()
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	go func() {
		<-l.over
		cancel()
	}()
	for ctx.Err() == nil {
		cl.PollFetches(ctx)
	}
}

// watchOffsets sees that what the group has committed does not go back.
func (l *load) watchOffsets() {
	cl := l.open()
	defer cl.Close()
	adm := kadm.NewClient(cl)
	var last [chaosPartitions]int64
	for {
		select {
		case <-l.over:
			return
		case <-time.After(100 * time.Millisecond):
		}
		ctx, cancel := context.WithTimeout(l.ctx, longest)
		got, err := adm.FetchOffsets(ctx, "chaos")
		cancel()
		if err != nil {
			continue
		}
		for p := range last {
			o, ok := got.Lookup("chaos", int32(p))
			if !ok || o.Err != nil {
				continue
			}
			if o.At < last[p] {
				l.t.Errorf("the offset of partition %d went back from %d to %d", p, last[p], o.At)
			}
			last[p] = max(last[p], o.At)
		}
	}
}

// progress waits until every kind of load has gone on.
func (l *load) progress() {
	l.t.Helper()
	acked, seen, committed := l.acked.Load(), l.receivers[0].Seen(), l.committed.Load()
	testx.Eventually(l.t, longest, func() bool {
		return l.t.Failed() || l.acked.Load() > acked+50 && l.receivers[0].Seen() > seen+50 && l.committed.Load() > committed+2
	}, "clients go on")
}

// end stops the load and compares what came with what was promised.
func (l *load) end() {
	close(l.stop)
	l.sending.Wait()
	close(l.sent)
	common.AwaitAll(l.senders, l.receivers, 20*time.Second)
	close(l.over)
	l.receiving.Wait()
	common.Verify(l.t, l.senders, l.receivers)
	l.verifyRecords()
	ctx, cancel := context.WithTimeout(l.ctx, longest)
	defer cancel()
	l.verifyTransactions("who reads all at the end", l.readCommitted(ctx, l.haveLast))
}

// verifyRecords reads all partitions from their begin: each record is there once, in its producer's order.
func (l *load) verifyRecords() {
	cl := l.open(kgo.ConsumeTopics("chaos"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	var next [chaosProducers][chaosPartitions]int
	ctx, cancel := context.WithTimeout(l.ctx, longest)
	defer cancel()
	for next != l.produced {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			l.t.Errorf("records %v are there of %v", next, l.produced)
			return
		}
		fs.EachRecord(func(r *kgo.Record) {
			var id, n int
			if _, err := fmt.Sscanf(string(r.Value), "%d/%d", &id, &n); err != nil || n != next[id][r.Partition] {
				l.t.Errorf("partition %d at %d: %s, want number %d", r.Partition, r.Offset, r.Value, next[id][r.Partition])
				next[id][r.Partition] = n
			}
			next[id][r.Partition]++
		})
		if l.t.Failed() {
			return
		}
	}
	l.t.Logf("%d records acknowledged, all there once", l.acked.Load())
}
