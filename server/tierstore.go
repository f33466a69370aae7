package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/stores"
)

// CheckTier says what a store has against its settings, without asking it: what the configuration wants to know.
func CheckTier(store string, settings map[string]string) []config.TierFault {
	var list []config.TierFault
	var add func(err error)
	add = func(err error) {
		var one *tier.SettingError
		switch many := err.(type) { //nolint:errorlint // a list of errors is gone through one by one
		case nil:
		case interface{ Unwrap() []error }:
			for _, e := range many.Unwrap() {
				add(e)
			}
		default:
			if errors.As(err, &one) {
				list = append(list, config.TierFault{Key: one.Key, Err: one})
			} else {
				list = append(list, config.TierFault{Err: err})
			}
		}
	}
	add(stores.Check(store, settings))
	return list
}

// storeName says which store it is: two nodes that name it alike write to one place.
func storeName(kind string, settings map[string]string) string {
	name := kind
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		v := settings[key]
		switch key {
		case "dir":
			if abs, err := filepath.Abs(v); err == nil && kind == "local" {
				v = abs
			}
		case "endpoint", "bucket", "prefix", "name_nodes":
		default:
			continue
		}
		name += " " + key + "=" + v
	}
	return strings.ToValidUTF8(name[:min(len(name), history.MaxStore-copyNameMax)], "?")
}

// storeKinds are the kinds of errors that are counted: what was asked for and is not there is none.
var storeKinds = map[tier.Kind]string{tier.Permanent: "permanent", tier.Unavailable: "unavailable", tier.Throttled: "throttled", tier.Full: "full", tier.Denied: "denied"}

// countedStore is the store that the configuration names. It is opened at the first use, and again if that has failed, so that a store
// which is not there keeps no node from starting; and it counts what is asked of it.
type countedStore struct {
	kind   string
	name   string
	opener func(context.Context) (tier.Store, error)

	calls    tier.Requests
	asked    atomic.Pointer[tier.Requests] // what the store has asked its service for; nil: it does not tell, or was not opened
	errors   [tier.Canceled + 1]atomic.Int64
	sent     atomic.Int64
	received atomic.Int64
	busy     [tier.Ops]atomic.Int64 // nanoseconds

	mu struct {
		sync.Mutex
		store  tier.Store
		closed bool
	}
}

var _ tier.Sweeper = (*countedStore)(nil)

func newCountedStore(kind string, settings map[string]string) *countedStore {
	return &countedStore{kind: kind, name: storeName(kind, settings), opener: func(ctx context.Context) (tier.Store, error) {
		return stores.Open(ctx, kind, settings)
	}}
}

var errStoreClosed = errors.New("the store is closed")

// open gives the store itself.
func (s *countedStore) open(ctx context.Context) (tier.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, tier.Wrap(ctx, s.kind, "open", s.name, tier.Permanent, errStoreClosed)
	}
	if s.mu.store == nil {
		store, err := s.opener(ctx)
		if err != nil {
			return nil, tier.Wrap(ctx, s.kind, "open", s.name, tier.Unavailable, err)
		}
		if m, ok := store.(tier.Metered); ok {
			s.asked.Store(m.Requests())
		}
		s.mu.store = store
	}
	return s.mu.store, nil
}

// requests tells how many there were: of a store that does not count them itself, calls.
func (s *countedStore) requests(op tier.Op) int64 {
	if m := s.asked.Load(); m != nil {
		return m.Load(op)
	}
	return s.calls.Load(op)
}

// do makes a call, and counts it.
func (s *countedStore) do(ctx context.Context, op tier.Op, fn func(tier.Store) error) error {
	store, err := s.open(ctx)
	if err == nil {
		s.calls.Add(op, 1)
		began := time.Now()
		err = fn(store)
		s.busy[op].Add(int64(time.Since(began)))
	}
	s.failed(err)
	return err
}

func (s *countedStore) failed(err error) {
	if kind, ok := tier.KindOf(err); err != nil && ok {
		s.errors[kind].Add(1)
	}
}

// Put makes it a tier.Store, as the others do.
func (s *countedStore) Put(ctx context.Context, name string, r io.Reader, size int64, o tier.PutOptions) error {
	return s.do(ctx, tier.OpPut, func(t tier.Store) error {
		err := t.Put(ctx, name, r, size, o)
		if err == nil {
			s.sent.Add(size)
		}
		return err
	})
}

// Get reads.
func (s *countedStore) Get(ctx context.Context, name string, rng tier.Range) (body io.ReadCloser, info tier.Info, err error) {
	err = s.do(ctx, tier.OpGet, func(t tier.Store) (err error) {
		body, info, err = t.Get(ctx, name, rng)
		return err
	})
	if err != nil {
		return nil, info, err
	}
	return &countedBody{body, s}, info, nil
}

// Stat tells about an object.
func (s *countedStore) Stat(ctx context.Context, name string) (info tier.Info, err error) {
	err = s.do(ctx, tier.OpStat, func(t tier.Store) (err error) {
		info, err = t.Stat(ctx, name)
		return err
	})
	return info, err
}

// List lists.
func (s *countedStore) List(ctx context.Context, prefix, after string, limit int) (page []tier.Info, more bool, err error) {
	err = s.do(ctx, tier.OpList, func(t tier.Store) (err error) {
		page, more, err = t.List(ctx, prefix, after, limit)
		return err
	})
	return page, more, err
}

// Delete removes.
func (s *countedStore) Delete(ctx context.Context, name string) error {
	return s.do(ctx, tier.OpDelete, func(t tier.Store) error { return t.Delete(ctx, name) })
}

// Sweep makes it a tier.Sweeper; a store that is none has nothing to sweep.
func (s *countedStore) Sweep(ctx context.Context, age time.Duration) (int, error) {
	store, err := s.open(ctx)
	if err != nil {
		s.failed(err)
		return 0, err
	}
	sw, ok := store.(tier.Sweeper)
	if !ok {
		return 0, nil
	}
	n, err := sw.Sweep(ctx, age)
	s.failed(err)
	return n, err
}

// Close ends it for good.
func (s *countedStore) Close() error {
	s.mu.Lock()
	store := s.mu.store
	s.mu.store, s.mu.closed = nil, true
	s.mu.Unlock()
	if store == nil {
		return nil
	}
	if err := store.Close(); err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	return nil
}

// countedBody counts what comes.
type countedBody struct {
	io.ReadCloser
	s *countedStore
}

// Read counts what it reads.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.s.received.Add(int64(n))
	return n, err
}
