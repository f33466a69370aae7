package broker

import "github.com/sluicemq/sluice/journal/record"

// AppendRecord adds a record of the node's own to a topic, in the partition of its key, and tells nobody what becomes of it: it may be lost with a crash
// that comes before its commit. in is a view; its OffsetDelta is set. ErrBusy: nothing was taken, there is no room now. Other errors refuse the record.
func (l *Local) AppendRecord(t *Topic, in *record.Input) error {
	if err := l.b.streamable(); err != nil {
		return err
	}
	if err := l.b.room(); err != nil {
		return err
	}
	n := record.InputSize(in)
	if limit := t.Spec().Config.MaxMessageBytes; limit > 0 && n+record.BatchHeaderSize > int(limit) {
		return ErrMessageTooLarge
	}
	p := t.partitionOf(in.Key)
	s := p.shard
	s.mu.Lock()
	if err := p.takesLocked(); err != nil {
		s.mu.Unlock()
		return err
	}
	if !l.b.batchFitsLocked(s, n) {
		s.mu.Unlock()
		return ErrBusy
	}
	s.accumulateLocked(l.b, p, in, n)
	first := s.markDirtyLocked()
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
	return nil
}
