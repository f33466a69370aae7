package topicconfig

// Values are a topic's configuration in force: what is set for it, else broker-wide, else by default. Immutable once made.
type Values struct {
	Compact, Delete          bool
	LogAppendTime            bool
	UncleanLeaderElection    bool
	LeaderSpread             bool   // the partitions' leaders are on several nodes
	CompressionType          string // "producer", or what batches are stored with
	GzipLevel                int32  // -1: the codec's own
	LZ4Level, ZstdLevel      int32
	MaxMessageBytes          int32
	MinInsyncReplicas        int32
	RetentionMillis          int64 // -1: no bound
	RetentionBytes           int64 // of one partition; -1: no bound
	TimestampBeforeMaxMillis int64
	TimestampAfterMaxMillis  int64
	MinCleanableDirtyRatio   float64
	MinCompactionLagMillis   int64
	MaxCompactionLagMillis   int64
	DeleteRetentionMillis    int64
	SegmentBytes             int64
	SegmentMillis            int64
	FlushMessages            int64
	FlushMillis              int64
	Tier                     TierPolicy
	TierClass                string // empty: the store's own
	LocalRetentionMillis     int64  // what a topic of the tier keeps here; -1: all that it keeps
	LocalRetentionBytes      int64  // of one partition; the same

	remote, copyDisabled    bool
	policy                  string
	localMillis, localBytes int64 // as they were set
}

// TierPolicy says when records go to a store.
type TierPolicy uint8

// The policies.
const (
	TierNone TierPolicy = iota
	TierArchive
	TierImmediate
)

// asWhole is a local retention that says: as retention.ms and retention.bytes do.
const asWhole = -2

// archiveMillis is after what time a topic is archived that says nothing of it: a day, or half of its retention where that is less.
const archiveMillis = 24 * hour

// settleTier makes the tier's values of what is set.
func (c *Values) settleTier() {
	switch {
	case c.copyDisabled || c.policy == "none":
	case c.policy == "archive":
		c.Tier = TierArchive
	case c.policy == "immediate" || c.remote:
		c.Tier = TierImmediate
	}
	if c.LocalRetentionMillis = c.localMillis; c.localMillis == asWhole {
		if c.LocalRetentionMillis = c.RetentionMillis; c.Tier == TierArchive && c.localBytes == asWhole {
			c.LocalRetentionMillis = archiveMillis
			if c.RetentionMillis >= 0 {
				c.LocalRetentionMillis = min(archiveMillis, c.RetentionMillis/2)
			}
		}
	}
	if c.LocalRetentionBytes = c.localBytes; c.localBytes == asWhole {
		c.LocalRetentionBytes = c.RetentionBytes
	}
}

// Source says where a value in force comes from. The numbers are those of Kafka's DescribeConfigs.
type Source int8

// The sources that there are here.
const (
	SourceTopic    Source = 1 // set for the topic
	SourceDefaults Source = 3 // set broker-wide
	SourceDefault  Source = 5 // Kafka's own default
)

// Resolve gives the values in force. It never fails: a key or value that this version does not know, because another one stored it,
// counts as not set.
func Resolve(topic, defaults Settings) *Values {
	c := new(Values)
	for i := range table {
		k := &table[i]
		if k.set == nil {
			continue
		}
		text, _, _ := k.inForce(topic, defaults)
		v, err := k.parse(text)
		if err != nil {
			v, _ = k.parse(k.Default)
		}
		k.set(c, v)
	}
	c.settleTier()
	return c
}

// inForce gives the text that holds, where it comes from and under which name it was set there.
func (k *Key) inForce(topic, defaults Settings) (text string, from Source, name string) {
	if text, ok := topic.Get(k.Name); ok {
		return text, SourceTopic, k.Name
	}
	for _, s := range k.Synonyms {
		text, ok := defaults.Get(s.Name)
		if !ok {
			continue
		}
		if text, err := s.convert(text); err == nil {
			return text, SourceDefaults, s.Name
		}
	}
	return k.Default, SourceDefault, k.defaultName()
}

// defaultName is the name under which Kafka shows a default.
func (k *Key) defaultName() string {
	if len(k.Synonyms) == 0 {
		return k.Name
	}
	return k.Synonyms[0].Name
}

// Entry is one key as DescribeConfigs shows it.
type Entry struct {
	*Key
	Value  string
	Source Source
	Others []Other // all that is set or stands by default, the one in force first
}

// Other is one of the values that a key could have.
type Other struct {
	Name, Value string
	Source      Source
}

// Describe lists all keys of a topic in order of their names.
func Describe(topic, defaults Settings) []Entry {
	out := make([]Entry, len(table))
	for i := range table {
		k := &table[i]
		e := Entry{Key: k}
		if text, ok := topic.Get(k.Name); ok {
			e.Others = append(e.Others, Other{k.Name, text, SourceTopic})
		}
		for _, s := range k.Synonyms {
			if text, ok := defaults.Get(s.Name); ok {
				e.Others = append(e.Others, Other{s.Name, text, SourceDefaults})
			}
		}
		e.Others = append(e.Others, Other{k.defaultName(), k.Default, SourceDefault})
		e.Value, e.Source, _ = k.inForce(topic, defaults)
		out[i] = e
	}
	return out
}
