package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
	"github.com/sluicemq/sluice/journal/tier/offload"
)

// tierOptions are what a node's tier is made of.
type tierOptions struct {
	store    string // off, or empty: there is none
	data     string // directory of the node
	forms    bool   // the node forms its cluster in this run
	settings map[string]string
	reader   history.ReaderOptions // bounds
	offload  offload.Options       // bounds and times
	// open gives the store in place of what store and settings name: tests have one in memory.
	open func(context.Context) (tier.Store, error)
}

func tierOptionsOf(cfg *config.Config) tierOptions {
	t := &cfg.Tier
	if t.Store == "off" || cfg.Journal.Durability == "memory" {
		return tierOptions{}
	}
	return tierOptions{store: t.Store, data: cfg.Node.Data, forms: cfg.Clustered() && len(cfg.Cluster.Peers) == 0 && !inCluster(cfg), settings: t.Settings.Values(),
		reader: history.ReaderOptions{CacheBytes: int64(t.Cache)}, offload: offload.Options{
			BytesPerSecond: int64(t.UploadRate), Memory: int64(t.Memory), ObjectBytes: int64(t.ObjectSize), MinObjectBytes: int64(t.MinObjectSize),
			MaxLag: t.MaxLag, Interval: t.Interval, OrphanGrace: t.OrphanGrace, DeleteDelay: t.DeleteDelay,
		}}
}

// tiering is a node's tier: the store, what of it is in the catalog, the way back and the way out. A nil one is that of a node without a store.
type tiering struct {
	store    *countedStore
	name     string // of the store, and of which copy of a node writes to it
	manifest *history.Manifest
	reader   *history.Reader
	log      *logStorage        // nil until start
	out      *offload.Offloader // nil until start
	stats    offload.Stats
	b        *broker.Broker
	logger   *slog.Logger
	job      chan struct{} // the one long job at a time
	renamed  bool          // the store has a name that the node has not written to, and its history
	behind   *past         // what storage reads history by
	lead     *tierLead     // nil: the node is alone, and out is its Offloader

	running sync.WaitGroup
	stop    context.CancelFunc
}

// openTiering makes it, nil without a store. The store is not asked yet: it may not be there.
func openTiering(o *tierOptions, b *broker.Broker, logger *slog.Logger) *tiering {
	if o.store == "" {
		return nil
	}
	t := &tiering{store: newCountedStore(o.store, o.settings), manifest: history.NewManifest(), b: b, logger: logger, job: make(chan struct{}, 1)}
	if o.open != nil {
		t.store.opener = o.open
	}
	t.name = t.store.name + copyName(o.data)
	t.reader = history.NewReader(t.manifest, t.store, o.reader)
	b.UseTier(t.manifest)
	return t
}

// copyName tells a data directory that came out of a backup from the node that the backup is of, and from others that came out of it: each gets
// epochs of its own, and removes no object but in those. "" where the directory is the node's first.
func copyName(data string) string {
	b, err := os.ReadFile(filepath.Join(data, restoredFile))
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s%x", copyMark, sha256.Sum256(b))[:copyNameMax]
}

// copyMark begins what copyName gives, copyNameMax is how many bytes that has at most.
const (
	copyMark    = " restored="
	copyNameMax = len(copyMark) + 32
)

// past is what storage reads history by.
func (t *tiering) past() *past {
	if t == nil {
		return nil
	}
	t.behind = newPast(t.manifest, t.reader)
	return t.behind
}

// recovered has log and core let go of what passes of compaction have replaced in the store. It comes before anybody reads.
func (t *tiering) recovered(s storage) {
	if t != nil {
		offload.Recovered(t.manifest, offloadLog{s.(*logStorage)}, tierCatalog{t.b, 0})
	}
}

// spoolFile is where a pass of compaction puts an object together, below the node's data.
const spoolFile = "tier.spool"

// spool opens that file, empty.
func spool(data string) func() (offload.Spool, error) {
	return func() (offload.Spool, error) {
		path := filepath.Join(data, spoolFile)
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, err
		}
		return &spooling{f, path}, nil
	}
}

// spooling is the file; it goes with Close.
type spooling struct {
	*os.File
	path string
}

// Close removes it.
func (s *spooling) Close() error { return errors.Join(s.File.Close(), os.Remove(s.path)) }

// start begins to offload, once all is recovered.
func (t *tiering) start(o tierOptions, s storage, clk clock.Clock) {
	if t == nil {
		return
	}
	t.log = s.(*logStorage)
	log := offloadLog{t.log}
	oo := o.offload
	oo.Store, oo.StoreName, oo.Manifest, oo.Stats, oo.Logger, oo.Clock = t.store, t.name, t.manifest, &t.stats, t.logger, clk
	oo.Log, oo.Pressed, oo.Catalog, oo.Spool = log, log.pressed, tierCatalog{t.b, 0}, spool(o.data)
	if t.lead != nil {
		t.startShared(oo)
		return
	}
	t.out = offload.New(oo)
	t.rename(0)
	ctx, stop := context.WithCancel(context.Background())
	t.stop = stop
	t.running.Go(func() { t.out.Run(ctx) })
}

// moved gives the epochs of objects that the node has written to a store of another name than this one's, if it has written none to this one.
func (t *tiering) moved() (epochs []history.Epoch) {
	for _, e := range t.manifest.Epochs() {
		if e.Store == t.name || strings.HasPrefix(e.Store, t.store.name) { // of the node that this one was restored from, too
			return nil
		}
		epochs = append(epochs, e)
	}
	return epochs
}

// probe is how long a store that was given another name may take to show that it is the same place.
const probe = 15 * time.Second

// checkPlace refuses a store that has not what the node's history says, where its name says that it is another one: readers would take all history for
// lost, and what went out from then on would lie apart from it. The same place by another name has it, and so has a copy.
func (t *tiering) checkPlace() error {
	if t == nil || len(t.moved()) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), probe)
	defer cancel()
	was := t.moved()[0].Store
	for o := range t.manifest.All() {
		info, err := t.store.Stat(ctx, o.ID.Name())
		switch {
		case errors.Is(err, tier.ErrNotFound), err == nil && info.Size != o.Size:
			return fmt.Errorf("tier.store is %q, and has not the history that this node has written to %q: name that again, or copy its objects here first; "+
				"to give that history up, delete its topics while the old store is named", t.store.name, was)
		case err != nil:
			return fmt.Errorf("tier.store is %q, and was %q: whether it has the node's history cannot be seen: %w", t.store.name, was, err)
		}
		t.renamed = true
		break // one tells
	}
	return nil
}

// rename keeps the new name of the store, so that objects which were written under the old one are still this node's to remove. Those of the node that
// this one was restored from are not; and no new object gets such an epoch, which the place may know from somebody else. A cluster takes over what the node
// that has formed it wrote while it was alone. In a cluster the leader of an epoch does it.
func (t *tiering) rename(epoch record.Epoch) {
	var list []history.Epoch
	if t.renamed {
		list = slices.DeleteFunc(t.moved(), func(e history.Epoch) bool { return markOf(e.Store) != markOf(t.name) })
	}
	if t.lead != nil && t.lead.forms {
		for _, e := range t.manifest.Epochs() {
			if e.Store == t.lead.lone {
				list = append(list, e)
			}
		}
	}
	var rows []broker.TierChange
	for _, e := range list {
		e.Adopted = true
		t.logger.Info("what was written to the store by another name is this node's", "epoch", e.Epoch, "was", e.Store, "store", t.name)
		e.Store = t.name
		rows = append(rows, broker.TierChange{Key: e.Key(), Value: e.Encode(nil)})
	}
	if len(rows) == 0 {
		return
	}
	t.b.ChangeTierIn(epoch, 0, rows, func(err error) {
		if err != nil {
			t.logger.Warn("the new name of the store is not kept; the next start tries again", "err", err)
		}
	})
}

// endWrites ends offloading. It comes before the core and the log close.
func (t *tiering) endWrites() {
	if t == nil {
		return
	}
	if t.stop != nil {
		t.stop()
	}
	if t.out != nil {
		t.out.Close()
	}
	t.running.Wait()
	if t.lead != nil && t.lead.idle != nil {
		t.lead.idle.Close()
	}
}

// close lets go of the store, once nobody reads.
func (t *tiering) close() error {
	if t == nil {
		return nil
	}
	t.reader.Close()
	return t.store.Close()
}

// checkTierRows refuses a node whose history lies in a store that its configuration does not name: readers would skip it without a word.
func checkTierRows(t *tiering, b *broker.Broker) error {
	if rows := b.TierRows(); t == nil && rows > 0 {
		return fmt.Errorf("the catalog has %d rows of history that lies in a store, and tier.store is off: name the store again; "+
			"to give that history up, delete its topics while the store is named", rows)
	}
	return nil
}

// tierCatalog is the core as offloading sees it.
type tierCatalog struct {
	b     *broker.Broker
	epoch record.Epoch // in which the node leads; 0: it is alone
}

var _ offload.Catalog = tierCatalog{}

// tierTenant is whose topics can have history in a store: objects are found by topics' names.
const tierTenant = 0

// Partitions goes through what topics have a policy.
func (c tierCatalog) Partitions(yield func(offload.Partition) bool) {
	c.b.Topics(tierTenant, func(t *broker.Topic) bool {
		spec := t.Spec()
		cfg := &spec.Config
		if cfg.Tier == broker.TierNone && !cfg.Compact || t.Dropped() {
			return true
		}
		keep := cfg.RetentionMillis
		if !cfg.Delete {
			keep = -1
		}
		for i, p := range t.Partitions() {
			if i >= len(spec.Partitions) {
				break // of a newer spec
			}
			op := offload.Partition{
				Topic:  object.Topic{ID: spec.ID, Name: spec.Name, Index: p.Index(), Partition: p.ID()},
				Tenant: record.TenantID(spec.Tenant), Shard: spec.Partitions[i].Shard, Policy: policyOf(cfg.Tier),
				LocalMillis: cfg.LocalRetentionMillis, LocalBytes: cfg.LocalRetentionBytes, RetentionMillis: keep,
				LogStart: p.LogStart(), LastStable: p.LastStable(), Class: cfg.TierClass,
				Cleaning: offload.Cleaning{Compact: cfg.Compact, DirtyShare: cfg.MinCleanableDirtyRatio, MinLagMillis: cfg.MinCompactionLagMillis,
					MaxLagMillis: cfg.MaxCompactionLagMillis, KeepDeletesMillis: cfg.DeleteRetentionMillis},
			}
			if !yield(op) {
				return false
			}
		}
		return true
	})
}

func policyOf(p broker.TierPolicy) offload.Policy {
	switch p {
	case broker.TierArchive:
		return offload.Archive
	case broker.TierImmediate:
		return offload.Immediate
	case broker.TierNone:
	}
	return offload.None
}

// Exists asks the table of partitions.
func (c tierCatalog) Exists(p record.PartitionID) bool { return c.b.HasPartition(p) }

// Aborted gives the aborted transactions of a part of a partition.
func (c tierCatalog) Aborted(id record.PartitionID, first, last record.Offset) []object.Aborted {
	p := c.b.PartitionByID(id)
	if p == nil {
		return nil
	}
	stable := p.LastStable()
	ranges := c.b.AbortedTransactions(p, first, last)
	out := make([]object.Aborted, len(ranges))
	for i, r := range ranges {
		out[i] = object.Aborted{ProducerID: r.Producer, First: r.First, Last: r.Last, LastStable: stable}
	}
	return out
}

// Forget has the core forget aborted transactions.
func (c tierCatalog) Forget(id record.PartitionID, below record.Offset) {
	if p := c.b.PartitionByID(id); p != nil {
		c.b.ForgetAborted(p, below)
	}
}

// Change makes a command of it.
func (c tierCatalog) Change(shard record.ShardID, changes []offload.Change, done func(error)) {
	list := make([]broker.TierChange, len(changes))
	for i := range changes {
		list[i] = broker.TierChange(changes[i])
	}
	c.b.ChangeTierIn(c.epoch, shard, list, done)
}

// tierLag is for how long the oldest of what is due has waited; 0 if nothing has.
func (t *tiering) lag(now time.Time) time.Duration {
	since := t.stats.WaitingSince.Load()
	if since == 0 {
		return 0
	}
	return max(now.Sub(time.UnixMilli(since)), 0)
}

// collectTier exports the tier's counters; without a store they are 0.
func (c *collector) collectTier(k sink) {
	t := c.s.node.tier
	if t == nil {
		t = emptyTiering
	}
	m, r := t.manifest.Stats(), history.ReaderStats{}
	if t.reader != nil {
		r = t.reader.Stats()
	}
	st := &t.stats
	k.gauge("sluice_tier_objects", float64(m.Objects))
	k.gauge("sluice_tier_partitions", float64(m.Partitions))
	k.gauge("sluice_tier_bytes", float64(m.LiveBytes))
	k.gauge("sluice_tier_stored_bytes", float64(m.Bytes))
	k.gauge("sluice_tier_dead_bytes", float64(m.DeadBytes))
	k.gauge("sluice_tier_lag_seconds", t.lag(time.Now()).Seconds())
	k.gauge("sluice_tier_waiting_bytes", float64(st.WaitingBytes.Load()))
	k.gauge("sluice_tier_missing_objects", float64(st.Missing.Load()))
	k.gauge("sluice_tier_foreign_objects", float64(st.Foreign.Load()))
	k.counter("sluice_tier_offloaded_bytes_total", uint64(st.Bytes.Load()))
	k.counter("sluice_tier_offloaded_objects_total", uint64(st.Objects.Load()))
	k.counter("sluice_tier_deleted_objects_total", uint64(st.Deleted.Load()))
	k.counter("sluice_tier_orphans_total", uint64(st.Orphans.Load()))
	k.counter("sluice_tier_compactions_total", uint64(st.Passes.Load()))
	k.counter("sluice_tier_compaction_read_bytes_total", uint64(st.CompactRead.Load()))
	k.counter("sluice_tier_compaction_written_bytes_total", uint64(st.CompactWritten.Load()))
	k.counter("sluice_tier_left_total", uint64(st.Left.Load()))
	k.counter("sluice_tier_failed_turns_total", uint64(st.Failed.Load()))
	k.counter("sluice_tier_retries_total", uint64(st.Retries.Load()), "offload")
	k.counter("sluice_tier_retries_total", uint64(r.Retries), "read")
	k.counter("sluice_tier_damaged_reads_total", uint64(r.Lost), "lost")
	k.counter("sluice_tier_damaged_reads_total", uint64(r.Corrupt), "corrupt")
	for op := range tier.Ops {
		k.counter("sluice_tier_requests_total", uint64(t.store.requests(op)), op.String(), op.Cost())
		k.counter("sluice_tier_calls_total", uint64(t.store.calls.Load(op)), op.String())
		k.seconds("sluice_tier_request_seconds_total", time.Duration(t.store.busy[op].Load()), op.String())
	}
	for kind, name := range storeKinds {
		k.counter("sluice_tier_errors_total", uint64(t.store.errors[kind].Load()), name)
	}
	k.counter("sluice_tier_sent_bytes_total", uint64(t.store.sent.Load()))
	k.counter("sluice_tier_received_bytes_total", uint64(t.store.received.Load()))
	hits, misses, bytes := int64(0), int64(0), int64(0)
	if r.Cache != nil {
		hits, misses, bytes = r.Cache.Hits.Load()+r.Cache.Joined.Load(), r.Cache.Misses.Load(), r.Cache.Bytes.Load()
	}
	k.counter("sluice_tier_cache_blocks_total", uint64(hits), "hit")
	k.counter("sluice_tier_cache_blocks_total", uint64(misses), "miss")
	k.gauge("sluice_tier_cache_bytes", float64(bytes+r.TailBytes))
}

// emptyTiering is what metrics show of a node without a store.
var emptyTiering = &tiering{store: newCountedStore("off", nil), manifest: history.NewManifest()}

// tierMetricHelp is metricHelp of the tier.
var tierMetricHelp = map[string]string{
	"sluice_tier_objects":                        "Objects of the manifest.",
	"sluice_tier_partitions":                     "Partitions with records in the store.",
	"sluice_tier_bytes":                          "Bytes of batches in the store that readers can reach.",
	"sluice_tier_stored_bytes":                   "Bytes of the manifest's objects, with what of them is dead.",
	"sluice_tier_dead_bytes":                     "Bytes of objects that nobody needs any more and that are about to be removed.",
	"sluice_tier_lag_seconds":                    "How long the oldest of what is due for the store has waited.",
	"sluice_tier_waiting_bytes":                  "Bytes due for the store, about.",
	"sluice_tier_foreign_objects":                "Objects of other nodes that no row of this one tells of, when the store was last searched: what sluice tier adopt is for, if they are gone.",
	"sluice_tier_missing_objects":                "Objects of the manifest that the last search of the store has not found.",
	"sluice_tier_offloaded_bytes_total":          "Bytes of batches stored.",
	"sluice_tier_offloaded_objects_total":        "Objects stored.",
	"sluice_tier_deleted_objects_total":          "Objects removed since nobody needed them.",
	"sluice_tier_orphans_total":                  "Objects removed that crashes had left.",
	"sluice_tier_compactions_total":              "Passes of compaction over what lies in the store of a partition.",
	"sluice_tier_compaction_read_bytes_total":    "Bytes of batches that passes have read; those whose keys they note twice.",
	"sluice_tier_compaction_written_bytes_total": "Bytes of batches that passes have put.",
	"sluice_tier_left_total":                     "Objects of other nodes that this one needed no more and has left in the store, since it was started.",
	"sluice_tier_failed_turns_total":             "Turns of offloading that have failed.",
	"sluice_tier_retries_total":                  "Requests that were tried again.|by",
	"sluice_tier_damaged_reads_total":            "Reads that found an object lost, or other bytes than were written.|reason",
	"sluice_tier_requests_total":                 "Requests that the store was sent, by the class by which stores ask for money: each part of an upload, its begin and its end, pages of lists, what was tried again.|op,cost",
	"sluice_tier_calls_total":                    "What was wanted of the store, each by one request or several: an upload in parts is one.|op",
	"sluice_tier_request_seconds_total":          "Time of calls until they were answered; of a read until its bytes begin.|op",
	"sluice_tier_errors_total":                   "Requests that have failed.|kind",
	"sluice_tier_sent_bytes_total":               "Bytes of objects stored.",
	"sluice_tier_received_bytes_total":           "Bytes read from the store.",
	"sluice_tier_cache_blocks_total":             "Blocks asked for, by whether the cache had them.|result",
	"sluice_tier_cache_bytes":                    "Bytes in the cache of blocks and of objects' tails.",
}
