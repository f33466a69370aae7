package broker

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkQueue is what one message costs a filter queue: added, handed out 20 at a time, and let go when all have it.
func BenchmarkQueue(b *testing.B) {
	for _, tc := range []struct {
		name   string
		behind uint64
	}{{"keeping-up", 20}, {"behind", 100_000}} {
		b.Run(tc.name, func(b *testing.B) {
			q := queue{total: &queueTotals{}}
			var seqs []uint64
			seq, read := uint64(0), uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				seq += 1 + seq%3
				if !q.add(seq, 100, 1) {
					b.Fatal(seq)
				}
				if q.count < int64(tc.behind) || seq%20 != 0 {
					continue
				}
				if seqs = q.after(seqs[:0], read, 20); len(seqs) == 0 {
					b.Fatal("nothing after", read)
				}
				read = seqs[len(seqs)-1]
				q.trim(read)
			}
			if q.last() != seq || q.first() > read+1 {
				b.Fatal(q.first(), q.last())
			}
		})
	}
}

// BenchmarkQuota is a client's look at its quota, and what a message takes of it.
func BenchmarkQuota(b *testing.B) {
	var q Quotas
	list := []Quota{quotaOf(named("u"), nobody, QuotaProduce, 1e12)}
	for range 1000 {
		list = append(list, quotaOf(named(fmt.Sprint("user", len(list))), nobody, QuotaProduce, 1))
	}
	q.Set(list)
	u := q.Use(0, "u", "c")
	now := int64(time.Second)
	b.ReportAllocs()
	for b.Loop() {
		now += int64(time.Microsecond)
		if _, ok := u.Bounds(QuotaProduce, now); !ok {
			b.Fatal("no quota")
		}
		if d := u.Take(QuotaProduce, 100, now); d != 0 {
			b.Fatal(d)
		}
	}
}

// BenchmarkHeartbeat is a member's word that it is alive, in a group of one, in both of Kafka's protocols.
func BenchmarkHeartbeat(b *testing.B) {
	b.Run("classic", func(b *testing.B) {
		gb := newGroupBench(b)
		m := gb.member("")
		gb.stable(b, m)
		if err := m.beats(); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			err, answered := error(nil), false
			gb.b.Heartbeat(0, "g", m.id, "", m.join.Generation, func(e error) { err, answered = e, true })
			for i := range gb.b.Loops() {
				gb.b.Local(i).Drain()
			}
			if !answered || err != nil {
				b.Fatal(answered, err)
			}
		}
	})
	b.Run("consumer", func(b *testing.B) {
		gb := newGroupBench(b)
		r := &ConsumerHeartbeat{Group: "g", RebalanceTimeout: -1}
		beat := func() (res ConsumerResult) {
			gb.b.ConsumerGroupHeartbeat(0, r, func(x ConsumerResult) { res = x })
			for i := range gb.b.Loops() {
				gb.b.Local(i).Drain()
			}
			return res
		}
		c := gb.consumer("one", "t")
		settles(b, c)
		r.MemberID, r.Epoch = c.id, c.epoch
		b.ReportAllocs()
		for b.Loop() {
			if res := beat(); res.Err != nil || res.Epoch != c.epoch {
				b.Fatalf("%+v", res)
			}
		}
	})
}
