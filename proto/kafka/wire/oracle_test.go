package wire

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The oracle is another codec, franz-go's kmsg: what it encodes we decode to the same, and back.

// filler fills kmsg's messages with random values.
type filler struct{ *rand.Rand }

func newFiller(seed uint64) filler { return filler{rand.New(rand.NewPCG(seed, 0))} }

func (g filler) fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if t, ok := v.Addr().Interface().(*kmsg.Tags); ok {
			if g.IntN(4) == 0 {
				t.Set(100+g.Uint32N(1<<20), g.bytes(200))
			}
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Version" {
				g.fill(v.Field(i))
			}
		}
	case reflect.Pointer:
		if v.SetZero(); g.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			g.fill(v.Elem())
		}
	case reflect.Slice:
		g.fillSlice(v)
	case reflect.Array:
		for i := range v.Len() {
			g.fill(v.Index(i))
		}
	case reflect.String:
		v.SetString(g.text(300))
	case reflect.Bool:
		v.SetBool(g.IntN(2) == 0)
	case reflect.Float64:
		v.SetFloat(g.NormFloat64())
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		v.SetUint(g.Uint64() >> (64 - v.Type().Bits()))
	default:
		v.SetInt(int64(g.Uint64()) >> (64 - v.Type().Bits()))
	}
}

func (g filler) fillSlice(v reflect.Value) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		v.SetBytes(g.bytes(300))
		return
	}
	n := g.IntN(4)
	if g.IntN(20) == 0 && v.Type().Elem().Kind() != reflect.Struct {
		n = 200
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range n {
		g.fill(v.Index(i))
	}
}

// bytes are mostly few, and now and then as many as take two bytes of length.
func (g filler) bytes(most int) []byte {
	n := g.IntN(6)
	if g.IntN(10) == 0 {
		n = g.IntN(most)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

func (g filler) text(most int) string {
	b := g.bytes(most)
	for i := range b {
		b[i] = 'a' + b[i]%26
	}
	return string(b)
}

// sayProduce writes down what a Produce request says, in our reading.
func sayProduce(q *ProduceRequest) string {
	var s strings.Builder
	fmt.Fprintf(&s, "txn=%s acks=%d timeout=%d topics=%d partitions=%d", orNull(q.TransactionalID), q.Acks, q.TimeoutMS, q.Topics, q.Partitions)
	for p := q.Data(); p.Next(); {
		if p.First {
			fmt.Fprintf(&s, "\n%s %v %d:", p.Topic, p.TopicID, p.Count)
		}
		fmt.Fprintf(&s, " %d=%s", p.Index, orNull(p.Records))
	}
	return s.String()
}

func orNull(b []byte) string {
	if b == nil {
		return "null"
	}
	return fmt.Sprintf("%q", b)
}

func stringOrNull(s *string) string {
	if s == nil {
		return "null"
	}
	return fmt.Sprintf("%q", *s)
}

// sayKmsgProduce writes down the same in kmsg's reading.
func sayKmsgProduce(q *kmsg.ProduceRequest) string {
	var s strings.Builder
	topics, partitions := 0, 0
	for i := range q.Topics {
		t := &q.Topics[i]
		if len(t.Partitions) == 0 {
			continue
		}
		topics++
		partitions += len(t.Partitions)
		fmt.Fprintf(&s, "\n%s %v %d:", t.Topic, UUID(t.TopicID), len(t.Partitions))
		for j := range t.Partitions {
			fmt.Fprintf(&s, " %d=%s", t.Partitions[j].Partition, orNull(t.Partitions[j].Records))
		}
	}
	return fmt.Sprintf("txn=%s acks=%d timeout=%d topics=%d partitions=%d", stringOrNull(q.TransactionID), q.Acks, q.TimeoutMillis,
		topics, partitions) + s.String()
}

// sayFetch writes down what a Fetch request says, in our reading.
func sayFetch(q *FetchRequest) string {
	var s strings.Builder
	fmt.Fprintf(&s, "cluster=%s replica=%d/%d wait=%d min=%d max=%d isolation=%d session=%d/%d rack=%q topics=%d partitions=%d forgets=%d",
		orNull(q.ClusterID), q.ReplicaID, q.ReplicaEpoch, q.MaxWaitMS, q.MinBytes, q.MaxBytes, q.Isolation, q.SessionID, q.SessionEpoch,
		q.RackID, q.Topics, q.Partitions, q.Forgets)
	for p := q.Data(); p.Next(); {
		if p.First {
			fmt.Fprintf(&s, "\n%s %v %d:", p.Topic, p.TopicID, p.Count)
		}
		fmt.Fprintf(&s, " %d epoch=%d/%d at=%d start=%d max=%d dir=%v high=%d", p.Index, p.CurrentLeaderEpoch, p.LastFetchedEpoch,
			p.FetchOffset, p.LogStartOffset, p.MaxBytes, p.DirectoryID, p.HighWatermark)
	}
	for p := q.Forgotten(); p.Next(); {
		fmt.Fprintf(&s, "\nforget %s %v %d", p.Topic, p.TopicID, p.Index)
	}
	return s.String()
}

// sayKmsgFetch writes down the same in kmsg's reading.
func sayKmsgFetch(q *kmsg.FetchRequest) string {
	var s strings.Builder
	topics, partitions, forgets := 0, 0, 0
	for i := range q.Topics {
		t := &q.Topics[i]
		if len(t.Partitions) == 0 {
			continue
		}
		topics++
		partitions += len(t.Partitions)
		fmt.Fprintf(&s, "\n%s %v %d:", t.Topic, UUID(t.TopicID), len(t.Partitions))
		for j := range t.Partitions {
			p := t.Partitions[j]
			if q.Version < fetchDirectory { // kmsg reads and writes these in every flexible version
				p.ReplicaDirectoryID = UUID{}
			}
			if q.Version < fetchWatermark {
				p.HighWatermark = NoWatermark
			}
			fmt.Fprintf(&s, " %d epoch=%d/%d at=%d start=%d max=%d dir=%v high=%d", p.Partition, p.CurrentLeaderEpoch, p.LastFetchedEpoch,
				p.FetchOffset, p.LogStartOffset, p.PartitionMaxBytes, UUID(p.ReplicaDirectoryID), p.HighWatermark)
		}
	}
	for i := range q.ForgottenTopics {
		t := &q.ForgottenTopics[i]
		for _, p := range t.Partitions {
			forgets++
			fmt.Fprintf(&s, "\nforget %s %v %d", t.Topic, UUID(t.TopicID), p)
		}
	}
	id, epoch := q.ReplicaState.ID, q.ReplicaState.Epoch
	if q.Version < fetchReplica {
		id, epoch = q.ReplicaID, -1
	}
	return fmt.Sprintf("cluster=%s replica=%d/%d wait=%d min=%d max=%d isolation=%d session=%d/%d rack=%q topics=%d partitions=%d forgets=%d",
		stringOrNull(q.ClusterID), id, epoch, q.MaxWaitMillis, q.MinBytes, q.MaxBytes, q.IsolationLevel, q.SessionID, q.SessionEpoch,
		q.Rack, topics, partitions, forgets) + s.String()
}
