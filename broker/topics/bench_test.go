//go:build unix

package topics

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// reportCPU says what an operation costs in processor time, which other work on the machine moves less than the clock's.
func reportCPU(b *testing.B, start int64) {
	b.Helper()
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
}

// BenchmarkMatch matches topics, each of which one filter matches, in random order.
func BenchmarkMatch(b *testing.B) {
	for _, kind := range []struct {
		name   string
		filter func(int) []byte
	}{{"mixed", mixedFilter}, {"wild", wildFilter}} {
		for _, n := range []int{100_000, 300_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", kind.name, n), func(b *testing.B) {
				x := fill(b, n, kind.filter)
				rnd := rand.New(rand.NewPCG(1, 2))
				topics := make([][]byte, 1<<16)
				for i := range topics {
					topics[i] = mixedTopic(rnd.IntN(n))
				}
				var m Matches
				i := 0
				start := cpuTime(b)
				for b.Loop() {
					x.Match(0, topics[i%len(topics)], &m)
					if len(m.Filters) != 1 {
						b.Fatalf("%s: %d filters", topics[i%len(topics)], len(m.Filters))
					}
					i++
				}
				reportCPU(b, start)
				b.ReportMetric(float64(x.Bytes())/float64(n), "B/filter")
			})
		}
	}
}

// BenchmarkMatchMiss matches topics that no filter matches.
func BenchmarkMatchMiss(b *testing.B) {
	x := fill(b, 100_000, mixedFilter)
	topic := []byte("site7/line3/device-unknown/sensor1")
	var m Matches
	start := cpuTime(b)
	for b.Loop() {
		x.Match(0, topic, &m)
	}
	reportCPU(b, start)
}

// BenchmarkSubscribe adds filters to an index that grows from nothing to as many as fit the run.
func BenchmarkSubscribe(b *testing.B) {
	for _, kind := range []struct {
		name   string
		filter func(int) []byte
	}{{"mixed", mixedFilter}, {"wild", wildFilter}} {
		b.Run(kind.name, func(b *testing.B) {
			const n = 100_000
			filters := make([][]byte, n)
			for i := range filters {
				filters[i] = kind.filter(i)
			}
			var x *Index
			i := n
			start := cpuTime(b)
			for b.Loop() {
				if i == n {
					x, i = New(Options{}), 0
				}
				if _, _, err := x.Subscribe(0, nil, filters[i], Entry{Subscriber: uint32(i)}); err != nil {
					b.Fatal(err)
				}
				i++
			}
			reportCPU(b, start)
		})
	}
}

// BenchmarkCrowd lets one of 100,000 subscribers of one filter leave and come back.
func BenchmarkCrowd(b *testing.B) {
	x := New(Options{})
	const n = 100_000
	filter := []byte("all/#")
	for i := range uint32(n) {
		if _, _, err := x.Subscribe(0, nil, filter, Entry{Subscriber: i}); err != nil {
			b.Fatal(err)
		}
	}
	i := uint32(0)
	start := cpuTime(b)
	for b.Loop() {
		s := i * 7919 % n
		i++
		x.Unsubscribe(0, nil, filter, s)
		if _, isNew, err := x.Subscribe(0, nil, filter, Entry{Subscriber: s}); err != nil || !isNew {
			b.Fatal(isNew, err)
		}
	}
	reportCPU(b, start)
	b.ReportMetric(float64(x.Bytes())/n, "B/subscriber")
}

// BenchmarkRetained puts, gets and matches a million topics.
func BenchmarkRetained(b *testing.B) {
	const n = 1_000_000
	r := NewRetained(RetainedOptions{})
	text := 0
	order := rand.New(rand.NewPCG(3, 4)).Perm(n)
	for _, i := range order {
		topic := mixedTopic(i)
		text += len(topic)
		if _, err := r.Put(0, topic, uint32(i+1)); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("get", func(b *testing.B) {
		i := 0
		start := cpuTime(b)
		for b.Loop() {
			if r.Get(0, mixedTopic(order[i%n])) == 0 {
				b.Fatal("lost")
			}
			i++
		}
		reportCPU(b, start)
		b.ReportMetric(float64(r.Bytes()-int64(text))/n, "B/topic+text")
	})
	b.Run("all", func(b *testing.B) {
		var c Cursor
		start := cpuTime(b)
		for b.Loop() {
			if c.Done() {
				c = Cursor{}
			}
			left := 1000
			r.Match(0, []byte("#"), &c, left, func(uint32, []byte) bool { return true })
		}
		reportCPU(b, start)
	})
	b.Run("one-device", func(b *testing.B) {
		i := 0
		start := cpuTime(b)
		for b.Loop() {
			var c Cursor
			found := 0
			d := order[i%n]
			filter := fmt.Appendf(nil, "site%d/+/device%d/#", d%100, d)
			for !c.Done() {
				r.Match(0, filter, &c, 1000, func(uint32, []byte) bool { found++; return true })
			}
			if found != 1 {
				b.Fatalf("%s: %d", filter, found)
			}
			i++
		}
		reportCPU(b, start)
	})
	b.Run("delete-put", func(b *testing.B) {
		i := 0
		start := cpuTime(b)
		for b.Loop() {
			topic := mixedTopic(order[i%n])
			slot := r.Delete(0, topic)
			if _, err := r.Put(0, topic, slot); err != nil || slot == 0 {
				b.Fatal(slot, err)
			}
			i++
		}
		reportCPU(b, start)
	})
}

// BenchmarkRetainedGrow puts new topics in random order.
func BenchmarkRetainedGrow(b *testing.B) {
	const n = 1_000_000
	order := rand.New(rand.NewPCG(3, 4)).Perm(n)
	r := NewRetained(RetainedOptions{})
	start := cpuTime(b)
	i := 0
	for b.Loop() {
		if _, err := r.Put(0, mixedTopic(order[i%n]), 1); err != nil {
			b.Fatal(err)
		}
		i++
	}
	reportCPU(b, start)
}
