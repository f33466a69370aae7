package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"log/slog"
)

// tierNodeOptions are those of a small node.
func tierNodeOptions(fs vfs.FS, clk clock.Clock) nodeOptions {
	cfg := config.Default()
	gate, _ := auth.New(auth.Options{Anonymous: "loopback"})
	limits := brokerLimits(&cfg)
	limits.Stream.RetentionInterval = time.Second
	return nodeOptions{
		logger: slog.New(slog.DiscardHandler), loops: 1, shards: 3, limits: limits, settings: mqttSettings(&cfg), authn: gate, authz: gate,
		storage: storageOptions{dir: "data/journal", durability: "sync", segmentBytes: 64 << 10, tailBytes: 16 << 10, groupBytes: 32 << 10,
			checkpointInterval: 5 * time.Millisecond, checkpointBytes: 256 << 10, fs: fs, clock: clk},
	}
}

// check looks at the bounds of all partitions, and at all of one.
func (w *tierWorld) check() {
	w.t.Helper()
	for _, mt := range w.topics {
		for i := range mt.parts {
			w.checkBounds(mt, i)
		}
	}
	mt, i, _ := w.pick()
	w.checkPart(mt, i)
	for name, objects := range w.held {
		for _, o := range objects {
			if !w.store.has(o) {
				w.t.Fatalf("object %s is gone, which %s needs", o, name)
			}
		}
	}
}

func (w *tierWorld) checkAll() {
	w.t.Helper()
	for _, mt := range w.topics {
		for i := range mt.parts {
			w.checkBounds(mt, i)
			w.checkPart(mt, i)
		}
	}
}

// checkBounds makes sure that nothing has gone that had to stay.
func (w *tierWorld) checkBounds(mt *tierTopic, i int) {
	w.t.Helper()
	p, part := mt.parts[i], w.partition(mt, i)
	start, end := part.LogStart(), part.HighWatermark()
	if start < p.start || end != p.end {
		w.t.Fatalf("%s/%d: from %d to %d, want %d to %d", mt.name, i, start, end, p.start, p.end)
	}
	left := int64(0)
	for _, r := range p.recs {
		if r.offset >= start {
			left += int64(r.size) + 128
		}
	}
	young := w.clk.Now().UnixMilli() - p.ms
	latest := p.latest()
	for _, r := range p.recs {
		if r.offset < max(p.start, p.asked) || r.offset >= start || mt.compact && (latest[r.key] != r.offset || r.value == "") {
			continue
		}
		if (p.ms < 0 || r.at >= young) && (p.bytes < 0 || left < p.bytes) {
			w.t.Fatalf("%s/%d: begins at %d, was at %d, deleted below %d: offset %d is gone, which retention (%d ms, %d bytes of %d left) has no reason for",
				mt.name, i, start, p.start, p.asked, r.offset, p.ms, p.bytes, left)
		}
	}
	p.start = start
	tiered, local := w.n.broker.TieredEnd(part), w.n.broker.LocalStart(part)
	if tiered > part.LastStable() || local > max(tiered, part.LogStart()) { // retention may have moved it meanwhile
		w.t.Fatalf("%s/%d: in the log from %d, in the store to %d, decided to %d", mt.name, i, local, tiered, part.LastStable())
	}
}

// checkPart reads a partition whole, in one of two ways, from one offset, and by time.
func (w *tierWorld) checkPart(mt *tierTopic, i int) {
	w.t.Helper()
	p, part := mt.parts[i], w.partition(mt, i)
	for _, committed := range []bool{false, true} {
		from := part.LogStart()
		if part.HighWatermark() > from && w.rnd.IntN(3) == 0 {
			from += record.Offset(w.rnd.Int64N(int64(part.HighWatermark() - from)))
		}
		list, err := w.read(part, from, committed, false)
		if err != nil && errors.Is(err, broker.ErrTier) && w.store.failing() {
			return
		}
		if errors.Is(err, broker.ErrOffsetOutOfRange) && from < part.LogStart() {
			return // retention was faster
		}
		if err == nil {
			err = w.compare(p, part, from, committed, list)
		}
		if err != nil {
			w.t.Fatalf("%s/%d from %d, committed %v: %v", mt.name, i, from, committed, err)
		}
	}
	w.checkTime(mt, i)
}

// compare compares what was read with what is there.
func (w *tierWorld) compare(p *tierPart, part *broker.Partition, from record.Offset, committed bool, list []got) error {
	end := part.HighWatermark()
	if committed {
		end = part.LastStable()
	}
	seen := visible(list)
	latest := p.latest()
	for _, r := range p.recs {
		if r.offset < from || r.offset >= end {
			continue
		}
		have, ok := seen[r.offset]
		hidden := committed && r.txn != nil && r.txn.state == txnAborted
		switch {
		case hidden && ok:
			return fmt.Errorf("offset %d, which was aborted, is shown", r.offset)
		case hidden:
		case !ok && p.mt.compact && latest[r.key] == r.offset && older(seen, &r):
			return fmt.Errorf("offset %d is missing, and shown is what has its key, %s, and is older", r.offset, r.key)
		case !ok && (p.mt.compact && (latest[r.key] != r.offset || r.value == "") || r.offset < p.floor):
		case !ok:
			return fmt.Errorf("offset %d of %d to %d is missing: %.10q, transaction %+v", r.offset, from, end, r.value, r.txn)
		case have.key != r.key || have.value != r.value || have.at != r.at:
			return fmt.Errorf("offset %d is %.10q, want %.10q", r.offset, have.value, r.value)
		}
	}
	for _, o := range slices.Sorted(maps.Keys(seen)) {
		if _, ok := slices.BinarySearchFunc(p.recs, o, func(r tierRec, o record.Offset) int { return int(r.offset - o) }); !ok {
			return fmt.Errorf("offset %d is %.10q, and was never written", o, seen[o].value)
		}
	}
	return nil
}

// latest is where each key was written last.
func (p *tierPart) latest() map[string]record.Offset {
	latest := map[string]record.Offset{}
	for _, r := range p.recs {
		latest[r.key] = r.offset
	}
	return latest
}

// older tells whether something of a record's key that comes before it is shown.
func older(seen map[record.Offset]tierRec, r *tierRec) bool {
	for o, s := range seen {
		if o < r.offset && s.key == r.key {
			return true
		}
	}
	return false
}

// checkTime looks for a record by its time.
func (w *tierWorld) checkTime(mt *tierTopic, i int) {
	w.t.Helper()
	p, part := mt.parts[i], w.partition(mt, i)
	if mt.compact || len(p.recs) == 0 || p.floor > p.start {
		return
	}
	at := p.recs[w.rnd.IntN(len(p.recs))].at + w.rnd.Int64N(3) - 1
	want, start := record.Offset(-1), part.LogStart()
	for _, r := range p.recs {
		if r.offset >= start && r.at >= at {
			want = r.offset
			break
		}
	}
	var found broker.FoundOffset
	err := w.ask("offset at", 0, func(done func(error)) {
		w.local.OffsetAt(part, at, false, func(f broker.FoundOffset, err error) {
			found = f
			done(err)
		})
	})
	switch {
	case err != nil && w.store.failing(), part.LogStart() != start:
	case err != nil, found.Offset != want:
		w.t.Fatalf("%s/%d: time %d is at %d, want %d: %v", mt.name, i, at, found.Offset, want, err)
	}
}

// memTier is a store in memory that outlives its nodes.
type memTier struct {
	clk  clock.Clock
	down atomic.Bool
	rate atomic.Int64 // of requests that fail, in percent
	off  atomic.Pointer[atomic.Bool]
	hook atomic.Pointer[func(op, name string)] // is told of requests before they are answered

	mu      sync.Mutex
	rnd     *rand.Rand
	objects map[string]memTierObject
}

type memTierObject struct {
	b   []byte
	put time.Time
}

func newMemTier(clk clock.Clock, seed uint64) *memTier {
	return &memTier{clk: clk, rnd: rand.New(rand.NewPCG(seed, 7)), objects: make(map[string]memTierObject)}
}

// names are those of all objects.
func (s *memTier) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.objects))
}

func (s *memTier) set(rate int64, down bool) {
	s.rate.Store(rate)
	s.down.Store(down)
}

// failing tells whether requests may fail.
func (s *memTier) failing() bool { return s.down.Load() || s.rate.Load() > 0 }

// fails tells whether a request fails: one of a node that is dead does.
func (s *memTier) fails() bool {
	off := s.off.Load()
	return s.down.Load() || off != nil && off.Load() || s.rate.Load() > s.rnd.Int64N(100)
}

// has tells whether an object is there.
func (s *memTier) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.objects[name]
	return ok
}

func (s *memTier) err(op, name string, k tier.Kind) error {
	return &tier.Error{Store: "memory", Op: op, Name: name, Kind: k}
}

// Put makes it a tier.Store. One that fails may have stored the object.
func (s *memTier) Put(ctx context.Context, name string, r io.Reader, size int64, o tier.PutOptions) error {
	b, err := io.ReadAll(tier.Exactly(ctx, r, size))
	if err != nil {
		return tier.Wrap(ctx, "memory", "put", name, tier.Permanent, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fails := s.fails()
	if fails && (s.down.Load() || s.rnd.IntN(2) == 0) {
		return s.err("put", name, tier.Unavailable)
	}
	if _, ok := s.objects[name]; ok && o.IfAbsent {
		return s.err("put", name, tier.Exists)
	}
	s.objects[name] = memTierObject{b, s.clk.Now()}
	if fails {
		return s.err("put", name, tier.Unavailable)
	}
	return nil
}

func (s *memTier) find(op, name string) (memTierObject, error) {
	if hook := s.hook.Load(); hook != nil {
		(*hook)(op, name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[name]
	switch {
	case s.fails():
		return o, s.err(op, name, tier.Unavailable)
	case !ok:
		return o, s.err(op, name, tier.NotFound)
	}
	return o, nil
}

// Get makes it a tier.Store.
func (s *memTier) Get(_ context.Context, name string, rng tier.Range) (io.ReadCloser, tier.Info, error) {
	o, err := s.find("get", name)
	if err != nil {
		return nil, tier.Info{}, err
	}
	off, n, err := rng.In(int64(len(o.b)))
	if err != nil {
		return nil, tier.Info{}, s.err("get", name, tier.BadRange)
	}
	return io.NopCloser(bytes.NewReader(o.b[off : off+n])), tier.Info{Name: name, Size: int64(len(o.b)), ModTime: o.put}, nil
}

// Stat makes it a tier.Store.
func (s *memTier) Stat(_ context.Context, name string) (tier.Info, error) {
	o, err := s.find("stat", name)
	return tier.Info{Name: name, Size: int64(len(o.b)), ModTime: o.put}, err
}

// List makes it a tier.Store. Its pages are short.
func (s *memTier) List(_ context.Context, prefix, after string, limit int) (page []tier.Info, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails() {
		return nil, false, s.err("list", prefix, tier.Unavailable)
	}
	if limit <= 0 || limit > 7 {
		limit = 7
	}
	for _, name := range slices.Sorted(maps.Keys(s.objects)) {
		if !strings.HasPrefix(name, prefix) || name <= after {
			continue
		}
		if len(page) == limit {
			return page, true, nil
		}
		page = append(page, tier.Info{Name: name, Size: int64(len(s.objects[name].b)), ModTime: s.objects[name].put})
	}
	return page, false, nil
}

// Delete makes it a tier.Store. One that fails may have removed the object.
func (s *memTier) Delete(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fails := s.fails()
	if !fails || !s.down.Load() && s.rnd.IntN(2) == 0 {
		delete(s.objects, name)
	}
	if fails {
		return s.err("delete", name, tier.Unavailable)
	}
	return nil
}

// Close makes it a tier.Store. It lives on.
func (s *memTier) Close() error { return nil }
