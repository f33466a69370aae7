package kafka

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
)

// parts is a bulk whose topics have the partitions that it says; 0: one is answered for without the catalog.
type parts struct {
	partitions []int
	lag        bool // the catalog answers later, from elsewhere
	others     *int // how often others of the loop have had their turn
	taken      []int
	seen       [][]int // topics of each part
	turns      []int   // others when the loop began with it
	done       chan struct{}
}

func (b *parts) look(_ *request, i int) int {
	if b.taken == nil {
		b.turns = append(b.turns, *b.others)
	}
	b.taken = append(b.taken, i)
	return b.partitions[i]
}

func (b *parts) change(_ *request, done func([]TopicResult)) bool {
	switch some := slices.ContainsFunc(b.taken, func(i int) bool { return b.partitions[i] > 0 }); {
	case !some:
		return false
	case b.lag:
		go done(nil)
	default:
		done(nil)
	}
	return true
}

func (b *parts) changed(*request, []TopicResult) {
	b.seen, b.taken = append(b.seen, b.taken), nil
}

func (b *parts) end(*request) { close(b.done) }

// Of a request that changes thousands of topics a loop does as much at once as the bound says, and others have their turn before it goes on.
func TestBulkInParts(t *testing.T) {
	e, err := engine.New(engine.Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	defer func() { _ = e.Close(context.Background()) }()
	core := broker.New(broker.Options{Shards: 1, Loops: 1})
	defer core.Close()
	l := newLoopState(&Handler{}, e.Loops()[0], core.Local(0))
	others, over := 0, false
	var other func()
	other = func() {
		if others++; !over {
			l.run(other)
		}
	}
	l.run(other)
	defer func() { l.run(func() { over = true }) }()
	for name, partitions := range map[string][]int{
		"none":    nil,
		"one":     {1},
		"small":   slices.Repeat([]int{1}, 3*bulkPart+7),
		"refused": slices.Repeat([]int{0}, 3*bulkPart),
		"large":   slices.Repeat([]int{bulkPart, 1, 0}, 50),
	} {
		for _, lag := range []bool{false, true} {
			b := &parts{partitions: partitions, lag: lag, others: &others, done: make(chan struct{})}
			c := &conn{l: l, client: "c"}
			l.run(func() { (&request{c: c}).inParts(len(partitions), b) })
			select {
			case <-b.done:
			case <-time.After(time.Minute):
				t.Fatalf("%s: it does not come to its end", name)
			}
			next := 0
			for i, part := range b.seen {
				weight := 0
				for k, at := range part {
					if at != next {
						t.Fatalf("%s: topic %d comes where %d is due", name, at, next)
					}
					next++
					if weight += max(partitions[at], 1); weight >= bulkPart && k < len(part)-1 {
						t.Errorf("%s: part %d has %v", name, i, part)
					}
				}
				if i > 0 && b.turns[i] == b.turns[i-1] { // it begins with one where it has ended the one before
					t.Errorf("%s: nobody else has had a turn between parts %d and %d", name, i-1, i)
				}
			}
			if next != len(partitions) {
				t.Errorf("%s: %d of %d topics", name, next, len(partitions))
			}
		}
	}
}

// What is left of a request is not done once its client has gone.
func TestBulkOfOneWhoGoes(t *testing.T) {
	e, err := engine.New(engine.Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	defer func() { _ = e.Close(context.Background()) }()
	core := broker.New(broker.Options{Shards: 1, Loops: 1})
	defer core.Close()
	l := newLoopState(&Handler{}, e.Loops()[0], core.Local(0))
	b := &parts{partitions: slices.Repeat([]int{1}, 3*bulkPart), others: new(int), done: make(chan struct{})}
	looked := make(chan int)
	l.run(func() {
		c := &conn{l: l}
		r := l.newRequest()
		r.c = c
		c.enqueue(r)
		r.inParts(len(b.partitions), b)
		c.abandon()
		l.run(func() { looked <- len(b.taken) + bulkPart*len(b.seen) })
	})
	if n := <-looked; n != bulkPart {
		t.Errorf("%d topics were looked at, want %d", n, bulkPart)
	}
}
