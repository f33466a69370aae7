package server

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/meta/topicconfig"
	"github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// topicCatalog is what Kafka's clients see of topics and their configuration: the core keeps them, meta/topicconfig knows the keys.
type topicCatalog struct {
	b       *broker.Broker
	cluster string
	flushes topicconfig.Node // how often the log is flushed
	nodes   kafka.Cluster    // nil: the node is alone
	entries *meta.Catalog
	binder  atomic.Pointer[binder]    // nil: it is not made yet
	events  atomic.Pointer[eventPump] // likewise
}

var _ kafka.Catalog = (*topicCatalog)(nil)

// partitionsMax bounds the partitions of one topic.
const partitionsMax = 10_000

// resolveTopic makes the core's configuration of a topic of what its user has set.
func resolveTopic(settings []broker.Setting) broker.TopicConfig {
	v := topicconfig.Resolve(settingsOf(settings), nil)
	return broker.TopicConfig{Compact: v.Compact, Delete: v.Delete, RetentionMillis: v.RetentionMillis, RetentionBytes: v.RetentionBytes,
		MaxMessageBytes: v.MaxMessageBytes, LogAppendTime: v.LogAppendTime, TimestampBeforeMaxMillis: v.TimestampBeforeMaxMillis,
		TimestampAfterMaxMillis: v.TimestampAfterMaxMillis, Recompress: v.CompressionType != "producer", Compress: compressionOf(v), MinCleanableDirtyRatio: v.MinCleanableDirtyRatio,
		MinCompactionLagMillis: v.MinCompactionLagMillis, MaxCompactionLagMillis: v.MaxCompactionLagMillis,
		DeleteRetentionMillis: v.DeleteRetentionMillis, SegmentBytes: v.SegmentBytes, SegmentMillis: v.SegmentMillis,
		MinInsyncReplicas: v.MinInsyncReplicas, UncleanLeaderElection: v.UncleanLeaderElection, ReplicationFactor: 1, Spread: v.LeaderSpread,
		Tier: tierPolicies[v.Tier], LocalRetentionMillis: v.LocalRetentionMillis, LocalRetentionBytes: v.LocalRetentionBytes, TierClass: v.TierClass}
}

var tierPolicies = map[topicconfig.TierPolicy]broker.TierPolicy{topicconfig.TierNone: broker.TierNone, topicconfig.TierArchive: broker.TierArchive,
	topicconfig.TierImmediate: broker.TierImmediate}

func settingsOf(list []broker.Setting) (s topicconfig.Settings) {
	for _, e := range list {
		s = s.With(e.Key, e.Value)
	}
	return s
}

func storedSettings(s topicconfig.Settings) (list []broker.Setting) {
	for _, e := range s {
		list = append(list, broker.Setting{Key: e.Key, Value: e.Value})
	}
	return list
}

// clusterFile is where the cluster's name is kept.
const clusterFile = "CLUSTER"

// clusterID reads the cluster's name, 22 characters as Kafka's, and makes one at the first start.
func clusterID(cfg *config.Config) (string, error) {
	fresh, err := freshClusterID()
	if err != nil {
		return "", err
	}
	if cfg.Journal.Durability == "memory" {
		return fresh, nil
	}
	path := filepath.Join(cfg.Node.Data, clusterFile)
	have, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return fresh, writeFileSynced(path, fresh+"\n")
	}
	return strings.TrimSpace(string(have)), err
}

func freshClusterID() (string, error) {
	var id [16]byte
	_, err := rand.Read(id[:])
	return base64.RawURLEncoding.EncodeToString(id[:]), err
}

// ClusterID names the cluster.
func (c *topicCatalog) ClusterID() string { return c.cluster }

// CreateTopics creates topics.
func (c *topicCatalog) CreateTopics(tenant uint32, topics []kafka.TopicCreation, validateOnly bool, done func([]kafka.TopicResult)) {
	each(len(topics), done, func(i int, tell func(kafka.TopicResult)) {
		t := &topics[i]
		settings, replicas, res := c.checkCreation(tenant, t)
		if res.Code != wire.None || validateOnly {
			if res.Code == wire.None {
				res.Topic = &broker.TopicSpec{Tenant: tenant, Name: t.Name, Settings: storedSettings(settings), Replicas: uint8(replicas),
					Partitions: make([]broker.PartitionSpec, t.Partitions)}
			}
			tell(res)
			return
		}
		var id broker.TopicID
		_, _ = rand.Read(id[:]) // it never fails
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
		c.b.CreateReplicated(tenant, t.Name, id, int(t.Partitions), replicas, storedSettings(settings), func(spec *broker.TopicSpec, err error) {
			tell(topicResult(spec, err))
		})
	})
}

// checkCreation fills in what the client has left to the node, and says what is wrong.
func (c *topicCatalog) checkCreation(tenant uint32, t *kafka.TopicCreation) (settings topicconfig.Settings, replicas int, res kafka.TopicResult) {
	refuse := func(code wire.ErrorCode, why string) (topicconfig.Settings, int, kafka.TopicResult) {
		return nil, 0, kafka.TopicResult{Code: code, Message: why}
	}
	if t.Partitions < 0 {
		t.Partitions = 1
	}
	switch {
	case c.b.Topic(tenant, t.Name) != nil:
		return refuse(wire.TopicAlreadyExists, "topic '"+t.Name+"' already exists")
	case int(t.ReplicationFactor) > c.replicationMax():
		return refuse(wire.InvalidReplicationFactor, fmt.Sprintf("the replication factor is larger than the number of nodes, %d", c.replicationMax()))
	case !kafka.ValidTopicName(t.Name):
		return refuse(wire.InvalidTopicException, "no topic has this name")
	case t.Partitions == 0:
		return refuse(wire.InvalidPartitions, "a topic has at least one partition")
	case t.Partitions > partitionsMax:
		return refuse(wire.InvalidPartitions, "a topic has at most 10000 partitions")
	}
	for _, e := range t.Configs {
		if e.Value == nil {
			return refuse(wire.InvalidConfig, "Null value not supported for topic configs: "+e.Key)
		}
		settings = settings.With(e.Key, *e.Value)
	}
	if err := topicconfig.CheckTopic(settings, nil, c.able(tenant, t.Name)); err != nil {
		return refuse(wire.InvalidConfig, err.Error())
	}
	settings, replicas, err := c.replicated(tenant, t.Name, settings, int(t.ReplicationFactor))
	if err != nil {
		return refuse(wire.InvalidReplicationFactor, err.Error())
	}
	return settings, replicas, res
}

// replicationMax is the largest replication factor that is taken.
func (c *topicCatalog) replicationMax() int {
	if c.nodes == nil {
		return 1
	}
	return len(c.nodes.View().Nodes)
}

// compressionOf is what batches are compressed with where compression.type says so.
func compressionOf(v *topicconfig.Values) compress.Settings {
	switch v.CompressionType {
	case "gzip":
		return compress.Settings{Codec: record.Gzip, Level: int(max(v.GzipLevel, 0))}
	case "lz4":
		return compress.Settings{Codec: record.LZ4, Level: int(v.LZ4Level)}
	case "zstd":
		return compress.Settings{Codec: record.Zstd, Level: int(v.ZstdLevel)}
	case "snappy":
		return compress.Settings{Codec: record.Snappy}
	}
	return compress.Settings{}
}

// able says what of its settings the node can do for a tenant's topic.
func (c *topicCatalog) able(tenant uint32, name string) topicconfig.Node {
	n := c.flushes
	n.Tiered, n.Tenant = c.b.Tiered(), tenant != 0
	n.Spreads = func() error { return c.spreads(tenant, name) }
	return n
}

// topicResult says what came of a change.
func topicResult(spec *broker.TopicSpec, err error) kafka.TopicResult {
	code, why := wire.None, ""
	switch {
	case err == nil:
	case errors.Is(err, broker.ErrTopicExists):
		code = wire.TopicAlreadyExists
	case errors.Is(err, broker.ErrUnknownTopic):
		code = wire.UnknownTopicOrPartition
	case errors.Is(err, broker.ErrConcurrent):
		code = wire.RequestTimedOut // clients come again
	case errors.Is(err, broker.ErrReplicas):
		code = wire.InvalidReplicationFactor
	case errors.Is(err, broker.ErrFewer):
		code = wire.InvalidPartitions
	case errors.Is(err, broker.ErrVolatileOnly), errors.Is(err, broker.ErrBound), errors.Is(err, broker.ErrTenantTopics):
		code = wire.PolicyViolation
	case errors.Is(err, broker.ErrUnavailable):
		code = wire.KafkaStorageError
	case errors.Is(err, broker.ErrNotLeader):
		code = wire.NotController
	default:
		code = wire.InvalidConfig
	}
	if err != nil {
		why = err.Error()
	}
	return kafka.TopicResult{Code: code, Message: why, Topic: spec}
}

// each asks n questions and calls done when all have been answered.
func each(n int, done func([]kafka.TopicResult), ask func(i int, tell func(kafka.TopicResult))) {
	results := make([]kafka.TopicResult, n)
	if n == 0 {
		done(results)
		return
	}
	var left atomic.Int64
	left.Store(int64(n))
	for i := range n {
		ask(i, func(r kafka.TopicResult) {
			results[i] = r
			if left.Add(-1) == 0 {
				done(results)
			}
		})
	}
}

// DeleteTopics deletes topics.
func (c *topicCatalog) DeleteTopics(tenant uint32, ids []broker.TopicID, done func([]kafka.TopicResult)) {
	each(len(ids), done, func(i int, tell func(kafka.TopicResult)) {
		t := c.b.TopicByID(tenant, ids[i])
		if t == nil {
			tell(topicResult(nil, broker.ErrUnknownTopic))
			return
		}
		c.b.DeleteTopic(t, func(err error) { tell(topicResult(nil, err)) })
	})
}

// CreatePartitions raises numbers of partitions.
func (c *topicCatalog) CreatePartitions(tenant uint32, topics []kafka.TopicCreation, validateOnly bool, done func([]kafka.TopicResult)) {
	each(len(topics), done, func(i int, tell func(kafka.TopicResult)) {
		t := c.b.Topic(tenant, topics[i].Name)
		n := int(topics[i].Partitions)
		switch {
		case t == nil:
			tell(topicResult(nil, broker.ErrUnknownTopic))
		case n > partitionsMax:
			tell(kafka.TopicResult{Code: wire.InvalidPartitions, Message: "a topic has at most 10000 partitions"})
		case validateOnly:
			tell(kafka.TopicResult{})
		default:
			c.b.GrowTopic(t, n, false, func(spec *broker.TopicSpec, err error) { tell(topicResult(spec, err)) })
		}
	})
}

// AlterConfigs changes configurations.
func (c *topicCatalog) AlterConfigs(tenant uint32, topics []kafka.TopicAlteration, validateOnly bool, done func([]kafka.TopicResult)) {
	each(len(topics), done, func(i int, tell func(kafka.TopicResult)) {
		t := c.b.Topic(tenant, topics[i].Name)
		if t == nil {
			tell(topicResult(nil, broker.ErrUnknownTopic))
			return
		}
		alter := func(have []broker.Setting) ([]broker.Setting, error) { return c.altered(tenant, have, &topics[i]) }
		if validateOnly {
			_, err := alter(t.Spec().Settings)
			tell(topicResult(nil, err))
			return
		}
		c.b.ConfigureTopic(t, alter, func(spec *broker.TopicSpec, err error) { tell(topicResult(spec, err)) })
	})
}

func (c *topicCatalog) altered(tenant uint32, have []broker.Setting, a *kafka.TopicAlteration) ([]broker.Setting, error) {
	before := settingsOf(have)
	s := before
	if a.Replace {
		s = nil
	}
	var changes []topicconfig.Change
	for _, ch := range a.Changes {
		change := topicconfig.Change{Key: ch.Key, Op: topicconfig.Op(ch.Op), Null: ch.Value == nil}
		if ch.Value != nil {
			change.Value = *ch.Value
		}
		changes = append(changes, change)
	}
	s, err := s.Alter(changes, topicconfig.Find)
	if err == nil {
		err = topicconfig.CheckChange(before, s, nil, c.able(tenant, a.Name))
	}
	return storedSettings(s), err
}

// DescribeTopic shows a topic's configuration.
func (c *topicCatalog) DescribeTopic(t *broker.TopicSpec) (list []kafka.ConfigValue) {
	for _, e := range topicconfig.Describe(settingsOf(t.Settings), nil) {
		v, d := e.Value, e.Default
		list = append(list, kafka.ConfigValue{Key: e.Name, Value: &v, Default: &d, Source: sourceOf(e.Source), Type: kmsg.ConfigType(e.Type), Doc: e.Doc})
	}
	return list
}

func sourceOf(s topicconfig.Source) kmsg.ConfigSource {
	if s == topicconfig.SourceTopic {
		return kmsg.ConfigSourceDynamicTopicConfig
	}
	return kmsg.ConfigSourceDefaultConfig
}

// DescribeNode shows what of the node's configuration has a name in Kafka: the defaults of topics.
func (c *topicCatalog) DescribeNode() (list []kafka.ConfigValue) {
	for _, e := range topicconfig.Describe(nil, nil) {
		if len(e.Synonyms) == 0 {
			continue
		}
		v, d := e.Value, e.Default
		list = append(list, kafka.ConfigValue{Key: e.Synonyms[0].Name, Value: &v, Default: &d, Source: kmsg.ConfigSourceDefaultConfig,
			Type: kmsg.ConfigType(e.Type), ReadOnly: true, Doc: e.Doc})
	}
	return list
}
