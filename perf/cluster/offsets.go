package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// commitGroups is how many groups commit their offsets side by side, each over a connection of its own, with one request under way.
const commitGroups = 256

// offsets has many groups commit offsets, one partition a request, by Kafka's requests: to one node and to three.
func (o *options) offsets() error {
	t := newTable("offset commits, one partition a request")
	for range o.rounds {
		for _, n := range []int{1, 3} {
			c, err := startNodes(o, n)
			if err != nil {
				return err
			}
			f, err := c.commitOffsets()
			c.close()
			if err != nil {
				return err
			}
			t.add(fmt.Sprint(n), f)
		}
	}
	t.print()
	return nil
}

// commitOffsets commits for a while, and reads back what was answered last.
func (c *nodes) commitOffsets() (f figures, err error) {
	leader, err := c.synced()
	if err != nil {
		return f, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(leader.kafka))
	if err != nil {
		return f, err
	}
	defer cl.Close()
	made, err := kadm.NewClient(cl).CreateTopic(ctx, 1, -1, nil, "offsets")
	if err != nil {
		return f, err
	}
	before, err := c.cpu()
	if err != nil {
		return f, err
	}
	waits := make([][]time.Duration, commitGroups)
	began := time.Now()
	err = together(commitGroups, func(i int) error {
		own, err := kgo.NewClient(kgo.SeedBrokers(leader.kafka))
		if err != nil {
			return err
		}
		defer own.Close()
		b := own.SeedBrokers()[0]
		for from := began; from.Sub(began) < c.o.duration; {
			if err := commitOffset(ctx, b, made.ID, groupName(i), int64(len(waits[i])+1)); err != nil {
				return err
			}
			now := time.Now()
			waits[i] = append(waits[i], now.Sub(from))
			from = now
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	took := time.Since(began)
	after, err := c.cpu()
	if err != nil {
		return f, err
	}
	for i := range waits {
		want := int64(len(waits[i]))
		got, err := kadm.NewClient(cl).FetchOffsets(ctx, groupName(i))
		if err != nil {
			return f, err
		}
		if at, ok := got.Lookup("offsets", 0); !ok || at.At != want {
			return f, fmt.Errorf("group %d has offset %d, and %d was acknowledged", i, at.At, want)
		}
	}
	all := slices.Concat(waits...)
	slices.Sort(all)
	for i := range after {
		f.cpu += float64((after[i] - before[i]).Microseconds()) / float64(len(all))
	}
	f.rate = float64(len(all)) / took.Seconds()
	f.p50, f.p99 = float64(all[len(all)/2].Microseconds()), float64(all[len(all)*99/100].Microseconds())
	return f, nil
}

func groupName(i int) string { return fmt.Sprint("group-", i) }

func commitOffset(ctx context.Context, b *kgo.Broker, topic kadm.TopicID, group string, offset int64) error {
	q := kmsg.NewPtrOffsetCommitRequest()
	q.Group, q.Generation = group, -1
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Offset = offset
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic, t.TopicID, t.Partitions = "offsets", topic, []kmsg.OffsetCommitRequestTopicPartition{p}
	q.Topics = []kmsg.OffsetCommitRequestTopic{t}
	r, err := b.Request(ctx, q)
	if err != nil {
		return err
	}
	a := r.(*kmsg.OffsetCommitResponse) //nolint:forcetypeassert // the answer to q
	if len(a.Topics) != 1 || len(a.Topics[0].Partitions) != 1 || a.Topics[0].Partitions[0].ErrorCode != 0 {
		return fmt.Errorf("offset %d of %s is refused: %+v", offset, group, a.Topics)
	}
	return nil
}
