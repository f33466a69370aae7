package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta/topicconfig"
)

// pagePartitions is how many partitions are summed up for one page.
const pagePartitions = 20_000

// topicService is the service Topics.
type topicService struct {
	api.UnsafeTopicsServer // a method that is missing does not compile
	s                      *Server
	names                  topicNames
}

// topicNames are the names of all topics in their order, made anew when they have changed.
type topicNames struct {
	sync.Mutex
	generation uint64
	lists      map[uint32][]string // by tenant; nil: of none yet
}

// sorted gives the names of a tenant's; the slice is never written to.
func (t *topicNames) sorted(b *broker.Broker, tenant uint32) []string {
	t.Lock()
	defer t.Unlock()
	generation := b.TopicsGeneration() // before the names: what changes meanwhile is seen the next time
	if t.lists == nil || t.generation != generation {
		t.lists, t.generation = make(map[uint32][]string), generation
	}
	list, known := t.lists[tenant]
	if known {
		return list
	}
	b.Topics(tenant, func(topic *broker.Topic) bool {
		list = append(list, topic.Name())
		return true
	})
	slices.Sort(list)
	t.lists[tenant] = list
	return list
}

// Create makes a topic.
func (t *topicService) Create(ctx context.Context, r *api.CreateTopicRequest) (*api.Topic, error) {
	what := "create topic " + quoted(r.Name)
	if !t.s.o.ValidTopic(r.Name) {
		return nil, wrong("%s: a topic's name has 1 to 249 letters, digits, dots, underscores and dashes", what)
	}
	n := r.Partitions
	if n == 0 {
		n = t.s.o.Partitions()
	}
	if n < 1 || n > t.s.o.PartitionsMax {
		return nil, wrong("%s: want 1 to %d partitions, found %d", what, t.s.o.PartitionsMax, n)
	}
	var settings topicconfig.Settings
	for k, v := range r.Settings {
		settings = settings.With(k, v)
	}
	if err := topicconfig.CheckTopic(settings, nil, t.able(tenantOf(ctx), r.Name)); err != nil {
		return nil, badSetting(what, err)
	}
	if t.s.o.Broker.Topic(tenantOf(ctx), r.Name) != nil {
		return nil, status.Errorf(codes.AlreadyExists, "%s: it exists; sluice topic describe shows it, sluice topic alter changes it", what)
	}
	settings, replicas, err := t.replicated(ctx, r, settings, what)
	if err != nil {
		return nil, err
	}
	stored := storedSettings(settings)
	if r.ValidateOnly {
		if replicas == 0 {
			replicas = t.replicas(0)
		}
		return &api.Topic{Name: r.Name, Partitions: n, Settings: settingMap(stored), Replicas: int32(replicas)}, nil
	}
	var id broker.TopicID
	_, _ = rand.Read(id[:]) // it never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	_, err = awaitTopic(ctx, func(done func(*broker.TopicSpec, error)) {
		t.s.o.Broker.CreateReplicated(tenantOf(ctx), r.Name, id, int(n), int(r.Replicas), stored, done)
	})
	if err != nil {
		return nil, refuse(err, what, "")
	}
	return t.shown(tenantOf(ctx), r.Name, what)
}

// replicated says how many replicas a topic gets, and with which settings. Other than Kafka's clients, who asks here for a number gets it or is refused.
func (t *topicService) replicated(ctx context.Context, r *api.CreateTopicRequest, s topicconfig.Settings, what string) (topicconfig.Settings, int, error) {
	if r.Replicas < 0 {
		return nil, 0, wrong("%s: want a number of replicas from 1 on, found %d", what, r.Replicas)
	}
	n := 0
	if t.s.o.Replicated != nil {
		var err error
		if s, n, err = t.s.o.Replicated(tenantOf(ctx), r.Name, s, int(r.Replicas)); err != nil {
			return nil, 0, wrong("%s: %v", what, err)
		}
	}
	have := n
	if have == 0 {
		have = t.replicas(0)
	}
	if r.Replicas > 0 && int(r.Replicas) != have {
		return nil, 0, wrong("%s: it would have %d replicas, not %d: other numbers are those of sets of shards (sluice shard sets --replicas), for topics that can be spread over them", what, have, r.Replicas)
	}
	return s, n, nil
}

// replicas is how many replicas a partition of this shard has, or is to have.
func (t *topicService) replicas(shard record.ShardID) int {
	if t.s.o.Catalog == nil {
		return 1
	}
	s := t.s.o.Catalog.Load()
	c := s.Cluster()
	if c == nil {
		return 1
	}
	set := c.SetOf(uint32(shard))
	have := 1
	if sh := s.Shard(c.Set(set).First); sh != nil {
		have = len(sh.Replicas)
	}
	return c.SetReplicas(set, have)
}

// awaitTopic waits for a change of a topic.
func awaitTopic(ctx context.Context, start func(done func(*broker.TopicSpec, error))) (spec *broker.TopicSpec, err error) {
	type result struct {
		spec *broker.TopicSpec
		err  error
	}
	r, err := await(ctx, func(done func(result)) {
		start(func(spec *broker.TopicSpec, err error) { done(result{spec, err}) })
	})
	if err != nil {
		return nil, err
	}
	return r.spec, r.err
}

// able says what of its settings the node can do for a tenant's topic.
func (t *topicService) able(tenant uint32, name string) topicconfig.Node {
	n := topicconfig.Node{Tiered: t.s.o.Broker.Tiered(), Tenant: tenant != 0}
	if t.s.o.Spreads != nil {
		n.Spreads = func() error { return t.s.o.Spreads(tenant, name) }
	}
	return n
}

func badSetting(what string, err error) error {
	return wrong("%s: %v; docs/kafka.md names the settings", what, err)
}

func storedSettings(s topicconfig.Settings) (list []broker.Setting) {
	for _, e := range s {
		list = append(list, broker.Setting{Key: e.Key, Value: e.Value})
	}
	return list
}

func configOf(list []broker.Setting) (s topicconfig.Settings) {
	for _, e := range list {
		s = s.With(e.Key, e.Value)
	}
	return s
}

func settingMap(list []broker.Setting) map[string]string {
	m := make(map[string]string, len(list))
	for _, e := range list {
		m[e.Key] = text(e.Value)
	}
	return m
}

// shown is a topic as it is now.
func (t *topicService) shown(tenant uint32, name, what string) (*api.Topic, error) {
	topic := t.s.o.Broker.Topic(tenant, name)
	if topic == nil {
		return nil, missing("%s: there is none; sluice topic list shows what is there", what)
	}
	return t.summary(topic), nil
}

// summary sums up a topic's partitions.
func (t *topicService) summary(topic *broker.Topic) *api.Topic {
	spec := topic.Spec()
	id := spec.ID
	out := &api.Topic{Name: spec.Name, Id: fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
		Partitions: int32(len(spec.Partitions)), Internal: spec.Internal, Settings: settingMap(spec.Settings)}
	if len(spec.Partitions) > 0 {
		out.Replicas = int32(t.replicas(spec.Partitions[0].Shard))
	}
	for _, p := range topic.Partitions() {
		out.Records += int64(max(p.HighWatermark()-p.LogStart(), 0))
		out.Bytes += t.s.o.Broker.PartitionBytes(p)
	}
	return out
}

// List goes through the topics.
func (t *topicService) List(ctx context.Context, r *api.ListTopicsRequest) (*api.ListTopicsResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	names := t.names.sorted(t.s.o.Broker, tenantOf(ctx))
	at := 0
	if len(r.PageToken) > 0 {
		after := string(r.PageToken)
		i, found := slices.BinarySearch(names, after)
		if at = i; found {
			at++
		}
	}
	out := &api.ListTopicsResponse{}
	work := 0
	for seen := 0; at < len(names); at++ {
		if len(out.Topics) == size || work >= pagePartitions || seen >= pageRows {
			out.NextPageToken = []byte(names[at-1])
			break
		}
		if seen++; seen%1024 == 0 && ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		if !strings.Contains(names[at], r.Contains) {
			continue
		}
		if topic := t.s.o.Broker.Topic(tenantOf(ctx), names[at]); topic != nil && (r.Internal || !topic.Spec().Internal) {
			out.Topics = append(out.Topics, t.summary(topic))
			work += len(topic.Partitions())
		}
	}
	return out, nil
}

// Describe shows a topic.
func (t *topicService) Describe(ctx context.Context, r *api.DescribeTopicRequest) (*api.TopicDescription, error) {
	what := "describe topic " + quoted(r.Name)
	topic := t.s.o.Broker.Topic(tenantOf(ctx), r.Name)
	if topic == nil {
		return nil, missing("%s: there is none; sluice topic list shows what is there", what)
	}
	out := &api.TopicDescription{Topic: t.summary(topic)}
	for _, e := range topicconfig.Describe(configOf(topic.Spec().Settings), nil) {
		out.Settings = append(out.Settings, &api.Setting{Key: e.Name, Value: text(e.Value), Default: e.Default, Doc: e.Doc,
			Set: e.Source == topicconfig.SourceTopic})
	}
	for _, p := range topic.Partitions() {
		out.Partitions = append(out.Partitions, &api.Partition{Partition: p.Index(), LogStart: int64(p.LogStart()),
			HighWatermark: int64(p.HighWatermark()), LastStable: int64(p.LastStable()), Bytes: t.s.o.Broker.PartitionBytes(p)})
	}
	return out, nil
}

// Alter changes a topic.
func (t *topicService) Alter(ctx context.Context, r *api.AlterTopicRequest) (*api.Topic, error) {
	what := "alter topic " + quoted(r.Name)
	topic := t.s.o.Broker.Topic(tenantOf(ctx), r.Name)
	switch {
	case topic == nil:
		return nil, missing("%s: there is none; sluice topic list shows what is there", what)
	case r.Partitions == 0 && len(r.Set) == 0 && len(r.Reset_) == 0:
		return nil, wrong("%s: nothing is to be changed", what)
	case r.Partitions < 0 || r.Partitions > t.s.o.PartitionsMax:
		return nil, wrong("%s: want at most %d partitions, found %d", what, t.s.o.PartitionsMax, r.Partitions)
	case r.Partitions > 0 && int(r.Partitions) <= len(topic.Partitions()):
		return nil, wrong("%s: it has %d partitions, and they cannot become fewer; found %d", what, len(topic.Partitions()), r.Partitions)
	}
	alter := func(have []broker.Setting) ([]broker.Setting, error) {
		before := configOf(have)
		s := before
		for _, k := range slices.Sorted(maps.Keys(r.Set)) {
			s = s.With(k, r.Set[k])
		}
		for _, k := range r.Reset_ {
			if topicconfig.Find(k) == nil {
				return nil, wrong("%s: Unknown topic config name: %s; docs/kafka.md names the settings", what, quoted(k))
			}
			s = s.Without(k)
		}
		if err := topicconfig.CheckChange(before, s, nil, t.able(topic.Spec().Tenant, r.Name)); err != nil {
			return nil, badSetting(what, err)
		}
		return storedSettings(s), nil
	}
	was(ctx, t.summary(topic))
	if r.ValidateOnly {
		settings, err := alter(topic.Spec().Settings)
		if err != nil {
			return nil, err
		}
		out := t.summary(topic)
		out.Settings, out.Partitions = settingMap(settings), max(out.Partitions, r.Partitions)
		return out, nil
	}
	if len(r.Set)+len(r.Reset_) > 0 {
		if _, err := awaitTopic(ctx, func(done func(*broker.TopicSpec, error)) { t.s.o.Broker.ConfigureTopic(topic, alter, done) }); err != nil {
			return nil, refuse(err, what, "")
		}
	}
	if r.Partitions > 0 {
		_, err := awaitTopic(ctx, func(done func(*broker.TopicSpec, error)) {
			t.s.o.Broker.GrowTopic(topic, int(r.Partitions), r.BreakOrder, done)
		})
		if err != nil {
			return nil, refuse(err, what, boundHint(err))
		}
	}
	return t.shown(tenantOf(ctx), r.Name, what)
}

func boundHint(err error) string {
	if errors.Is(err, broker.ErrBound) {
		return "more partitions would break the order of its keys, and with it that of MQTT topics: say so with --break-order; sluice binding list shows what is bound"
	}
	return ""
}

// Delete deletes a topic.
func (t *topicService) Delete(ctx context.Context, r *api.DeleteTopicRequest) (*api.DeleteTopicResponse, error) {
	what := "delete topic " + quoted(r.Name)
	topic := t.s.o.Broker.Topic(tenantOf(ctx), r.Name)
	if topic == nil {
		return nil, missing("%s: there is none; sluice topic list shows what is there", what)
	}
	was(ctx, t.summary(topic))
	err := awaitError(ctx, func(done func(error)) { t.s.o.Broker.DeleteTopic(topic, done) })
	if err != nil {
		next := ""
		if errors.Is(err, broker.ErrBound) {
			next = "delete the binding first; sluice binding list shows what is bound"
		}
		return nil, refuse(err, what, next)
	}
	return &api.DeleteTopicResponse{}, nil
}
