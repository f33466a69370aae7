package kafka

import (
	"bytes"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// With more partitions than an answer has room for, each gets its turn: in a session by the node, which goes on behind the last that had records, and
// without one by the client, whose order counts.
func TestFetchTurns(t *testing.T) {
	t.Parallel()
	const partitions, records, room = 30, 6, 4
	c := start(t)
	c.topic("t", partitions, nil)
	producer := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for range records { // waits for all of them: each is a batch
		var list []*kgo.Record
		for p := range int32(partitions) {
			list = append(list, &kgo.Record{Topic: "t", Partition: p, Value: bytes.Repeat([]byte("x"), 9<<10)})
		}
		produce(t, producer, list...)
	}
	for name, turns := range map[string]*turns{
		"session":                     {session: true},
		"session, read ones left out": {session: true, leaveOut: true},
		"no session":                  {},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.raw()
			turns.at, turns.order = make([]int64, partitions), make([]int32, partitions)
			for i := range turns.order {
				turns.order[i] = int32(i)
			}
			turns.named = turns.order
			for round := 1; turns.read < partitions*records; round++ {
				got := turns.fetch(t, r, room*10<<10)
				if len(got) == 0 || len(got) > room+1 { // the last may be cut off by nothing but its own end
					t.Fatalf("round %d: %d partitions have records", round, len(got))
				}
				// Whoever has read the most is not more than the last round before whoever has read the least.
				least, most := int64(records), int64(0)
				for _, at := range turns.at {
					least, most = min(least, at), max(most, at)
				}
				if most > least+1 {
					t.Fatalf("round %d: one partition is at %d, another at %d: %v", round, most, least, turns.at)
				}
			}
		})
	}
}

// turns is a client that reads partitions of t.
type turns struct {
	session, leaveOut bool
	id, epoch         int32
	at                []int64 // of each partition, the next offset
	order             []int32 // all partitions, those that had records last behind the others
	named, left       []int32 // to be named next; to be left out next
	read              int
}

func (u *turns) fetch(t *testing.T, r *raw, room int32) (got []int32) {
	t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 12, 0, 1, room
	req.SessionID, req.SessionEpoch = u.id, u.epoch
	if !u.session {
		req.SessionEpoch, u.named = -1, u.order
	}
	ft := kmsg.NewFetchRequestTopic()
	ft.Topic = "t"
	for _, p := range u.named {
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.Partition, fp.FetchOffset, fp.PartitionMaxBytes = p, u.at[p], 10<<10
		ft.Partitions = append(ft.Partitions, fp)
	}
	if len(u.named) > 0 {
		req.Topics = append(req.Topics, ft)
	}
	if len(u.left) > 0 {
		gone := kmsg.NewFetchRequestForgottenTopic()
		gone.Topic, gone.Partitions = "t", u.left
		req.ForgottenTopics = append(req.ForgottenTopics, gone)
	}
	resp := r.ask(req).(*kmsg.FetchResponse)
	if resp.ErrorCode != 0 {
		t.Fatalf("fetch: %d", resp.ErrorCode)
	}
	u.id, u.epoch = resp.SessionID, u.epoch+1
	for _, topic := range resp.Topics {
		for _, p := range topic.Partitions {
			if p.ErrorCode != 0 {
				t.Fatalf("partition %d: %d", p.Partition, p.ErrorCode)
			}
			if len(p.RecordBatches) > 0 { // one batch of one record
				got = append(got, p.Partition)
				u.at[p.Partition]++
				u.read++
			}
		}
	}
	u.next(got)
	return got
}

// next decides what the next request names. A client that leaves out what it has just read names it again with the request after that.
func (u *turns) next(got []int32) {
	had := map[int32]bool{}
	for _, p := range got {
		had[p] = true
	}
	var order []int32
	for _, p := range u.order {
		if !had[p] {
			order = append(order, p)
		}
	}
	u.order = append(order, got...)
	if u.leaveOut {
		u.named, u.left = u.left, got
		return
	}
	u.named = got
}
