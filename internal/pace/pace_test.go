package pace

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
)

func TestWait(t *testing.T) {
	b := Backoff{First: 100 * time.Millisecond, Most: 15 * time.Second}
	for n, want := range map[int]time.Duration{0: b.First, 1: b.First, 2: 2 * b.First, 5: 16 * b.First, 8: 128 * b.First, 9: b.Most, 29: b.Most, 1 << 40: b.Most} {
		for range 100 {
			if d := b.Wait(n); d < want/2 || d > want {
				t.Fatalf("wait %d is %v, want %v to %v", n, d, want/2, want)
			}
		}
	}
	if d := (Backoff{First: 1, Most: 1}).Wait(3); d > 1 {
		t.Errorf("waits %v of 1 ns", d)
	}
}

// moved is a clock on which every wait is over at once, and counted.
type moved struct {
	*clock.Manual
	waits int
}

func (m *moved) AfterFunc(d time.Duration, f func()) clock.Timer {
	t := m.Manual.AfterFunc(d, f)
	m.waits++
	m.Advance(d)
	return t
}

func TestRetry(t *testing.T) {
	soon, never := errors.New("soon"), errors.New("never")
	again := func(err error) bool { return errors.Is(err, soon) }
	for _, c := range []struct {
		name        string
		fails       []error
		tries       int
		want        error
		calls, wait int
	}{
		{"at once", nil, 3, nil, 1, 0},
		{"after two", []error{soon, soon}, 3, nil, 3, 2},
		{"given up", []error{soon, soon, soon}, 3, soon, 3, 2},
		{"for good", []error{soon, never}, 3, never, 2, 1},
		{"one try", []error{soon}, 1, soon, 1, 0},
	} {
		m := &moved{Manual: clock.NewManual(time.Unix(0, 0))}
		calls := 0
		err := Backoff{time.Second, time.Minute}.Retry(t.Context(), m, c.tries, again, func() error {
			calls++
			if calls <= len(c.fails) {
				return c.fails[calls-1]
			}
			return nil
		})
		if !errors.Is(err, c.want) || calls != c.calls || m.waits != c.wait {
			t.Errorf("%s: %v after %d calls and %d waits", c.name, err, calls, m.waits)
		}
	}
}

// A context that ends while it waits ends it with what fn said.
func TestRetryEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	soon := errors.New("soon")
	m := clock.NewManual(time.Unix(0, 0))
	calls := 0
	err := Backoff{time.Second, time.Minute}.Retry(ctx, m, 10, func(error) bool { return true }, func() error {
		calls++
		if calls == 1 {
			time.AfterFunc(time.Millisecond, cancel)
		}
		return soon
	})
	if !errors.Is(err, soon) || !errors.Is(err, context.Canceled) || calls != 1 || m.Pending() != 0 {
		t.Errorf("%v after %d calls, %d timers are left", err, calls, m.Pending())
	}
}

func TestLimiter(t *testing.T) {
	m := clock.NewManual(time.Unix(0, 0))
	m.Advance(time.Hour)
	rate := int64(1000)
	l := NewLimiter(m, func() int64 { return rate })
	if got := l.Step(1 << 20); got != 250 {
		t.Errorf("reads %d bytes at once", got)
	}
	if got := l.Take(100); got != 0 {
		t.Errorf("what was saved up waits %v", got)
	}
	if got := l.Take(500); got != 500*time.Millisecond {
		t.Errorf("500 bytes wait %v", got)
	}
	if got := l.Take(500); got != time.Second {
		t.Errorf("500 further ones wait %v", got)
	}
	m.Advance(time.Second)
	rate = 0
	if got := l.Take(1 << 30); got != 0 || l.Step(7) != 7 {
		t.Errorf("waits %v without a bound", got)
	}
	rate = 1
	if got := l.Step(7); got != 1 {
		t.Errorf("reads %d bytes at once", got)
	}
}
