package server

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/meta/topicconfig"
)

// spreads says why the leaders of a topic's partitions cannot be spread over nodes, if one is made by this name; nil if they can. It takes no lock: loops ask.
func (c *topicCatalog) spreads(tenant uint32, name string) error {
	s := c.entries.Load()
	at := s.Cluster()
	switch {
	case at == nil:
		return errors.New("this node is alone: leaders are spread over the nodes of a cluster that has sets of shards (sluice shard sets)")
	case at.Level < meta.LevelSets:
		return fmt.Errorf("there are sets of shards (sluice shard sets) from level %d on, the cluster is at %d until all of its nodes can do that", meta.LevelSets, at.Level)
	case at.Sets == 0:
		return errors.New("the cluster has no sets of shards yet, which spread topics lie in: make some with sluice shard sets")
	case name == broker.OffsetsTopic:
		return errors.New("the topic is the broker's own")
	case tenant != 0:
		return nil // no binding or event is of its topics
	}
	if b := c.binder.Load(); b != nil {
		if filter, ok := b.binds(s, name); ok {
			return fmt.Errorf("the binding of %q names the topic, and what is bound to MQTT topics has one leader", filter)
		}
	}
	if e := c.events.Load(); e != nil && e.to.Load().topic == name {
		return errors.New("events.kafka_topic names the topic, and all events are written by the node that leads the sessions")
	}
	return nil
}

// leaderSpread is the setting of topics whose leaders are spread.
const leaderSpread = "leader.spread"

// replicated says how many replicas a topic gets that asks for so many (0 or less: it does not say), with the settings with which it gets them: one that does not say whether its leaders
// are spread is spread where there are sets of shards with just that number, and it may be. 0: as many as all topics have.
func (c *topicCatalog) replicated(tenant uint32, name string, s topicconfig.Settings, asked int) (topicconfig.Settings, int, error) {
	said := slices.ContainsFunc(s, func(e topicconfig.Setting) bool { return e.Key == leaderSpread })
	if !said && asked > 0 && c.b.HasReplicas(asked) {
		if with := s.With(leaderSpread, "true"); topicconfig.CheckTopic(with, nil, c.able(tenant, name)) == nil {
			s = with
		}
	}
	if !topicconfig.Resolve(s, nil).LeaderSpread {
		return s, 0, nil
	}
	n, err := c.b.SpreadReplicas(asked)
	return s, n, err
}

// binds finds a binding that names a topic, of the configuration or the catalog, in force or not yet.
func (b *binder) binds(s *meta.Snapshot, topic string) (filter string, ok bool) {
	if configured := b.named.Load(); configured != nil {
		for i := range *configured {
			if (*configured)[i].Topic == topic {
				return (*configured)[i].Filter, true
			}
		}
	}
	for filter, m := range s.Bindings() {
		if m.Topic == topic {
			return filter, true
		}
	}
	return "", false
}
