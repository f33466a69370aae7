package control_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/control/api"
)

func TestTopics(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	c := n.topics()
	made, err := c.Create(ctx, &api.CreateTopicRequest{Name: "orders", Partitions: 3, Settings: map[string]string{"retention.ms": "60000"}})
	if err != nil || made.Partitions != 3 || made.Settings["retention.ms"] != "60000" || len(made.Id) != 36 {
		t.Fatalf("%v, %v", made, err)
	}
	k := n.kafka(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for i := range int32(2) {
		n.produce(k, "orders", i, strings.Repeat("x", 1000), time.Now())
	}
	d, err := c.Describe(ctx, &api.DescribeTopicRequest{Name: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	if d.Topic.Records != 2 || d.Topic.Bytes < 2000 || d.Topic.Bytes > 4000 || len(d.Partitions) != 3 {
		t.Errorf("%v", d)
	}
	for i, p := range d.Partitions {
		want := int64(1)
		if i == 2 {
			want = 0
		}
		if p.Partition != int32(i) || p.HighWatermark != want || p.LastStable != want || p.LogStart != 0 || (p.Bytes > 0) != (want > 0) {
			t.Errorf("%v", p)
		}
	}
	set := 0
	for _, s := range d.Settings {
		if s.Set {
			set++
		}
		if s.Key == "retention.ms" && (s.Value != "60000" || !s.Set || s.Default == "60000" || s.Doc == "") {
			t.Errorf("%v", s)
		}
	}
	if set != 1 || len(d.Settings) < 10 {
		t.Errorf("%d of %d settings are set", set, len(d.Settings))
	}
	altered, err := c.Alter(ctx, &api.AlterTopicRequest{Name: "orders", Partitions: 5, Set: map[string]string{"cleanup.policy": "compact"}, Reset_: []string{"retention.ms"}})
	if err != nil || altered.Partitions != 5 || len(altered.Settings) != 1 || altered.Settings["cleanup.policy"] != "compact" {
		t.Errorf("%v, %v", altered, err)
	}
	if _, err := c.Delete(ctx, &api.DeleteTopicRequest{Name: "orders"}); err != nil {
		t.Error(err)
	}
	_, err = c.Delete(ctx, &api.DeleteTopicRequest{Name: "orders"})
	wants(t, err, codes.NotFound, `delete topic "orders": there is none; sluice topic list`)
	for _, change := range []string{"Create", "Alter", "Delete"} {
		if !strings.Contains(n.log.String(), "Topics/"+change+" subject=orders") {
			t.Errorf("%s is not in the log", change)
		}
	}
}

func TestTopicsRefused(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	c := n.topics()
	n.create("t", 2)
	for _, tt := range []struct {
		r    *api.CreateTopicRequest
		code codes.Code
		says string
	}{
		{&api.CreateTopicRequest{Name: "t"}, codes.AlreadyExists, "sluice topic alter"},
		{&api.CreateTopicRequest{Name: ""}, codes.InvalidArgument, "1 to 249"},
		{&api.CreateTopicRequest{Name: ".."}, codes.InvalidArgument, "1 to 249"},
		{&api.CreateTopicRequest{Name: "a/b"}, codes.InvalidArgument, "1 to 249"},
		{&api.CreateTopicRequest{Name: strings.Repeat("n", 250)}, codes.InvalidArgument, "1 to 249"},
		{&api.CreateTopicRequest{Name: "x", Partitions: -1}, codes.InvalidArgument, "1 to 10000 partitions"},
		{&api.CreateTopicRequest{Name: "x", Partitions: 10_001}, codes.InvalidArgument, "found 10001"},
		{&api.CreateTopicRequest{Name: "x", Settings: map[string]string{"no.such": "1"}}, codes.InvalidArgument, "no.such"},
		{&api.CreateTopicRequest{Name: "x", Settings: map[string]string{"retention.ms": "soon"}}, codes.InvalidArgument, "retention.ms"},
		{&api.CreateTopicRequest{Name: "x", Settings: map[string]string{"leader.spread": "true"}}, codes.InvalidArgument, "sluice shard sets"},
	} {
		_, err := c.Create(ctx, tt.r)
		wants(t, err, tt.code, tt.says)
	}
	for _, tt := range []struct {
		r    *api.AlterTopicRequest
		code codes.Code
		says string
	}{
		{&api.AlterTopicRequest{Name: "absent", Partitions: 3}, codes.NotFound, "sluice topic list"},
		{&api.AlterTopicRequest{Name: "t"}, codes.InvalidArgument, "nothing"},
		{&api.AlterTopicRequest{Name: "t", Partitions: 2}, codes.InvalidArgument, "cannot become fewer"},
		{&api.AlterTopicRequest{Name: "t", Partitions: 20_000}, codes.InvalidArgument, "at most 10000"},
		{&api.AlterTopicRequest{Name: "t", Reset_: []string{"no.such"}}, codes.InvalidArgument, "no.such"},
		{&api.AlterTopicRequest{Name: "t", Set: map[string]string{"segment.ms": "-5"}}, codes.InvalidArgument, "segment.ms"},
		{&api.AlterTopicRequest{Name: "t", Set: map[string]string{"leader.spread": "true"}}, codes.InvalidArgument, "fixed when a topic is made"},
	} {
		_, err := c.Alter(ctx, tt.r)
		wants(t, err, tt.code, tt.says)
	}
	got, err := c.Alter(ctx, &api.AlterTopicRequest{Name: "t", Partitions: 4, Set: map[string]string{"leader.spread": "false", "retention.ms": "1"}, ValidateOnly: true})
	if err != nil || got.Partitions != 4 || got.Settings["retention.ms"] != "1" {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := c.Create(ctx, &api.CreateTopicRequest{Name: "x", ValidateOnly: true}); err != nil || got.Partitions != 1 {
		t.Errorf("%v, %v", got, err)
	}
	d, err := c.Describe(ctx, &api.DescribeTopicRequest{Name: "t"})
	if err != nil || len(d.Partitions) != 2 || len(d.Topic.Settings) != 0 {
		t.Errorf("a dry run has changed %v, %v", d, err)
	}
	_, err = c.Describe(ctx, &api.DescribeTopicRequest{Name: "x"})
	wants(t, err, codes.NotFound, "there is none")
}

// What is there from the first page to the last is listed once, in order, whatever comes and goes meanwhile.
func TestTopicPages(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	c := n.topics()
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() { n.create(fmt.Sprintf("stays-%02d", i), 1) })
		all.Go(func() { n.create(fmt.Sprintf("goes-%02d", i), 1) })
	}
	all.Wait()
	var got []string
	var token []byte
	for page := 0; ; page++ {
		r, err := c.List(ctx, &api.ListTopicsRequest{PageSize: 7, PageToken: token, Contains: "s-"})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Topics) > 7 {
			t.Errorf("%d topics in a page of 7", len(r.Topics))
		}
		for _, topic := range r.Topics {
			if strings.HasPrefix(topic.Name, "stays") {
				got = append(got, topic.Name)
			}
		}
		if token = r.NextPageToken; len(token) == 0 {
			break
		}
		if _, err := c.Delete(ctx, &api.DeleteTopicRequest{Name: fmt.Sprintf("goes-%02d", page)}); err != nil {
			t.Fatal(err)
		}
		n.create(fmt.Sprintf("comes-%02d", page), 1)
	}
	if len(got) != 40 {
		t.Errorf("%d of 40: %v", len(got), got)
	}
	for i := range got {
		if got[i] != fmt.Sprintf("stays-%02d", i) {
			t.Fatalf("place %d has %s", i, got[i])
		}
	}
}
