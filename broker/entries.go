package broker

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// CatalogEntry is one entry of the catalog: users, rules, quotas, bindings. The core keeps entries and does not look into them.
type CatalogEntry struct {
	Key   string
	Value []byte // nil: the entry is deleted. Never written to once given
}

// Bounds of the catalog. A change that would pass one is refused with ErrQuota.
const (
	EntryKeyMax    = 4 << 10 // bytes
	EntryValueMax  = 64 << 10
	EntryChangeMax = 1 << 20   // bytes of keys and values of one SetEntries
	EntriesMax     = 1_000_000 // entries in all
	EntryBytesMax  = 256 << 20 // of their keys and values
)

// entryCost is what the lengths of one entry take in a command.
const entryCost = 10

// entryTenant is the tenant of all entries: there is one.
const entryTenant = uint32(0)

// entryStore holds the catalog's entries, which are rows of shard 0: an entry is there when its command is in the log. With durability
// "memory" they live as long as the run.
type entryStore struct {
	mu     sync.Mutex // comes after a shard's
	values map[string][]byte
	bytes  int64
	// What changes under way may add.
	comingEntries, comingBytes int64
}

// SetEntries changes entries of the catalog by one command: all of them or none. done runs on some loop when they are in the log and
// Options.EntryChanged has been told, or at once with what refuses them. It keeps the values.
func (b *Broker) SetEntries(changes []CatalogEntry, done func(error)) {
	entries, bytes, err := checkEntries(changes)
	if err == nil && entries > 0 {
		err = b.room()
	}
	if err == nil {
		err = b.entryStore.reserve(entries, bytes)
	}
	if err != nil || len(changes) == 0 {
		done(err)
		return
	}
	settle := func(err error) {
		b.entryStore.release(entries, bytes)
		done(err)
	}
	cmd := appendEntries(binary.AppendUvarint(nil, cmdEntries), changes)
	if err := b.command(b.homes[0], cmd, entry{done: func() { settle(nil) }, failed: settle}); err != nil {
		settle(err)
	}
}

// checkEntries says what is wrong with changes, and counts what they would add.
func checkEntries(changes []CatalogEntry) (entries, bytes int64, err error) {
	size := 0
	for i := range changes {
		c := &changes[i]
		switch {
		case c.Key == "" || len(c.Key) > EntryKeyMax:
			return 0, 0, fmt.Errorf("%w: a catalog entry's key has 1 to %d bytes, found %d", ErrQuota, EntryKeyMax, len(c.Key))
		case len(c.Value) > EntryValueMax:
			return 0, 0, fmt.Errorf("%w: a catalog entry has at most %d bytes, found %d", ErrQuota, EntryValueMax, len(c.Value))
		case c.Value != nil:
			entries++
			bytes += int64(len(c.Key) + len(c.Value))
		}
		size += len(c.Key) + len(c.Value) + entryCost
	}
	if size > EntryChangeMax {
		return 0, 0, fmt.Errorf("%w: one change of the catalog has at most %d bytes, found %d", ErrQuota, EntryChangeMax, size)
	}
	return entries, bytes, nil
}

// reserve keeps room for what a change may add. Entries that it replaces count twice until it is applied.
func (es *entryStore) reserve(entries, bytes int64) error {
	es.mu.Lock()
	defer es.mu.Unlock()
	if entries > 0 && int64(len(es.values))+es.comingEntries+entries > EntriesMax {
		return fmt.Errorf("%w: the catalog has at most %d entries", ErrQuota, EntriesMax)
	}
	if bytes > 0 && es.bytes+es.comingBytes+bytes > EntryBytesMax {
		return fmt.Errorf("%w: the catalog has at most %d bytes", ErrQuota, EntryBytesMax)
	}
	es.comingEntries += entries
	es.comingBytes += bytes
	return nil
}

func (es *entryStore) release(entries, bytes int64) {
	es.mu.Lock()
	es.comingEntries -= entries
	es.comingBytes -= bytes
	es.mu.Unlock()
}

// set takes changes over.
func (es *entryStore) set(changes []CatalogEntry) {
	es.mu.Lock()
	defer es.mu.Unlock()
	if es.values == nil {
		es.values = make(map[string][]byte)
	}
	for _, c := range changes {
		if old, found := es.values[c.Key]; found {
			es.bytes -= int64(len(c.Key) + len(old))
		}
		if c.Value == nil {
			delete(es.values, c.Key)
			continue
		}
		es.values[c.Key] = c.Value
		es.bytes += int64(len(c.Key) + len(c.Value))
	}
}

// CatalogSize is how many entries there are, and what their keys and values take.
func (b *Broker) CatalogSize() (entries, bytes int64) {
	es := &b.entryStore
	es.mu.Lock()
	defer es.mu.Unlock()
	return int64(len(es.values)), es.bytes
}

func appendEntries(dst []byte, changes []CatalogEntry) []byte {
	dst = binary.AppendUvarint(dst, uint64(entryTenant))
	dst = binary.AppendUvarint(dst, uint64(len(changes)))
	for i := range changes {
		dst = appendString(dst, changes[i].Key)
		dst = binary.AppendUvarint(dst, boolBit(changes[i].Value != nil))
		if changes[i].Value != nil {
			dst = appendBytes(dst, changes[i].Value)
		}
	}
	return dst
}

// entries reads what appendEntries wrote. Values are copies.
func (d *decoder) entries() (changes []CatalogEntry) {
	if d.uvarint() != uint64(entryTenant) {
		d.bad = true
	}
	for n := d.count(); n > 0 && d.ok(); n-- {
		c := CatalogEntry{Key: d.string()}
		if d.uvarint() == 1 {
			c.Value = append([]byte{}, d.bytes()...)
		}
		d.bad = d.bad || c.Key == ""
		changes = append(changes, c)
	}
	return changes
}

// applyEntries changes entries; recovery calls it as well.
func (s *shard) applyEntries(b *Broker, d *decoder) {
	changes := d.entries()
	if !d.ok() {
		return
	}
	b.entryStore.set(changes)
	if !b.opts.Volatile {
		s.mu.Lock()
		for i := range changes {
			mark(&s.mu.rows.entries, changes[i].Key)
		}
		s.mu.Unlock()
	}
	if b.opts.EntryChanged != nil {
		b.opts.EntryChanged(changes)
	}
}

// EntryRow is the key of the row of shard 0 that holds an entry of the catalog.
func EntryRow(key string) []byte { return entryRowKey(key) }

func entryRowKey(key string) []byte {
	return append(binary.AppendUvarint([]byte{rowEntry}, uint64(entryTenant)), key...)
}

// collectEntriesLocked encodes what changed of entries since the last checkpoint.
func (s *shard) collectEntriesLocked(b *Broker, rows []rowChange) []rowChange {
	es := &b.entryStore
	es.mu.Lock()
	defer es.mu.Unlock()
	for key := range s.mu.rows.entries {
		rows = append(rows, rowChange{entryRowKey(key), es.values[key]})
	}
	return rows
}

// entryAgainLocked takes back a row that the store did not take.
func (s *shard) entryAgainLocked(key []byte) {
	d := decoder{b: key[1:]}
	d.uvarint()
	mark(&s.mu.rows.entries, string(d.b))
}

func (s *shard) loadEntryRow(b *Broker, key, value []byte) bool {
	d := decoder{b: key}
	if d.uvarint() != uint64(entryTenant) || !d.ok() || len(d.b) == 0 {
		return false
	}
	changes := []CatalogEntry{{Key: string(d.b), Value: append([]byte{}, value...)}}
	b.entryStore.set(changes)
	if b.opts.EntryChanged != nil {
		b.opts.EntryChanged(changes)
	}
	return true
}
