package offload

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
)

// Stats are the counters of an Offloader. It alone writes them.
type Stats struct {
	Turns, Failed              atomic.Int64 // turns, and those that failed
	Objects, Bytes             atomic.Int64 // objects that were stored, and bytes of batches in them
	StoredBytes                atomic.Int64 // with header and tail
	SentBytes                  atomic.Int64 // that stores were given, those of tries that failed included
	Puts, Lists                atomic.Int64 // requests
	Retries, Failures          atomic.Int64 // tries that came after others, and Puts that were given up
	CommitFailures             atomic.Int64
	Releases                   atomic.Int64 // times that a partition's local copies were let go
	Unreadable                 atomic.Int64 // times that a partition was left alone as it could not be read
	Taken                      atomic.Int64 // names that orphans had
	Deleted, DeletedBytes      atomic.Int64 // objects that nobody needed
	Orphans, Swept             atomic.Int64 // objects without a row; other remains, as the store counts them
	Passes                     atomic.Int64 // of compaction, that came to their ends
	CompactRead                atomic.Int64 // bytes of batches that passes have read, those whose keys they noted twice
	CompactWritten             atomic.Int64 // and put
	Left                       atomic.Int64 // objects of other nodes that this one needs no more, and has not removed
	WaitingBytes               atomic.Int64 // now, due and not stored; about
	WaitingSince               atomic.Int64 // the time, in Unix milliseconds, since which the oldest of it is due; 0: there is none
	WaitingPartitions, Missing atomic.Int64 // now; objects of the manifest that the last search has not found
	Foreign                    atomic.Int64 // objects of other nodes' epochs of which no row tells, that the last search has found
}

// Phase says what a turn is at.
type Phase string

// The phases.
const (
	Idle       Phase = "idle"
	Planning   Phase = "planning"
	Uploading  Phase = "uploading"
	Committing Phase = "committing"
	Removing   Phase = "removing"
	Alone      Phase = "waiting for a rebuild"
	Compacting Phase = "compacting"
)

// Status is what an Offloader is doing. It is a copy.
type Status struct {
	Phase Phase
	Epoch record.Epoch // of the objects that it makes; 0: not known yet

	Object     string // that is uploaded now; ""
	Size, Sent int64  // of it

	WaitingBytes      int64     // due and not stored, about
	WaitingPartitions int       // of which it is
	WaitingSince      time.Time // since when the oldest of it is due; zero: there is none. After a restart counted anew

	Pending string // an object that is stored, and not known to be committed; ""
	Doomed  int    // objects that nobody needs, to be removed
	Bad     int    // partitions left alone as they could not be read

	ScannedAt        time.Time // when the last search for orphans has ended; zero: none has
	Orphans, Missing int       // it has removed; it has not found

	LastUpload time.Time // zero: none yet
	// Err is the last error since the last turn that succeeded; nil: none. Fails are the turns that failed since, FailedSince when that began.
	Err         error
	Fails       int
	FailedSince time.Time
	NextTurn    time.Time // of Run
	NextTry     time.Time // of a request that has failed, within a turn; zero: none waits to be tried again
}

// Status tells what is going on.
func (f *Offloader) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.status
}

// tell changes what Status answers.
func (f *Offloader) tell(change func(s *Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.mu.status)
}

func (f *Offloader) phase(p Phase) { f.tell(func(s *Status) { s.Phase = p }) }

// note keeps an error that the turn goes on after.
func (f *Offloader) note(err error) {
	now := f.clk.Now()
	f.tell(func(s *Status) {
		if s.Err == nil {
			s.FailedSince = now
		}
		s.Err = err
	})
}

// pause waits before a request that has failed is tried again, and tells so: a store that is gone must be seen before the turn gives up.
func (f *Offloader) pause(ctx context.Context, err error, d time.Duration) error {
	f.note(err)
	at := f.clk.Now().Add(d)
	f.tell(func(s *Status) { s.NextTry = at })
	err = f.sleep(ctx, d)
	f.tell(func(s *Status) { s.NextTry = time.Time{} })
	return err
}

// end tells how a turn has ended. One that was called off has not failed.
func (f *Offloader) end(ctx context.Context, err error) {
	f.stats.Turns.Add(1)
	failed := err != nil && ctx.Err() == nil
	if failed {
		f.stats.Failed.Add(1)
		f.note(err)
	}
	f.tell(func(s *Status) {
		s.Phase, s.Doomed, s.Bad, s.Pending = Idle, len(f.doomed), len(f.bad), ""
		if f.pending != nil {
			s.Pending = f.pending.name
		}
		switch {
		case failed:
			s.Fails++
		case err == nil && len(f.bad) == 0:
			s.Err, s.Fails, s.FailedSince = nil, 0, time.Time{}
		}
	})
	if failed {
		f.complain(err)
	}
	f.step("done")
}

// complain logs the first failure in a row, and those that somebody has to do something about.
func (f *Offloader) complain(err error) {
	fails := f.Status().Fails
	if fails == 1 || !tier.Temporary(err) {
		f.log.Warn("cannot offload", "err", err, "fails", fails)
	}
}

// waiting tells what a plan has found.
func (f *Offloader) waiting(bytes int64, partitions int, since time.Duration) {
	at, millis := time.Time{}, int64(0)
	if partitions > 0 {
		at = f.clk.Now().Add(since - f.clk.Mono())
		millis = at.UnixMilli()
	}
	f.stats.WaitingBytes.Store(bytes)
	f.stats.WaitingPartitions.Store(int64(partitions))
	f.stats.WaitingSince.Store(millis)
	f.tell(func(s *Status) { s.WaitingBytes, s.WaitingPartitions, s.WaitingSince = bytes, partitions, at })
}

// sending, progress and sent tell how a Put goes.
func (f *Offloader) sending(name string, size int64) {
	f.stats.Puts.Add(1)
	f.tell(func(s *Status) { s.Phase, s.Object, s.Size, s.Sent = Uploading, name, size, 0 })
}

func (f *Offloader) progress(n int) {
	f.stats.SentBytes.Add(int64(n))
	f.tell(func(s *Status) { s.Sent += int64(n) })
}

func (f *Offloader) sent() {
	f.tell(func(s *Status) { s.Phase, s.Object, s.Size, s.Sent = Committing, "", 0, 0 })
}

// committed tells that an object is in the manifest.
func (f *Offloader) committed() {
	now := f.clk.Now()
	f.tell(func(s *Status) { s.LastUpload = now })
}

// scanned tells what a search has found.
func (f *Offloader) scanned(c *search) {
	now := f.clk.Now()
	f.stats.Missing.Store(int64(c.missing))
	f.stats.Foreign.Store(int64(c.foreign))
	f.tell(func(s *Status) { s.ScannedAt, s.Orphans, s.Missing = now, c.orphans, c.missing })
}

// next tells when Run makes its next turn.
func (f *Offloader) next(pause time.Duration) {
	at := f.clk.Now().Add(pause)
	f.tell(func(s *Status) { s.NextTurn = at })
}
