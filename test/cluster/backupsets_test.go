package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// savedSets is what a cluster with sets of shards has when it is backed up.
type savedSets struct {
	l     *load
	w     *numbered
	least []int
}

const (
	savedPartitions = 4
	savedOffset     = 7
)

// beforeBackup makes sets of shards, and what is to be in a backup: transactions over topics whose leaders are spread and others, one committed, one taken back and one
// open, offsets of a group, a retained message; and goes on to produce.
func beforeBackup(ctx context.Context, t *testing.T, l *load) *savedSets {
	t.Helper()
	l.c.Must("shard", "sets", "2", "--wait")
	spreadTopic(ctx, t, l, "spread", savedPartitions)
	produce(ctx, t, l, "plain", 0, 1)
	b := &savedSets{l: l, w: keepNumbering(ctx, l, "spread", savedPartitions)}
	for id, end := range map[string]kgo.TransactionEndTry{"committed": kgo.TryCommit, "aborted": kgo.TryAbort} {
		cl := beginOverAll(ctx, t, l, id)
		if err := cl.EndTransaction(ctx, end); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		cl.Close()
	}
	beginOverAll(ctx, t, l, "open") // its producer is closed with the test, long after its cluster is lost
	cl := l.open()
	defer cl.Close()
	var offsets kadm.Offsets
	for p := range int32(savedPartitions) {
		offsets.AddOffset("spread", p, savedOffset+int64(p), -1)
	}
	if err := kadm.NewClient(cl).CommitAllOffsets(ctx, "readers", offsets); err != nil {
		t.Fatal(err)
	}
	pub, _ := dial(t, l.c.Nodes[1], "saved", 0)
	publish(t, pub, "saved/retained", "stays", true)
	return b
}

// beginOverAll begins a transaction, with a record in each partition of both topics.
func beginOverAll(ctx context.Context, t *testing.T, l *load, id string) *kgo.Client {
	t.Helper()
	cl := l.open(kgo.TransactionalID(id), kgo.TransactionTimeout(2*time.Minute))
	t.Cleanup(cl.CloseAllowingRebalance)
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	list := []*kgo.Record{{Topic: "plain", Value: []byte(id)}}
	for p := range int32(savedPartitions) {
		list = append(list, &kgo.Record{Topic: "spread", Partition: p, Value: []byte(id)})
	}
	if err := cl.ProduceSync(ctx, list...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return cl
}

// restored checks what is there in the node that was restored, which leads all sets.
func (b *savedSets) restored(ctx context.Context, t *testing.T, most []int) {
	t.Helper()
	awaitSets(t, b.l.c, "the restored node leads all sets", func(list []shardSet) bool { return len(list) == 3 && ledAll(b.l.c.Nodes[0].ID)(list) })
	cl := beginOverAll(ctx, t, b.l, "open") // ends the one that was open, and goes on
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	b.whole(ctx, t, most, "restored")
	offsets, err := kadm.NewClient(cl).FetchOffsets(ctx, "readers")
	for p := range int32(savedPartitions) {
		if o, ok := offsets.Lookup("spread", p); err != nil || !ok || o.At != savedOffset+int64(p) {
			t.Errorf("the offset of partition %d is %d, %v", p, o.At, err)
		}
	}
	sub, _ := dial(t, b.l.c.Nodes[0], "saved-sub", 0)
	if _, err := sub.Subscribe(wire.FilterRequest{Filter: []byte("saved/#"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	receive(t, sub, "stays")
}

// wantTransactions: a committed one has a record, that which was open has the one of after the restore, and the one that was taken back none.
func wantTransactions(t *testing.T, where string, got []string) {
	t.Helper()
	names := slices.DeleteFunc(slices.Clone(got), func(v string) bool { return strings.Trim(v, "0123456789") == "" })
	if !slices.Equal(names, []string{"committed", "open"}) {
		t.Errorf("%s has of transactions %q", where, names)
	}
}

// joined: a node that has joined the restored one leads all sets, with all that was there, and what was written since.
func (b *savedSets) joined(ctx context.Context, t *testing.T, n *common.Node, most []int) {
	t.Helper()
	c := b.l.c
	awaitSets(t, c, "all nodes are in sync in all sets", syncedIn(len(c.Nodes)))
	b.w = keepNumbering(ctx, b.l, "later", savedPartitions)
	c.Must("shard", "move", "--to", fmt.Sprint(n.ID), "--all", "--wait")
	awaitSets(t, c, "the node that has joined leads all sets", ledAll(n.ID))
	b.w.progress("at another node")
	least := b.w.least()
	all := b.w.stop()
	wantNumbers(t, b.l.readWhole(ctx, "later", savedPartitions), least, all)
	b.whole(ctx, t, most, "at a node that has joined")
}

// whole reads all that the backup has to have.
func (b *savedSets) whole(ctx context.Context, t *testing.T, most []int, where string) {
	t.Helper()
	got := b.l.readWhole(ctx, "spread", savedPartitions)
	wantNumbers(t, got, b.least, most)
	got = append(got, b.l.readWhole(ctx, "plain", 1)[0][1:])
	for p := range got {
		wantTransactions(t, fmt.Sprintf("%s, partition %d", where, p), got[p])
	}
}
