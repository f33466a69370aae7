package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

const lossPartitions = 6

// Of three nodes with sets of shards one is away while records of one set are acknowledged; then the two others are lost. It leads that set only when an operator says so: what was
// acknowledged without it is gone, and nothing else, also of a transaction that is open all the while. What the others have more than it they give up when they come
// back, each of them leads all of it later, and producers and a reader that was ahead of it go on. Two nodes vote beside them, so that there is a majority.
func TestSetElectedWithLoss(t *testing.T) {
	t.Parallel()
	c := common.StartCluster(t, 3, "journal.checkpoint_interval=200ms")
	for range 2 {
		at := testx.ClosedAddr(t)
		c.AddNode(at, "node.roles=[meta]", "listeners.cluster="+at, "cluster.peers="+c.Nodes[0].Between)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*longest)
	defer cancel()
	c.Must("shard", "sets", "3", "--wait")
	testx.Eventually(t, longest, func() bool {
		out, err := c.Nodes[0].Run("node", "list")
		return err == nil && strings.Count(out, "active") == 5
	}, "all nodes are there")
	c.Nodes = c.Nodes[:3] // those that a client can reach
	e := &setLoss{l: &load{t: t, c: c, ctx: ctx}, a: c.Nodes[0], b: c.Nodes[1], third: c.Nodes[2]}
	began := time.Now()
	for _, step := range []struct {
		what string
		do   func(context.Context, *testing.T)
	}{{"three nodes", e.before}, {"two are lost", e.lose}, {"the third one is elected", e.elect}, {"the others come back", e.after}} {
		step.do(ctx, t)
		t.Logf("%s: %v", step.what, time.Since(began).Round(time.Millisecond))
	}
}

type setLoss struct {
	l           *load
	a, b, third *common.Node
	lossy       []int32 // partitions of the set of which something is lost
	least, most []int
	tx          *kgo.Client
	end         *kmsg.EndTxnRequest // of its transaction
	reader      *follower
}

// before is what all three have.
func (e *setLoss) before(ctx context.Context, t *testing.T) {
	t.Helper()
	awaitSets(t, e.l.c, "each node leads one set", func(list []shardSet) bool {
		return len(list) == 4 && syncedIn(3)(list) && list[1].Leader == 1 && list[2].Leader == 2 && list[3].Leader == 3
	})
	spreadTopic(ctx, t, e.l, "spread", lossPartitions)
	produce(ctx, t, e.l, "plain", 0, 1)
	cl := e.l.open()
	defer cl.Close()
	testx.Eventually(t, longest, func() bool {
		m, err := kadm.NewClient(cl).Metadata(ctx, "spread")
		e.lossy = nil
		for _, p := range m.Topics["spread"].Partitions.Sorted() {
			if p.Leader == 2 {
				e.lossy = append(e.lossy, p.Partition)
			}
		}
		return err == nil && len(e.lossy) == lossPartitions/3
	}, "node 2 leads two partitions", &e.lossy)
	w := keepNumbering(ctx, e.l, "spread", lossPartitions)
	w.progress("with three nodes")
	e.least, e.most = w.least(), w.stop()
	e.tx = e.l.open(kgo.TransactionalID("open"), kgo.TransactionTimeout(4*time.Minute))
	t.Cleanup(e.tx.CloseAllowingRebalance)
	if err := e.tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	list := []*kgo.Record{{Topic: "plain", Value: []byte("open")}}
	for p := range int32(lossPartitions) {
		list = append(list, &kgo.Record{Topic: "spread", Partition: p, Value: []byte("open")})
	}
	if err := e.tx.ProduceSync(ctx, list...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	id, epoch, err := e.tx.ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e.end = kmsg.NewPtrEndTxnRequest()
	e.end.TransactionalID, e.end.ProducerID, e.end.ProducerEpoch, e.end.Commit = "open", id, epoch, true
	var offsets kadm.Offsets
	offsets.AddOffset("spread", 0, 2, -1)
	if err := kadm.NewClient(cl).CommitAllOffsets(ctx, "readers", offsets); err != nil {
		t.Fatal(err)
	}
	e.reader = follow(ctx, e.l, "spread")
}

// lose has the two others acknowledge what the third one does not have, and loses them.
func (e *setLoss) lose(ctx context.Context, t *testing.T) {
	t.Helper()
	e.third.Kill()
	awaitSets(t, e.l.c, "the two others go on", func(list []shardSet) bool {
		return !slices.ContainsFunc(list, func(s shardSet) bool { return s.Leader == 0 || !slices.Equal(s.InSync, []int{1, 2}) })
	})
	cl := e.l.open()
	defer cl.Close()
	for _, p := range e.lossy {
		for i := range 100 { // until some of it is in a checkpoint, so that it cannot be taken back: that takes a copy
			if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "spread", Partition: p, Value: fmt.Appendf(nil, "lost-%d", i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			<-time.After(10 * time.Millisecond)
		}
		if err := e.tx.ProduceSync(ctx, &kgo.Record{Topic: "spread", Partition: p, Value: []byte("open, and lost")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		e.reader.sees(t, p, "open, and lost")
	}
	e.a.Kill()
	e.b.Kill()
	e.third.Start()
}

// elect has the third one lead, set by set.
func (e *setLoss) elect(_ context.Context, t *testing.T) {
	t.Helper()
	awaitSets(t, e.l.c, "nobody leads", ledAll(0))
	for _, set := range []int{2, 0, 1, 3} {
		e.l.c.Must("shard", "elect", "--node", "3", "--set", fmt.Sprint(set), "--accept-loss")
		list := awaitSets(t, e.l.c, "the third one leads the set", func(list []shardSet) bool { return list[set].Leader == 3 })
		if set == 2 && (list[0].Leader != 0 || list[1].Leader != 0 || list[3].Leader != 0) {
			t.Errorf("other sets are led: %+v", list)
		}
	}
	if _, err := e.third.Run("shard", "elect", "--node", "1", "--set", "2", "--accept-loss"); err == nil {
		t.Error("another node was elected while one leads")
	}
}

// after has the others come back one by one.
func (e *setLoss) after(ctx context.Context, t *testing.T) {
	t.Helper()
	e.a.Start()
	awaitSets(t, e.l.c, "the first one is in sync again", syncedIn(2))
	if !strings.Contains(e.a.Broker().Log(), "starts anew with it") {
		t.Error("it has got no copy")
	}
	t.Log("the first one has its copy")
	var err error
	testx.Eventually(t, longest, func() bool { // EndTransaction of the client commits once, and not again where an answer was lost or a node could not be reached
		var resp *kmsg.EndTxnResponse
		if resp, err = e.end.RequestWith(ctx, e.tx); err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		return err == nil
	}, "the transaction that was open ends", &err)
	e.whole(ctx, t, "the third one leads")
	spreadTopic(ctx, t, e.l, "later", lossPartitions)
	w := keepNumbering(ctx, e.l, "later", lossPartitions)
	w.progress("with two nodes")
	e.b.Start()
	awaitSets(t, e.l.c, "all are in sync again", syncedIn(3))
	w.progress("with three nodes again")
	for p := range int32(lossPartitions) {
		e.reader.goesOn(ctx, t, p)
	}
	for _, n := range []*common.Node{e.a, e.b} {
		e.l.c.Must("shard", "move", "--to", fmt.Sprint(n.ID), "--all", "--wait")
		awaitSets(t, e.l.c, "it leads all", ledAll(n.ID))
		e.whole(ctx, t, fmt.Sprintf("node %d leads", n.ID))
		w.progress("moved")
	}
	least, most := w.least(), w.stop()
	wantNumbers(t, e.l.readWhole(ctx, "later", lossPartitions), least, most)
	e.reader.stop()
}

// whole reads what has to be there, and what has not.
func (e *setLoss) whole(ctx context.Context, t *testing.T, where string) {
	t.Helper()
	got := e.l.readWhole(ctx, "spread", lossPartitions)
	wantNumbers(t, got, e.least, e.most)
	got = append(got, e.l.readWhole(ctx, "plain", 1)[0][1:])
	for p := range got {
		rest := slices.DeleteFunc(slices.Clone(got[p]), func(v string) bool { return strings.Trim(v, "0123456789") == "" || strings.HasPrefix(v, "after") })
		if !slices.Equal(rest, []string{"open"}) {
			t.Errorf("%s: partition %d has %q beside its numbers", where, p, rest)
		}
	}
	cl := e.l.open()
	defer cl.Close()
	var offsets kadm.OffsetResponses
	testx.Eventually(t, longest, func() bool { // a node may be just starting
		var err error
		offsets, err = kadm.NewClient(cl).FetchOffsets(ctx, "readers")
		return err == nil
	}, where, "the group's offsets are told")
	if o, ok := offsets.Lookup("spread", 0); !ok || o.At != 2 {
		t.Errorf("%s: the group's offset is %d", where, o.At)
	}
}

// follower reads a topic all along.
type follower struct {
	l      *load
	cancel context.CancelFunc
	over   chan struct{}
	mu     sync.Mutex
	last   map[int32]string
	n      int
}

func follow(ctx context.Context, l *load, topic string) *follower {
	f := &follower{l: l, over: make(chan struct{}), last: make(map[int32]string)}
	ctx, f.cancel = context.WithCancel(ctx)
	l.t.Cleanup(f.stop)
	cl := l.open(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMaxAge(time.Second))
	go func() {
		defer close(f.over)
		defer cl.Close()
		for ctx.Err() == nil {
			fs := cl.PollFetches(ctx)
			f.mu.Lock()
			fs.EachRecord(func(r *kgo.Record) { f.last[r.Partition] = string(r.Value) })
			f.mu.Unlock()
		}
	}()
	return f
}

func (f *follower) stop() {
	f.cancel()
	<-f.over
}

// sees waits until the reader has come to a record.
func (f *follower) sees(t *testing.T, p int32, want string) {
	t.Helper()
	var last text
	testx.Eventually(t, longest, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		last.string = f.last[p]
		return last.string == want
	}, "the reader sees", want, "of partition", p, &last)
}

// goesOn writes one more record, and waits for the reader to see it.
func (f *follower) goesOn(ctx context.Context, t *testing.T, p int32) {
	t.Helper()
	cl := f.l.open()
	defer cl.Close()
	f.n++
	value := fmt.Sprintf("after-%d", f.n)
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "spread", Partition: p, Value: []byte(value)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	f.sees(t, p, value)
}
