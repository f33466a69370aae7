package broker

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/journal/record"
)

// Errors of the tier.
var (
	// ErrTier says that old records lie in a store that does not give them now: whoever reads tries again later, and loses nothing. What will not
	// come back, a lost object or wrong bytes, is another error.
	ErrTier = errors.New("broker: the store of old records cannot be read now")
	// ErrRestoring is the ErrTier of a topic that is being brought back from the store.
	ErrRestoring = fmt.Errorf("%w: the topic is being brought back", ErrTier)
	// ErrNotEmpty says that only an empty partition can be restored.
	ErrNotEmpty = errors.New("broker: the partition is not empty")
)

// TierChange is a change of one row of the tier's manifest. The core keeps rows, by shard, and does not look into them.
type TierChange struct {
	Key   []byte
	Value []byte // nil: the row goes
}

// TierManifest is told of rows, and gives them back for checkpoints. Its methods are called under a shard's lock of applying, and must not block.
type TierManifest interface {
	// Apply takes a row over; value nil: it is gone. It keeps neither key nor value. It is called in the order of commits, at recovery too, where
	// a row may come twice or be gone that never was. An error means that it is no row, and nothing has changed.
	Apply(shard record.ShardID, key, value []byte) error
	// Value is a row as it was applied last; nil: there is none.
	Value(shard record.ShardID, key []byte) []byte
}

// Bounds of changes of the manifest. A change that would pass one is refused with ErrQuota.
const (
	TierKeyMax    = 256
	TierValueMax  = 1 << 20
	TierChangeMax = 2 << 20 // bytes of keys and values of one ChangeTier
	// tierUnderWayMax bounds what waits for the log: beyond it ChangeTier answers ErrBusy.
	tierUnderWayMax = 16 << 20
)

// tierStore is what the core has of the tier.
type tierStore struct {
	manifest TierManifest
	used     bool
	rows     atomic.Int64 // that were met without a manifest
	underWay atomic.Int64 // bytes of changes
}

// UseTier has rows of the manifest be told to m, and records be read from the store that it is of. Before Load. Without it rows stay as they
// are.
func (b *Broker) UseTier(m TierManifest) {
	b.tier.manifest, b.tier.used = m, true
}

// Tiered says whether there is a store.
func (b *Broker) Tiered() bool { return b.tier.used }

// TierRows is how many rows of a manifest were met without UseTier: history that lies in a store which this run does not know. Readers would
// skip it.
func (b *Broker) TierRows() int64 { return b.tier.rows.Load() }

// idleTier keeps rows of which nobody wants to know, as far as the log has them: those of the checkpoint stay where they are.
type idleTier struct {
	mu   sync.Mutex
	rows map[tierKey][]byte
}

// tierKey names a row.
type tierKey struct {
	shard record.ShardID
	key   string
}

// Apply takes a row over.
func (t *idleTier) Apply(shard record.ShardID, key, value []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows == nil {
		t.rows = make(map[tierKey][]byte)
	}
	t.rows[tierKey{shard, string(key)}] = slices.Clone(value)
	return nil
}

// Value gives a row.
func (t *idleTier) Value(shard record.ShardID, key []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rows[tierKey{shard, string(key)}]
}

// ChangeTier changes rows of the manifest by one command of a shard: all of them or none. Any goroutine may call it. done runs once, on some
// loop, when they are in the log and the manifest was told, or at once with what refuses them: ErrQuota, ErrBusy, ErrUnavailable. A full disk
// does not refuse them: they are what makes room. It keeps nothing of changes.
func (b *Broker) ChangeTier(shard record.ShardID, changes []TierChange, done func(error)) {
	b.ChangeTierIn(0, shard, changes, done)
}

// ChangeTierIn is ChangeTier for who acts for the leader of an epoch, 0: for whoever leads. In another epoch it answers ErrNotLeader, whoever leads then.
func (b *Broker) ChangeTierIn(epoch record.Epoch, shard record.ShardID, changes []TierChange, done func(error)) {
	size, err := b.checkTierChange(shard, changes)
	if err != nil || len(changes) == 0 {
		done(err)
		return
	}
	if b.tier.underWay.Add(size) > tierUnderWayMax {
		b.tier.underWay.Add(-size)
		done(ErrBusy)
		return
	}
	settle := func(err error) {
		b.tier.underWay.Add(-size)
		done(err)
	}
	cmd := appendTierChanges(binary.AppendUvarint(nil, cmdTier), changes)
	if err := b.command(b.homes[shard], cmd, entry{epoch: epoch, done: func() { settle(nil) }, failed: settle}); err != nil {
		settle(err)
	}
}

// checkTierChange says what is wrong with changes, and what they take.
func (b *Broker) checkTierChange(shard record.ShardID, changes []TierChange) (size int64, err error) {
	if b.opts.Volatile {
		return 0, ErrVolatileOnly
	}
	if int(shard) >= len(b.homes) {
		return 0, fmt.Errorf("%w: shard %d of %d", ErrInvalidRequest, shard, len(b.homes))
	}
	for i := range changes {
		c := &changes[i]
		switch {
		case len(c.Key) == 0 || len(c.Key) > TierKeyMax:
			return 0, fmt.Errorf("%w: the key of a manifest's row has 1 to %d bytes, found %d", ErrQuota, TierKeyMax, len(c.Key))
		case len(c.Value) > TierValueMax:
			return 0, fmt.Errorf("%w: a manifest's row has at most %d bytes, found %d", ErrQuota, TierValueMax, len(c.Value))
		}
		size += int64(len(c.Key) + len(c.Value) + entryCost)
	}
	if size > TierChangeMax {
		return 0, fmt.Errorf("%w: one change of the manifest has at most %d bytes, found %d", ErrQuota, TierChangeMax, size)
	}
	return size, nil
}

func appendTierChanges(dst []byte, changes []TierChange) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(changes)))
	for i := range changes {
		dst = appendBytes(dst, changes[i].Key)
		dst = binary.AppendUvarint(dst, boolBit(changes[i].Value != nil))
		if changes[i].Value != nil {
			dst = appendBytes(dst, changes[i].Value)
		}
	}
	return dst
}

// LeadsIn tells whether all home shards take commands here, as the leader's of this epoch. Any goroutine.
func (b *Broker) LeadsIn(epoch record.Epoch) bool {
	for _, s := range b.homes {
		if s.rep == nil {
			continue
		}
		s.mu.Lock()
		leads := s.rep.open && s.rep.epoch == epoch
		s.mu.Unlock()
		if !leads {
			return false
		}
	}
	return true
}

// Frames are the last frames that home shards were given or have made. Any goroutine.
func (b *Broker) Frames() []uint64 {
	list := make([]uint64, len(b.homes))
	for i, s := range b.homes {
		s.mu.Lock()
		list[i] = s.mu.index
		s.mu.Unlock()
	}
	return list
}

// HasAcked tells whether another node is known, to the leader, to have all frames up to these, by shard. Any goroutine.
func (b *Broker) HasAcked(node uint64, frames []uint64) bool {
	for i, s := range b.homes {
		if s.rep == nil {
			return false
		}
		s.mu.Lock()
		has := s.rep.role == RoleLeader
		if has {
			k := slices.IndexFunc(s.rep.peers, func(p peer) bool { return p.node == node })
			has = k >= 0 && s.rep.peers[k].index >= frames[i]
		}
		s.mu.Unlock()
		if !has {
			return false
		}
	}
	return true
}

// tierChanges reads what appendTierChanges wrote. Keys and values are views.
func (d *decoder) tierChanges() (changes []TierChange) {
	for n := d.count(); n > 0 && d.ok(); n-- {
		c := TierChange{Key: d.bytes()}
		if d.uvarint() == 1 {
			if c.Value = d.bytes(); c.Value == nil {
				c.Value = []byte{}
			}
		}
		d.bad = d.bad || len(c.Key) == 0
		changes = append(changes, c)
	}
	return changes
}

// applyTier changes rows; recovery calls it as well.
func (s *shard) applyTier(b *Broker, d *decoder) {
	changes := d.tierChanges()
	if !d.ok() {
		return
	}
	for i := range changes {
		if err := b.tier.manifest.Apply(s.id, changes[i].Key, changes[i].Value); err != nil {
			b.logger.Error("the tier's manifest does not take a row", "shard", s.id, "err", err)
		}
		if !b.tier.used {
			b.tier.rows.Add(1)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range changes {
		mark(&s.mu.rows.tier, string(changes[i].Key))
	}
}

// collectTierLocked encodes what changed of the manifest since the last checkpoint.
func (s *shard) collectTierLocked(b *Broker, rows []rowChange) []rowChange {
	for key := range s.mu.rows.tier {
		rows = append(rows, rowChange{append([]byte{rowTier}, key...), b.tier.manifest.Value(s.id, []byte(key))})
	}
	return rows
}

// tierAgainLocked takes back a row that the store did not take.
func (s *shard) tierAgainLocked(key []byte) { mark(&s.mu.rows.tier, string(key[1:])) }

func (s *shard) loadTierRow(b *Broker, key, value []byte) bool {
	if len(key) == 0 {
		return false
	}
	if !b.tier.used {
		b.tier.rows.Add(1)
		return true
	}
	if value == nil {
		value = []byte{}
	}
	if err := b.tier.manifest.Apply(s.id, key, value); err != nil {
		b.logger.Error("the tier's manifest does not take a row of the checkpoint", "shard", s.id, "err", err)
		return false
	}
	return true
}

// RestorePartition has an empty partition begin at start and end before end, with these aborted transactions, in the order of their ends: its records
// lie in a store, as rows that are told by ChangeTier say. Of a transaction whose marker is not there, Last is the last offset: several may end there. What is appended later comes behind. MQTT subscribers of a bound stream do not get
// what is restored. done runs once, on some loop, when it is in the log, or at once with what refuses it: ErrNotEmpty, ErrOffsetOutOfRange,
// ErrUnknownTopic, ErrUnavailable.
func (b *Broker) RestorePartition(p *Partition, start, end record.Offset, aborted []AbortedRange, done func(error)) {
	if err := restorable(start, end, aborted); err != nil {
		done(err)
		return
	}
	s := p.shard
	s.mu.Lock()
	if p.mu.gone || p.mu.next != 0 || p.HighWatermark() != 0 || p.LogStart() != 0 {
		gone := p.mu.gone
		s.mu.Unlock()
		if gone {
			done(ErrUnknownTopic)
		} else {
			done(ErrNotEmpty)
		}
		return
	}
	p.mu.next = end // so that whatever is appended from here on comes behind
	s.mu.Unlock()
	failed := func(err error) {
		s.mu.Lock()
		if p.mu.next == end && p.HighWatermark() == 0 {
			p.mu.next = 0
		}
		s.mu.Unlock()
		done(err)
	}
	err := b.command(s, restoreCommand(p.id, start, end, aborted), entry{
		done: func() {
			if p.topic.Dropped() {
				done(ErrUnknownTopic)
				return
			}
			done(nil)
		},
		failed: failed,
	})
	if err != nil {
		failed(err)
	}
}

// restoredBehind tells whether an offset is of what was restored.
func (p *Partition) restoredBehind(o record.Offset) bool {
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	return o < p.mu.restored
}

// restorable says what is wrong with what a partition is to become.
func restorable(start, end record.Offset, aborted []AbortedRange) error {
	if start < 0 || end < start {
		return fmt.Errorf("%w: from %d to %d", ErrOffsetOutOfRange, start, end)
	}
	last := record.Offset(-1)
	for _, a := range aborted {
		if a.First < 0 || a.First > a.Last || a.Last < last || a.Last >= end {
			return fmt.Errorf("%w: aborted from %d to %d", ErrOffsetOutOfRange, a.First, a.Last)
		}
		last = a.Last
	}
	return nil
}

func restoreCommand(p record.PartitionID, start, end record.Offset, aborted []AbortedRange) []byte {
	cmd := binary.AppendUvarint(nil, cmdRestore)
	for _, v := range [...]uint64{uint64(p), uint64(start), uint64(end), uint64(len(aborted))} {
		cmd = binary.AppendUvarint(cmd, v)
	}
	for _, a := range aborted {
		for _, v := range [...]uint64{uint64(a.Producer), uint64(a.First), uint64(a.Last)} {
			cmd = binary.AppendUvarint(cmd, v)
		}
	}
	return cmd
}

// applyRestore gives a partition what lies in a store; recovery calls it as well. The list that brings it may have batches too, which are
// applied before and lie behind.
func (s *shard) applyRestore(b *Broker, d *decoder) {
	p := b.partition(record.PartitionID(d.uvarint()))
	start, end := record.Offset(d.uvarint()), record.Offset(d.uvarint())
	var aborted []abortedTxn
	for n := d.count(); n > 0 && d.ok(); n-- {
		aborted = append(aborted, abortedTxn{int64(d.uvarint()), record.Offset(d.uvarint()), record.Offset(d.uvarint())})
	}
	if p == nil || !d.ok() {
		return
	}
	s.mu.Lock()
	p.mu.restored = end
	p.mu.next = max(p.mu.next, end)
	p.highWatermark.Store(max(p.highWatermark.Load(), int64(end)))
	p.logStart.Store(max(p.logStart.Load(), int64(start)))
	p.mu.aborted = append(aborted, p.mu.aborted...)
	p.mu.abortedSaved = 0
	if p.relayed.Load() != notRelayed { // it is no news
		p.relayed.Store(max(p.relayed.Load(), int64(end)))
	}
	p.loose.Store(max(p.loose.Load(), int64(end)))
	p.lastStable.Store(int64(p.stableLocked()))
	p.mu.moved = true
	p.touchLocked()
	s.mu.Unlock()
	b.log.SetLogStart(p.id, start)
}

// AbortedTransactions are the aborted transactions of a partition with a record from first to last, in the order of their ends.
func (b *Broker) AbortedTransactions(p *Partition, first, last record.Offset) (list []AbortedRange) {
	s := p.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	from, _ := slices.BinarySearchFunc(p.mu.aborted, first, func(a abortedTxn, at record.Offset) int { return cmp.Compare(a.last, at) })
	for _, a := range p.mu.aborted[from:] {
		if a.first <= last {
			list = append(list, AbortedRange{a.producer, a.first, a.last})
		}
	}
	return list
}
