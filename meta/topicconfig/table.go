package topicconfig

const (
	flushMillis      = "flush.ms"
	minCompactionLag = "min.compaction.lag.ms"
	maxCompactionLag = "max.compaction.lag.ms"

	longMax = "9223372036854775807"

	hour   = 60 * 60 * 1000
	minute = 60 * 1000

	localMillis  = "local.retention.ms"
	localBytes   = "local.retention.bytes"
	remoteEnable = "remote.storage.enable"
	tierPolicy   = "tier.policy"
	leaderSpread = "leader.spread"

	noTier     = "there is no remote tier: tier.store of the node's configuration is off"
	oneReplica = "there is nothing to replicate"
)

func same(names ...string) []Synonym {
	out := make([]Synonym, len(names))
	for i, n := range names {
		out[i] = Synonym{Name: n}
	}
	return out
}

// table is sorted by name. Defaults, types and bounds are those of Apache Kafka 4.3.
var table = []Key{
	{
		Name: "cleanup.policy", Type: List, Default: "delete", Synonyms: same("log.cleanup.policy"), check: someOf("compact", "delete"),
		set: func(c *Values, v value) {
			for _, p := range v.list {
				c.Compact, c.Delete = c.Compact || p == "compact", c.Delete || p == "delete"
			}
		},
		Doc: "What happens to old records: \"delete\" drops them by age and size, \"compact\" keeps the last one of each key; with both, " +
			"what was compacted is dropped by age and size as well. Empty keeps all records for good.",
	},
	{
		Name: "compression.gzip.level", Type: Int, Default: "-1", Synonyms: same("compression.gzip.level"), check: gzipLevel,
		set: func(c *Values, v value) { c.GzipLevel = int32(v.n) },
		Doc: "Level used where compression.type is gzip: 1 to 9, or -1 for the codec's own choice.",
	},
	{
		Name: "compression.lz4.level", Type: Int, Default: "9", Synonyms: same("compression.lz4.level"), check: between(1, 17),
		set: func(c *Values, v value) { c.LZ4Level = int32(v.n) },
		Doc: "Level used where compression.type is lz4.",
	},
	{
		Name: "compression.type", Type: String, Default: "producer", Synonyms: same("compression.type"),
		check: oneOf("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
		set:   func(c *Values, v value) { c.CompressionType = v.text },
		Doc: "What batches are stored with. \"producer\" stores them as they came; anything else decodes a batch that came otherwise " +
			"and compresses it anew.",
	},
	{
		Name: "compression.zstd.level", Type: Int, Default: "3", Synonyms: same("compression.zstd.level"), check: between(-131072, 22),
		set: func(c *Values, v value) { c.ZstdLevel = int32(v.n) },
		Doc: "Level used where compression.type is zstd.",
	},
	{
		Name: "delete.retention.ms", Type: Long, Default: "86400000", Synonyms: same("log.cleaner.delete.retention.ms"), check: atLeast(0),
		set: func(c *Values, v value) { c.DeleteRetentionMillis = v.n },
		Doc: "How long a compacted topic keeps the record that deletes a key: a reader that starts at the beginning must reach it within that time.",
	},
	{
		Name: "file.delete.delay.ms", Type: Long, Default: "60000", Synonyms: same("log.segment.delete.delay.ms"), check: atLeast(0),
		Use: DefaultOnly, Why: "no file belongs to one topic, space is given back as soon as nobody reads it",
		Doc: "Time between giving up a file and deleting it.",
	},
	{
		Name: "flush.messages", Type: Long, Default: longMax, Synonyms: same("log.flush.interval.messages"), check: atLeast(1), Use: Flush,
		set: func(c *Values, v value) { c.FlushMessages = v.n },
		Doc: "After how many records they are flushed to the disk at the latest. The journal flushes as journal.durability says.",
	},
	{
		Name: flushMillis, Type: Long, Default: longMax, Synonyms: same("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
		check: atLeast(0), Use: Flush,
		set: func(c *Values, v value) { c.FlushMillis = v.n },
		Doc: "After what time records are flushed to the disk at the latest. The journal flushes as journal.durability says.",
	},
	{
		Name: "follower.replication.throttled.replicas", Type: List, Default: "", Use: DefaultOnly, Why: oneReplica,
		Doc: "Replicas whose fetching from leaders is throttled.",
	},
	{
		Name: "index.interval.bytes", Type: Int, Default: "4096", Synonyms: same("log.index.interval.bytes"), check: atLeast(0),
		Use: DefaultOnly, Why: "the index has one grain for all topics",
		Doc: "How many bytes of records lie between two entries of the index.",
	},
	{
		Name: "leader.replication.throttled.replicas", Type: List, Default: "", Use: DefaultOnly, Why: oneReplica,
		Doc: "Replicas whose sending to followers is throttled.",
	},
	{
		Name: leaderSpread, Type: Boolean, Default: "false", Use: Spread,
		set: func(c *Values, v value) { c.LeaderSpread = v.b },
		Doc: "Whether the leaders of the partitions are spread over the nodes of a cluster, which has sets of shards for it. It is fixed when the topic is made. " +
			"No binding names such a topic, and no store holds its old records. Not a key of Kafka's.",
	},
	{
		Name: localBytes, Type: Long, Default: "-2", Synonyms: same("log.local.retention.bytes"), check: atLeast(-2), Use: Tier,
		set: func(c *Values, v value) { c.localBytes = v.n },
		Doc: "Bytes of a partition that stay on the local disk where older ones are in the store; -2 is retention.bytes.",
	},
	{
		Name: localMillis, Type: Long, Default: "-2", Synonyms: same("log.local.retention.ms"), check: atLeast(-2), Use: Tier,
		set: func(c *Values, v value) { c.localMillis = v.n },
		Doc: "Time for which records stay on the local disk where older ones are in the store; -2 is retention.ms. With tier.policy archive and " +
			"neither this nor local.retention.bytes set it is a day, or half of retention.ms where that is less.",
	},
	{
		Name: maxCompactionLag, Type: Long, Default: longMax, Synonyms: same("log.cleaner.max.compaction.lag.ms"), check: atLeast(1),
		set: func(c *Values, v value) { c.MaxCompactionLagMillis = v.n },
		Doc: "Age at which a record of a compacted topic is compacted at the latest.",
	},
	{
		Name: "max.message.bytes", Type: Int, Default: "1048588", Synonyms: same("message.max.bytes"), check: atLeast(0),
		set: func(c *Values, v value) { c.MaxMessageBytes = int32(v.n) },
		Doc: "Largest batch that is taken, as it is stored.",
	},
	{
		Name: "message.downconversion.enable", Type: Boolean, Default: "true", Synonyms: same("log.message.downconversion.enable"),
		Doc: "No effect, as in Kafka 4: batches are handed out as they are stored, never in an older format.",
	},
	{
		Name: "message.timestamp.after.max.ms", Type: Long, Default: "3600000", Synonyms: same("log.message.timestamp.after.max.ms"), check: atLeast(0),
		set: func(c *Values, v value) { c.TimestampAfterMaxMillis = v.n },
		Doc: "How far a record's time may lie after the broker's, where message.timestamp.type is CreateTime.",
	},
	{
		Name: "message.timestamp.before.max.ms", Type: Long, Default: longMax, Synonyms: same("log.message.timestamp.before.max.ms"), check: atLeast(0),
		set: func(c *Values, v value) { c.TimestampBeforeMaxMillis = v.n },
		Doc: "How far a record's time may lie before the broker's, where message.timestamp.type is CreateTime.",
	},
	{
		Name: "message.timestamp.type", Type: String, Default: "CreateTime", Synonyms: same("log.message.timestamp.type"),
		check: oneOf("CreateTime", "LogAppendTime"),
		set:   func(c *Values, v value) { c.LogAppendTime = v.text == "LogAppendTime" },
		Doc:   "Whose time a record carries: its producer's, or the broker's at the moment it was stored.",
	},
	{
		Name: "min.cleanable.dirty.ratio", Type: Double, Default: "0.5", Synonyms: same("log.cleaner.min.cleanable.ratio"), check: ratio,
		set: func(c *Values, v value) { c.MinCleanableDirtyRatio = v.f },
		Doc: "Share of a compacted partition that must be new since the last time before it is compacted again.",
	},
	{
		Name: minCompactionLag, Type: Long, Default: "0", Synonyms: same("log.cleaner.min.compaction.lag.ms"), check: atLeast(0),
		set: func(c *Values, v value) { c.MinCompactionLagMillis = v.n },
		Doc: "Age before which a record of a compacted topic stays, even if there is a newer one of its key.",
	},
	{
		Name: "min.insync.replicas", Type: Int, Default: "1", Synonyms: same("min.insync.replicas"), check: atLeast(1), Use: Kept,
		set: func(c *Values, v value) { c.MinInsyncReplicas = int32(v.n) },
		Doc: "Replicas that must have a record before it is acknowledged at acks=all. Kept for the cluster: a lone node counts as all of them.",
	},
	{
		Name: "preallocate", Type: Boolean, Default: "false", Synonyms: same("log.preallocate"), Use: DefaultOnly,
		Why: "segments of the journal are written ahead in any case",
		Doc: "Whether a topic's files are allocated ahead.",
	},
	{
		Name: "remote.log.copy.disable", Type: Boolean, Default: "false", Use: Tier,
		set: func(c *Values, v value) { c.copyDisabled = v.b },
		Doc: "Whether nothing more goes to the store, as with tier.policy none. What is there stays readable until retention takes it.",
	},
	{
		Name: "remote.log.delete.on.disable", Type: Boolean, Default: "false", Use: DefaultOnly,
		Why: "what is in the store stays readable until retention or DeleteRecords takes it",
		Doc: "Whether what is in the store is deleted when the topic leaves it.",
	},
	{
		Name: remoteEnable, Type: Boolean, Default: "false", Use: Tier,
		set: func(c *Values, v value) { c.remote = v.b },
		Doc: "Whether records go to the store: tier.policy immediate, unless that says otherwise. Turned off, " +
			"nothing more goes there, and what is there stays readable until retention takes it.",
	},
	{
		Name: "retention.bytes", Type: Long, Default: "-1", Synonyms: same("log.retention.bytes"),
		set: func(c *Values, v value) { c.RetentionBytes = max(v.n, -1) },
		Doc: "Bytes of each partition that the policy \"delete\" keeps; -1 is no bound.",
	},
	{
		Name: "retention.ms", Type: Long, Default: "604800000", check: atLeast(-1),
		Synonyms: []Synonym{{Name: "log.retention.ms"}, {"log.retention.minutes", minute}, {"log.retention.hours", hour}},
		set:      func(c *Values, v value) { c.RetentionMillis = v.n },
		Doc:      "Time for which the policy \"delete\" keeps records; -1 is no bound.",
	},
	{
		Name: "segment.bytes", Type: Int, Default: "1073741824", Synonyms: same("log.segment.bytes"), check: atLeast(1 << 20),
		set: func(c *Values, v value) { c.SegmentBytes = v.n },
		Doc: "How much of a partition, counted from its end, is too new to be compacted. No file has that size: all topics share one log.",
	},
	{
		Name: "segment.index.bytes", Type: Int, Default: "10485760", Synonyms: same("log.index.size.max.bytes"), check: atLeast(4),
		Use: DefaultOnly, Why: "the index is as large as the records need",
		Doc: "Largest size of a file of the index.",
	},
	{
		Name: "segment.jitter.ms", Type: Long, Default: "0", check: atLeast(0), Use: DefaultOnly, Why: "no file is closed by time",
		Synonyms: []Synonym{{Name: "log.roll.jitter.ms"}, {"log.roll.jitter.hours", hour}},
		Doc:      "Random part of segment.ms.",
	},
	{
		Name: "segment.ms", Type: Long, Default: "604800000", check: atLeast(1),
		Synonyms: []Synonym{{Name: "log.roll.ms"}, {"log.roll.hours", hour}},
		set:      func(c *Values, v value) { c.SegmentMillis = v.n },
		Doc:      "Age at which records of a compacted topic are no longer too new to be compacted, however few they are.",
	},
	{
		Name: "tier.class", Type: String, Default: "", check: class, Use: Tier,
		set: func(c *Values, v value) { c.TierClass = v.text },
		Doc: "Storage class of what goes to the store, by the store's own name; empty is the store's default. Not a key of Kafka's.",
	},
	{
		Name: tierPolicy, Type: String, Default: "", check: policy, Use: Tier,
		set: func(c *Values, v value) { c.policy = v.text },
		Doc: "When records go to the store: \"immediate\", as soon as they can, and they leave the disk when local.retention.ms or local.retention.bytes takes " +
			"them; \"archive\", only then, and they leave the disk at once; \"none\", never, and what is there stays readable until retention takes it. " +
			"Empty is as remote.storage.enable says. Not a key of Kafka's.",
	},
	{
		Name: "unclean.leader.election.enable", Type: Boolean, Default: "false", Synonyms: same("unclean.leader.election.enable"), Use: Kept,
		set: func(c *Values, v value) { c.UncleanLeaderElection = v.b },
		Doc: "Whether a replica that lacks acknowledged records may become the leader when no other is left. Kept for the cluster.",
	},
}
