package broker

import (
	"errors"
	"slices"
	"sync"

	"github.com/sluicemq/sluice/journal/record"
)

// fetchWorkers read the log for sessions that are behind; fetchBacklog jobs may wait for them. Each session has few jobs out.
const (
	fetchWorkers  = 4
	fetchBytesMax = 1 << 20
)

// fetchJob asks for records of one shard by their ascending sequences.
type fetchJob struct {
	c        *Client
	shard    uint16
	seqs     []uint64
	resend   bool
	promised bool          // to be sent again: promises
	store    bool          // what some of the records stand for lies in a store
	done     func(*bundle) // instead of c
	run      func()        // instead of all of it: a read of a stream
}

// fetcher is the bounded pool that reads the log, so that no loop waits for the disk.
type fetcher struct {
	b       *Broker
	mu      sync.Mutex
	cond    *sync.Cond
	jobs    []fetchJob
	running int
	shut    bool
	done    sync.WaitGroup
}

func newFetcher(b *Broker) *fetcher {
	f := &fetcher{b: b}
	f.cond = sync.NewCond(&f.mu)
	for range fetchWorkers {
		f.done.Add(1)
		go f.work()
	}
	return f
}

// submit queues a job: at most a few for each connected session, so the list is bounded by the connections.
func (f *fetcher) submit(j fetchJob) {
	f.mu.Lock()
	f.jobs = append(f.jobs, j)
	f.mu.Unlock()
	f.cond.Signal()
}

func (f *fetcher) close() {
	f.mu.Lock()
	f.shut = true
	f.mu.Unlock()
	f.cond.Broadcast()
	f.done.Wait()
}

func (f *fetcher) work() {
	defer f.done.Done()
	for {
		f.mu.Lock()
		for len(f.jobs) == 0 && !f.shut {
			f.cond.Wait()
		}
		if f.shut {
			f.mu.Unlock()
			return
		}
		j := f.jobs[0]
		f.jobs[0] = fetchJob{}
		f.jobs = f.jobs[1:]
		f.running++
		f.mu.Unlock()
		f.do(&j)
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}
}

func (f *fetcher) do(j *fetchJob) {
	from := f.b.clock.Mono()
	defer func() { f.b.latencies.Fetch.observe(f.b.clock.Mono()-from, 1) }()
	if j.run != nil {
		j.run()
		return
	}
	bu := f.read(j)
	if bu == nil { // the first lies in a store, for which none of this pool waits
		far := *j
		far.store = true
		if _, err := f.b.storePool.submit(&storeRead{run: func() { far.tell(f.read(&far)) }}); err == nil {
			return
		}
		bu = getBundle()
		bu.shard, bu.resend, bu.promised, bu.failed = j.shard, j.resend, j.promised, true
	}
	j.tell(bu)
}

// tell hands over what was read.
func (j *fetchJob) tell(bu *bundle) {
	if j.done != nil {
		j.done(bu)
	} else {
		j.c.local.post(post{kind: postFetched, c: j.c, bundle: bu})
	}
}

// busy says whether a job waits or runs, there or in the pool that reads from the store.
func (f *fetcher) busy() bool {
	f.mu.Lock()
	busy := f.running > 0 || len(f.jobs) > 0
	f.mu.Unlock()
	return busy || f.b.storePool.busy()
}

// read collects the records of a job, as many as fit. A record that a queue refers to is in the log until the queue has let go of it: it is
// indexed before its commit is told, moves under the index's lock, and the log's start follows the queues. One that is not there is a
// fault, of ours or of the disk; the session goes on without it, and it is told. nil: the first of them stands for one that lies in a store, and j
// says not to go there.
func (f *fetcher) read(j *fetchJob) *bundle {
	bu := getBundle()
	bu.shard, bu.resend, bu.promised = j.shard, j.resend, j.promised
	want := j.seqs
	var gone []uint64 // not found
	var links linkList
	var m Message
	var props []byte
	part := unboundPartition(record.ShardID(j.shard))
	err := f.b.log.Read(part, record.Offset(want[0]), func(batch record.Batch) bool {
		for it := batch.Records(); len(want) > 0 && it.Next(); {
			r := it.Record()
			for len(want) > 0 && want[0] < uint64(r.Offset) {
				gone, want = append(gone, want[0]), want[1:]
			}
			if len(want) == 0 || want[0] != uint64(r.Offset) {
				continue
			}
			ref := Ref{Shard: j.shard, Seq: want[0]}
			if links.take(r, len(bu.msgs)) {
				bu.place().ref = ref
			} else {
				var publisher uint64
				props, publisher = messageOf(&m, r, props)
				c := bu.add(&m)
				c.ref, c.publisher = ref, publisher
			}
			bu.through = want[0]
			want = want[1:]
		}
		return len(want) > 0 && len(bu.buf) < fetchBytesMax
	})
	full := len(bu.buf) >= fetchBytesMax
	if err == nil {
		err = f.follow(bu, &links, j.store)
	}
	switch {
	case errors.Is(err, errInStore):
		putBundle(bu)
		return nil
	case err != nil:
		bu.msgs = bu.msgs[:0]
		bu.through = 0
		if errors.Is(err, ErrTier) {
			f.b.storeTrouble("queued messages cannot be read", err)
		} else {
			f.b.logger.Error("queued messages cannot be read", "shard", j.shard, "err", err)
		}
		bu.failed = true // nothing more is skipped: the session stays behind and asks again
	case bu.cut:
	case !full || len(want) == 0:
		bu.through = j.seqs[len(j.seqs)-1]
		gone = append(gone, want...)
	}
	if len(gone) > 0 {
		start, _ := f.b.streams.Bounds(part) // looked at afterwards: what went before the reading came to it lies below
		f.missing(j, gone, uint64(start))
	}
	return bu
}

// missing tells of references whose records are neither in the log nor below its start. Below it they are where nobody needs them: a shared
// group's position after a crash may be older than the start, a session may have been moved on, or have left the filter, since it asked.
func (f *fetcher) missing(j *fetchJob, gone []uint64, start uint64) {
	i, _ := slices.BinarySearch(gone, start)
	if gone = gone[i:]; len(gone) == 0 {
		return
	}
	f.b.logger.Error("queued messages are not in the log", "shard", j.shard, "missing", len(gone), "first", gone[0], "last", gone[len(gone)-1])
	if !j.resend { // what cannot be sent again is counted where it is given up
		f.b.stats.QueueDropped[DropLost].Add(int64(len(gone)))
	}
}

// mergeSeqs sorts sequences, drops what comes twice, and keeps the first n.
func mergeSeqs(seqs []uint64, n int) []uint64 {
	slices.Sort(seqs)
	seqs = slices.Compact(seqs)
	return seqs[:min(len(seqs), n)]
}
