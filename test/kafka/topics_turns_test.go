package kafka

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/test/common"
)

// crowd is two clients of one loop, of which one changes thousands of topics.
type crowd struct {
	*testing.T
	one, other *kgo.Client
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	b := common.Start(t, t.TempDir(), "listeners.kafka.tcp=127.0.0.1:0", "engine.loops=1")
	c := &crowd{T: t}
	for _, cl := range []**kgo.Client{&c.one, &c.other} {
		var err error
		if *cl, err = kgo.NewClient(kgo.SeedBrokers(b.Listeners["kafka.tcp"]), kgo.RequestTimeoutOverhead(time.Minute)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*cl).Close)
	}
	return c
}

// ask makes a request, once.
func (c *crowd) ask(cl *kgo.Client, req kmsg.Request) kmsg.Response {
	c.Helper()
	resp, err := cl.SeedBrokers()[0].Request(c.Context(), req)
	if err != nil {
		c.Fatal(err)
	}
	return resp
}

// count is how many of the topics the other client sees.
func (c *crowd) count() (topics, partitions int) {
	c.Helper()
	resp := c.ask(c.other, kmsg.NewPtrMetadataRequest()).(*kmsg.MetadataResponse)
	for i := range resp.Topics {
		partitions += len(resp.Topics[i].Partitions)
	}
	return len(resp.Topics), partitions
}

// meanwhile makes a request by one client, and says how often the other one has seen it half done.
func (c *crowd) meanwhile(req kmsg.Request, all int, seen func() int) (resp kmsg.Response, half int) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		resp, err = c.one.SeedBrokers()[0].Request(ctx, req)
	}()
	for {
		n := seen()
		select {
		case <-done:
			if err != nil {
				c.Fatal(err)
			}
			return resp, half
		default:
			if n > 0 && n < all {
				half++
			}
		}
	}
}

// Thousands of topics are made, grown and deleted by one request each, and another client of the loop is answered meanwhile.
func TestThousandsOfTopics(t *testing.T) {
	const n = 3000
	c := newCrowd(t)
	check := func(what string, code func(i int) int16, answered, half int) {
		t.Helper()
		if answered != n || half == 0 {
			t.Errorf("%s: %d topics are answered for, and the other client has seen it half done %d times", what, answered, half)
		}
		for i := range answered {
			if err := kerr.ErrorForCode(code(i)); err != nil {
				t.Fatalf("%s: topic %d: %v", what, i, err)
			}
		}
	}
	create := kmsg.NewPtrCreateTopicsRequest()
	create.TimeoutMillis = 60_000
	grow := kmsg.NewPtrCreatePartitionsRequest()
	grow.TimeoutMillis = 60_000
	drop := kmsg.NewPtrDeleteTopicsRequest()
	drop.TimeoutMillis = 60_000
	for i := range n {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = fmt.Sprint("t", i), 1, 1
		topic.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "retention.ms", Value: kmsg.StringPtr(fmt.Sprint(1000 + i/2))}}
		create.Topics = append(create.Topics, topic)
		more := kmsg.NewCreatePartitionsRequestTopic()
		more.Topic, more.Count = topic.Topic, 2
		grow.Topics = append(grow.Topics, more)
		gone := kmsg.NewDeleteTopicsRequestTopic()
		gone.Topic = kmsg.StringPtr(topic.Topic)
		drop.Topics = append(drop.Topics, gone)
	}
	topics := func() int { n, _ := c.count(); return n }
	resp, half := c.meanwhile(create, n, topics)
	made := resp.(*kmsg.CreateTopicsResponse)
	check("create", func(i int) int16 { return made.Topics[i].ErrorCode }, len(made.Topics), half)
	for i := range made.Topics {
		topic, value := &made.Topics[i], ""
		for _, e := range topic.Configs {
			if e.Name == "retention.ms" {
				value = *e.Value
			}
		}
		if topic.Topic != create.Topics[i].Topic || topic.NumPartitions != 1 || value != *create.Topics[i].Configs[0].Value {
			t.Fatalf("topic %d: %s of %d partitions, retention.ms %s", i, topic.Topic, topic.NumPartitions, value)
		}
	}
	added := func() int {
		topics, partitions := c.count()
		return partitions - topics
	}
	resp, half = c.meanwhile(grow, n, added)
	grown := resp.(*kmsg.CreatePartitionsResponse)
	check("grow", func(i int) int16 { return grown.Topics[i].ErrorCode }, len(grown.Topics), half)
	if topics, partitions := c.count(); topics != n || partitions != 2*n {
		t.Errorf("%d topics have %d partitions", topics, partitions)
	}
	resp, half = c.meanwhile(drop, n, topics)
	gone := resp.(*kmsg.DeleteTopicsResponse)
	check("delete", func(i int) int16 { return gone.Topics[i].ErrorCode }, len(gone.Topics), half)
	if n := topics(); n != 0 {
		t.Errorf("%d topics are left", n)
	}
}

// Configurations of thousands of topics are changed and shown by one request each, and another client of the loop is answered meanwhile.
func TestThousandsOfConfigs(t *testing.T) {
	const n = 2000
	c := newCrowd(t)
	create, some, whole, show := kmsg.NewPtrCreateTopicsRequest(), kmsg.NewPtrIncrementalAlterConfigsRequest(), kmsg.NewPtrAlterConfigsRequest(), kmsg.NewPtrDescribeConfigsRequest()
	create.TimeoutMillis = 60_000
	for i := range n {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = fmt.Sprint("t", i), 1, 1
		create.Topics = append(create.Topics, topic)
		one := kmsg.NewIncrementalAlterConfigsRequestResource()
		one.ResourceType, one.ResourceName = kmsg.ConfigResourceTypeTopic, topic.Topic
		one.Configs = []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: kmsg.StringPtr(fmt.Sprint(1000 + i))}}
		some.Resources = append(some.Resources, one)
		all := kmsg.NewAlterConfigsRequestResource()
		all.ResourceType, all.ResourceName = one.ResourceType, one.ResourceName
		all.Configs = []kmsg.AlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: kmsg.StringPtr(fmt.Sprint(5000 + i))}}
		whole.Resources = append(whole.Resources, all)
		see := kmsg.NewDescribeConfigsRequestResource()
		see.ResourceType, see.ResourceName, see.ConfigNames = one.ResourceType, one.ResourceName, []string{"retention.ms"}
		show.Resources = append(show.Resources, see)
	}
	c.ask(c.one, create)
	ends := kmsg.NewPtrDescribeConfigsRequest()
	ends.Resources = []kmsg.DescribeConfigsRequestResource{show.Resources[0], show.Resources[n-1]}
	changed := func(from int) func() int { // how many of the first and the last one are
		return func() (changed int) {
			for i, r := range c.ask(c.other, ends).(*kmsg.DescribeConfigsResponse).Resources {
				if *r.Configs[0].Value == fmt.Sprint(from+i*(n-1)) {
					changed++
				}
			}
			return changed
		}
	}
	resp, half := c.meanwhile(some, 2, changed(1000))
	for i, r := range resp.(*kmsg.IncrementalAlterConfigsResponse).Resources {
		if r.ErrorCode != 0 || r.ResourceName != some.Resources[i].ResourceName {
			t.Fatalf("topic %d: %+v", i, r)
		}
	}
	resp, more := c.meanwhile(whole, 2, changed(5000))
	for i, r := range resp.(*kmsg.AlterConfigsResponse).Resources {
		if r.ErrorCode != 0 || r.ResourceName != whole.Resources[i].ResourceName {
			t.Fatalf("topic %d: %+v", i, r)
		}
	}
	resp, answered := c.meanwhile(show, 2, func() int { c.ask(c.other, ends); return 1 })
	list := resp.(*kmsg.DescribeConfigsResponse).Resources
	for i := range list {
		if r := &list[i]; r.ErrorCode != 0 || r.ResourceName != show.Resources[i].ResourceName || *r.Configs[0].Value != fmt.Sprint(5000+i) {
			t.Fatalf("topic %d: %+v", i, r)
		}
	}
	if half == 0 || more == 0 || answered < 3 || len(list) != n {
		t.Errorf("the other client has seen it half done %d and %d times, and was answered %d times while %d were shown", half, more, answered, len(list))
	}
}

// One request makes as many partitions as Kafka allows. More are refused, all of them; a topic that is named twice is, wherever in the request.
func TestTooManyTopics(t *testing.T) {
	const most = 10_000
	c := newCrowd(t)
	request := func(names int, partitions int32) *kmsg.CreateTopicsRequest {
		req := kmsg.NewPtrCreateTopicsRequest()
		for i := range names {
			topic := kmsg.NewCreateTopicsRequestTopic()
			topic.Topic, topic.NumPartitions, topic.ReplicationFactor = fmt.Sprint("t", i), partitions, 1
			req.Topics = append(req.Topics, topic)
		}
		return req
	}
	for _, x := range []struct {
		ask  *kmsg.CreateTopicsRequest
		want error
	}{
		{request(most+1, 1), kerr.PolicyViolation},
		{request(most+1, -1), kerr.PolicyViolation},
		{request(2, most/2+1), kerr.PolicyViolation},
		{request(most/100, 100), nil},
	} {
		x.ask.ValidateOnly = x.want == nil
		resp := c.ask(c.one, x.ask).(*kmsg.CreateTopicsResponse)
		if len(resp.Topics) != len(x.ask.Topics) {
			t.Errorf("%d of %d topics are answered for", len(resp.Topics), len(x.ask.Topics))
		}
		for i := range resp.Topics {
			if err := kerr.ErrorForCode(resp.Topics[i].ErrorCode); !errors.Is(err, x.want) {
				t.Fatalf("%d topics of %d partitions: %v, want %v", len(x.ask.Topics), x.ask.Topics[0].NumPartitions, err, x.want)
			}
		}
	}
	twice := request(200, 1)
	twice.Topics = append(twice.Topics, twice.Topics[3])
	resp := c.ask(c.one, twice).(*kmsg.CreateTopicsResponse)
	if n, _ := c.count(); n != 199 || len(resp.Topics) != 200 {
		t.Errorf("%d topics are there, %d were answered for", n, len(resp.Topics))
	}
	for i := range resp.Topics {
		want := error(nil)
		if resp.Topics[i].Topic == twice.Topics[3].Topic {
			want = kerr.InvalidRequest
		}
		if err := kerr.ErrorForCode(resp.Topics[i].ErrorCode); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", resp.Topics[i].Topic, err, want)
		}
	}
}
