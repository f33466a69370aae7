package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// A fetch whose links lie in many partitions, each in a batch that comes to much when it is opened, gets all of them and holds little.
func TestFollowManyPartitions(t *testing.T) {
	const parts, each = 48, 3
	bb := &boundBench{newGroupBench(t)}
	spec := &TopicSpec{Name: "t", ID: TopicID{1}}
	for i := range parts {
		spec.Partitions = append(spec.Partitions, PartitionSpec{ID: record.PartitionID(100 + i), Shard: record.ShardID(i % 4)})
	}
	bb.b.SetTopic(spec)
	for i := range int32(parts) {
		list := []record.Input{{Key: []byte("k/large"), Value: bytes.Repeat([]byte("x"), 512<<10)}}
		for k := range each {
			list = append(list, record.Input{Key: []byte("k/1"), Value: fmt.Append(nil, i, k)})
		}
		bb.produce(bb.partition(i), zstd(records(record.BatchOptions{}, list...)), AppendOptions{})
	}
	bu := getBundle()
	var ll linkList
	for k := range each {
		for i := range parts {
			value := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(100+i)), uint64(k+1))
			ll.take(&record.Record{Value: append(value, "k/1"...)}, len(bu.msgs))
			bu.place().ref = Ref{Seq: uint64(len(bu.msgs))}
		}
	}
	if err := bb.b.fetcher.follow(bu, &ll, true); err != nil {
		t.Fatal(err)
	}
	var m Message
	for i := range bu.msgs {
		if bu.view(i, &m); string(m.Payload) != fmt.Sprint(i%parts, i/parts) || string(m.Topic) != "k/1" {
			t.Fatalf("message %d is %s on %s", i, m.Payload, m.Topic)
		}
	}
	if len(bu.msgs) != parts*each {
		t.Errorf("%d messages came", len(bu.msgs))
	}
}

// Readers of one fetch let go of what they hold together, the one that reads aside.
func TestLinkReadersLetGo(t *testing.T) {
	readers := map[record.PartitionID]*linkReader{}
	for i := range record.PartitionID(9) {
		readers[i] = &linkReader{plain: make([]byte, linkHeldMax/8)}
		letGo(readers, readers[i])
		held := 0
		for _, r := range readers {
			held += cap(r.plain)
		}
		if held > linkHeldMax || readers[i].plain == nil {
			t.Errorf("%d readers hold %d bytes", i+1, held)
		}
	}
}

// Where nothing that Kafka's clients write reaches MQTT, none of it is opened, and none of it counts as what cannot be delivered.
func TestDeliverOffOpensNothing(t *testing.T) {
	bb := &boundBench{newGroupBench(t)}
	bd, err := ParseBinding("k/#", "t", "", "off")
	if err == nil {
		err = bb.b.Bind([]*Binding{bd})
	}
	if err != nil {
		t.Fatal(err)
	}
	s := bb.connect(0, live("s"))
	s.subscribe(1, "k/#")
	p := bb.topicOfKey("k/1")
	bad := zstd(records(record.BatchOptions{}, record.Input{Key: []byte("k/1"), Value: []byte("v")}))
	bb.produce(p, bad, AppendOptions{})
	bb.produce(p, records(record.BatchOptions{}, record.Input{Key: []byte("no/topic/+"), Value: []byte("v")}), AppendOptions{})
	bb.connect(1, live("p")).publish("k/1", "by MQTT", 1, 5)
	bb.pump()
	st := bb.b.Stats()
	if got := s.payloads(); len(got) != 1 || got[0] != "by MQTT" || st.Undeliverable.Load() != 0 || st.Unreadable.Load() != 0 {
		t.Errorf("got %q; %d cannot be delivered, %d not read", got, st.Undeliverable.Load(), st.Unreadable.Load())
	}
	bb.settled()
}
