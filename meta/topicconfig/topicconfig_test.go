package topicconfig

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestTable(t *testing.T) {
	if !slices.IsSortedFunc(table, func(a, b Key) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the table is not sorted")
	}
	for i := range table {
		k := &table[i]
		if Find(k.Name) != k {
			t.Errorf("%s: found twice", k.Name)
		}
		if err := k.Check(k.Default, Node{Lazy: true}); err != nil {
			t.Errorf("%s: default: %v", k.Name, err)
		}
		if (k.Use == DefaultOnly) != (k.Why != "") || (k.Use == DefaultOnly) == (k.set != nil) && k.Name != "message.downconversion.enable" {
			t.Errorf("%s: a key that takes its default only says why; any other is read", k.Name)
		}
		if !strings.HasSuffix(k.Doc, ".") || len(k.Doc) < 20 {
			t.Errorf("%s: text %q", k.Name, k.Doc)
		}
		for _, s := range k.Synonyms {
			if got, _ := FindSynonym(s.Name); got != k {
				t.Errorf("%s: synonym %s of two keys", k.Name, s.Name)
			}
		}
	}
}

// The defaults of Apache Kafka 4.3, and what becomes of them.
func TestDefaults(t *testing.T) {
	want := &Values{
		Delete: true, CompressionType: "producer", GzipLevel: -1, LZ4Level: 9, ZstdLevel: 3, MaxMessageBytes: 1048588, MinInsyncReplicas: 1,
		RetentionMillis: 604800000, RetentionBytes: -1, TimestampBeforeMaxMillis: math.MaxInt64, TimestampAfterMaxMillis: 3600000,
		MinCleanableDirtyRatio: 0.5, MaxCompactionLagMillis: math.MaxInt64, DeleteRetentionMillis: 86400000, SegmentBytes: 1 << 30,
		SegmentMillis: 604800000, FlushMessages: math.MaxInt64, FlushMillis: math.MaxInt64, LocalRetentionMillis: 604800000, LocalRetentionBytes: -1,
	}
	if d := cmp.Diff(want, Resolve(nil, nil), cmpopts.IgnoreUnexported(Values{})); d != "" {
		t.Error(d)
	}
}

func TestCheck(t *testing.T) {
	lazy := Node{Lazy: true, Within: 5 * time.Millisecond}
	for _, c := range []struct {
		key, value string
		node       Node
		want       string // part of the refusal; empty: none
	}{
		{"cleanup.policy", "compact", Node{}, ""},
		{"cleanup.policy", " compact , delete ", Node{}, ""},
		{"cleanup.policy", "", Node{}, ""},
		{"cleanup.policy", "compact,compact", Node{}, "duplicated"},
		{"cleanup.policy", "compact,", Node{}, "String must be one of: compact, delete"},
		{"cleanup.policy", "Compact", Node{}, "String must be one of"},
		{"retention.ms", "-1", Node{}, ""},
		{"retention.ms", "-2", Node{}, "Invalid value -2 for configuration retention.ms: Value must be at least -1"},
		{"retention.ms", "1d", Node{}, "Not a number of type LONG"},
		{"retention.ms", "9223372036854775808", Node{}, "Not a number of type LONG"},
		{"retention.bytes", "-17", Node{}, ""},
		{"max.message.bytes", "2147483648", Node{}, "Not a number of type INT"},
		{"max.message.bytes", "0", Node{}, ""},
		{"segment.bytes", "52428800", Node{}, ""},
		{"segment.bytes", "1048575", Node{}, "at least 1048576"},
		{"min.cleanable.dirty.ratio", "0.01", Node{}, ""},
		{"min.cleanable.dirty.ratio", "1.01", Node{}, "no more than 1"},
		{"min.cleanable.dirty.ratio", "-0.1", Node{}, "at least 0"},
		{"min.cleanable.dirty.ratio", "NaN", Node{}, "DOUBLE"},
		{"compression.type", "zstd", Node{}, ""},
		{"compression.type", "brotli", Node{}, "must be one of"},
		{"compression.gzip.level", "0", Node{}, "at least 1"},
		{"compression.gzip.level", "-1", Node{}, ""},
		{"compression.lz4.level", "18", Node{}, "no more than 17"},
		{"message.timestamp.type", "LogAppendTime", Node{}, ""},
		{"preallocate", "FALSE", Node{}, ""},
		{"preallocate", "true", Node{}, "only its default (false) is accepted"},
		{"preallocate", "perhaps", Node{}, "either true or false"},
		{"segment.jitter.ms", "0", Node{}, ""},
		{"segment.jitter.ms", "5", Node{}, "only its default"},
		{"remote.storage.enable", "true", Node{}, "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage."},
		{"remote.storage.enable", "true", Node{Tiered: true}, ""},
		{"remote.storage.enable", "perhaps", Node{}, "either true or false"},
		{"tier.policy", "none", Node{}, ""},
		{"tier.policy", "archive", Node{}, "Tiered Storage functionality is disabled in the broker."},
		{"tier.policy", "later", Node{}, "String must be one of: none, archive, immediate"},
		{"tier.policy", "archive", Node{Tiered: true}, ""},
		{"tier.class", "GLACIER_IR", Node{Tiered: true}, ""},
		{"remote.storage.enable", "true", Node{Tiered: true, Tenant: true}, "only topics of the default tenant"},
		{"remote.storage.enable", "false", Node{Tiered: true, Tenant: true}, ""},
		{"tier.policy", "immediate", Node{Tiered: true, Tenant: true}, "only topics of the default tenant"},
		{"tier.policy", "none", Node{Tiered: true, Tenant: true}, ""},
		{"tier.class", "GLACIER_IR", Node{Tiered: true, Tenant: true}, "only topics of the default tenant"},
		{"tier.class", "GLACIER_IR", Node{}, "no remote tier"},
		{"tier.class", "a b", Node{Tiered: true}, "1 to 64 letters"},
		{"remote.log.copy.disable", "true", Node{}, "no remote tier"},
		{"remote.log.copy.disable", "true", Node{Tiered: true}, ""},
		{"remote.log.delete.on.disable", "true", Node{Tiered: true}, "only its default (false) is accepted"},
		{"local.retention.ms", "1000", Node{Tiered: true}, ""},
		{"local.retention.ms", "-3", Node{Tiered: true}, "at least -2"},
		{"local.retention.ms", "-2", Node{}, ""},
		{"local.retention.ms", "1000", Node{}, "no remote tier"},
		{"leader.replication.throttled.replicas", "", Node{}, ""},
		{"leader.replication.throttled.replicas", "*", Node{}, "nothing to replicate"},
		{"index.interval.bytes", "1", Node{}, "only its default (4096)"},
		{"message.downconversion.enable", "false", Node{}, ""},
		{"min.insync.replicas", "2", Node{}, ""},
		{"unclean.leader.election.enable", "true", Node{}, ""},
		{"flush.messages", "1", Node{}, ""},
		{"flush.messages", "1", lazy, "journal.durability"},
		{"flush.ms", "5", lazy, ""},
		{"flush.ms", "4", lazy, "journal.durability"},
		{"flush.ms", "1000", Node{Lazy: true}, "journal.durability"},
		{"message.format.version", "3.0", Node{}, "Unknown topic config name: message.format.version"},
		{"", "", Node{}, "Unknown topic config name"},
	} {
		err := CheckTopic(Settings{{c.key, c.value}}, nil, c.node)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: %v, want %q", c.key, c.value, err, c.want)
		}
	}
	contrary := Settings{{maxCompactionLag, "10"}, {minCompactionLag, "11"}}
	if err := CheckTopic(contrary, nil, Node{}); err == nil || !strings.Contains(err.Error(), "conflict") {
		t.Error(err)
	}
	if err := CheckTopic(Settings{{minCompactionLag, "11"}}, Settings{{"log.cleaner.max.compaction.lag.ms", "10"}}, Node{}); err == nil {
		t.Error("no conflict with what is set broker-wide")
	}
}

// What a topic of a tier may be, in Kafka's words, and what comes of its settings.
func TestTier(t *testing.T) {
	const day = 24 * hour
	for _, c := range []struct {
		settings Settings
		want     string
		tier     TierPolicy
		ms, size int64
	}{
		{Settings{}, "", TierNone, 7 * day, -1},
		{Settings{{"remote.storage.enable", "true"}}, "", TierImmediate, 7 * day, -1},
		{Settings{{"remote.storage.enable", "true"}, {"tier.policy", "none"}}, "", TierNone, 7 * day, -1},
		{Settings{{"remote.storage.enable", "true"}, {"tier.policy", "archive"}}, "", TierArchive, day, -1},
		{Settings{{"remote.storage.enable", "true"}, {"remote.log.copy.disable", "true"}}, "", TierNone, 7 * day, -1},
		{Settings{{"retention.ms", "1000"}, {"tier.policy", "archive"}}, "", TierArchive, 500, -1},
		{Settings{{"retention.ms", "-1"}, {"tier.policy", "archive"}}, "", TierArchive, day, -1},
		{Settings{{"local.retention.bytes", "5"}, {"tier.policy", "archive"}}, "", TierArchive, 7 * day, 5},
		{Settings{{"local.retention.bytes", "5"}, {"local.retention.ms", "7"}, {"tier.policy", "immediate"}}, "", TierImmediate, 7, 5},
		{Settings{{"retention.bytes", "9"}, {"tier.policy", "immediate"}}, "", TierImmediate, 7 * day, 9},
		{Settings{{"cleanup.policy", ""}, {"tier.policy", "immediate"}}, "", TierImmediate, 7 * day, -1},
		{Settings{{"cleanup.policy", "compact"}, {"tier.policy", "immediate"}}, "", TierImmediate, 7 * day, -1},
		{Settings{{"cleanup.policy", "compact,delete"}, {"remote.storage.enable", "true"}}, "", TierImmediate, 7 * day, -1},
		{Settings{{"local.retention.ms", "-1"}, {"tier.policy", "immediate"}}, "Value must not be -1 as retention.ms value is set as 604800000.", 0, 0, 0},
		{Settings{{"local.retention.ms", "20"}, {"retention.ms", "10"}, {"tier.policy", "immediate"}}, "Value must not be more than retention.ms property value: 10", 0, 0, 0},
		{Settings{{"local.retention.bytes", "20"}, {"retention.bytes", "10"}, {"tier.policy", "immediate"}}, "Value must not be more than retention.bytes property value: 10", 0, 0, 0},
		{Settings{{"local.retention.bytes", "20"}, {"retention.bytes", "10"}}, "", TierNone, 7 * day, 20},
		{Settings{{"local.retention.ms", "20"}, {"remote.log.copy.disable", "true"}, {"remote.storage.enable", "true"}}, "must be set to the identical value", 0, 0, 0},
	} {
		err := CheckTopic(c.settings, nil, Node{Tiered: true})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.settings, err, c.want)
		}
		if v := Resolve(c.settings, nil); err == nil && (v.Tier != c.tier || v.LocalRetentionMillis != c.ms || v.LocalRetentionBytes != c.size) {
			t.Errorf("%v: %d, %d ms, %d bytes", c.settings, v.Tier, v.LocalRetentionMillis, v.LocalRetentionBytes)
		}
	}
}

// Leaders are spread where the node knows of no reason against it, for good, and not those of a topic that has old records in a store.
func TestLeaderSpread(t *testing.T) {
	spread, not := Settings{{leaderSpread, "true"}}, Settings{{leaderSpread, "false"}}
	can := Node{Tiered: true, Spreads: func() error { return nil }}
	refused := errors.New("there are no sets")
	cannot := Node{Tiered: true, Spreads: func() error { return refused }}
	for _, c := range []struct {
		s    Settings
		node Node
		want string // part of the refusal; empty: none
	}{
		{spread, can, ""},
		{spread, cannot, "Invalid value true for configuration leader.spread: there are no sets"},
		{spread, Node{}, "sluice shard sets"},
		{not, cannot, ""},
		{Settings{}, Node{}, ""},
		{spread.With(leaderSpread, "perhaps"), can, "either true or false"},
		{spread.With("cleanup.policy", "compact"), can, ""},
		{spread.With(tierPolicy, "none"), can, ""},
		{spread.With(remoteEnable, "false"), can, ""},
		{spread.With(tierPolicy, "archive"), can, "a topic with leader.spread has no old records in a store"},
		{spread.With(remoteEnable, "true"), can, "a topic with leader.spread"},
		{spread.With("tier.class", "COLD"), can, "a topic with leader.spread"},
		{spread.With(localBytes, "5"), can, "a topic with leader.spread"},
		{not.With(tierPolicy, "archive"), can, ""},
	} {
		err := CheckTopic(c.s, nil, c.node)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.s, err, c.want)
		}
	}
	if !Resolve(spread, nil).LeaderSpread || Resolve(not, nil).LeaderSpread {
		t.Error("leaders are spread where they are not to be, or the other way round")
	}
	for _, c := range []struct {
		before, s Settings
		want      string
	}{
		{spread, spread.With("retention.ms", "5"), ""},
		{spread, spread.With(leaderSpread, " TRUE "), ""},
		{Settings{}, not, ""},
		{not, Settings{}, ""},
		{spread, Settings{}, "Invalid value false for configuration leader.spread: it is fixed when a topic is made, and this topic is made with true"},
		{spread, not, "it is fixed"},
		{Settings{}, spread, "Invalid value true for configuration leader.spread: it is fixed when a topic is made, and this topic is made with false"},
		{Settings{}, Settings{{leaderSpread, "perhaps"}}, "either true or false"},
		{spread, spread.With(tierPolicy, "immediate"), "a topic with leader.spread"},
		{spread, spread.With("retention.ms", "-5"), "at least -1"},
	} {
		err := CheckChange(c.before, c.s, nil, cannot) // a topic that is there is spread, whatever the node could do today
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v after %v: %v, want %q", c.s, c.before, err, c.want)
		}
	}
}

func TestCheckDefaults(t *testing.T) {
	for name, c := range map[string]struct{ value, want string }{
		"log.retention.hours":   {"24", ""},
		"log.retention.minutes": {"x", "Not a number"},
		"log.retention.ms":      {"-5", "at least -1"},
		"log.preallocate":       {"true", "only its default"},
		"num.io.threads":        {"8", "Cannot update"},
		"retention.ms":          {"8", "Cannot update"},
	} {
		err := CheckDefaults(Settings{{name, c.value}}, Node{})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: %v, want %q", name, c.value, err, c.want)
		}
	}
}

func TestAlter(t *testing.T) {
	s := Settings{{"cleanup.policy", "compact"}, {"retention.ms", "1"}}
	for _, c := range []struct {
		changes []Change
		want    Settings
		err     string
	}{
		{[]Change{{Key: "retention.ms", Value: "2"}, {Key: "flush.ms", Value: "3"}}, Settings{{"cleanup.policy", "compact"}, {"flush.ms", "3"}, {"retention.ms", "2"}}, ""},
		{[]Change{{Key: "retention.ms", Op: Delete, Null: true}, {Key: "flush.ms", Op: Delete}}, Settings{{"cleanup.policy", "compact"}}, ""},
		{[]Change{{Key: "cleanup.policy", Op: Append, Value: "delete,compact"}}, Settings{{"cleanup.policy", "compact,delete"}, {"retention.ms", "1"}}, ""},
		{[]Change{{Key: "cleanup.policy", Op: Subtract, Value: "compact"}}, Settings{{"cleanup.policy", ""}, {"retention.ms", "1"}}, ""},
		{[]Change{{Key: "leader.replication.throttled.replicas", Op: Append, Value: "0:1"}}, s.With("leader.replication.throttled.replicas", "0:1"), ""},
		{[]Change{{Key: "retention.ms", Op: Append, Value: "2"}}, nil, "not LIST"},
		{[]Change{{Key: "nonsense", Op: Subtract, Value: "2"}}, nil, "not LIST"},
		{[]Change{{Key: "retention.ms", Null: true}}, nil, "Null value"},
		{[]Change{{Key: "retention.ms", Value: "1"}, {Key: "retention.ms", Op: Delete}}, nil, "duplicate"},
		{[]Change{{Key: "retention.ms", Op: 9, Value: "1"}}, nil, "Unknown operation"},
	} {
		before := slices.Clone(s)
		got, err := s.Alter(c.changes, Find)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%v: %v, want %q", c.changes, err, c.err)
		}
		if d := cmp.Diff(c.want, got); err == nil && d != "" {
			t.Errorf("%v: %s", c.changes, d)
		}
		if !slices.Equal(s, before) {
			t.Fatal("the old settings have changed")
		}
	}
}

func TestDescribe(t *testing.T) {
	list := Describe(Settings{{"retention.ms", "1000"}}, Settings{{"log.retention.hours", "2"}, {"log.retention.minutes", "3"}})
	if len(list) != len(table) {
		t.Fatal(len(list))
	}
	i := slices.IndexFunc(list, func(e Entry) bool { return e.Name == "retention.ms" })
	want := []Other{{"retention.ms", "1000", SourceTopic}, {"log.retention.minutes", "3", SourceDefaults}, {"log.retention.hours", "2", SourceDefaults},
		{"log.retention.ms", "604800000", SourceDefault}}
	if e := list[i]; e.Value != "1000" || e.Source != SourceTopic || !slices.Equal(e.Others, want) {
		t.Errorf("%+v", e)
	}
	e := Describe(nil, Settings{{"log.retention.hours", "2"}})[i]
	if e.Value != "7200000" || e.Source != SourceDefaults {
		t.Errorf("%+v", e)
	}
	if c := Resolve(nil, Settings{{"log.retention.minutes", "-1"}}); c.RetentionMillis != -1 {
		t.Error(c.RetentionMillis)
	}
}

// Whatever was stored, by whatever version: there is a configuration in force.
func FuzzResolve(f *testing.F) {
	f.Add("cleanup.policy", "compact,delete", "log.retention.hours", "5")
	f.Add("nonsense", "", "retention.ms", "x")
	f.Fuzz(func(t *testing.T, key, value, key2, value2 string) {
		topic, defaults := Settings{}.With(key, value), Settings{}.With(key2, value2)
		c := Resolve(topic, defaults)
		if c.CompressionType == "" || c.SegmentBytes < 1<<20 || c.RetentionMillis < -1 || c.RetentionBytes < -1 {
			t.Errorf("%+v", c)
		}
		Describe(topic, defaults)
		_ = CheckTopic(topic, defaults, Node{})
		_ = CheckDefaults(defaults, Node{Lazy: true})
	})
}
