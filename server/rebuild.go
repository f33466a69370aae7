package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/offload"
	"github.com/sluicemq/sluice/journal/tier/rebuild"
	"github.com/sluicemq/sluice/proto/kafka"
)

// What a topic gets that is made from the store: what was lost with the disk is not guessed, but nothing is thrown away before somebody has looked.
var rebuiltSettings = []broker.Setting{{Key: "retention.ms", Value: "-1"}, {Key: "tier.policy", Value: "immediate"}}

// rebuiltFor are those that a topic gets: one that was compacted is so again.
func rebuiltFor(f *rebuild.Topic) []broker.Setting {
	if !f.Compacted {
		return rebuiltSettings
	}
	return append([]broker.Setting{{Key: "cleanup.policy", Value: "compact"}}, rebuiltSettings...)
}

// settingNames tells settings in a sentence.
func settingNames(list []broker.Setting) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.Key + "=" + s.Value
	}
	return strings.Join(out[:len(out)-1], ", ") + " and " + out[len(out)-1]
}

// Bounds of what a rebuild has under way.
const (
	rebuildAtOnce     = 64      // partitions, and changes of the manifest
	rebuildChangeSize = 1 << 20 // bytes of one change
)

// rebuilding brings back what the store has and the node does not. In this order, so that a crash at any place loses nothing and the next try goes on: topics are made,
// partitions are told where they begin and end, and then the manifest is told of the objects.
type rebuilding struct {
	t     *tiering
	w     *teller
	dry   bool
	found *rebuild.Found
	ids   []record.PartitionID // of found.Parts, 0 for what is left alone
	own   map[record.Epoch]bool
	// catalog takes the rows.
	catalog tierCatalog
	out     api.TierResult
}

// rebuild is the job.
func (t *tiering) rebuild(ctx context.Context, dry bool, w *teller) (*api.TierResult, error) {
	r := &rebuilding{t: t, w: w, dry: dry}
	if dry {
		return &r.out, r.run(ctx, nil)
	}
	// Nothing is removed from the store between the look at it and the rows of what was found.
	out, err := t.offloader()
	if err != nil {
		return nil, err
	}
	r.own, r.catalog = out.Own(), t.catalog()
	return &r.out, out.Alone(ctx, r.run)
}

// run is the job. mint is not called if it is dry.
func (r *rebuilding) run(ctx context.Context, mint offload.Mint) (err error) {
	t, w := r.t, r.w
	r.found, err = rebuild.Scan(ctx, t.store, rebuild.Options{Progress: func(done, total int64) { w.say("read the store", "objects", done, total) }})
	if err != nil {
		return err
	}
	for _, e := range r.found.Damaged {
		r.wrong("%v", e)
	}
	for _, o := range r.found.Older {
		w.note("read the store", "topic %s was deleted and made again: what the store has of its older self (%s, %d bytes) is left alone", tame(o.Name), uuid(o.ID), o.Bytes)
	}
	if err := r.mayTakeUp(); err != nil {
		return err
	}
	r.ids = make([]record.PartitionID, len(r.found.Parts))
	numbers := make(map[*rebuild.Partition]int, len(r.found.Parts))
	for i, p := range r.found.Parts {
		numbers[p] = i
	}
	if !r.dry {
		if err := r.begin(ctx, mint); err != nil {
			return err
		}
		defer t.b.HoldTopics(tierTenant, r.holds())()
	}
	for i, topic := range r.found.Topics {
		if err := r.topic(ctx, topic, numbers); err != nil {
			return err
		}
		w.say("topics", "topics", int64(i+1), int64(len(r.found.Topics)))
	}
	if r.dry {
		return nil
	}
	return r.objects(ctx)
}

// mayTakeUp refuses, in a cluster, objects that one of its nodes has put and of which no row tells: a node that has led before, and does not know yet that it
// does not any more, may be about to remove them.
func (r *rebuilding) mayTakeUp() error {
	if r.t.lead == nil {
		return nil
	}
	n := 0
	for _, o := range r.found.Objects {
		if r.own[o.ID.Epoch] && !r.t.manifest.Has(o.ID) {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%w: the store has %d objects that this cluster has put and needs no more: they are removed in the time of tier.orphan_grace, and may not be taken up before", control.ErrTierRefused, n)
	}
	return nil
}

// producerIDBits is how many producer ids one life of a node may give: they begin with the epoch of the rebuild that it goes back to, which no node has
// had before.
const producerIDBits = 32

// begin sets the node apart from those whose records it takes over.
func (r *rebuilding) begin(ctx context.Context, mint offload.Mint) error {
	// Whatever this node has written before, nobody else may have written under that name.
	epoch, err := mint(ctx)
	if err != nil {
		return fmt.Errorf("mint an epoch: %w", err)
	}
	err = awaitDone(ctx, func(done func(error)) { r.t.b.RaiseProducerIDs(int64(epoch)<<producerIDBits, done) })
	if err != nil {
		return fmt.Errorf("set producer ids apart: %w", err)
	}
	return nil
}

// holds are the topics that nobody may look at until they are whole.
func (r *rebuilding) holds() (names []string) {
	for _, f := range r.found.Topics {
		t := r.t.b.Topic(tierTenant, f.Name)
		if t == nil || slices.ContainsFunc(f.Parts, func(p *rebuild.Partition) bool {
			return t.Partition(p.Index) == nil || t.Partition(p.Index).HighWatermark() == 0
		}) {
			names = append(names, f.Name)
		}
	}
	return names
}

func (r *rebuilding) wrong(format string, args ...any) {
	r.out.Wrong++
	r.w.note("rebuild", format, args...)
}

// topic makes or adopts one, and restores its partitions.
func (r *rebuilding) topic(ctx context.Context, f *rebuild.Topic, numbers map[*rebuild.Partition]int) error {
	t := r.t.b.Topic(tierTenant, f.Name)
	if why := r.refuses(t, f); why != "" {
		r.wrong("topic %s is left alone: %s", tame(f.Name), why)
		return nil
	}
	for _, p := range f.Parts {
		r.out.Partitions++
		r.out.Records += int64(p.End - p.Start)
		for _, g := range p.Gaps {
			r.wrong("topic %s, partition %d: no object has the offsets from %d to %d", f.Name, p.Index, g.From, g.To-1)
		}
	}
	r.out.Topics++
	r.out.Bytes += f.Bytes
	if r.dry {
		r.w.note("topics", "topic %s: %s", f.Name, r.planned(t, f))
		return nil
	}
	t, err := r.ready(ctx, t, f)
	if err != nil {
		return fmt.Errorf("topic %s: %w", f.Name, err)
	}
	for _, p := range f.Parts {
		r.ids[numbers[p]] = t.Partition(p.Index).ID()
	}
	return r.restore(ctx, t, f)
}

func (r *rebuilding) planned(t *broker.Topic, f *rebuild.Topic) string {
	switch {
	case t == nil:
		return fmt.Sprintf("would be made, with %d partitions and %d bytes", f.Partitions(), f.Bytes)
	case emptyTopic(t):
		return fmt.Sprintf("is there and empty, and would get %d bytes", f.Bytes)
	}
	return "is there already"
}

// tame is a name from a store as it can be shown: it may be anything.
func tame(name string) string {
	if kafka.ValidTopicName(name) {
		return name
	}
	return fmt.Sprintf("%.80q", name)
}

// refuses says why a topic cannot be brought back.
func (r *rebuilding) refuses(t *broker.Topic, f *rebuild.Topic) string {
	switch {
	case !kafka.ValidTopicName(f.Name):
		return "no topic can have that name"
	case f.Partitions() > partitionsMax:
		return fmt.Sprintf("it has %d partitions", f.Partitions())
	case t == nil || t.Dropped():
		return ""
	case emptyTopic(t):
		return ""
	case broker.TopicID(f.ID) != t.ID() && !r.adopted(t, f):
		return "another topic of this name has records; to bring the old one back, delete that first, or rebuild on a node without it"
	}
	for _, p := range f.Parts {
		mine := t.Partition(p.Index)
		if mine == nil || mine.HighWatermark() != 0 && mine.HighWatermark() < p.End {
			return fmt.Sprintf("partition %d has records, and ends before what the store has of it (%d)", p.Index, p.End)
		}
	}
	return ""
}

// adopted tells whether a topic has been brought back under another id, by a try before or long ago: what it has of its own begins behind what the
// store has, or it has nothing of its own.
func (r *rebuilding) adopted(t *broker.Topic, f *rebuild.Topic) bool {
	for _, p := range f.Parts {
		mine := t.Partition(p.Index)
		if mine == nil {
			return false
		}
		start, _, tiered := r.t.manifest.Bounds(mine.ID())
		untold := mine.HighWatermark() == p.End && mine.LogStart() == p.Start && r.t.log.LocalSize(mine.ID()) == 0
		told := tiered && mine.HighWatermark() >= p.End && start >= p.Start
		if mine.HighWatermark() != 0 && !untold && !told {
			return false
		}
	}
	return true
}

func emptyTopic(t *broker.Topic) bool {
	return !slices.ContainsFunc(t.Partitions(), func(p *broker.Partition) bool { return p.HighWatermark() != 0 || p.LogStart() != 0 })
}

// ready has the topic there, with its partitions and with settings that keep what is brought back.
func (r *rebuilding) ready(ctx context.Context, t *broker.Topic, f *rebuild.Topic) (*broker.Topic, error) {
	b := r.t.b
	if t == nil {
		err := awaitSpec(ctx, func(done func(*broker.TopicSpec, error)) {
			b.CreateTopic(tierTenant, f.Name, f.ID, f.Partitions(), rebuiltFor(f), done)
		})
		if err != nil {
			return nil, err
		}
		r.w.note("topics", "topic %s is made, with %d partitions, %s: set what it shall keep", f.Name, f.Partitions(), settingNames(rebuiltFor(f)))
		if t = b.Topic(tierTenant, f.Name); t == nil {
			return nil, broker.ErrUnknownTopic // somebody has deleted it since
		}
		return t, nil
	}
	if len(t.Partitions()) < f.Partitions() {
		err := awaitSpec(ctx, func(done func(*broker.TopicSpec, error)) { b.GrowTopic(t, f.Partitions(), true, done) })
		if err != nil {
			return nil, err
		}
	}
	var added []string
	err := awaitSpec(ctx, func(done func(*broker.TopicSpec, error)) {
		b.ConfigureTopic(t, func(have []broker.Setting) ([]broker.Setting, error) {
			have, added = slices.Clone(have), nil
			for _, s := range rebuiltFor(f) {
				if !slices.ContainsFunc(have, func(h broker.Setting) bool { return h.Key == s.Key }) {
					have = append(have, s)
					added = append(added, s.Key+"="+s.Value)
				}
			}
			slices.SortFunc(have, func(a, b broker.Setting) int { return strings.Compare(a.Key, b.Key) })
			return have, nil
		}, done)
	})
	if err != nil {
		return nil, err
	}
	if len(added) > 0 {
		r.w.note("topics", "topic %s was there and gets %s: set what it shall keep", f.Name, strings.Join(added, " and "))
	}
	return t, nil
}

// awaitSpec waits for a change of a topic.
func awaitSpec(ctx context.Context, start func(done func(*broker.TopicSpec, error))) error {
	return awaitDone(ctx, func(done func(error)) { start(func(_ *broker.TopicSpec, err error) { done(err) }) })
}

// awaitDone waits until start calls back, or ctx ends; what comes later is dropped.
func awaitDone(ctx context.Context, start func(done func(error))) error {
	ch := make(chan error, 1)
	start(func(err error) { ch <- err })
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// restore tells a topic's empty partitions where they begin and end.
func (r *rebuilding) restore(ctx context.Context, t *broker.Topic, f *rebuild.Topic) error {
	g := newBounded(rebuildAtOnce)
	for _, p := range f.Parts {
		if t.Partition(p.Index).HighWatermark() != 0 {
			continue // restored by a try before
		}
		err := g.do(ctx, func(done func(error)) {
			r.t.b.RestorePartition(t.Partition(p.Index), p.Start, p.End, abortedOf(p), done)
		})
		if err != nil {
			break
		}
	}
	if err := g.wait(ctx); err != nil {
		return fmt.Errorf("restore topic %s: %w", f.Name, err)
	}
	return nil
}

// abortedOf are a partition's aborted transactions. One whose marker was lost with the disk has records here all the same, which nobody may
// take for committed: it ends with the last of them all.
func abortedOf(p *rebuild.Partition) []broker.AbortedRange {
	out := make([]broker.AbortedRange, 0, len(p.Aborted))
	for _, a := range p.Aborted {
		if last := min(a.Last, p.End-1); a.First <= last {
			out = append(out, broker.AbortedRange{Producer: a.ProducerID, First: a.First, Last: last})
		}
	}
	return out
}

// objects tells the manifest of the objects.
func (r *rebuilding) objects(ctx context.Context) error {
	g := newBounded(rebuildAtOnce)
	shards := record.ShardID(r.t.b.Shards())
	changes := make(map[record.ShardID]*tierChanges)
	send := func(shard record.ShardID, c *tierChanges) error {
		list := c.list
		*c = tierChanges{}
		return g.do(ctx, func(done func(error)) { r.catalog.Change(shard, list, done) })
	}
	for i, f := range r.found.Objects {
		o := r.row(f)
		if o == nil {
			continue
		}
		if err := o.Check(); err != nil {
			r.wrong("object %s: %v", o.ID.Name(), err)
			continue
		}
		shard := o.ID.Shard % shards
		if known, ok := r.t.manifest.Object(o.ID); ok {
			shard = known.Shard
		}
		c := changes[shard]
		if c == nil {
			c = &tierChanges{}
			changes[shard] = c
		}
		c.add(o)
		r.out.Objects++
		if c.size >= rebuildChangeSize {
			if err := send(shard, c); err != nil {
				break // wait tells it
			}
		}
		r.w.say("catalog", "objects", int64(i+1), int64(len(r.found.Objects)))
	}
	for shard, c := range changes {
		if len(c.list) > 0 && send(shard, c) != nil {
			break
		}
	}
	if err := g.wait(ctx); err != nil {
		return fmt.Errorf("tell the catalog of objects: %w", err)
	}
	return nil
}

// tierChanges are rows of one shard that go together.
type tierChanges struct {
	list []offload.Change
	size int
}

func (c *tierChanges) add(o *history.Object) {
	row := offload.Change{Key: o.Key(), Value: o.Encode(nil)}
	c.list = append(c.list, row)
	c.size += len(row.Key) + len(row.Value) + 64
}

// row makes an object's row: what is known of it, and what is brought back. nil: there is nothing to tell.
func (r *rebuilding) row(f *history.Object) *history.Object {
	o := *f
	o.Runs = nil
	known, ok := r.t.manifest.Object(f.ID)
	has := make(map[int]bool)
	if ok {
		o.Created, o.Class, o.Runs = known.Created, known.Class, known.Runs
		for i := range known.Runs {
			has[known.Runs[i].Index] = true
		}
	}
	before := len(o.Runs)
	for _, run := range f.Runs {
		id := r.ids[run.Partition]
		if id == 0 || has[run.Index] {
			continue
		}
		if r.here(id, run.Last) {
			r.wrong("object %s is left alone from offset %d to %d of partition %d: the log has its own records there", f.ID.Name(), run.First, run.Last, id)
			continue
		}
		run.Partition = id
		o.Runs = append(o.Runs, run)
	}
	if len(o.Runs) == before {
		return nil
	}
	slices.SortFunc(o.Runs, func(a, b history.Run) int { return a.Index - b.Index })
	return &o
}

// here tells whether the log has records of its own up to an offset. They are this node's, and what a store has of them may be a copy's that went
// its own way: as soon as the manifest had that, the log would let go of them.
func (r *rebuilding) here(p record.PartitionID, last record.Offset) bool {
	return r.t.log.LocalSize(p) > 0 && last >= r.t.log.LocalStart(p)
}

// bounded starts things that call back, so many at a time. The first that fails ends it.
type bounded struct {
	places chan struct{}
	busy   sync.WaitGroup

	mu  sync.Mutex
	err error
}

func newBounded(n int) *bounded { return &bounded{places: make(chan struct{}, n)} }

// do starts one once there is a place. It answers what one before has failed with, or the context.
func (g *bounded) do(ctx context.Context, start func(done func(error))) error {
	select {
	case g.places <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := g.failed(); err != nil {
		<-g.places
		return err
	}
	g.busy.Add(1)
	start(func(err error) {
		if err != nil {
			g.mu.Lock()
			if g.err == nil {
				g.err = err
			}
			g.mu.Unlock()
		}
		<-g.places
		g.busy.Done()
	})
	return nil
}

func (g *bounded) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// wait waits for all that was started.
func (g *bounded) wait(ctx context.Context) error {
	return errors.Join(awaitDone(ctx, func(done func(error)) {
		go func() {
			g.busy.Wait()
			done(nil)
		}()
	}), g.failed())
}

func uuid(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
