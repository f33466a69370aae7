package server

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/journal/tier"
)

// metered is a store that needs three requests for each object.
type metered struct {
	tier.Store
	asked tier.Requests
}

func (m *metered) Requests() *tier.Requests { return &m.asked }

func (m *metered) Put(ctx context.Context, name string, r io.Reader, size int64, o tier.PutOptions) error {
	m.asked.Add(tier.OpPut, 3)
	return m.Store.Put(ctx, name, r, size, o)
}

// TestRequestsOfStore: what the store has asked for is told where it counts that, also once it is closed; calls where it does not.
func TestRequestsOfStore(t *testing.T) {
	ctx := context.Background()
	s := newCountedStore("local", map[string]string{"dir": t.TempDir()})
	open := s.opener
	s.opener = func(ctx context.Context) (tier.Store, error) {
		inner, err := open(ctx)
		return &metered{Store: inner}, err
	}
	bare := newCountedStore("local", map[string]string{"dir": t.TempDir()})
	bare.opener = func(ctx context.Context) (tier.Store, error) {
		inner, err := open(ctx)
		return struct{ tier.Store }{inner}, err
	}
	for s, want := range map[*countedStore]int64{s: 3, bare: 1} {
		if n := s.requests(tier.OpPut); n != 0 {
			t.Errorf("%d requests before the first", n)
		}
		if err := s.Put(ctx, "a/b", strings.NewReader("x"), 1, tier.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if n, calls := s.requests(tier.OpPut), s.calls.Load(tier.OpPut); n != want || calls != 1 {
			t.Errorf("%d requests of %d, %d calls", n, want, calls)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if n := s.requests(tier.OpPut); n != want {
			t.Errorf("%d requests of %d once it is closed", n, want)
		}
	}
}
