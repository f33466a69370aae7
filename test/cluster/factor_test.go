package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// factors is a cluster with topics of one, two and three replicas, each partition of which is written to all the while, one record after the other.
type factors struct {
	t       *testing.T
	c       *common.Cluster
	ctx     context.Context
	stop    chan struct{}
	sending sync.WaitGroup
	acked   [3][3]atomic.Int64 // by replicas less one, and partition: so many records are acknowledged
}

func (f *factors) open(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(f.c.KafkaAddrs()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }), kgo.RequestRetries(1 << 20), kgo.RetryTimeout(longest),
		kgo.StopProducerOnDataLossDetected(), kgo.UnknownTopicRetries(-1)}, opts...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	return cl
}

func factorTopic(replicas int) string { return fmt.Sprint("factor-", replicas) }

// create makes the topics, and looks how many replicas clients are told of.
func (f *factors) create() {
	f.t.Helper()
	cl := f.open()
	defer cl.Close()
	adm := kadm.NewClient(cl)
	not := map[string]*string{"leader.spread": kadm.StringPtr("false")}
	spread := map[string]*string{"leader.spread": kadm.StringPtr("true")}
	for _, v := range []struct {
		name     string
		factor   int16
		settings map[string]*string
		want     int // replicas; 0: refused
	}{
		{factorTopic(1), 1, nil, 1}, {factorTopic(2), 2, spread, 2}, {factorTopic(3), 3, nil, 3},
		{"stays", 1, not, 3}, {"spread", -1, spread, 3}, {"usual", -1, nil, 3}, {"many", 4, nil, 0},
	} {
		made, err := adm.CreateTopic(f.ctx, 3, v.factor, v.settings, v.name)
		if v.want == 0 {
			if !errors.Is(err, kerr.InvalidReplicationFactor) {
				f.t.Errorf("%s: %v", v.name, err)
			}
			continue
		}
		if err != nil || int(made.ReplicationFactor) != v.want {
			f.t.Fatalf("%s is made with %d replicas, %v; want %d", v.name, made.ReplicationFactor, err, v.want)
		}
		testx.Eventually(f.t, longest, func() bool {
			m, err := adm.Metadata(f.ctx, v.name)
			if err != nil || len(m.Topics[v.name].Partitions) != 3 {
				return false
			}
			for _, p := range m.Topics[v.name].Partitions {
				if len(p.Replicas) != v.want {
					return false
				}
			}
			return true
		}, v.name, "has", v.want, "replicas")
	}
	if _, err := adm.UpdatePartitions(f.ctx, 6, "spread"); err != nil {
		f.t.Error(err)
	}
}

// write sends records to a partition until it is told to stop.
func (f *factors) write(replicas int, partition int32) {
	cl := f.open()
	defer cl.Close()
	n := &f.acked[replicas-1][partition]
	for {
		select {
		case <-f.stop:
			return
		default:
		}
		r := &kgo.Record{Topic: factorTopic(replicas), Partition: partition, Value: strconv.AppendInt(nil, n.Load(), 10)}
		if err := cl.ProduceSync(f.ctx, r).FirstErr(); err != nil {
			f.t.Errorf("%s, partition %d: %v", r.Topic, partition, err)
			return
		}
		n.Add(1)
	}
}

// progress waits until each partition that is not excepted has taken more records.
func (f *factors) progress(when string, but func(replicas, partition int) bool) {
	f.t.Helper()
	for k := range f.acked {
		for p := range f.acked[k] {
			if but != nil && but(k+1, p) {
				continue
			}
			had := f.acked[k][p].Load()
			testx.Eventually(f.t, longest, func() bool { return f.acked[k][p].Load() > had+1 }, when, factorTopic(k+1), "partition", p, "takes records")
		}
	}
}

// leaders are who leads the partitions of a topic.
func (f *factors) leaders(replicas int) (list []int32) {
	f.t.Helper()
	cl := f.open()
	defer cl.Close()
	m, err := kadm.NewClient(cl).Metadata(f.ctx, factorTopic(replicas))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, p := range m.Topics[factorTopic(replicas)].Partitions.Sorted() {
		list = append(list, p.Leader)
	}
	return list
}

// settled waits until each set has its replicas where it had them, in sync, and is led.
func (f *factors) settled() {
	f.t.Helper()
	var last string
	testx.Eventually(f.t, longest, func() bool {
		last = f.c.Must("shard", "sets", "--output", "json")
		var list []struct {
			Set, Leader, Factor    int
			Replicas, Home, Target []int
			InSync                 []int `json:"in_sync"`
		}
		if json.Unmarshal([]byte(last), &list) != nil {
			return false
		}
		for _, s := range list {
			if len(s.Home)+len(s.Target) > 0 || len(s.InSync) != len(s.Replicas) || s.Factor > 0 && len(s.Replicas) != s.Factor || s.Leader == 0 {
				return false
			}
		}
		return true
	}, "all sets are as they were", &last)
}

// verify reads all partitions: what was acknowledged is there once and in order.
func (f *factors) verify() {
	f.t.Helper()
	for k := range f.acked {
		for p := range f.acked[k] {
			topic := factorTopic(k + 1)
			cl := f.open(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {int32(p): kgo.NewOffset().AtStart()}}))
			for next, want := int64(0), f.acked[k][p].Load(); next < want; {
				fetches := cl.PollFetches(f.ctx)
				if err := fetches.Err(); err != nil {
					f.t.Fatalf("%s, partition %d: %v, after %d of %d", topic, p, err, next, want)
				}
				fetches.EachRecord(func(r *kgo.Record) {
					if string(r.Value) != strconv.FormatInt(next, 10) {
						f.t.Errorf("%s, partition %d: %s where %d is to be, of %d", topic, p, r.Value, next, want)
					}
					next++
				})
			}
			cl.Close()
		}
	}
}

// Topics of one, two and three replicas are written to while the nodes are restarted in turn, and while one is killed: all go on over a restart, and all but those whose only
// replica is lost over the loss of a node; these go on when it is back. What was acknowledged is there once and in order.
func TestReplicationFactor(t *testing.T) {
	c := common.StartCluster(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 6*longest)
	defer cancel()
	f := &factors{t: t, c: c, ctx: ctx, stop: make(chan struct{})}
	c.Must("shard", "sets", "3", "--wait")
	c.Must("shard", "sets", "6", "--replicas", "2", "--wait")
	c.Must("shard", "sets", "9", "--replicas", "1", "--wait")
	f.create()
	for k := range f.acked {
		for p := range f.acked[k] {
			f.sending.Go(func() { f.write(k+1, int32(p)) })
		}
	}
	f.progress("at first", nil)
	for _, n := range c.Nodes {
		n.Stop()
		f.progress(fmt.Sprintf("while node %d is away", n.ID), nil)
		n.Start()
		c.AwaitSynced()
		f.progress(fmt.Sprintf("when node %d is back", n.ID), nil)
	}
	f.settled()
	of := f.leaders(1)
	victim := c.Nodes[0]
	if c.Leader() == victim { // the other groups and topics are elsewhere
		victim = c.Nodes[1]
	}
	victim.Kill()
	lost := func(replicas, partition int) bool { return replicas == 1 && of[partition] == int32(victim.ID) }
	f.progress("without a node", lost)
	for p := range 3 {
		if lost(1, p) && f.leaders(1)[p] != -1 {
			t.Errorf("partition %d is led by node %d, and its only replica is lost", p, f.leaders(1)[p])
		}
	}
	victim.Start()
	f.progress("when the lost node is back", nil)
	close(f.stop)
	f.sending.Wait()
	f.verify()
	if t.Failed() {
		t.Log(c.Logs())
	}
}
