package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/segmentio/kafka-go"
)

var segmentioTests = []test{
	{"kafka-go admin", segmentioAdmin},
	{"kafka-go codecs and headers", segmentioCodecs},
	{"kafka-go group", segmentioGroup},
	{"kafka-go offsets by time", segmentioOffsets},
}

func segmentioClient() *kafka.Client {
	return &kafka.Client{Addr: kafka.TCP(addresses...), Timeout: 10 * time.Second}
}

// again does something, and where nodes are restarted meanwhile, does it again as long as it fails by that: this client leaves that to its callers. made is the error that says that it
// was done the time before.
func again(ctx context.Context, made error, do func() error) error {
	for i := 0; ; i++ {
		err := do()
		var refused kafka.Error
		switch {
		case err == nil, i > 0 && made != nil && errors.Is(err, made):
			return nil
		case os.Getenv("RESTARTS") == "", errors.As(err, &refused) && !refused.Temporary():
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func segmentioTopic(ctx context.Context, name string, partitions int) error {
	return again(ctx, kafka.TopicAlreadyExists, func() error {
		r, err := segmentioClient().CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: name, NumPartitions: partitions, ReplicationFactor: 1}}})
		if err != nil {
			return err
		}
		return r.Errors[name]
	})
}

func segmentioAdmin(ctx context.Context) error {
	cl := segmentioClient()
	if err := segmentioTopic(ctx, "ka", 2); err != nil {
		return err
	}
	if err := again(ctx, kafka.InvalidPartitionNumber, func() error {
		parts, err := cl.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{{Name: "ka", Count: 3}}})
		if err != nil {
			return err
		}
		return parts.Errors["ka"]
	}); err != nil {
		return fmt.Errorf("create partitions: %w", err)
	}
	if err := again(ctx, nil, func() error {
		altered, err := cl.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: "ka",
			Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: "retention.ms", Value: "600000", ConfigOperation: kafka.ConfigOperationSet}}}}})
		if err != nil {
			return err
		}
		return altered.Resources[0].Error
	}); err != nil {
		return fmt.Errorf("alter: %w", err)
	}
	if err := again(ctx, nil, func() error {
		described, err := cl.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: "ka", ConfigNames: []string{"retention.ms"}}}})
		if err == nil && described.Resources[0].ConfigEntries[0].ConfigValue != "600000" {
			return fmt.Errorf("%+v: %w", described, kafka.InvalidConfiguration)
		}
		return err
	}); err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if err := again(ctx, nil, func() error {
		fresh := segmentioClient() // a transport answers metadata from what it has seen
		fresh.Transport = &kafka.Transport{}
		m, err := fresh.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{"ka"}})
		if err == nil && len(m.Topics[0].Partitions) != 3 {
			return fmt.Errorf("%+v: %w", m, kafka.InvalidPartitionNumber)
		}
		return err
	}); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	return again(ctx, kafka.UnknownTopicOrPartition, func() error {
		gone, err := cl.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{"ka"}})
		if err != nil {
			return err
		}
		return gone.Errors["ka"]
	})
}

func segmentioWriter(topic string, codec kafka.Compression) *kafka.Writer {
	return &kafka.Writer{Addr: kafka.TCP(addresses...), Topic: topic, RequiredAcks: kafka.RequireAll, Compression: codec, BatchTimeout: 5 * time.Millisecond, Balancer: &kafka.Hash{}}
}

// segmentioWrite writes records, and those again that the writer has given up on where nodes are restarted.
func segmentioWrite(ctx context.Context, w *kafka.Writer, list ...kafka.Message) error {
	return again(ctx, nil, func() error {
		err := w.WriteMessages(ctx, list...)
		var each kafka.WriteErrors
		if errors.As(err, &each) && len(each) == len(list) {
			var rest []kafka.Message
			for i, err := range each {
				if err != nil {
					rest = append(rest, list[i])
				}
			}
			list = rest
		}
		return err
	})
}

func segmentioCodecs(ctx context.Context) error {
	if err := segmentioTopic(ctx, "kc", 1); err != nil {
		return err
	}
	n := 0
	for _, codec := range []kafka.Compression{0, kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd} {
		w := segmentioWriter("kc", codec)
		var list []kafka.Message
		for range 200 {
			list = append(list, kafka.Message{Key: []byte("k"), Value: []byte(number(n)), Headers: []kafka.Header{{Key: "codec", Value: []byte(codec.String())}}})
			n++
		}
		if err := errors.Join(segmentioWrite(ctx, w, list...), w.Close()); err != nil {
			return fmt.Errorf("%s: %w", codec, err)
		}
	}
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: addresses, Topic: "kc", MaxWait: 200 * time.Millisecond})
	defer r.Close()
	var values []string
	for len(values) < n {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			return fmt.Errorf("after %d records: %w", len(values), err)
		}
		if len(m.Headers) != 1 || m.Headers[0].Key != "codec" {
			return fmt.Errorf("headers %v", m.Headers)
		}
		values = append(values, string(m.Value))
	}
	return inOrder(values, n)
}

func segmentioGroup(ctx context.Context) error {
	if err := segmentioTopic(ctx, "kg", 4); err != nil {
		return err
	}
	w := segmentioWriter("kg", 0)
	defer w.Close()
	send := func(from, to int) error {
		var list []kafka.Message
		for i := from; i < to; i++ {
			list = append(list, kafka.Message{Key: []byte(number(i)), Value: []byte(number(i))})
		}
		return segmentioWrite(ctx, w, list...)
	}
	read := func(from, to int) error {
		r := kafka.NewReader(kafka.ReaderConfig{Brokers: addresses, GroupID: "segmentio", Topic: "kg", MaxWait: 200 * time.Millisecond, StartOffset: kafka.FirstOffset})
		seen := make(map[string]bool)
		for len(seen) < to-from {
			m, err := r.FetchMessage(ctx)
			if err != nil {
				return fmt.Errorf("after %d records: %w", len(seen), err)
			}
			if err := again(ctx, nil, func() error { return r.CommitMessages(ctx, m) }); err != nil {
				return fmt.Errorf("commit: %w", err)
			}
			seen[string(m.Value)] = true
		}
		for i := from; i < to; i++ {
			if !seen[number(i)] {
				return fmt.Errorf("record %d is missing", i)
			}
		}
		return r.Close()
	}
	if err := errors.Join(send(0, 300), read(0, 300)); err != nil {
		return err
	}
	return errors.Join(send(300, 500), read(300, 500)) // what was committed does not come again
}

func segmentioOffsets(ctx context.Context) error {
	if err := segmentioTopic(ctx, "ko", 1); err != nil {
		return err
	}
	w := segmentioWriter("ko", 0)
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	for i := range 10 {
		if err := segmentioWrite(ctx, w, kafka.Message{Value: []byte(number(i)), Time: at.Add(time.Duration(i) * time.Minute)}); err != nil {
			return err
		}
	}
	var first, last, found int64
	turn := 0
	err := again(ctx, nil, func() error {
		conn, err := kafka.DialLeader(ctx, "tcp", addresses[turn%len(addresses)], "ko", 0)
		turn++
		if err != nil {
			return err
		}
		defer conn.Close()
		if first, last, err = conn.ReadOffsets(); err != nil {
			return err
		}
		found, err = conn.ReadOffset(at.Add(4*time.Minute + time.Second))
		return err
	})
	if err != nil || first != 0 || last != 10 || found != 5 {
		return fmt.Errorf("from %d to %d, at a time %d, %v", first, last, found, err)
	}
	return w.Close()
}
