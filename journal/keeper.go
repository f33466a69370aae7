package journal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/internal/vfs"
)

// spaceRetry is how long the keeper waits before it tries again to make a spare on a full disk.
const spaceRetry = time.Second

// zeroStep is how much of a new file is written at once: between two steps the keeper looks whether it must end.
const zeroStep = 4 << 20

// spare is a file that can become a segment.
type spare struct {
	path string
	size int64
}

// keeper makes spare segments ahead of need, writes the index of what was sealed, and recycles what is dead, on one goroutine.
type keeper struct {
	l   *Log
	low atomic.Bool // the last try to make a spare found no space

	retrying atomic.Bool // a timer will wake it for another try

	mu struct {
		sync.Mutex
		cond   *sync.Cond
		spares []spare
		want   int64 // a spare of at least this size is wanted; 0: none
		err    error // why there is none
		next   uint64
		sealed []*segment
		dying  []*segment
		ended  bool
	}
	woken chan struct{}
}

func (k *keeper) init(l *Log) {
	k.l = l
	k.mu.cond = sync.NewCond(&k.mu)
	k.woken = make(chan struct{}, 1)
}

func (k *keeper) wake() {
	select {
	case k.woken <- struct{}{}:
	default: // it is told already
	}
}

func (k *keeper) run() {
	defer func() {
		k.mu.Lock()
		k.mu.ended = true
		k.mu.cond.Broadcast()
		k.mu.Unlock()
	}()
	for {
		k.indexSealed()
		k.l.recycleDead()
		k.removeDying()
		k.makeSpare()
		select {
		case <-k.l.stop:
			k.indexSealed() // so that the next open need not scan it
			return
		case <-k.woken:
		}
	}
}

// prepare asks for a spare ahead of need.
func (k *keeper) prepare(size int64) {
	k.mu.Lock()
	enough := len(k.mu.spares) > 0 || k.mu.want >= size
	if !enough {
		k.mu.want = size
	}
	k.mu.Unlock()
	if !enough {
		k.wake()
	}
}

// take gives a spare with room for size bytes. It waits until the keeper has made one or failed to.
func (k *keeper) take(size int64) (spare, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	asked := false
	for {
		for i, sp := range k.mu.spares {
			if sp.size >= size {
				k.mu.spares = append(k.mu.spares[:i], k.mu.spares[i+1:]...)
				return sp, nil
			}
		}
		if k.mu.ended {
			return spare{}, ErrClosed
		}
		if asked && k.mu.err != nil {
			return spare{}, k.mu.err
		}
		if k.mu.want < size || !asked {
			k.mu.want, k.mu.err, asked = max(size, k.mu.want), nil, true
			k.wake()
		}
		k.mu.cond.Wait()
	}
}

func (k *keeper) makeSpare() {
	k.mu.Lock()
	size, number := k.mu.want, k.mu.next
	k.mu.next++
	k.mu.Unlock()
	if size == 0 {
		return
	}
	sp, err := k.create(size, number)
	full := err != nil && vfs.IsFull(err)
	k.mu.Lock()
	k.mu.err = err
	if err == nil {
		k.mu.spares = append(k.mu.spares, sp)
	}
	if !full {
		k.mu.want = 0
	}
	k.mu.cond.Broadcast()
	k.mu.Unlock()
	k.setLow(full)
	switch {
	case full:
		if !k.retrying.Swap(true) {
			k.l.clk.AfterFunc(spaceRetry, func() {
				k.retrying.Store(false)
				k.wake()
			})
		}
	case err != nil && !errors.Is(err, ErrClosed):
		k.l.log.Error("cannot make a spare segment", "err", err)
	}
}

func (k *keeper) setLow(low bool) {
	if k.low.Swap(low) == low {
		return
	}
	if low {
		k.l.log.Error("disk is full: no room for another segment", "dir", k.l.o.Dir)
	} else {
		k.l.log.Info("disk has room for segments again", "dir", k.l.o.Dir)
		k.l.com.signal()
	}
	if f := k.l.o.Events.Space; f != nil {
		f(low)
	}
}

// create writes a new file in full, so that writing in it later changes no metadata, and flushes it.
func (k *keeper) create(size int64, number uint64) (spare, error) {
	sp := spare{path: k.l.walPath(fmt.Sprintf("spare-%016x", number)), size: size}
	// Asked first, so that a full disk is not written full once a second. A wrong answer shows when writing.
	if free, err := k.l.fs.FreeSpace(k.l.o.Dir); err == nil && free < size {
		return sp, fmt.Errorf("%d bytes wanted for a segment, %d free: %w", size, free, vfs.ErrFull)
	}
	tmp := sp.path + ".tmp"
	f, err := k.l.fs.Open(tmp, vfs.Write|vfs.Create|vfs.Truncate|vfs.Direct)
	if err != nil {
		return sp, err
	}
	for off := int64(0); off < size && err == nil; off += zeroStep {
		if k.l.closing.Load() {
			err = ErrClosed
			break
		}
		err = f.Allocate(off, min(zeroStep, size-off))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = k.l.fs.Rename(tmp, sp.path)
	}
	if err != nil {
		// What is left is deleted at the next open at the latest.
		_ = k.l.fs.Remove(tmp)
		return sp, err
	}
	return sp, nil
}

// seal hands a segment to the keeper, which writes its index and maps it.
func (k *keeper) seal(s *segment) {
	k.mu.Lock()
	k.mu.sealed = append(k.mu.sealed, s)
	k.mu.Unlock()
	k.wake()
}

func (k *keeper) indexSealed() {
	k.mu.Lock()
	sealed := k.mu.sealed
	k.mu.sealed = nil
	k.mu.Unlock()
	for _, s := range sealed {
		if s.dying.Load() {
			continue
		}
		// Neither is needed to go on: without the index the next open scans, without the map readers use the file.
		if err := k.l.writeIndex(s); err != nil {
			k.l.log.Warn("cannot write a segment's index", "segment", s.number(), "err", err)
		}
		if err := s.mapFile(k.l.fs); err != nil {
			k.l.log.Warn("cannot map a segment", "segment", s.number(), "err", err)
		}
	}
}

// bury takes segments that were unlisted; they go when their last reader has.
func (k *keeper) bury(dead []*segment) {
	if len(dead) == 0 {
		return
	}
	for _, s := range dead {
		s.dying.Store(true)
	}
	k.mu.Lock()
	k.mu.dying = append(k.mu.dying, dead...)
	k.mu.Unlock()
	k.wake()
}

func (k *keeper) removeDying() {
	k.mu.Lock()
	var free []*segment
	kept := k.mu.dying[:0]
	for _, s := range k.mu.dying {
		if s.readers.Load() == 0 {
			free = append(free, s)
		} else {
			kept = append(kept, s)
		}
	}
	clear(k.mu.dying[len(kept):])
	k.mu.dying = kept
	k.mu.Unlock()
	for _, s := range free {
		if err := k.remove(s); err != nil {
			k.l.log.Warn("cannot remove a segment", "path", s.path, "err", err)
		}
	}
}

// remove recycles a dead segment's file as a spare, or deletes it.
func (k *keeper) remove(s *segment) error {
	err := s.close()
	if s.part {
		return errors.Join(err, k.l.fs.Remove(s.path))
	}
	k.l.stats.Recycled.Add(1)
	if rerr := k.l.fs.Remove(k.l.walPath(indexName(s.number()))); rerr != nil && !vfs.IsNotExist(rerr) {
		err = errors.Join(err, rerr)
	}
	k.mu.Lock()
	keep := len(k.mu.spares) == 0 && s.size == k.l.o.SegmentBytes && !s.drop
	number := k.mu.next
	k.mu.next++
	k.mu.Unlock()
	if !keep {
		return errors.Join(err, k.l.fs.Remove(s.path))
	}
	sp := spare{path: k.l.walPath(fmt.Sprintf("spare-%016x", number)), size: s.size}
	if rerr := k.l.fs.Rename(s.path, sp.path); rerr != nil {
		return errors.Join(err, rerr)
	}
	k.mu.Lock()
	k.mu.spares = append(k.mu.spares, sp)
	if k.mu.want <= sp.size {
		k.mu.want, k.mu.err = 0, nil
	}
	k.mu.cond.Broadcast()
	k.mu.Unlock()
	k.setLow(false)
	return err
}

func (k *keeper) closeDying() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, s := range k.mu.dying {
		errs = append(errs, s.close())
	}
	k.mu.dying = nil
	return errors.Join(errs...)
}
