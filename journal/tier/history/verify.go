package history

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// wrongMax bounds what Verify tells about one object.
const wrongMax = 16

// Verify reads all of an object, past the cache, and checks it: the tail, against its checksum and against what the manifest says; the header; each block's checksum, and that it holds
// the batches that its index says, each with its own checksum. progress (nil: none) is told after each block how many bytes of its batches have been read. Memory: the tail and one block. It
// goes on behind what is wrong, and tells up to 16 such places, each with the block; ErrLost: there is no such object; temporary errors are tried again as the
// reader's.
func (r *Reader) Verify(ctx context.Context, o *Object, progress func(bytes int64)) error {
	return Verify(ctx, r.store, o, r.try.tries, progress)
}

// Verify is Reader.Verify of an object in any store; tries is how often a request is tried whose error is temporary, 0: 5.
func Verify(ctx context.Context, s tier.Store, o *Object, tries int, progress func(bytes int64)) error {
	opts := ReaderOptions{Tries: tries}
	opts.defaults()
	v := verifier{ctx: ctx, store: s, o: o, try: patience{tries: opts.Tries, wait: opts.Wait}, progress: progress}
	err := v.object()
	if errors.Is(err, tier.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	if err = errors.Join(append(v.wrong, err)...); err != nil {
		return fmt.Errorf("verify object %s: %w", o.ID.Name(), err)
	}
	return nil
}

type verifier struct {
	ctx      context.Context
	store    tier.Store
	o        *Object
	try      patience
	progress func(int64)
	done     int64
	wrong    []error
}

// object checks all of it. What it answers ends it; what is wrong and does not is kept.
func (v *verifier) object() error {
	sum, err := openTail(v.ctx, v.store, v.o.ID, v.o.Tail, v.try)
	if err != nil {
		return err
	}
	for i := range v.o.Runs {
		w := place{Run: v.o.Runs[i], id: v.o.ID, size: v.o.Size, tail: v.o.Tail}
		if err := w.check(sum); err != nil {
			return err
		}
	}
	if err := v.header(sum); err != nil {
		return err
	}
	block := 0
	for i := range sum.Runs {
		if err := v.run(&sum.Runs[i], block); err != nil {
			return err
		}
		block += len(sum.Runs[i].Blocks)
	}
	return nil
}

func (v *verifier) header(sum *object.Summary) error {
	name := v.o.ID.Name()
	a := attempts{patience: v.try}
	for {
		b, err := v.firstBytes(name)
		var created, size int64
		if err == nil {
			_, created, size, err = object.ParseHeader(name, b)
		}
		if err == nil && (v.o.Created != 0 && created != v.o.Created || size != sum.Size) {
			return &object.CorruptError{Object: name, Reason: fmt.Sprintf("its header has time %d and %d bytes, and should have %d and %d", created, size, v.o.Created, sum.Size)}
		}
		if err == nil || !a.again(v.ctx, err) {
			return err
		}
	}
}

// headerSize is what object.ParseHeader takes.
const headerSize = 64

func (v *verifier) firstBytes(name string) ([]byte, error) {
	body, _, err := v.store.Get(v.ctx, name, tier.Range{Len: headerSize})
	if err != nil {
		return nil, err
	}
	b := make([]byte, headerSize)
	_, err = io.ReadFull(body, b)
	return b, errors.Join(err, body.Close())
}

// run checks the blocks of a run, the first of which has number base in the object.
func (v *verifier) run(run *object.Run, base int) error {
	name := v.o.ID.Name()
	a := attempts{patience: v.try}
	for at := 0; at < len(run.Blocks); {
		err := object.ReadBlocks(v.ctx, v.store, name, run, at, len(run.Blocks)-at, func(k int, b []byte) error {
			a.progress()
			at = k + 1
			if err := checkBlock(name, &run.Blocks[k], b); err != nil {
				v.wrong = append(v.wrong, fmt.Errorf("block %d: %w", base+k, err))
			}
			v.count(run, k)
			return v.tooMuch()
		})
		if err == nil {
			return nil
		}
		if at == len(run.Blocks) || errors.Is(err, errWrong) {
			return err
		}
		if a.again(v.ctx, err) {
			continue
		}
		err = fmt.Errorf("block %d: %w", base+at, err)
		if !errors.Is(err, object.ErrCorrupt) {
			return err
		}
		// Behind it there may be more.
		v.wrong = append(v.wrong, err)
		if err := v.tooMuch(); err != nil {
			return err
		}
		v.count(run, at)
		at++
		a.progress()
	}
	return nil
}

var errWrong = errors.New("history: and perhaps more: not looked further")

func (v *verifier) tooMuch() error {
	if len(v.wrong) >= wrongMax {
		return errWrong
	}
	return nil
}

func (v *verifier) count(run *object.Run, k int) {
	v.done += int64(run.Blocks[k].Bytes)
	if v.progress != nil {
		v.progress(v.done)
	}
}

// checkBlock checks that a block holds what its index says.
func checkBlock(name string, block *object.Block, b []byte) error {
	first, last, latest, at := record.Offset(-1), block.First-1, object.NoTime, block.Pos
	for len(b) > 0 {
		batch, n, err := record.ParseBatch(b)
		if err == nil && batch.CRC() != batch.ComputeCRC() {
			err = record.ErrChecksum
		}
		if err == nil && batch.BaseOffset() <= last {
			err = errors.New("offsets go back")
		}
		if err != nil {
			return &object.CorruptError{Object: name, At: at, Reason: err.Error()}
		}
		if first < 0 {
			first = batch.BaseOffset()
		}
		if batch.Attributes()&record.Control == 0 {
			latest = max(latest, batch.MaxTimestamp())
		}
		b, at, last = b[n:], at+int64(n), batch.LastOffset()
	}
	if first != block.First || last != block.Last || latest > block.MaxTime {
		return &object.CorruptError{Object: name, At: block.Pos, Reason: fmt.Sprintf("a block has offsets %d to %d and time %d, and should have %d to %d and %d", first, last, latest, block.First, block.Last, block.MaxTime)}
	}
	return nil
}
