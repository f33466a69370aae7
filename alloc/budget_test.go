package alloc

import (
	"sync"
	"testing"
)

func TestBudgetLevels(t *testing.T) {
	b := NewBudget(1000)
	for _, tc := range []struct {
		used int64
		want Level
	}{{0, LevelNormal}, {799, LevelNormal}, {800, LevelShed}, {899, LevelShed}, {900, LevelPause}, {949, LevelPause}, {950, LevelRefuse}, {2000, LevelRefuse}} {
		b.Charge(ShareTail, tc.used-b.Total())
		if got := b.Level(); got != tc.want {
			t.Errorf("%d of 1000: %v, want %v", tc.used, got, tc.want)
		}
	}
	b.SetLimit(10_000)
	if b.Level() != LevelNormal || b.Limit() != 10_000 {
		t.Errorf("a wider limit leaves %v", b.Level())
	}
	b.SetLimit(0)
	if b.Level() != LevelNormal || !b.TryCharge(ShareCache, 1<<40) {
		t.Error("no limit, but a level")
	}
}

func TestBudgetTryCharge(t *testing.T) {
	b := NewBudget(100)
	if !b.TryCharge(ShareCache, 100) || b.TryCharge(ShareCache, 1) {
		t.Error("the limit does not hold")
	}
	if b.Used(ShareCache) != 100 || b.Total() != 100 {
		t.Errorf("used %d of %d", b.Used(ShareCache), b.Total())
	}
}

func TestBudgetAccounts(t *testing.T) {
	b := NewBudget(1 << 30)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			a := b.NewAccount(Share(i))
			for range 1000 {
				a.Charge(1000)
				a.Charge(-400)
			}
			a.Flush()
		})
	}
	wg.Wait()
	for s := range NumShares {
		want := int64(600_000)
		if s == NumShares-1 {
			want = 0
		}
		if b.Used(s) != want {
			t.Errorf("%v: %d, want %d", s, b.Used(s), want)
		}
	}
	if b.Total() != 4*600_000 {
		t.Errorf("total %d", b.Total())
	}
}
