package broker

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestReplicatedTopics: a spread topic lies in sets with as many replicas as it asks for, those that come later too, also when no set has as many any more; what no set has is refused.
func TestReplicatedTopics(t *testing.T) {
	tb := newSetBroker(t)
	tb.b.Recovered()
	t.Cleanup(tb.b.Close)
	tb.leadAlone(1, shardsOf(0)...)
	tb.b.SetStreamSets(3)
	create := func(name string, replicas int) (spec *TopicSpec, err error) {
		t.Helper()
		done := false
		tb.b.CreateReplicated(0, name, TopicID([]byte((name + strings.Repeat(" ", 16))[:16])), 6, replicas, spreadOn, func(s *TopicSpec, e error) { spec, err, done = s, e, true })
		if tb.pump(); !done {
			t.Fatal("a topic was not answered")
		}
		return spec, err
	}
	lies := func(name string, spec *TopicSpec, sets ...int) {
		t.Helper()
		used := make(map[int]int)
		for _, p := range spec.Partitions {
			used[tb.b.shards[p.Shard].set]++
		}
		for _, k := range sets {
			if n := len(spec.Partitions) / len(sets); used[k] != n {
				t.Errorf("%s: set %d has %d of %d partitions: %v", name, k, used[k], len(spec.Partitions), used)
			}
		}
	}
	spec, err := create("alike", 7)
	if err != nil || spec.Replicas != 0 {
		t.Fatalf("where all sets have as many: %+v, %v", spec, err)
	}
	lies("alike", spec, 1, 2, 3)
	tb.b.SetSetReplicas(&SetReplicas{Usual: 3, Of: []int{1, 3, 1, 9}})
	for asked, want := range map[int]int{1: 1, 3: 3, -1: 3, 0: 3} {
		if n, err := tb.b.SpreadReplicas(asked); n != want || err != nil {
			t.Errorf("%d replicas: %d, %v", asked, n, err)
		}
	}
	if _, err := create("none", 2); !errors.Is(err, ErrReplicas) || !strings.Contains(err.Error(), "sets of 1, 3 replicas") {
		t.Errorf("2 replicas: %v", err)
	}
	if tb.b.HasReplicas(3) || !tb.b.HasReplicas(1) || tb.b.HasReplicas(9) {
		t.Error("the usual number is one of its own, or another one is none")
	}
	one, err := create("one", 1)
	if err != nil || one.Replicas != 1 {
		t.Fatal(one, err)
	}
	lies("one", one, 1, 3)
	usual, err := create("usual", -1)
	if err != nil || usual.Replicas != 3 {
		t.Fatal(usual, err)
	}
	lies("usual", usual, 2)
	grow := func(name string, n int) (spec *TopicSpec) {
		t.Helper()
		tb.b.GrowTopic(tb.b.Topic(0, name), n, false, func(s *TopicSpec, err error) {
			if spec = s; err != nil {
				t.Error(err)
			}
		})
		tb.pump()
		return spec
	}
	lies("one, more", grow("one", 12), 1, 3)
	tb.b.SetSetReplicas(&SetReplicas{Usual: 3, Of: []int{2, 3, 2}})
	lies("one, changed", grow("one", 18), 1, 3)
}

// TestUsualReplicas: who does not say how many gets as many as is usual, or the next more that there are, and no fewer.
func TestUsualReplicas(t *testing.T) {
	tb := newSetBroker(t)
	t.Cleanup(tb.b.Close)
	tb.b.SetStreamSets(3)
	tb.b.SetSetReplicas(&SetReplicas{Usual: 3, Of: []int{1, 1, 1}})
	if _, err := tb.b.SpreadReplicas(-1); !errors.Is(err, ErrReplicas) {
		t.Errorf("fewer than the usual: %v", err)
	}
	tb.b.SetSetReplicas(&SetReplicas{Usual: 2, Of: []int{1, 3, 4}})
	if n, err := tb.b.SpreadReplicas(-1); n != 3 || err != nil {
		t.Errorf("the next more: %d, %v", n, err)
	}
}

// TestReplicasStored: a topic keeps its number of replicas; without one it is written as before there were any.
func TestReplicasStored(t *testing.T) {
	for _, spec := range []TopicSpec{{Name: "a"}, {Name: "b", Internal: true}, {Name: "c", Replicas: 3}, {Name: "d", Replicas: 15, Internal: true}} {
		b := appendTopic(nil, &spec)
		d := decoder{b: b}
		if got := d.topic(); !d.ok() || got.Replicas != spec.Replicas || got.Internal != spec.Internal {
			t.Errorf("%+v comes back as %+v", spec, got)
		}
	}
	was := append(append([]byte{0}, make([]byte, 16)...), 1, 'b', 1, 0, 0)
	if b := appendTopic(nil, &TopicSpec{Name: "b", Internal: true}); !bytes.Equal(b, was) {
		t.Errorf("% x, want % x", b, was)
	}
}
