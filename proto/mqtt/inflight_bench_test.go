package mqtt

import (
	"testing"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// BenchmarkInflight is what one delivery costs the table of those that are not acknowledged: a window of 20 of them that moves on.
func BenchmarkInflight(b *testing.B) {
	var t idTable
	const window = 20
	next, oldest := uint16(0), uint16(0)
	turn := func(id uint16) uint16 {
		if id++; id == 0 {
			id = 1
		}
		return id
	}
	b.ReportAllocs()
	for b.Loop() {
		next = turn(next)
		t.put(next, 1)
		if t.len() > window {
			oldest = turn(oldest)
			if !t.del(oldest) {
				b.Fatal("lost", oldest)
			}
		}
	}
	if t.len() > window {
		b.Fatal(t.len())
	}
}

// BenchmarkAckRing is what one publish costs the ring of answers that are due: twenty wait, and are known in the order of receipt.
func BenchmarkAckRing(b *testing.B) {
	var r ackRing
	id := uint16(0)
	b.ReportAllocs()
	for b.Loop() {
		id++
		seq := r.push(ack{id: id, typ: wire.PUBACK})
		if r.len() < 20 {
			continue
		}
		if !r.finish(seq-19, wire.Success) {
			b.Fatal(seq)
		}
		if a, ok := r.pop(); !ok || a.id != id-19 {
			b.Fatal(a, ok)
		}
	}
}
