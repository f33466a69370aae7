package broker

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/journal/record"
)

// seedCommands gives the commands of a small history, and its checkpoint rows.
func seedCommands(f *testing.F) (cmds [][]byte, rows *memCheckpoints) {
	f.Helper()
	tb := newTestBroker(f, 1, nil)
	p, s := tb.connect(0, kept("p")), tb.connect(0, ConnectRequest{ClientID: "s", Expiry: NeverExpires, ReceiveMax: 10,
		Will: &Will{Topic: []byte("w"), Payload: []byte("x"), QoS: 1}})
	s.subscribe(2, "t/#", "t/+")
	s.share("g", 1, "t/#")
	s.share("h", 2, "t/#")
	p.retain(2, "r/1", "x")
	p.retain(1, "r/2", "x")
	s.room = 4
	s.subscribe(2, "r/#")
	for i := range 3 {
		p.publish("t/1", "x", QoS(i%2+1), Token(i+1))
		tb.pump()
	}
	s.l.Acked(s.c, s.got[0].id)
	tb.tick()
	s.disconnect()
	rows = &memCheckpoints{}
	if err := tb.b.Checkpoint(rows); err != nil {
		f.Fatal(err)
	}
	return append(cmds, tb.log.groups...), rows
}

// groupChange is the command of a group's first change.
func groupChange(f *testing.F) []byte {
	f.Helper()
	g := group{l: newTestBroker(f, 1, nil).b.Local(0), key: groupKey{0, "g"}, consumer: newConsumerGroup(1)}
	m := &consumerMember{id: "m", names: []string{"t"}, target: []TopicPartition{{TopicID{1}, 0}, {TopicID{1}, 2}}}
	g.consumer.add(m)
	g.changed("m", false, memberAll)
	g.changed("n", true, 0)
	return g.encodeChanges()
}

// FuzzCommands applies arbitrary bytes as a command frame: nothing but an ignored command may come of it.
func FuzzCommands(f *testing.F) {
	groups, _ := seedCommands(f)
	for _, g := range groups {
		if len(g) > 36 {
			f.Add(g[36:])
		}
	}
	f.Add(appendBytes(nil, encodeSession(nil, &Session{id: "c", d: &durable{id: 1}}, NeverExpires, &Will{Topic: []byte("t")})))
	f.Add(appendEntries([]byte{cmdEntries}, []CatalogEntry{{Key: "user/a", Value: []byte("x")}, {Key: "b"}, {Key: "c", Value: []byte{}}}))
	f.Add(groupChange(f))
	f.Add(append(appendGroupKey([]byte{cmdGroupMeta}, groupKey{0, "g"}), 0, 4, wholeConsumerVersion, 7, 7, 0))
	f.Add(logStartCommand(101, 3))
	f.Add(logStartCommand(101, 1<<62))
	f.Add(binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(nil, cmdProducersGone), 101), 1<<40))
	f.Fuzz(func(t *testing.T, b []byte) {
		tb := newTestBroker(t, 1, nil)
		defer tb.b.Close()
		s := tb.b.homes[1]
		tb.b.SetTopic(topicSpec("t", 1, 100, 101))
		p := tb.b.Topic(0, "t").Partition(1)
		s.mu.Lock()
		for i := range record.Offset(5) {
			p.applyBatchLocked(&batchInfo{base: i, last: i, producer: int64(i), size: 1}, -1, false)
		}
		s.mu.Unlock()
		defer func() {
			if p.LogStart() < 0 || p.LogStart() > p.HighWatermark() {
				t.Fatalf("from %d to %d", p.LogStart(), p.HighWatermark())
			}
		}()
		s.applyCommands(tb.b, appendBytes(nil, encodeSession(nil, &Session{id: "c", d: &durable{id: 1}}, NeverExpires, nil)))
		s.applyCommands(tb.b, b)
		s.applyCommands(tb.b, appendBytes(nil, b))
		if err := tb.b.Checkpoint(&memCheckpoints{}); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzReferences reads arbitrary bytes as a reference block.
func FuzzReferences(f *testing.F) {
	f.Add([]byte{0, 64, 2, 1, 2}, []byte{1})
	f.Add([]byte{refDedupe, 64, 9, 7, 0}, []byte{})
	f.Fuzz(func(t *testing.T, b, rest []byte) {
		refs := references{}
		refs.reset(append(bytes.Clone(b), rest...))
		n := 0
		for refs.next() {
			if n++; n > len(b)+len(rest) {
				t.Fatal("more items than bytes")
			}
			if len(refs.numbers) > len(b)+len(rest) || refs.size < 0 {
				t.Fatal("an item that cannot be")
			}
		}
	})
}

// FuzzRow loads arbitrary checkpoint rows; what loads comes out again.
func FuzzRow(f *testing.F) {
	_, rows := seedCommands(f)
	for _, r := range rows.flushed {
		for k, v := range r.rows {
			f.Add([]byte(k), v)
		}
	}
	st := unknownProducer
	st.take(&batchInfo{base: 7, last: 9, producer: 1, first: 3, lastSeq: 5, kind: batchTransactional}, -1)
	f.Add(producerKey(100, 1), st.encode(nil))
	f.Add(entryRowKey("user/a"), []byte("x"))
	f.Add(groupRowKey(groupKey{0, "g"}), []byte{0, wholeConsumerVersion, 7, 7, 0})
	f.Add(groupRowKey(groupKey{0, "g"}), []byte{0, consumerVersion, 7, 7})
	f.Add(memberRowKey(memberKey{groupKey{0, "g"}, "m"}), []byte{8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, shareSettled, 0, 0})
	f.Add(abortedKey(100, 9), []byte{streamRowVersion, 1, 7})
	f.Add(key8(rowLogStart, 100), []byte{streamRowVersion, 7})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if len(key) == 0 {
			return
		}
		tb := newTestBroker(t, 1, nil)
		defer tb.b.Close()
		tb.b.recovering = true
		tb.b.SetTopic(topicSpec("t", 1, 100, 101))
		s := tb.b.homes[0]
		if !s.loadRow(tb.b, key[0], key[1:], value) {
			return
		}
		tb.b.Recovered()
		for _, q := range s.mu.queues {
			if seqs := q.after(nil, 0, 1<<20); int64(len(seqs)) != q.count && q.first() != 0 {
				t.Fatalf("%d of %d references", len(seqs), q.count)
			}
		}
		tb.b.setCommitted(Place{Segment: 1, Offset: 1})
		if err := tb.b.Checkpoint(&memCheckpoints{}); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzBound reads arbitrary bytes as what the log and other clients give of bound streams: no panic, and what is accepted makes a topic.
func FuzzBound(f *testing.F) {
	f.Add([]byte{5, 0, 7, 9}, "a/+", "level:2", "x/${key}", []byte("k"))
	f.Add([]byte{1}, "#", "client", "off", []byte("a/b"))
	f.Fuzz(func(t *testing.T, extra []byte, filter, key, deliver string, k []byte) {
		readBatchExtra(extra)
		new(linkList).take(&record.Record{Value: extra}, 0)
		b, err := ParseBinding(filter, "t", key, deliver)
		if err != nil {
			return
		}
		if again, err := ParseBinding(filter, "t", b.KeyText(), b.DeliverText()); err != nil || again.Key != b.Key || again.Level != b.Level || again.Deliver != b.Deliver {
			t.Errorf("%q, %q reads as %q, %q: %v", key, deliver, b.KeyText(), b.DeliverText(), err)
		}
		if to := topicOf(nil, []*Binding{b}, k); to != nil && (topics.CheckTopic(to) != nil || to[0] == '$') {
			t.Errorf("key %q goes to %q", k, to)
		}
	})
}
