//go:build blockcheck

package alloc

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// BlockCheck tells whether blocks are checked in this build.
const BlockCheck = true

// poison fills released blocks: it is no text, no small number and no valid UTF-8.
const poison = 0xdb

const leakDepth = 24

// blockCheck is where a block was made last, and whether somebody holds it.
type blockCheck struct {
	live  bool
	seq   uint64
	depth int
	stack [leakDepth]uintptr
}

var leaks struct {
	sync.Mutex
	live map[*Block]struct{}
	seq  uint64
}

func (c *blockCheck) made(b *Block) {
	c.depth = runtime.Callers(3, c.stack[:])
	leaks.Lock()
	defer leaks.Unlock()
	if leaks.live == nil {
		leaks.live = make(map[*Block]struct{})
	}
	leaks.seq++
	c.seq = leaks.seq
	c.live = true
	leaks.live[b] = struct{}{}
}

// reused looks for writes that came after the release.
func (c *blockCheck) reused(b *Block) {
	whole := b.buf[:cap(b.buf)]
	for i, v := range whole {
		if v != poison {
			panic(fmt.Sprintf("alloc: byte %d of a released block was written; the block had been made at\n%s", i, c.trace()))
		}
	}
}

func (c *blockCheck) used(b *Block) {
	if b.refs.Load() <= 0 {
		panic("alloc: a released block was used; it had been made at\n" + c.trace())
	}
}

func (c *blockCheck) released(b *Block) {
	whole := b.buf[:cap(b.buf)]
	for i := range whole {
		whole[i] = poison
	}
	leaks.Lock()
	defer leaks.Unlock()
	c.live = false
	delete(leaks.live, b)
}

func (c *blockCheck) trace() string {
	var sb strings.Builder
	frames := runtime.CallersFrames(c.stack[:c.depth])
	for {
		f, more := frames.Next()
		fmt.Fprintf(&sb, "\t%s\n\t\t%s:%d\n", f.Function, f.File, f.Line)
		if !more {
			return sb.String()
		}
	}
}

// LiveBlocks is the number of blocks that somebody holds.
func LiveBlocks() int {
	leaks.Lock()
	defer leaks.Unlock()
	return len(leaks.live)
}

// LeakReport names each block that somebody holds, oldest first, with the stack that made it; empty if there is none.
func LeakReport() string {
	leaks.Lock()
	defer leaks.Unlock()
	live := make([]*Block, 0, len(leaks.live))
	for b := range leaks.live {
		live = append(live, b)
	}
	slices.SortFunc(live, func(a, b *Block) int { return int(a.check.seq) - int(b.check.seq) })
	var sb strings.Builder
	for _, b := range live {
		fmt.Fprintf(&sb, "block of %d bytes, %d holders, made at\n%s", cap(b.buf), b.refs.Load(), b.check.trace())
	}
	return sb.String()
}

// CheckLeaks fails t if somebody holds a block: call it when all that used blocks has been closed.
func CheckLeaks(t TestingT) {
	t.Helper()
	if n := LiveBlocks(); n > 0 {
		t.Errorf("%d blocks were not released:\n%s", n, LeakReport())
	}
}

// TestingT is the part of testing.TB that CheckLeaks needs.
type TestingT interface {
	Helper()
	Errorf(format string, args ...any)
}
