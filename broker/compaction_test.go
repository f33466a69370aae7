package broker

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
)

// compactLog is a memLog whose compaction only remembers what it was asked for.
type compactLog struct {
	*memLog
	dirt    Dirt
	asked   []CompactRequest
	ended   []record.Offset
	rotated int
}

func (c *compactLog) Dirt(record.PartitionID) Dirt { return c.dirt }

func (c *compactLog) Compact(r CompactRequest) (CompactResult, error) {
	c.asked = append(c.asked, r)
	return CompactResult{Ended: c.ended}, nil
}

func (c *compactLog) Rotate() { c.rotated++ }

// Compaction begins when enough is new, or for too long, and not before what is new is old enough.
func TestCompactionDue(t *testing.T) {
	gb := newGroupBench(t)
	log := &compactLog{memLog: gb.log}
	gb.b.UseLog(log)
	now := gb.clock.Now().UnixMilli()
	base := TopicConfig{Compact: true, MinCleanableDirtyRatio: 0.5, MaxCompactionLagMillis: math.MaxInt64, SegmentMillis: 1000, SegmentBytes: 1000, DeleteRetentionMillis: 77}
	for _, c := range []struct {
		name            string
		change          func(*TopicConfig)
		dirt            Dirt
		passes, rotated int
	}{
		{"half is new", func(*TopicConfig) {}, Dirt{Clean: 10, Dirty: 10, Since: now}, 1, 0},
		{"less is", func(*TopicConfig) {}, Dirt{Clean: 11, Dirty: 10, Since: now}, 0, 0},
		{"less, for too long", func(c *TopicConfig) { c.MaxCompactionLagMillis = 5 }, Dirt{Clean: 11, Dirty: 10, Since: now - 6}, 1, 0},
		{"too young", func(c *TopicConfig) { c.MinCompactionLagMillis = 5 }, Dirt{Dirty: 10, Since: now - 4}, 0, 0},
		{"old enough", func(c *TopicConfig) { c.MinCompactionLagMillis = 5 }, Dirt{Dirty: 10, Since: now - 5}, 1, 0},
		{"not to be compacted", func(c *TopicConfig) { c.Compact = false }, Dirt{Dirty: 10, Waiting: 1e6, Since: 0}, 0, 0},
		{"nothing", func(*TopicConfig) {}, Dirt{Clean: 10, Since: math.MaxInt64}, 0, 0},
		{"waits", func(*TopicConfig) {}, Dirt{Waiting: 10, Since: now - 1000}, 0, 0},
		{"waits for long", func(*TopicConfig) {}, Dirt{Waiting: 10, Since: now - 1001}, 0, 1},
		{"much waits", func(*TopicConfig) {}, Dirt{Clean: 100, Dirty: 1, Waiting: 1000, Since: now}, 0, 1},
	} {
		log.asked, log.rotated, log.dirt = nil, 0, c.dirt
		p := gb.configured(func(s *TopicSpec) {
			s.Config = base
			c.change(&s.Config)
		})
		gb.b.Local(0).considerCompaction(p, now)
		for gb.b.compaction.busy() {
			runtime.Gosched()
		}
		if len(log.asked) != c.passes || log.rotated != c.rotated {
			t.Errorf("%s: %d passes, %d rotations", c.name, len(log.asked), log.rotated)
		}
		if c.name == "old enough" && (log.asked[0].Young != now-4 || log.asked[0].KeepDeletes != 77 || log.asked[0].Now != now) {
			t.Errorf("%s: asked %+v", c.name, log.asked[0])
		}
	}
}

// A pass is told of aborted transactions, and those of which it leaves nothing are forgotten, in the checkpoint too.
func TestCompactionForgetsAborted(t *testing.T) {
	gb := newGroupBench(t)
	log := &compactLog{memLog: gb.log, ended: []record.Offset{1, 5}}
	gb.b.UseLog(log)
	p := gb.configured(func(s *TopicSpec) { s.Config.Compact = true })
	a := gb.appender(0)
	points := &memCheckpoints{}
	for i := range int16(4) {
		p.announceTxn(7, i)
		if err := a.txn(p, 7, i, 0, "v"); err != nil {
			t.Fatal(err)
		}
		gb.marker(t, p, 7, i+1, false)
		if i == 1 {
			if err := gb.b.Checkpoint(points); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := gb.b.compact(p); err != nil {
		t.Fatal(err)
	}
	if r := log.asked[0]; r.End != 8 || r.Young != math.MaxInt64 || len(r.Aborted) != 4 || r.Aborted[2] != (AbortedRange{7, 4, 5}) {
		t.Errorf("asked %+v", r)
	}
	if err := gb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	var rows []byte
	for key := range points.flushed[p.shard.id].rows {
		if key[0] == rowAborted {
			rows = append(rows, key[len(key)-1])
		}
	}
	if slices.Sort(rows); len(p.mu.aborted) != 2 || !slices.Equal(rows, []byte{3, 7}) {
		t.Errorf("left are %+v, rows of %v", p.mu.aborted, rows)
	}
}

// What a topic stores differs from what came: compressed as the topic says, and looked into where keys count.
func TestConform(t *testing.T) {
	gb := newGroupBench(t)
	a := gb.appender(0)
	plain := batchOf(record.BatchOptions{}, "a", "b")
	packed := func(c record.Codec) record.Batch {
		return compress.AppendBatch(nil, compress.Settings{Codec: c}, plain)
	}
	var b record.BatchBuilder
	b.Begin(nil, 1000)
	b.Append(&record.Input{Value: []byte("v"), Timestamp: 1000})
	keyless := compress.AppendBatch(nil, compress.Settings{Codec: record.Gzip}, b.Finish(&record.BatchOptions{}))
	dense := compress.AppendBatch(nil, compress.Settings{Codec: record.Gzip}, batchOf(record.BatchOptions{}, strings.Repeat("x", 1000)))
	torn := slices.Clone(packed(record.Zstd))
	torn = record.Reseal(torn[:len(torn)-3], record.Zstd)
	next := record.Offset(0)
	for _, c := range []struct {
		name   string
		change func(*TopicConfig)
		batch  record.Batch
		want   record.Codec
		err    error
	}{
		{"as it came", func(*TopicConfig) {}, packed(record.LZ4), record.LZ4, nil},
		{"the same codec", func(c *TopicConfig) { c.Recompress, c.Compress.Codec = true, record.LZ4 }, packed(record.LZ4), record.LZ4, nil},
		{"another codec", func(c *TopicConfig) { c.Recompress, c.Compress.Codec = true, record.Zstd }, packed(record.LZ4), record.Zstd, nil},
		{"not compressed", func(c *TopicConfig) { c.Recompress, c.Compress.Codec = true, record.Gzip }, plain, record.Gzip, nil},
		{"to be uncompressed", func(c *TopicConfig) { c.Recompress = true }, packed(record.Snappy), record.Uncompressed, nil},
		{"torn", func(c *TopicConfig) { c.Recompress = true }, torn, 0, ErrCorruptBatch},
		{"too large", func(c *TopicConfig) { c.Recompress, c.MaxMessageBytes = true, 900 }, dense, 0, ErrMessageTooLarge},
		{"keys", func(c *TopicConfig) { c.Compact = true }, packed(record.Gzip), record.Gzip, nil},
		{"no keys", func(c *TopicConfig) { c.Compact = true }, keyless, 0, ErrInvalidRecord},
	} {
		p := gb.configured(func(s *TopicSpec) { c.change(&s.Config) })
		err := a.append(p, c.batch, 1)
		gb.pump()
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.err != nil || err != nil {
			continue
		}
		var f StreamFetch
		gb.b.Local(0).FetchTail(p, next, 1, false, &f)
		got := record.Batch(f.Batches[0])
		if opened, err := compress.OpenBatch(nil, got, 1<<20); err != nil || record.Batch(opened).Verify() != nil || record.Batch(opened).Count() != 2 {
			t.Errorf("%s: %v", c.name, err)
		}
		if got.Attributes().Codec() != c.want || got.Verify() != nil || got.BaseOffset() != next {
			t.Errorf("%s: codec %v, %v, at %d", c.name, got.Attributes().Codec(), got.Verify(), got.BaseOffset())
		}
		next += 2
	}
}
