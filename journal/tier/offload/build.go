package offload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/object"
)

const (
	// pieceBytes is how much is asked of the log at once: the list of what it has is bounded so.
	pieceBytes = 8 * mib
	// runsMax bounds the runs of an object, and so its row: about 100 KiB.
	runsMax = 2048
	// What a layout takes in memory: an extent, in the log's list; a block, in the summary and in the tail; a run.
	extentMemory, blockMemory, runMemory = 64, 88, 512
	// badFor is how long a partition is left alone whose records could not be read.
	badFor = 10 * time.Minute
)

// source is where a part of a run's bytes comes from.
type source struct {
	pieces   Pieces
	from, to int // of the extents
}

// runPlan is a run as it will be.
type runPlan struct {
	p       Partition
	due     int // its number in the group
	sources []source
	until   record.Offset // behind the last
	drained bool          // the log had no more
	aborted []object.Aborted
	flags   object.RunFlags
}

// layout is an object as it will be. It holds segments of the log until release is called.
type layout struct {
	runs   []runPlan
	bytes  int64 // of batches
	memory int64
}

func (l *layout) release() {
	for i := range l.runs {
		for _, s := range l.runs[i].sources {
			s.pieces.Release()
		}
	}
	l.runs = nil
}

// gather takes what is due of a group, oldest first, until an object is full.
func (f *Offloader) gather(g *group) *layout {
	l := new(layout)
	for i := range g.dues {
		if l.bytes >= f.o.ObjectBytes || l.memory >= f.o.Memory || len(l.runs) >= runsMax {
			break
		}
		f.gatherRun(l, g, i)
	}
	return l
}

// gatherRun takes one partition's part.
func (f *Offloader) gatherRun(l *layout, g *group, i int) {
	d := &g.dues[i]
	r := runPlan{p: d.p, due: i, until: d.from}
	for {
		room := min(f.o.ObjectBytes-l.bytes, pieceBytes)
		if room <= 0 || l.memory >= f.o.Memory {
			break
		}
		ps, err := f.o.Log.Pieces(d.p.Partition, r.until, d.until, room)
		if err != nil {
			f.leave(&d.p, err)
			r.drained = true
			break
		}
		if ps == nil {
			r.drained = true
			break
		}
		s, until, bytes, err := within(ps, r.until, d.until, len(r.sources) > 0)
		if err != nil || s.to == s.from {
			ps.Release()
			if err != nil {
				f.leave(&d.p, err)
			}
			r.drained = true
			break
		}
		r.sources, r.until = append(r.sources, s), until
		l.bytes += bytes
		l.memory += int64(len(ps.Extents()))*extentMemory + (2*bytes/object.BlockBytes+1)*blockMemory
	}
	if len(r.sources) == 0 {
		// The log has less than it was asked for before: its partition is gone, or its start has moved.
		d.bytes = 0
		return
	}
	first := r.sources[0].pieces.Extents()[r.sources[0].from].First
	r.aborted = f.aborted(d.p.Partition, first, r.until-1)
	if d.p.Compact {
		r.flags = object.Sparse
		if _, _, ok := f.o.Manifest.Bounds(d.p.Partition); !ok && first > 0 {
			// What the store may have of it is over, and what lies between that and this has never been there.
			r.flags |= object.Replaces | object.Begins
		}
	}
	l.memory += runMemory + 2*int64(len(d.p.Name)) + 96*int64(len(r.aborted))
	l.runs = append(l.runs, r)
}

// within gives the extents that lie in an interval of offsets: what lies below is in the tier already, and what ends behind it is not decided yet.
// follows: what lies at from must begin there, as it stands behind another piece.
func within(ps Pieces, from, until record.Offset, follows bool) (s source, end record.Offset, bytes int64, err error) {
	es := ps.Extents()
	s, end = source{pieces: ps}, from
	for s.from < len(es) && es[s.from].Last < from {
		s.from++
	}
	s.to = s.from
	for s.to < len(es) && es[s.to].Last < until {
		e := &es[s.to]
		if (follows || s.to > s.from) && e.First < end || e.Last < e.First || e.Bytes <= 0 {
			return s, end, 0, fmt.Errorf("the log lists offsets %d to %d, %d bytes, behind %d", e.First, e.Last, e.Bytes, end)
		}
		end, bytes = e.Last+1, bytes+e.Bytes
		s.to++
	}
	return s, end, bytes, nil
}

// leave has a partition left alone for a time: it could not be read. Others go on.
func (f *Offloader) leave(p *Partition, err error) {
	f.bad[p.Partition] = f.clk.Mono() + badFor
	f.stats.Unreadable.Add(1)
	f.log.Warn("cannot read a partition to offload it", "topic", p.Name, "partition", p.Index, "err", err)
	f.note(err)
}

// write lays the object out under an id.
func (l *layout) write(id object.ID, created int64) (*object.Writer, error) {
	b := object.NewBuilder(id, created, object.Options{})
	for i := range l.runs {
		r := &l.runs[i]
		b.Run(r.p.Topic, r.flags)
		for _, s := range r.sources {
			for _, e := range s.pieces.Extents()[s.from:s.to] {
				b.Add(e)
			}
		}
		for _, a := range r.aborted {
			b.Abort(a)
		}
	}
	return b.Finish()
}

// readError is an error of the log, not of the store.
type readError struct {
	run int
	err error
}

func (e *readError) Error() string { return "read the log: " + e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// runReader gives a run's bytes, one source after another.
type runReader struct {
	l      *layout
	run    int
	next   int
	in     io.ReadCloser
	failed *error // where who puts the object looks for it: stores wrap errors in their own
}

func (r *runReader) Read(p []byte) (int, error) {
	for {
		if r.in == nil {
			sources := r.l.runs[r.run].sources
			if r.next == len(sources) {
				return 0, io.EOF
			}
			s := &sources[r.next]
			r.in = s.pieces.Open(s.from, s.to)
			r.next++
		}
		n, err := r.in.Read(p)
		if errors.Is(err, io.EOF) {
			err = r.Close()
		}
		if err != nil {
			*r.failed = &readError{run: r.run, err: err}
			return 0, *r.failed
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
}

// Close closes what is open.
func (r *runReader) Close() error {
	in := r.in
	r.in = nil
	if in == nil {
		return nil
	}
	return in.Close()
}

// object makes the next object of a group, and sees it through to the end of its local copies.
func (f *Offloader) object(ctx context.Context, p *plan, g *group) error {
	l := f.gather(g)
	defer l.release()
	defer g.tidy()
	g.bytes = 0
	for i := range g.dues {
		g.bytes += g.dues[i].bytes
	}
	if len(l.runs) == 0 {
		return nil
	}
	f.step("laid-out")
	up, err := f.upload(ctx, g, l)
	var bad *readError
	if errors.As(err, &bad) && ctx.Err() == nil {
		r := &l.runs[bad.run]
		f.leave(&r.p, bad.err)
		p.took(g, r.due, r.until, true)
		return nil // the others are laid out anew, without it
	}
	if err != nil {
		return err
	}
	f.stats.Objects.Add(1)
	f.stats.Bytes.Add(l.bytes)
	f.step("stored")
	if err := f.commit(ctx, g, l, up); err != nil {
		return err
	}
	for i := range l.runs {
		r := &l.runs[i]
		p.took(g, r.due, r.until, r.drained)
	}
	// What is left waits anew, so that what an object has not taken in does not become a small one.
	delete(f.since, g.key)
	if g.since = f.clk.Mono(); g.bytes > 0 {
		f.since[g.key] = g.since
	}
	return nil
}
