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

// storeOp numbers the requests of a store.
type storeOp int

// The requests, as metrics name them.
const (
	opPut storeOp = iota
	opGet
	opStat
	opList
	opDelete
	storeOps
)

var storeOpNames = [storeOps]string{"put", "get", "stat", "list", "delete"}

// storeOpCosts are the classes by which stores ask for money: writes and lists are some ten times as dear as reads, and deletes are free.
var storeOpCosts = [storeOps]string{"write", "read", "read", "write", "free"}

// storeKinds are the kinds of errors that are counted: what was asked for and is not there is none.
var storeKinds = map[tier.Kind]string{tier.Permanent: "permanent", tier.Unavailable: "unavailable", tier.Throttled: "throttled", tier.Full: "full", tier.Denied: "denied"}

// countedStore is the store that the configuration names. It is opened at the first use, and again if that has failed, so that a store
// which is not there keeps no node from starting; and it counts what is asked of it.
type countedStore struct {
	kind   string
	name   string
	opener func(context.Context) (tier.Store, error)

	requests [storeOps]atomic.Int64
	errors   [tier.Canceled + 1]atomic.Int64
	sent     atomic.Int64
	received atomic.Int64
	busy     [storeOps]atomic.Int64 // nanoseconds

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
		s.mu.store = store
	}
	return s.mu.store, nil
}

// do makes a request, and counts it.
func (s *countedStore) do(ctx context.Context, op storeOp, fn func(tier.Store) error) error {
	store, err := s.open(ctx)
	if err == nil {
		s.requests[op].Add(1)
		began := time.Now()
		err = fn(store)
		s.busy[op].Add(int64(time.Since(began)))
	}
	if kind, ok := tier.KindOf(err); err != nil && ok {
		s.errors[kind].Add(1)
	}
	return err
}

// Put makes it a tier.Store, as the others do.
func (s *countedStore) Put(ctx context.Context, name string, r io.Reader, size int64, o tier.PutOptions) error {
	return s.do(ctx, opPut, func(t tier.Store) error {
		err := t.Put(ctx, name, r, size, o)
		if err == nil {
			s.sent.Add(size)
		}
		return err
	})
}

// Get reads.
func (s *countedStore) Get(ctx context.Context, name string, rng tier.Range) (body io.ReadCloser, info tier.Info, err error) {
	err = s.do(ctx, opGet, func(t tier.Store) (err error) {
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
	err = s.do(ctx, opStat, func(t tier.Store) (err error) {
		info, err = t.Stat(ctx, name)
		return err
	})
	return info, err
}

// List lists.
func (s *countedStore) List(ctx context.Context, prefix, after string, limit int) (page []tier.Info, more bool, err error) {
	err = s.do(ctx, opList, func(t tier.Store) (err error) {
		page, more, err = t.List(ctx, prefix, after, limit)
		return err
	})
	return page, more, err
}

// Delete removes.
func (s *countedStore) Delete(ctx context.Context, name string) error {
	return s.do(ctx, opDelete, func(t tier.Store) error { return t.Delete(ctx, name) })
}

// Sweep makes it a tier.Sweeper; a store that is none has nothing to sweep.
func (s *countedStore) Sweep(ctx context.Context, age time.Duration) (int, error) {
	store, err := s.open(ctx)
	if err != nil {
		return 0, err
	}
	if sw, ok := store.(tier.Sweeper); ok {
		return sw.Sweep(ctx, age)
	}
	return 0, nil
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
