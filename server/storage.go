package server

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka"
)

// storageOptions say where and how the log is kept.
type storageOptions struct {
	dir                string
	durability         string // sync, async, memory
	flushInterval      time.Duration
	segmentBytes       int64
	tailBytes          int64
	groupBytes         int
	checkpointInterval time.Duration
	checkpointBytes    int64
	maxBytes           int64 // of log and partition segments; 0: no bound
	past               *past // nil: no store of old records
	flushed            func(time.Duration)
	fs                 vfs.FS      // nil: the system's
	clock              clock.Clock // nil: the system's
}

func (o *storageOptions) volatile() bool { return o.durability == "memory" }

// logDir tells Kafka's clients where the log lies; nil where there is none.
func logDir(o *storageOptions) func() kafka.LogDir {
	path, err := filepath.Abs(o.dir)
	if o.volatile() || err != nil {
		return nil
	}
	return func() kafka.LogDir {
		total, usable, err := vfs.VolumeSpace(path)
		if err != nil {
			total, usable = -1, -1
		}
		return kafka.LogDir{Path: path, Total: total, Usable: usable}
	}
}

// storage is what the node closes at its end.
type storage interface {
	err() error // why it takes no writes
	endReads()  // ends those that wait for a store, and all that come: the core waits for them when it closes
	counts() storageCounts
	close() error
}

// storageCounts are for metrics.
type storageCounts struct {
	groups, writtenBytes, logBytes, partBytes, failedFull, failedLimit, failedIO int64
	limited                                                                      bool
}

type volatileStorage struct{ *broker.Volatile }

func (v volatileStorage) err() error            { return nil }
func (v volatileStorage) endReads()             {}
func (v volatileStorage) counts() storageCounts { return storageCounts{} }
func (v volatileStorage) close() error          { v.Close(); return nil }

// openStorage opens the log, brings the core's tables to where the last run left them, and lets the core write.
func openStorage(o storageOptions, b *broker.Broker, logger *slog.Logger) (storage, error) {
	if o.volatile() {
		v := broker.NewVolatile(b)
		b.UseLog(v)
		b.Recovered()
		return volatileStorage{v}, nil
	}
	jo := journal.Options{Dir: o.dir, FS: o.fs, Clock: o.clock, FlushInterval: o.flushInterval, SegmentBytes: o.segmentBytes, TailBytes: o.tailBytes,
		GroupBytesMax: o.groupBytes, MaxBytes: o.maxBytes, Elsewhere: o.past.elsewhere(), Logger: logger, Events: journal.Events{Flushed: o.flushed}}
	if o.durability == "async" {
		jo.Durability = journal.Async
	}
	l, err := journal.Open(jo)
	if err != nil {
		return nil, err
	}
	s := &logStorage{log: l, b: b, o: o, past: o.past, logger: logger, stop: make(chan struct{})}
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s.done.Add(1)
	go s.checkpoints()
	return s, nil
}

// logStorage stands between the core and the journal: neither knows the other.
type logStorage struct {
	log    *journal.Log
	b      *broker.Broker
	o      storageOptions
	past   *past
	logger *slog.Logger

	toldLimit bool        // the core knows that journal.max_bytes is why; the committer's
	toldFull  atomic.Bool // that the disk is full was logged, and nothing has been written since

	forced atomic.Bool // a checkpoint is to be written at the next tick

	checkpointing sync.Mutex // one at a time: rows are collected and written in one order

	stop chan struct{}
	done sync.WaitGroup
}

var _ broker.StreamLog = (*logStorage)(nil)

func (s *logStorage) recover() error {
	if err := s.load(s); err != nil {
		return err
	}
	s.past.recovered(s.log)
	s.b.Recovered()
	return s.log.Start(s)
}

// load brings the core's tables to where the last run left them. The core knows the log as l.
func (s *logStorage) load(l broker.Log) error {
	s.b.UseLog(l)
	store := checkpointStore{s.log.Checkpointer()}
	if err := s.b.Load(store); err != nil {
		return fmt.Errorf("load the checkpoint: %w", err)
	}
	err := s.log.Replay(func(f record.Frame, at journal.Position) error {
		return s.b.Replay(f, broker.Place(at))
	})
	if err != nil {
		return fmt.Errorf("replay the log: %w", err)
	}
	return nil
}

// Gather, Committed and Failed make it a journal.Source.
func (s *logStorage) Gather(dst []byte, max int) ([]byte, bool) { return s.b.Gather(dst, max) }

// GatherUrgent makes it a journal.UrgentSource.
func (s *logStorage) GatherUrgent(dst []byte, max int) ([]byte, bool) {
	if limited := s.log.Limited(); limited != s.toldLimit {
		s.toldLimit = limited
		var why error
		if limited {
			why = journal.ErrLimit
		}
		s.b.SetFull(why)
	}
	return s.b.GatherUrgent(dst, max)
}

// Ahead makes it a journal.AheadSource.
func (s *logStorage) Ahead(hold func(record.ShardID)) bool { return s.b.Ahead(hold) }

// Committed passes the news on.
func (s *logStorage) Committed(g *journal.Group) {
	if s.toldFull.Load() {
		s.toldFull.Store(false)
	}
	s.b.Committed(broker.Place(g.End()))
}

// Failed passes the news on; a full disk is no lasting failure.
func (s *logStorage) Failed(err error) { s.b.Failed(err, !s.fails(err)) }

// Refuse makes it a journal.UrgentSource. The core has refused what is not urgent when it came, and what has come since is: it makes room.
func (s *logStorage) Refuse(err error) { s.fails(err) }

// fails has the log say why nothing is written, and tells whether it is for want of room.
func (s *logStorage) fails(err error) (full bool) {
	full = errors.Is(err, journal.ErrFull)
	limit := errors.Is(err, journal.ErrLimit) // the journal has told of it once
	if !errors.Is(err, journal.ErrClosed) && !limit && (!full || !s.toldFull.Swap(true)) {
		s.logger.Error("journal does not take writes", "err", err, "lasting", !full)
	}
	return full
}

// Wake tells the committer.
func (s *logStorage) Wake() { s.log.Wake() }

var _ broker.Compactor = (*logStorage)(nil)

// Dirt asks the log.
func (s *logStorage) Dirt(p record.PartitionID) broker.Dirt {
	d := s.log.Dirt(p)
	return broker.Dirt{Clean: d.Clean, Dirty: d.Dirty, Waiting: d.Waiting, Since: d.Since}
}

// Compact has the log make a pass.
func (s *logStorage) Compact(r broker.CompactRequest) (broker.CompactResult, error) {
	q := journal.CompactRequest{Partition: r.Partition, End: r.End, Young: r.Young, Now: r.Now, KeepDeletes: r.KeepDeletes}
	for _, a := range r.Aborted {
		q.Aborted = append(q.Aborted, journal.AbortedRange(a))
	}
	c, err := s.log.Compact(q)
	if errors.Is(err, journal.ErrClosed) {
		err = broker.ErrClosed
	}
	return broker.CompactResult{Until: c.Until, Read: c.Read, Written: c.Written, Ended: c.Ended}, err
}

// Rotate ends the active segment, and has the ticks after that write checkpoints, however little was written, until one has all of it.
func (s *logStorage) Rotate() {
	s.log.Rotate()
	s.forced.Store(true)
}

// checkpoints writes the tables behind, by time and by the bytes logged.
func (s *logStorage) checkpoints() {
	defer s.done.Done()
	tick := time.NewTicker(min(s.o.checkpointInterval, time.Second))
	defer tick.Stop()
	last, bytes := time.Now(), s.log.Stats().Bytes.Load()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		now, written := time.Now(), s.log.Stats().Bytes.Load()
		forced := s.forced.Swap(false) // first: who forces it has begun to rotate before
		if forced && s.log.Rotating() {
			s.forced.Store(true)
			forced = false
		}
		if !forced && (written == bytes || now.Sub(last) < s.o.checkpointInterval && written-bytes < s.o.checkpointBytes) {
			continue
		}
		last, bytes = now, written
		if s.checkpoint() && forced && s.log.Lags() {
			s.forced.Store(true) // nothing else may be written for long, and who has asked waits
		}
	}
}

func (s *logStorage) checkpoint() (ok bool) {
	s.checkpointing.Lock()
	defer s.checkpointing.Unlock()
	err := s.b.Checkpoint(checkpointStore{s.log.Checkpointer()})
	if err != nil {
		s.logger.Error("checkpoint failed; the log keeps what it would have covered", "err", err)
	}
	return err == nil
}

func (s *logStorage) err() error { return s.log.Err() }

func (s *logStorage) endReads() { s.past.endReads() }

func (s *logStorage) counts() storageCounts {
	st := s.log.Stats()
	return storageCounts{groups: st.Groups.Load(), writtenBytes: st.WrittenBytes.Load(), logBytes: st.LogBytes.Load(),
		partBytes: st.PartitionBytes.Load(), failedFull: st.FailedFull.Load(), failedLimit: st.FailedLimit.Load(), failedIO: st.FailedIO.Load(),
		limited: s.log.Limited()}
}

func (s *logStorage) close() error {
	close(s.stop)
	s.done.Wait()
	s.past.endReads()
	s.checkpoint()
	return s.log.Close()
}

// checkpointStore is the journal's Checkpointer as the core sees it.
type checkpointStore struct{ c *journal.Checkpointer }

// Write passes rows on.
func (c checkpointStore) Write(shard record.ShardID, applied uint64, at broker.Place, fn func(broker.RowWriter) error) error {
	return c.c.Write(shard, applied, journal.Position(at), func(w *journal.CheckpointWriter) error { return fn(rowWriter{w}) })
}

// Load passes rows on.
func (c checkpointStore) Load(shard record.ShardID, fn func(key, value []byte) error) (uint64, error) {
	return c.c.Load(shard, fn)
}

// Flush makes it durable.
func (c checkpointStore) Flush() error { return c.c.Flush() }

type rowWriter struct{ w *journal.CheckpointWriter }

// Set and Delete make it a broker.RowWriter.
func (r rowWriter) Set(key, value []byte) error { return r.w.Set(key, value) }

// Delete removes a row.
func (r rowWriter) Delete(key []byte) error { return r.w.Delete(key) }
