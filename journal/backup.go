package journal

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// BackupFile is one file of a Backup: so many bytes that do not change any more.
type BackupFile struct {
	Name string // below the log's directory: "wal/0000000000000007.log"
	Size int64  // what is to be copied
	// Full is how large the file is in the log's directory. What lies behind Size there means nothing; a restored file has zeros.
	Full int64
}

// PartitionBounds is where a partition began and ended, from where on its records lay in the log (see Log.LocalStart), and how many bytes of
// frames they were (see Log.Size).
type PartitionBounds struct {
	Partition         record.PartitionID
	Start, Local, End record.Offset
	Bytes             int64
}

// Backup is the log as it was at one moment, while it goes on: exactly what a power cut at that moment would have left, so that who opens a copy
// recovers as after one. All that was committed before the call of Log.Backup is in it, and of every commit all or nothing.
//
// It holds its files: what the log has no more use for stays on the disk until Done, or Close. Rows comes first or not at all: until it is
// through, it pins the checkpoint store's files. Not for concurrent use. Log.Close waits for Close; reading answers ErrClosed from then on.
type Backup struct {
	l     *Log
	files []BackupFile
	held  []*segment // of files; nil: let go
	rows  *pebble.Iterator
	parts []PartitionBounds
	end   Position
	once  sync.Once
}

// Backup takes the moment. It stops commits for the time that it takes to list files and partitions, some microseconds for a thousand. Errors:
// ErrNotReplayed, ErrClosed, ErrCheckpoint.
func (l *Log) Backup() (*Backup, error) {
	if !l.replayed {
		return nil, ErrNotReplayed
	}
	b := &Backup{l: l}
	l.mu.Lock()
	if l.closing.Load() { // Close sets it, then takes the lock, then waits
		l.mu.Unlock()
		return nil, ErrClosed
	}
	l.backups.Add(1)
	l.mu.Unlock()
	if err := b.take(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if err := b.addIndexes(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// take has rows and files of one moment: with Checkpointer.mu held no row changes, and what the rows stand for is in the log by then.
func (b *Backup) take() (err error) {
	l, c := b.l, b.l.ckpt
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.err(); err != nil {
		return err
	}
	if b.rows, err = c.mu.db.NewIter(&pebble.IterOptions{}); err != nil {
		return fmt.Errorf("read checkpoint: %w", err)
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	from := l.keepFromLocked()
	for s := range l.mu.parts {
		b.holdLocked(s, "partitions/"+partName(s.number()), 0)
	}
	for _, s := range l.mu.segments {
		// What recycleDead would take is of no use to a restart.
		if s.sealed && s.indexed && s.number() < from.Segment && s.live == 0 {
			continue
		}
		b.holdLocked(s, "wal/"+segmentName(s.number()), s.end)
		b.end = Position{Segment: s.number(), Offset: s.end}
	}
	b.parts = make([]PartitionBounds, 0, len(l.mu.partitions))
	for id, p := range l.mu.partitions {
		if !p.dropped {
			b.parts = append(b.parts, PartitionBounds{Partition: id, Start: p.start, Local: p.localStart(), End: p.end, Bytes: p.size()})
		}
	}
	return nil
}

// holdLocked enters a segment; size 0: all of its file.
func (b *Backup) holdLocked(s *segment, name string, size int64) {
	s.readers.Add(1)
	b.held = append(b.held, s)
	b.files = append(b.files, BackupFile{Name: name, Size: size, Full: s.size})
}

// addIndexes enters the sizes of partition segments, which are more than their frames, and the index files that are there. They go with their
// segments, which are held.
func (b *Backup) addIndexes() error {
	l := b.l
	for i, s := range b.held {
		if s.part {
			info, err := l.fs.Stat(s.path)
			if err != nil {
				return err
			}
			b.files[i].Size, b.files[i].Full = info.Size, info.Size
			continue
		}
		name := indexName(s.number())
		info, err := l.fs.Stat(l.walPath(name))
		if vfs.IsNotExist(err) {
			continue // it is active, or was sealed just now: a restart reads it
		}
		if err != nil {
			return err
		}
		s.readers.Add(1) // it is held already: it is not dying of old age
		b.held = append(b.held, s)
		b.files = append(b.files, BackupFile{Name: "wal/" + name, Size: info.Size, Full: info.Size})
	}
	return nil
}

// Files are what is to be copied. Not to be changed.
func (b *Backup) Files() []BackupFile { return b.files }

// Partitions are where all partitions began and ended, in no order. Not to be changed.
func (b *Backup) Partitions() []PartitionBounds { return b.parts }

// End is where the log ended.
func (b *Backup) End() Position { return b.end }

// Rows calls fn with each row of the checkpoint store, in order; both slices are valid during the call. It can be called once.
func (b *Backup) Rows(fn func(key, value []byte) error) (err error) {
	it := b.rows
	b.rows = nil
	if it == nil {
		return errors.New("journal: the rows of a backup were read before")
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		if b.l.closing.Load() {
			err = ErrClosed
			break
		}
		var v []byte
		if v, err = it.ValueAndErr(); err == nil {
			err = fn(it.Key(), v)
		}
	}
	return errors.Join(err, it.Error(), it.Close())
}

// BackupReader reads a file of a backup.
type BackupReader struct {
	l *Log
	f vfs.File
}

// ReadAt reads.
func (r *BackupReader) ReadAt(p []byte, off int64) (int, error) {
	if r.l.closing.Load() {
		return 0, ErrClosed
	}
	return r.f.ReadAt(p, off)
}

// Close closes it.
func (r *BackupReader) Close() error { return r.f.Close() }

// Open opens the i-th of Files. It stays readable until Done.
func (b *Backup) Open(i int) (*BackupReader, error) {
	if b.l.closing.Load() {
		return nil, ErrClosed
	}
	f, err := b.l.fs.Open(b.l.o.Dir+"/"+b.files[i].Name, 0)
	if err != nil {
		return nil, err
	}
	return &BackupReader{l: b.l, f: f}, nil
}

// Done lets the i-th of Files go.
func (b *Backup) Done(i int) {
	if s := b.held[i]; s != nil {
		b.held[i] = nil
		s.release(b.l)
	}
}

// Close lets everything go. It may be called more than once.
func (b *Backup) Close() (err error) {
	b.once.Do(func() {
		for i := range b.held {
			b.Done(i)
		}
		if b.rows != nil {
			err = b.rows.Close()
			b.rows = nil
		}
		b.l.backups.Done()
	})
	return err
}
