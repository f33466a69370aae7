package brokertest

import (
	"encoding/binary"
	"hash/crc32"
	"hash/fnv"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Binding makes records of a topic of To of what is published below Prefix. The faults of To are done to them, each a batch of its own.
type Binding struct {
	Prefix     string
	To         *Kafka
	Topic      string
	Partitions int
}

// store makes a record of a message, in the partition of its topic.
func (b *Binding) store(m *message) {
	if !strings.HasPrefix(m.topic, b.Prefix+"/") {
		return
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(m.topic))
	k := b.To
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.batches++
	f := &k.faults
	switch n := k.mu.batches; {
	case f.DieAfter > 0 && n > f.DieAfter:
		k.dieLocked()
		return
	case f.StallAfter > 0 && n > f.StallAfter:
		return
	}
	if k.mu.topics[b.Topic] != nil {
		k.storeLocked(b.Topic, int(h.Sum32())%b.Partitions, m.origin(), recordBatch([]byte(m.topic), m.payload))
	}
	k.wakeLocked()
}

// recordBatch is a batch of one record.
func recordBatch(key, value []byte) []byte {
	r := kmsg.Record{Key: key, Value: value}
	r.Length = int32(len(r.AppendTo(nil)) - 1)
	x := kmsg.RecordBatch{Magic: 2, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 1, Records: r.AppendTo(nil)}
	x.Length = int32(61 - 12 + len(x.Records))
	b := x.AppendTo(nil)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}
