package topicconfig

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
		if err := k.Check(k.Default, Flushes{Lazy: true}); err != nil {
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
		SegmentMillis: 604800000, FlushMessages: math.MaxInt64, FlushMillis: math.MaxInt64,
	}
	if d := cmp.Diff(want, Resolve(nil, nil)); d != "" {
		t.Error(d)
	}
}

func TestCheck(t *testing.T) {
	lazy := Flushes{Lazy: true, Within: 5 * time.Millisecond}
	for _, c := range []struct {
		key, value string
		flushes    Flushes
		want       string // part of the refusal; empty: none
	}{
		{"cleanup.policy", "compact", Flushes{}, ""},
		{"cleanup.policy", " compact , delete ", Flushes{}, ""},
		{"cleanup.policy", "", Flushes{}, ""},
		{"cleanup.policy", "compact,compact", Flushes{}, "duplicated"},
		{"cleanup.policy", "compact,", Flushes{}, "String must be one of: compact, delete"},
		{"cleanup.policy", "Compact", Flushes{}, "String must be one of"},
		{"retention.ms", "-1", Flushes{}, ""},
		{"retention.ms", "-2", Flushes{}, "Invalid value -2 for configuration retention.ms: Value must be at least -1"},
		{"retention.ms", "1d", Flushes{}, "Not a number of type LONG"},
		{"retention.ms", "9223372036854775808", Flushes{}, "Not a number of type LONG"},
		{"retention.bytes", "-17", Flushes{}, ""},
		{"max.message.bytes", "2147483648", Flushes{}, "Not a number of type INT"},
		{"max.message.bytes", "0", Flushes{}, ""},
		{"segment.bytes", "52428800", Flushes{}, ""},
		{"segment.bytes", "1048575", Flushes{}, "at least 1048576"},
		{"min.cleanable.dirty.ratio", "0.01", Flushes{}, ""},
		{"min.cleanable.dirty.ratio", "1.01", Flushes{}, "no more than 1"},
		{"min.cleanable.dirty.ratio", "-0.1", Flushes{}, "at least 0"},
		{"min.cleanable.dirty.ratio", "NaN", Flushes{}, "DOUBLE"},
		{"compression.type", "zstd", Flushes{}, ""},
		{"compression.type", "brotli", Flushes{}, "must be one of"},
		{"compression.gzip.level", "0", Flushes{}, "at least 1"},
		{"compression.gzip.level", "-1", Flushes{}, ""},
		{"compression.lz4.level", "18", Flushes{}, "no more than 17"},
		{"message.timestamp.type", "LogAppendTime", Flushes{}, ""},
		{"preallocate", "FALSE", Flushes{}, ""},
		{"preallocate", "true", Flushes{}, "only its default (false) is accepted"},
		{"preallocate", "perhaps", Flushes{}, "either true or false"},
		{"segment.jitter.ms", "0", Flushes{}, ""},
		{"segment.jitter.ms", "5", Flushes{}, "only its default"},
		{"remote.storage.enable", "true", Flushes{}, "no remote tier"},
		{"local.retention.ms", "-2", Flushes{}, ""},
		{"local.retention.ms", "1000", Flushes{}, "no remote tier"},
		{"leader.replication.throttled.replicas", "", Flushes{}, ""},
		{"leader.replication.throttled.replicas", "*", Flushes{}, "nothing to replicate"},
		{"index.interval.bytes", "1", Flushes{}, "only its default (4096)"},
		{"message.downconversion.enable", "false", Flushes{}, ""},
		{"min.insync.replicas", "2", Flushes{}, ""},
		{"unclean.leader.election.enable", "true", Flushes{}, ""},
		{"flush.messages", "1", Flushes{}, ""},
		{"flush.messages", "1", lazy, "journal.durability"},
		{"flush.ms", "5", lazy, ""},
		{"flush.ms", "4", lazy, "journal.durability"},
		{"flush.ms", "1000", Flushes{Lazy: true}, "journal.durability"},
		{"message.format.version", "3.0", Flushes{}, "Unknown topic config name: message.format.version"},
		{"", "", Flushes{}, "Unknown topic config name"},
	} {
		err := CheckTopic(Settings{{c.key, c.value}}, nil, c.flushes)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: %v, want %q", c.key, c.value, err, c.want)
		}
	}
	contrary := Settings{{maxCompactionLag, "10"}, {minCompactionLag, "11"}}
	if err := CheckTopic(contrary, nil, Flushes{}); err == nil || !strings.Contains(err.Error(), "conflict") {
		t.Error(err)
	}
	if err := CheckTopic(Settings{{minCompactionLag, "11"}}, Settings{{"log.cleaner.max.compaction.lag.ms", "10"}}, Flushes{}); err == nil {
		t.Error("no conflict with what is set broker-wide")
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
		err := CheckDefaults(Settings{{name, c.value}}, Flushes{})
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
		_ = CheckTopic(topic, defaults, Flushes{})
		_ = CheckDefaults(defaults, Flushes{Lazy: true})
	})
}
