package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// CheckBinding says what is wrong with a binding of the configuration.
func CheckBinding(b *config.Binding) error {
	if !kafka.ValidTopicName(b.Topic) {
		return fmt.Errorf("topic %q: a name has 1 to 249 letters, digits, dots, underscores and dashes", b.Topic)
	}
	_, err := broker.ParseBinding(b.Filter, b.Topic, b.Key, b.Deliver)
	return err
}

// bind makes the topics of bindings that are not there, and has the bindings count.
func (s *Server) bind(ctx context.Context, bindings config.Bindings) error {
	list := make([]*broker.Binding, 0, len(bindings))
	for i := range bindings {
		c := &bindings[i]
		if err := CheckBinding(c); err != nil {
			return fmt.Errorf("bindings: %w", err)
		}
		b, err := broker.ParseBinding(c.Filter, c.Topic, c.Key, c.Deliver)
		if err != nil {
			return fmt.Errorf("bindings: %w", err)
		}
		if err := s.makeTopic(ctx, c.Topic, c.Partitions); err != nil {
			return fmt.Errorf("bindings: make topic %q: %w", c.Topic, err)
		}
		list = append(list, b)
	}
	return s.node.broker.Bind(list)
}

// makeTopic makes a topic if it is not there.
func (s *Server) makeTopic(ctx context.Context, name string, partitions int) error {
	if s.node.broker.Topic(0, name) != nil {
		return nil
	}
	if partitions == 0 {
		partitions = s.cfg.Load().Kafka.Partitions
	}
	made := make(chan kafka.TopicResult, 1)
	s.node.topics.CreateTopics(0, []kafka.TopicCreation{{Name: name, Partitions: int32(partitions), ReplicationFactor: -1}}, false,
		func(r []kafka.TopicResult) { made <- r[0] })
	select {
	case r := <-made:
		if r.Code != wire.None && r.Code != wire.TopicAlreadyExists {
			return errors.New(r.Message)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
