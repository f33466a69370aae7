package raftgroup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemq/sluice/meta"
)

// Sizes of the state's store. All of the catalog is in memory as a snapshot anyway: the store is read when a node starts.
const (
	stateCacheBytes    = 1 << 20
	stateMemTableBytes = 4 << 20
	stateOpenFiles     = 64
	stateBatchBytes    = 1 << 20 // of one batch while a snapshot is taken over
)

// stateVersion is the version of what lies in the store.
const stateVersion = 1

// Keys of the store (docs/format/raft.md).
var (
	keyMark    = []byte{'m'}
	entrySpace = byte('e')
)

// mark is where the state is. It is written with every change, in one batch.
type mark struct {
	generation uint64 // of the entries: a snapshot is taken over beside those that were
	applied    uint64 // index of the last entry of the log that is in the state
	last       uint64 // index of the last command that was made
	classes    [meta.ClassCount]uint64
	entries    uint64
	bytes      uint64
	sent       map[uint64]sent // by replica; the last one of each. Replaced, never written to
}

// sent is the last command of a replica.
type sent struct{ run, seq, result uint64 }

func (m *mark) append(b []byte) []byte {
	b = append(b, stateVersion)
	for _, v := range []uint64{m.generation, m.applied, m.last, m.entries, m.bytes} {
		b = binary.AppendUvarint(b, v)
	}
	for _, v := range m.classes {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(m.sent)))
	for _, replica := range slices.Sorted(maps.Keys(m.sent)) {
		v := m.sent[replica]
		for _, n := range []uint64{replica, v.run, v.seq, v.result} {
			b = binary.AppendUvarint(b, n)
		}
	}
	return b
}

func (m *mark) decode(b []byte) error {
	if len(b) == 0 || b[0] != stateVersion {
		return fmt.Errorf("raftgroup: the state has version %d, this program reads %d", append(b, 0)[0], stateVersion)
	}
	r := reader{b: b[1:]}
	for _, v := range []*uint64{&m.generation, &m.applied, &m.last, &m.entries, &m.bytes} {
		*v = r.uvarint()
	}
	for i := range m.classes {
		m.classes[i] = r.uvarint()
	}
	m.sent = make(map[uint64]sent)
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		replica := r.uvarint()
		m.sent[replica] = sent{r.uvarint(), r.uvarint(), r.uvarint()}
	}
	if r.bad || len(r.b) > 0 {
		return errors.New("raftgroup: the state's mark cannot be read")
	}
	return nil
}

// state is the catalog as the log has made it, on disk. One goroutine at a time changes it; view may be called beside that.
type state struct {
	db    *pebble.DB
	mark  mark
	reads byte // the highest version of commands that is understood
	// apply takes over what a command has changed, and so does the difference that a snapshot makes.
	apply func(index uint64, changes []meta.Entry)
}

// openState opens the store in dir and hands all entries over, by one call of apply. fs may be nil: the machine's.
func openState(dir string, fs vfs.FS, log *slog.Logger, apply func(uint64, []meta.Entry)) (*state, error) {
	if fs == nil {
		fs = vfs.Default
	}
	cache := pebble.NewCache(stateCacheBytes)
	defer cache.Unref()
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, Cache: cache, MemTableSize: stateMemTableBytes, MaxOpenFiles: stateOpenFiles,
		FormatMajorVersion: pebble.FormatValueSeparation, Logger: storeLogger{log}})
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return nil, fmt.Errorf("the catalog's state in %s is in use by another process: does the node run?", dir)
	case err != nil:
		return nil, fmt.Errorf("open the catalog's state in %s: %w", dir, err)
	}
	s := &state{db: db, apply: apply, reads: commandVersion}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("read the catalog's state in %s: %w", dir, err), db.Close())
	}
	return s, nil
}

func (s *state) load() error {
	m, err := readMark(s.db)
	if err != nil {
		return err
	}
	if m.sent == nil {
		m.sent = make(map[uint64]sent)
	}
	s.mark = m
	if err := s.dropOthers(); err != nil {
		return err
	}
	var all []meta.Entry
	it, err := entriesOf(s.db, m.generation)
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		all = append(all, entryAt(it))
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	if uint64(len(all)) != m.entries {
		return fmt.Errorf("it has %d entries, and says that it has %d", len(all), m.entries)
	}
	s.apply(m.last, all)
	return nil
}

// dropOthers takes away what a snapshot has left that was not taken over as a whole.
func (s *state) dropOthers() error {
	b := s.db.NewBatch()
	lo, hi := generationKey(s.mark.generation), generationKey(s.mark.generation+1)
	if err := errors.Join(b.DeleteRange([]byte{entrySpace}, lo, nil), b.DeleteRange(hi, []byte{entrySpace + 1}, nil)); err != nil {
		return errors.Join(err, b.Close())
	}
	return s.db.Apply(b, pebble.NoSync)
}

func readMark(r pebble.Reader) (m mark, err error) {
	v, closer, err := r.Get(keyMark)
	if errors.Is(err, pebble.ErrNotFound) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	return m, errors.Join(m.decode(v), closer.Close())
}

func generationKey(generation uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{entrySpace}, generation)
}

// generationKeyLen is how much of an entry's key in the store is not the entry's.
const generationKeyLen = 9

func entriesOf(r pebble.Reader, generation uint64) (*pebble.Iterator, error) {
	return r.NewIter(&pebble.IterOptions{LowerBound: generationKey(generation), UpperBound: generationKey(generation + 1)})
}

// entryAt is a copy.
func entryAt(it *pebble.Iterator) meta.Entry {
	return meta.Entry{Key: string(it.Key()[generationKeyLen:]), Value: append([]byte{}, it.Value()...)}
}

// decided is a command of the log, in order.
type decided struct {
	index  uint64
	cmd    []byte
	result uint64 // what came of it
	fresh  bool   // now, not when it was there before
}

// update applies commands, all of them in one batch, which is on stable storage before anybody is told: a node that starts without the others
// serves what it has served before. With an error nothing has changed: the state does not understand one of them, or its store has failed.
func (s *state) update(list []decided) (err error) {
	defer failed(&err)
	m := s.mark
	m.sent = maps.Clone(m.sent)
	b := s.db.NewIndexedBatch()
	defer b.Close()
	made := make([][]meta.Entry, len(list))
	for i := range list {
		c, err := decodeCommand(list[i].cmd, s.reads)
		if err == nil {
			list[i].result, list[i].fresh, err = s.once(&m, b, list[i].index, &c)
		}
		if err != nil {
			return fmt.Errorf("entry %d of the catalog's log: %w", list[i].index, err)
		}
		m.applied = list[i].index
		made[i] = c.changes
	}
	if err := errors.Join(b.Set(keyMark, m.append(nil), nil), s.db.Apply(b, pebble.Sync)); err != nil {
		return fmt.Errorf("write the catalog's state: %w", err)
	}
	s.mark = m
	for i := range list {
		if list[i].fresh && list[i].result == resultMade {
			s.apply(list[i].index, made[i])
		}
	}
	return nil
}

// once makes a command unless it was made before: then it has the result that it had.
func (s *state) once(m *mark, b *pebble.Batch, index uint64, c *command) (result uint64, fresh bool, err error) {
	last, known := m.sent[c.replica]
	switch {
	case known && (c.run < last.run || c.run == last.run && c.seq < last.seq):
		return resultStale, false, nil
	case known && c.run == last.run && c.seq == last.seq:
		return last.result, false, nil
	}
	if result, err = s.make(m, b, index, c); err != nil {
		return 0, false, err
	}
	// A node has one copy at a time: those that it had before say nothing any more.
	maps.DeleteFunc(m.sent, func(replica uint64, _ sent) bool {
		return nodeOfReplica(replica) == nodeOfReplica(c.replica) && replica < c.replica
	})
	m.sent[c.replica] = sent{c.run, c.seq, result}
	return result, true, nil
}

// make puts one command into the batch, if it counts. It reads nothing but the state and the command.
func (s *state) make(m *mark, b *pebble.Batch, index uint64, c *command) (result uint64, err error) {
	next := *m
	for i := range c.changes {
		if err := c.changes[i].Check(); err != nil {
			return 0, err // a newer program knows it: to leave it out would make this node another than the others
		}
		class, err := c.changes[i].Class()
		if err != nil {
			return 0, err
		}
		if m.classes[class] > c.base {
			return resultConflict, nil
		}
		next.classes[class] = index
	}
	// What the batch gets below is undone if a bound is passed: so the bounds are looked at first. Keys that come twice count as the last one.
	sizes := make(map[string]int, len(c.changes))
	for i := range c.changes {
		e := &c.changes[i]
		key := append(generationKey(m.generation), e.Key...)
		old, known := sizes[e.Key]
		if !known {
			if old, err = sizeOf(b, key); err != nil {
				return 0, err
			}
		}
		if old >= 0 {
			next.entries--
			next.bytes -= uint64(len(e.Key) + old)
		}
		sizes[e.Key] = -1
		if e.Value != nil {
			next.entries++
			next.bytes += uint64(len(e.Key) + len(e.Value))
			sizes[e.Key] = len(e.Value)
		}
	}
	switch {
	case next.entries > entriesMax && next.entries > m.entries:
		return resultEntries, nil
	case next.bytes > bytesMax && next.bytes > m.bytes:
		return resultBytes, nil
	}
	for i := range c.changes {
		e := &c.changes[i]
		key := append(generationKey(m.generation), e.Key...)
		if e.Value == nil {
			err = b.Delete(key, nil)
		} else {
			err = b.Set(key, e.Value, nil)
		}
		if err != nil {
			return 0, err
		}
	}
	next.last = index
	*m = next
	return resultMade, nil
}

// sizeOf is the length of a value, -1 if there is none.
func sizeOf(r pebble.Reader, key []byte) (int, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	return len(v), closer.Close()
}

// sync puts all that was updated on stable storage.
func (s *state) sync() (err error) {
	defer failed(&err)
	return s.db.LogData(nil, pebble.Sync)
}

func (s *state) close() (err error) {
	defer failed(&err)
	return s.db.Close()
}

// storeFailed is what the store panics with (storeLogger) when it cannot go on: its log cannot be written.
type storeFailed string

// Error makes it an error.
func (e storeFailed) Error() string { return string(e) }

// failed makes a failure of the store that it has no other way to tell an error of the call that met it.
func failed(err *error) {
	switch r := recover().(type) {
	case nil:
	case storeFailed:
		*err = r
	default:
		panic(r)
	}
}

// sameEntry says whether the iterator, which may be at its end, is at an entry with this key and value.
func sameEntry(it *pebble.Iterator, e *meta.Entry) bool {
	return it.Valid() && string(it.Key()[generationKeyLen:]) == e.Key && bytes.Equal(it.Value(), e.Value)
}

// storeLogger gives the store's words to the node's log.
type storeLogger struct{ l *slog.Logger }

// Infof makes it a pebble.Logger: what the store does all day.
func (s storeLogger) Infof(string, ...any) {}

// Errorf makes it a pebble.Logger.
func (s storeLogger) Errorf(format string, args ...any) {
	s.l.Error("the catalog's state", "err", fmt.Sprintf(format, args...))
}

// Fatalf makes it a pebble.Logger. The store has no other way to say that it cannot go on.
func (s storeLogger) Fatalf(format string, args ...any) {
	panic(storeFailed(fmt.Sprintf("the catalog's state: "+format, args...)))
}
