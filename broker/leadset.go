package broker

import "github.com/sluicemq/sluice/journal/record"

// Leads says whether this node takes commands for n shards from first on. One that is alone does. Any goroutine.
func (b *Broker) Leads(first record.ShardID, n int) bool {
	switch {
	case int(first)+n > len(b.shards):
		return false
	case !b.opts.Replicated:
		return true
	case first == 0 && n == len(b.shards):
		return b.Leading()
	}
	for _, s := range b.shards[first : int(first)+n] {
		s.mu.Lock()
		open := s.rep.open
		s.mu.Unlock()
		if !open {
			return false
		}
	}
	return true
}
