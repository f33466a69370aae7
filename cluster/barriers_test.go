package cluster

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// askedGroup is a group whose barriers wait.
type askedGroup struct {
	Group
	begun  atomic.Int32
	answer chan error
}

// Barrier makes it a Group.
func (g *askedGroup) Barrier(ctx context.Context) error {
	g.begun.Add(1)
	select {
	case err := <-g.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Who calls while a barrier is under way waits for the next one, all of them for the same. Who gives up takes nobody along.
func TestMergedBarriers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &askedGroup{answer: make(chan error)}
		m := MergeBarriers(g)
		var wg sync.WaitGroup
		var ended atomic.Int32
		call := func(ctx context.Context, want error) {
			wg.Go(func() {
				if err := m.Barrier(ctx); !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				}
				ended.Add(1)
			})
			synctest.Wait()
		}
		step := func(answers, begun, over int32) {
			t.Helper()
			for range answers {
				g.answer <- nil
			}
			if synctest.Wait(); g.begun.Load() != begun || ended.Load() != over {
				t.Fatalf("%d barriers have begun and %d calls are over, want %d and %d", g.begun.Load(), ended.Load(), begun, over)
			}
		}
		call(t.Context(), nil)
		for range 5 {
			call(t.Context(), nil)
		}
		step(0, 1, 0)
		step(1, 2, 1) // the others came after that had begun
		step(1, 2, 6)

		ctx, cancel := context.WithCancel(t.Context())
		call(ctx, context.Canceled)
		call(t.Context(), nil)
		cancel()
		step(0, 4, 7)
		again, cancel := context.WithCancel(t.Context())
		call(again, context.Canceled)
		cancel()
		step(0, 4, 8)
		step(1, 4, 9)

		failed := errors.New("no majority")
		call(t.Context(), failed)
		g.answer <- failed
		step(0, 5, 10)
		wg.Wait()
	})
}
