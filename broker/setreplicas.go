package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sluicemq/sluice/journal/record"
)

// ErrReplicas says that no set of shards has as many replicas as a topic is to have.
var ErrReplicas = errors.New("broker: no set of shards has so many replicas")

// SetReplicas is how many replicas sets of shards have, where some have a number of their own.
type SetReplicas struct {
	Usual int   // of a topic that does not say
	Of    []int // of each set beside the first
}

// SetSetReplicas tells how many replicas the sets of shards beside the first have; nil: all as many. Any goroutine.
func (b *Broker) SetSetReplicas(r *SetReplicas) { b.setReplicas.Store(r) }

// SpreadReplicas is how many replicas the partitions of a spread topic have that asks for so many; 0 or less: it does not say. 0: all sets have as many. ErrReplicas: there are no such
// sets, with what there is. Any goroutine.
func (b *Broker) SpreadReplicas(asked int) (int, error) {
	r := b.setReplicas.Load()
	if r == nil {
		return 0, nil
	}
	have := slices.Clone(r.Of[:min(len(r.Of), int(b.streamSets.Load()))])
	slices.Sort(have)
	have = slices.Compact(have)
	for _, n := range have {
		if asked > 0 && n == asked || asked <= 0 && n >= r.Usual {
			return n, nil
		}
	}
	var texts []string
	for _, n := range have {
		texts = append(texts, fmt.Sprint(n))
	}
	if asked <= 0 {
		asked = r.Usual
	}
	return 0, fmt.Errorf("%w: %d; there are sets of %s replicas; sluice shard sets --replicas makes others", ErrReplicas, asked, strings.Join(texts, ", "))
}

// HasReplicas says whether there are sets of shards that have so many replicas as their own number. Any goroutine.
func (b *Broker) HasReplicas(n int) bool {
	r := b.setReplicas.Load()
	return r != nil && n != r.Usual && slices.Contains(r.Of[:min(len(r.Of), int(b.streamSets.Load()))], n)
}

// setsFor are the sets over which a spread topic's partitions are laid: those with as many replicas as it was made with, or, if there are none any more, as the one of its first
// partition. They are counted from 0 on.
func (b *Broker) setsFor(spec *TopicSpec) (list []int) {
	n, r := int(max(b.streamSets.Load(), 1)), b.setReplicas.Load()
	of := func(k int) int {
		if r == nil || k >= len(r.Of) {
			return -1
		}
		return r.Of[k]
	}
	take := func(replicas int) {
		for k := range n {
			if of(k) == replicas {
				list = append(list, k)
			}
		}
	}
	if r != nil {
		want := int(spec.Replicas)
		if want == 0 {
			want, _ = b.SpreadReplicas(0)
		}
		take(want)
		if len(list) == 0 && len(spec.Partitions) > 0 {
			take(of((int(spec.Partitions[0].Shard) - len(b.homes)) / SetShards))
		}
	}
	if len(list) == 0 {
		for k := range n {
			list = append(list, k)
		}
	}
	return list
}

// streamShard is where the partition of a spread topic lies whose place in the row of all is at: neighbours are of different sets, as far as there are several that may have it.
func (b *Broker) streamShard(at uint64, sets []int) record.ShardID {
	n := uint64(len(sets))
	return record.ShardID(len(b.homes) + SetShards*sets[at%n] + int(at/n%SetShards))
}
