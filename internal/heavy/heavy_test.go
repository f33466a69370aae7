package heavy

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// What makes up more than one in as many as there are rows is in the table, whatever comes beside it; weights are never below, and above by no more than the least.
func TestHeavy(t *testing.T) {
	const rows, n = 64, 200_000
	tb := New(rows)
	rng := rand.New(rand.NewPCG(1, 2))
	truth := make(map[string]uint64)
	for i := range n {
		name := fmt.Sprint("rare/", i)
		switch k := rng.IntN(100); {
		case k < 30:
			name = fmt.Sprint("hot/", k%10) // 3 % each
		case k < 50:
			name = fmt.Sprint("warm/", rng.IntN(200))
		}
		truth[name]++
		r := tb.Hit([]byte(name), 1)
		r.Counts.MessagesIn++
	}
	if len(tb.Rows()) != rows || len(tb.byHash) != rows {
		t.Fatalf("%d rows, %d hashes", len(tb.Rows()), len(tb.byHash))
	}
	found := make(map[string]*Row)
	least := tb.least().weight
	for _, r := range tb.Rows() {
		name := string(r.Name)
		found[name] = r
		if r.weight < truth[name] || r.weight > truth[name]+least || r.Counts.MessagesIn > truth[name] {
			t.Errorf("%s came %d times: weight %d (least %d), counted %d", name, truth[name], r.weight, least, r.Counts.MessagesIn)
		}
	}
	for name, times := range truth {
		if times > n/rows && found[name] == nil {
			t.Errorf("%s came %d times and is not there", name, times)
		}
	}
	for i := range 10 {
		name := fmt.Sprint("hot/", i)
		if r := found[name]; r == nil || r.Counts.MessagesIn < truth[name]*99/100 {
			t.Errorf("%s came %d times, counted %+v", name, truth[name], r)
		}
	}
}

// What comes no more makes room for what comes now.
func TestFade(t *testing.T) {
	tb := New(4)
	for i := range 4 {
		tb.Hit(fmt.Append(nil, "old/", i), 1<<20)
	}
	for range 30 {
		tb.Fade()
		for i := range 2 {
			tb.Hit(fmt.Append(nil, "new/", i), 10)
		}
	}
	names := ""
	for i := range 2 {
		names += string(tb.Hit(fmt.Append(nil, "new/", i), 1).Name)
	}
	r := tb.Hit([]byte("new/0"), 0)
	if r.Weight() < 10 || r.Weight() > 40 || names != "new/0new/1" {
		t.Errorf("%d, %s", r.Weight(), names)
	}
}

// Rows are used again without memory of their own.
func TestHitAllocates(t *testing.T) {
	tb := New(16)
	name := []byte("sensor/0000")
	i := 0
	next := func() {
		i++
		name[7], name[8], name[9] = byte(i), byte(i>>8), byte(i>>16)
		tb.Hit(name, 1)
	}
	for range 1000 {
		next()
	}
	if n := testing.AllocsPerRun(1000, next); n > 0.1 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkHit is what a message of a table costs: of the topic before, of one of a few, of one that was never there.
func BenchmarkHit(b *testing.B) {
	for name, topics := range map[string]int{"same": 1, "of 100": 100, "always new": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			tb := New(512)
			var names [][]byte
			for i := range topics {
				names = append(names, fmt.Append(nil, "plant/line/", i, "/temperature"))
			}
			i := 0
			for b.Loop() {
				tb.Hit(names[i%topics], 1)
				i++
			}
		})
	}
}
