package offload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// condition is what is known of the store's Put with IfAbsent.
type condition uint8

const (
	conditional condition = iota // it can, as far as is known
	unconditional
)

// namesMax is how many names are tried for one object: those before were taken by orphans of an earlier life.
const namesMax = 8

// errStalled is why a Put was given up that took nothing for a long time.
var errStalled = errors.New("offload: the store takes nothing")

// upload brings an object into the store, under a name that nothing else has. Temporary errors are tried again, some times.
func (f *Offloader) upload(ctx context.Context, g *group, l *layout) (*object.Writer, error) {
	for range namesMax {
		w, err := f.write(g, l)
		if err != nil {
			return nil, err
		}
		taken, err := f.put(ctx, g, l, w)
		if err != nil {
			return nil, fmt.Errorf("offload: %w", err)
		}
		if !taken {
			f.stats.StoredBytes.Add(w.Size())
			return w, nil
		}
		// A crash, or a Put that was given up, has left an object of that name.
		if err := f.skipTaken(ctx, w.Summary().ID); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("offload: %d names of objects are taken in a row: does another node write with epoch %d?", namesMax, f.epoch)
}

// write lays an object out, and makes sure that the manifest can have it.
func (f *Offloader) write(g *group, l *layout) (*object.Writer, error) {
	w, err := l.write(f.nextID(g), f.clk.Now().UnixMilli())
	if err == nil {
		sum := w.Summary()
		err = entry(&sum, g).Check()
	}
	if err != nil {
		// Nothing that a log gives does so. The groups beside it go on.
		for i := range l.runs {
			f.leave(&l.runs[i].p, err)
		}
	}
	return w, err
}

// entry is what the manifest has of an object.
func entry(sum *object.Summary, g *group) *history.Object {
	return history.NewObject(sum, g.key.class, func(r *object.Run) (record.PartitionID, bool) { return r.Partition, true })
}

func (f *Offloader) nextID(g *group) object.ID {
	for {
		id := object.ID{Tenant: g.key.tenant, Shard: g.key.shard, Epoch: f.epoch, Sequence: f.seq}
		if f.seq++; !f.underWay(id.Name()) {
			f.mu.Lock()
			f.mu.named = id
			f.mu.Unlock()
			return id
		}
	}
}

// put stores an object, and tries it again. taken: another one has its name.
func (f *Offloader) put(ctx context.Context, g *group, l *layout, w *object.Writer) (taken bool, err error) {
	doubt := false // an earlier try may have stored it
	for try := 0; ; try++ {
		err := f.tryPut(ctx, g, l, w, doubt)
		var bad *readError
		switch {
		case err == nil:
			return false, nil
		case errors.As(err, &bad), ctx.Err() != nil:
			return false, err
		case errors.Is(err, tier.ErrExists):
			return true, nil
		case errors.Is(err, tier.ErrUnsupported) && f.cond == conditional && !f.o.Shared:
			f.cond = unconditional
			continue
		case !tier.Temporary(err):
			f.stats.Failures.Add(1)
			return false, err
		}
		doubt = true
		if try+1 >= tries {
			f.stats.Failures.Add(1)
			return false, err
		}
		f.stats.Retries.Add(1)
		if f.pause(ctx, err, tryAgain(try+1, err)) != nil {
			return false, context.Cause(ctx)
		}
	}
}

// tryPut is one try. ErrExists: another object has the name.
func (f *Offloader) tryPut(ctx context.Context, g *group, l *layout, w *object.Writer, doubt bool) error {
	if doubt || f.cond == unconditional {
		switch there, err := f.compare(ctx, w); {
		case err != nil:
			return err
		case there:
			return nil
		}
	}
	f.step("put")
	err := f.send(ctx, g, l, w)
	if errors.Is(err, tier.ErrExists) && doubt {
		// It has come since it was looked for: by the try before, maybe.
		there, err := f.compare(ctx, w)
		if err == nil && !there {
			err = &tier.Error{Store: "offload", Op: "put", Name: w.Name(), Kind: tier.Unavailable, Err: errors.New("the object comes and goes")}
		}
		return err
	}
	return err
}

// compare tells whether the object is in the store already. ErrExists: another one is, under its name.
func (f *Offloader) compare(ctx context.Context, w *object.Writer) (there bool, err error) {
	info, err := f.o.Store.Stat(ctx, w.Name())
	if errors.Is(err, tier.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	other := &tier.Error{Store: "offload", Op: "put", Name: w.Name(), Kind: tier.Exists}
	if info.Size != w.Size() {
		return false, other
	}
	want := w.Summary()
	got, err := object.Open(ctx, f.o.Store, want.ID, want.Tail)
	switch {
	case errors.Is(err, object.ErrCorrupt):
		return false, other
	case err != nil:
		return false, err
	}
	// When it was made stands in the header. The tail has a checksum of each block: those of w are there where all of it was read once, and
	// where it was not, no try can have stored it.
	want.Created = got.Created
	if !reflect.DeepEqual(*got, want) {
		return false, other
	}
	return true, nil
}

// send is one Put.
func (f *Offloader) send(ctx context.Context, g *group, l *layout, w *object.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &sender{f: f, ctx: ctx}
	s.body = w.Reader(func(run int) (io.ReadCloser, error) {
		return &runReader{l: l, run: run, failed: &s.failed}, nil
	})
	s.dog = f.clk.AfterFunc(f.o.StallAfter, func() { cancel(errStalled) })
	f.sending(w.Name(), w.Size())
	err := f.o.Store.Put(ctx, w.Name(), s, w.Size(), tier.PutOptions{IfAbsent: f.cond == conditional, Class: g.key.class})
	s.dog.Stop()
	f.sent()
	closed := s.body.Close()
	switch {
	case err == nil:
		return nil
	case s.failed != nil:
		return s.failed
	case closed != nil:
		return closed
	case errors.Is(context.Cause(ctx), errStalled):
		return stalled("put", w.Name())
	}
	return err
}

// stalled is the error of a request that was given up: it may have succeeded, and may the next time.
func stalled(op, name string) error {
	return &tier.Error{Store: "offload", Op: op, Name: name, Kind: tier.Unavailable, Err: errStalled}
}

// sender is the reader that Put is given: it keeps to the bandwidth, tells of progress, and feeds the dog.
type sender struct {
	f      *Offloader
	ctx    context.Context
	body   io.ReadCloser
	dog    clock.Timer
	failed error // of the log
}

// sendStep is how much is read at once at most.
const sendStep = 256 * kib

func (s *sender) Read(p []byte) (int, error) {
	s.dog.Stop()
	n, err := s.body.Read(p[:s.f.limit.Step(min(len(p), sendStep))])
	if d := s.f.limit.Take(n); d > 0 {
		if serr := s.f.sleep(s.ctx, d); serr != nil {
			return 0, context.Cause(s.ctx)
		}
	}
	s.f.progress(n)
	s.dog.Reset(s.f.o.StallAfter)
	return n, err
}

// short gives a context for a short request.
func (f *Offloader) short(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	t := f.clk.AfterFunc(f.o.StallAfter, func() { cancel(errStalled) })
	return ctx, func() {
		t.Stop()
		cancel(nil)
	}
}

// again calls a short request until it succeeds, or fails for good, or often.
func (f *Offloader) again(ctx context.Context, call func(context.Context) error) error {
	for try := 0; ; try++ {
		err := f.once(ctx, call)
		if err == nil || ctx.Err() != nil || try+1 >= tries || !tier.Temporary(err) {
			return err
		}
		f.stats.Retries.Add(1)
		if f.pause(ctx, err, tryAgain(try+1, err)) != nil {
			return context.Cause(ctx)
		}
	}
}

func (f *Offloader) once(ctx context.Context, call func(context.Context) error) error {
	in, done := f.short(ctx)
	defer done()
	err := call(in)
	if err != nil && errors.Is(context.Cause(in), errStalled) {
		return stalled("request", "")
	}
	return err
}
