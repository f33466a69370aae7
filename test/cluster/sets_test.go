package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// shardSet is a line of `sluice shard sets`.
type shardSet struct {
	Set, Leader      int
	Epoch            uint32
	Open             bool
	Replicas, Target []int
	InSync           []int `json:"in_sync"`
	Eligible         []int
}

// text is what a test that fails has seen last.
type text struct{ string }

func (s *text) String() string { return s.string }

func setsAt(n *common.Node) (list []shardSet, err error) {
	out, err := n.Run("shard", "sets", "--output", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	return list, err
}

// awaitSets waits until a node says so of all sets.
func awaitSets(t *testing.T, c *common.Cluster, what string, done func([]shardSet) bool) (list []shardSet) {
	t.Helper()
	var seen text
	testx.Eventually(t, longest, func() bool {
		for _, n := range c.Nodes {
			if n.Broker() == nil {
				continue
			}
			now, err := setsAt(n)
			if err == nil && done(now) {
				list = now
				return true
			}
			seen.string = fmt.Sprintf("node %d: %+v, %v", n.ID, now, err)
		}
		return false
	}, what, &seen)
	return list
}

// syncedIn says whether so many nodes are in sync in each set, and one leads it.
func syncedIn(nodes int) func([]shardSet) bool {
	return func(list []shardSet) bool {
		return !slices.ContainsFunc(list, func(s shardSet) bool { return s.Leader == 0 || len(s.InSync) < nodes })
	}
}

// ledAll says whether a node leads all sets.
func ledAll(node int) func([]shardSet) bool {
	return func(list []shardSet) bool {
		return len(list) > 0 && !slices.ContainsFunc(list, func(s shardSet) bool { return s.Leader != node })
	}
}

// numbered writes numbered records to all partitions of a topic, one behind the other in each, and knows which were acknowledged.
type numbered struct {
	l      *load
	topic  string
	cl     *kgo.Client
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	acked  []int // the first so many
	asked  []int // of which nothing else can be there
}

// spreadTopic makes a topic whose leaders are spread.
func spreadTopic(ctx context.Context, t *testing.T, l *load, topic string, partitions int32) {
	t.Helper()
	cl := l.open()
	defer cl.Close()
	made, err := kadm.NewClient(cl).CreateTopics(ctx, partitions, -1, map[string]*string{"leader.spread": kadm.StringPtr("true")}, topic)
	if err = errors.Join(err, made.Error()); err != nil {
		t.Fatal(err)
	}
}

// keepNumbering writes until stop.
func keepNumbering(ctx context.Context, l *load, topic string, partitions int) *numbered {
	w := &numbered{l: l, topic: topic, acked: make([]int, partitions), asked: make([]int, partitions)}
	w.cl = l.open()
	ctx, w.cancel = context.WithCancel(ctx)
	for p := range partitions {
		w.wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				w.note(w.asked, p, n+1)
				r := &kgo.Record{Topic: topic, Partition: int32(p), Value: fmt.Appendf(nil, "%d", n)}
				if err := w.cl.ProduceSync(ctx, r).FirstErr(); err != nil {
					if ctx.Err() == nil {
						l.t.Errorf("partition %d of %s: %v", p, topic, err)
					}
					return
				}
				w.note(w.acked, p, n+1)
				select {
				case <-time.After(2 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	return w
}

func (w *numbered) note(list []int, p, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list[p] = n
}

// least is what is acknowledged by now.
func (w *numbered) least() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acked)
}

// progress waits until each partition has taken more.
func (w *numbered) progress(what string) {
	w.l.t.Helper()
	was := w.least()
	testx.Eventually(w.l.t, longest, func() bool {
		for p, n := range w.least() {
			if n < was[p]+3 {
				return w.l.t.Failed()
			}
		}
		return true
	}, "all partitions go on", what)
}

// stop ends it, and gives how many there may be.
func (w *numbered) stop() []int {
	w.cancel()
	w.wg.Wait()
	w.cl.Close()
	return w.asked
}

// readWhole writes a last record to each partition of a topic, and reads what is committed up to there.
func (l *load) readWhole(ctx context.Context, topic string, partitions int) [][]string {
	l.t.Helper()
	cl := l.open(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	defer cl.Close()
	const last = "last"
	for p := range partitions {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: int32(p), Headers: []kgo.RecordHeader{{Key: last}}}).FirstErr(); err != nil {
			l.t.Fatalf("partition %d of %s: %v", p, topic, err)
		}
	}
	offsets, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		l.t.Fatal(err)
	}
	list, ended := make([][]string, partitions), 0
	for ended < partitions {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			l.t.Fatalf("%d of %d partitions of %s were read to their end", ended, partitions, topic)
		}
		fs.EachRecord(func(r *kgo.Record) {
			o, _ := offsets.Lookup(topic, r.Partition)
			switch {
			case len(r.Headers) == 0:
				list[r.Partition] = append(list[r.Partition], string(r.Value))
			case r.Offset+1 == o.Offset:
				ended++
			}
		})
	}
	return list
}

// wantNumbers compares what was read with what was acknowledged: each number is there once, in order, up to one between least and most. Others than numbers are left out.
func wantNumbers(t *testing.T, got [][]string, least, most []int) {
	t.Helper()
	for p := range least {
		n := 0
		for _, v := range got[p] {
			if strings.Trim(v, "0123456789") != "" {
				continue
			}
			if v != fmt.Sprint(n) {
				t.Fatalf("partition %d has record %s at the place of %d", p, v, n)
			}
			n++
		}
		if n < least[p] || n > most[p] {
			t.Errorf("partition %d has %d records, of %d that were acknowledged, and %d in all", p, n, least[p], most[p])
		}
	}
}
