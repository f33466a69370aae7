package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

var saramaTests = []test{
	{"sarama admin", saramaAdmin},
	{"sarama codecs and headers", saramaCodecs},
	{"sarama idempotent producer", saramaIdempotent},
	{"sarama group", saramaGroup},
	{"sarama transactions", saramaTransactions},
	{"sarama consume, transform, produce", saramaTransform},
}

func saramaConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	c.ClientID = "sarama-interop"
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	return c
}

func saramaTopic(name string, partitions int32) error {
	admin, err := sarama.NewClusterAdmin(addresses, saramaConfig())
	if err != nil {
		return err
	}
	defer admin.Close()
	return admin.CreateTopic(name, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1}, false)
}

func saramaAdmin(context.Context) error {
	admin, err := sarama.NewClusterAdmin(addresses, saramaConfig())
	if err != nil {
		return err
	}
	defer admin.Close()
	retention, larger := "600000", "2000000"
	if err := admin.CreateTopic("sa", &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &retention}}, false); err != nil {
		return err
	}
	if err := admin.CreatePartitions("sa", 3, nil, false); err != nil {
		return err
	}
	if err := admin.IncrementalAlterConfig(sarama.TopicResource, "sa", map[string]sarama.IncrementalAlterConfigsEntry{
		"max.message.bytes": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &larger}}, false); err != nil {
		return err
	}
	entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: "sa", ConfigNames: []string{"retention.ms", "max.message.bytes"}})
	if err != nil || len(entries) != 2 || entries[0].Value == entries[1].Value {
		return fmt.Errorf("configuration %v, %v", entries, err)
	}
	topics, err := admin.ListTopics()
	if err != nil || topics["sa"].NumPartitions != 3 {
		return fmt.Errorf("topics %v, %v", topics, err)
	}
	dirs, err := admin.DescribeLogDirs([]int32{1})
	if err != nil || len(dirs[1]) != 1 || dirs[1][0].Path == "" {
		return fmt.Errorf("log directories %v, %v", dirs, err)
	}
	if _, _, err := admin.DescribeCluster(); err != nil {
		return err
	}
	return admin.DeleteTopic("sa")
}

func saramaRead(topic string, n int, level sarama.IsolationLevel) (values []string, err error) {
	cfg := saramaConfig()
	cfg.Consumer.IsolationLevel = level
	consumer, err := sarama.NewConsumer(addresses, cfg)
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	p, err := consumer.ConsumePartition(topic, 0, sarama.OffsetOldest)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	for len(values) < n {
		select {
		case m := <-p.Messages():
			values = append(values, string(m.Value))
		case <-time.After(10 * time.Second):
			return values, fmt.Errorf("nothing more after %d records", len(values))
		}
	}
	return values, nil
}

func saramaCodecs(context.Context) error {
	if err := saramaTopic("sc", 1); err != nil {
		return err
	}
	n := 0
	for _, codec := range []sarama.CompressionCodec{sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4, sarama.CompressionZSTD} {
		cfg := saramaConfig()
		cfg.Producer.Compression = codec
		p, err := sarama.NewSyncProducer(addresses, cfg)
		if err != nil {
			return err
		}
		var list []*sarama.ProducerMessage
		for range 200 {
			list = append(list, &sarama.ProducerMessage{Topic: "sc", Key: sarama.StringEncoder("k"), Value: sarama.StringEncoder(number(n)),
				Headers: []sarama.RecordHeader{{Key: []byte("codec"), Value: []byte(codec.String())}}})
			n++
		}
		if err := errors.Join(p.SendMessages(list), p.Close()); err != nil {
			return fmt.Errorf("%s: %w", codec, err)
		}
	}
	values, err := saramaRead("sc", n, sarama.ReadUncommitted)
	if err != nil {
		return err
	}
	return inOrder(values, n)
}

func saramaIdempotent(context.Context) error {
	if err := saramaTopic("si", 1); err != nil {
		return err
	}
	cfg := saramaConfig()
	cfg.Producer.Idempotent, cfg.Net.MaxOpenRequests = true, 1
	p, err := sarama.NewAsyncProducer(addresses, cfg)
	if err != nil {
		return err
	}
	go func() {
		for i := range 5000 {
			p.Input() <- &sarama.ProducerMessage{Topic: "si", Value: sarama.StringEncoder(number(i))}
		}
	}()
	for range 5000 {
		select {
		case <-p.Successes():
		case e := <-p.Errors():
			return e
		}
	}
	if err := p.Close(); err != nil {
		return err
	}
	values, err := saramaRead("si", 5000, sarama.ReadUncommitted)
	if err != nil {
		return err
	}
	return inOrder(values, 5000)
}

// claims is a member of a group that marks what it reads, up to a number of records.
type claims struct {
	mu   sync.Mutex
	seen map[string]int
	want int
	stop context.CancelFunc
}

func (*claims) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*claims) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (c *claims) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for m := range claim.Messages() {
		s.MarkMessage(m, "")
		c.mu.Lock()
		if c.seen[string(m.Value)]++; len(c.seen) == c.want {
			c.stop()
		}
		c.mu.Unlock()
	}
	return nil
}

func saramaGroup(ctx context.Context) error {
	if err := saramaTopic("sg", 4); err != nil {
		return err
	}
	p, err := sarama.NewSyncProducer(addresses, saramaConfig())
	if err != nil {
		return err
	}
	defer p.Close()
	send := func(from, to int) error {
		var list []*sarama.ProducerMessage
		for i := from; i < to; i++ {
			list = append(list, &sarama.ProducerMessage{Topic: "sg", Key: sarama.StringEncoder(number(i)), Value: sarama.StringEncoder(number(i))})
		}
		return p.SendMessages(list)
	}
	consume := func(n int) error {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		c := &claims{seen: make(map[string]int), want: n, stop: stop}
		var members sync.WaitGroup
		errs := make(chan error, 4)
		for range 2 {
			cfg := saramaConfig()
			cfg.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategySticky()}
			g, err := sarama.NewConsumerGroup(addresses, "sarama", cfg)
			if err != nil {
				return err
			}
			members.Go(func() {
				for ctx.Err() == nil {
					if err := g.Consume(ctx, []string{"sg"}, c); err != nil {
						errs <- err
						return
					}
				}
				errs <- g.Close()
			})
		}
		members.Wait()
		if err := errors.Join(<-errs, <-errs); err != nil {
			return err
		}
		if len(c.seen) != n {
			return fmt.Errorf("%d records of %d", len(c.seen), n)
		}
		return nil
	}
	if err := errors.Join(send(0, 1000), consume(1000)); err != nil {
		return err
	}
	return errors.Join(send(1000, 1500), consume(500)) // what was committed does not come again
}

func saramaTxnProducer(id string) (sarama.AsyncProducer, error) {
	cfg := saramaConfig()
	cfg.Producer.Idempotent, cfg.Net.MaxOpenRequests = true, 1
	cfg.Producer.Transaction.ID = id
	cfg.Producer.Return.Successes = false
	return sarama.NewAsyncProducer(addresses, cfg)
}

func saramaTransactions(context.Context) error {
	if err := saramaTopic("st", 1); err != nil {
		return err
	}
	p, err := saramaTxnProducer("sarama-txn")
	if err != nil {
		return err
	}
	n := 0
	for round := range 6 {
		if err := p.BeginTxn(); err != nil {
			return err
		}
		for i := range 100 {
			value := number(n)
			if round%3 == 2 {
				value = "aborted"
			} else {
				n++
			}
			p.Input() <- &sarama.ProducerMessage{Topic: "st", Key: sarama.StringEncoder(number(i)), Value: sarama.StringEncoder(value)}
		}
		if round%3 == 2 {
			err = p.AbortTxn()
		} else {
			err = p.CommitTxn()
		}
		if err != nil {
			return fmt.Errorf("transaction %d: %w", round, err)
		}
	}
	if err := p.Close(); err != nil {
		return err
	}
	values, err := saramaRead("st", n, sarama.ReadCommitted)
	if err != nil {
		return err
	}
	return inOrder(values, n)
}

// mover copies a topic to another, a transaction for each hundred records, with its offsets in them.
type mover struct {
	p    sarama.AsyncProducer
	want int
	stop context.CancelFunc
	err  error
}

func (*mover) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*mover) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m *mover) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	defer m.stop()
	for n := 0; n < m.want; {
		if m.err = m.p.BeginTxn(); m.err != nil {
			return m.err
		}
		for range 100 {
			in := <-claim.Messages()
			if in == nil {
				m.err = errors.New("the claim has ended")
				return m.err
			}
			m.p.Input() <- &sarama.ProducerMessage{Topic: "sx-out", Value: sarama.ByteEncoder(in.Value)}
			if m.err = m.p.AddMessageToTxn(in, "sarama-mover", nil); m.err != nil {
				return m.err
			}
			n++
		}
		if m.err = m.p.CommitTxn(); m.err != nil {
			return m.err
		}
	}
	return nil
}

func saramaTransform(ctx context.Context) error {
	if err := errors.Join(saramaTopic("sx-in", 1), saramaTopic("sx-out", 1)); err != nil {
		return err
	}
	p, err := sarama.NewSyncProducer(addresses, saramaConfig())
	if err != nil {
		return err
	}
	var list []*sarama.ProducerMessage
	for i := range 500 {
		list = append(list, &sarama.ProducerMessage{Topic: "sx-in", Value: sarama.StringEncoder(number(i))})
	}
	if err := errors.Join(p.SendMessages(list), p.Close()); err != nil {
		return err
	}
	cfg := saramaConfig()
	cfg.Consumer.Offsets.AutoCommit.Enable = false
	cfg.Consumer.IsolationLevel = sarama.ReadCommitted
	g, err := sarama.NewConsumerGroup(addresses, "sarama-mover", cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	m := &mover{want: 500, stop: stop}
	if m.p, err = saramaTxnProducer("sarama-mover"); err != nil {
		return err
	}
	if err := g.Consume(ctx, []string{"sx-in"}, m); err != nil && m.err == nil {
		return err
	}
	if err := errors.Join(m.err, g.Close(), m.p.Close()); err != nil {
		return err
	}
	values, err := saramaRead("sx-out", 500, sarama.ReadCommitted)
	if err != nil {
		return err
	}
	if err := inOrder(values, 500); err != nil {
		return err
	}
	admin, err := sarama.NewClusterAdmin(addresses, saramaConfig())
	if err != nil {
		return err
	}
	defer admin.Close()
	offsets, err := admin.ListConsumerGroupOffsets("sarama-mover", map[string][]int32{"sx-in": {0}})
	if err != nil {
		return err
	}
	if b := offsets.GetBlock("sx-in", 0); b == nil || b.Offset != 500 {
		return fmt.Errorf("the group is at %+v", b)
	}
	return nil
}
