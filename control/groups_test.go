package control_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
)

func TestGroups(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	n.create("t", 2)
	began := time.Now().Add(-time.Hour)
	k := n.kafka(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i := range 10 {
		n.produce(k, "t", int32(i%2), "v", began.Add(time.Duration(i)*time.Minute))
	}
	member := n.kafka(kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.ClientID("reader"), kgo.DisableAutoCommit())
	for got := 0; got < 10; {
		f := member.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		got += f.NumRecords()
	}
	var offsets kadm.Offsets
	offsets.AddOffset("t", 0, 2, -1)
	adm := kadm.NewClient(k)
	member.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{"t": {0: {Epoch: -1, Offset: 2}, 1: {Epoch: -1, Offset: 5}}}, nil)
	d, err := n.groups().Describe(ctx, &api.DescribeGroupRequest{Id: "g"})
	if err != nil {
		t.Fatal(err)
	}
	if d.Group.State != "Stable" || d.Group.Members != 1 || d.Group.Lag != 3 || d.Group.Type != "classic" || len(d.Members) != 1 || len(d.Offsets) != 2 {
		t.Fatalf("%v", d)
	}
	if m := d.Members[0]; m.ClientId != "reader" || len(m.Assigned) != 1 || m.Assigned[0].Topic != "t" || len(m.Assigned[0].Partitions) != 2 {
		t.Errorf("%v", m)
	}
	late := time.Since(began.Add(4 * time.Minute)).Milliseconds()
	if o := d.Offsets[0]; o.Offset != 2 || o.LogEnd != 5 || o.Lag != 3 || o.Member != d.Members[0].Id || o.LagMs < late-60_000 || o.LagMs > late+60_000 || o.CommittedMs == 0 {
		t.Errorf("%v, %d ms", o, late)
	}
	if o := d.Offsets[1]; o.Offset != 5 || o.Lag != 0 || o.LagMs != 0 {
		t.Errorf("%v", o)
	}
	list, err := n.groups().List(ctx, &api.ListGroupsRequest{States: []string{"stable"}})
	if err != nil || len(list.Groups) != 1 || list.Groups[0].Id != "g" || list.Groups[0].Lag != 3 || list.Groups[0].Members != 1 || list.NextPageToken != nil {
		t.Errorf("%v, %v", list, err)
	}
	_, err = n.groups().Delete(ctx, &api.DeleteGroupRequest{Id: "g"})
	wants(t, err, codes.FailedPrecondition, "stop its members first")
	reset := &api.ResetOffsetsRequest{Group: "g", To: &api.ResetOffsetsRequest_End_{End: api.ResetOffsetsRequest_END_EARLIEST}}
	_, err = n.groups().ResetOffsets(ctx, reset)
	wants(t, err, codes.FailedPrecondition, "it has members")
	if err := member.LeaveGroupContext(ctx); err != nil {
		t.Fatal(err)
	}
	testReset(t, n, adm, began)
	if _, err := n.groups().Delete(ctx, &api.DeleteGroupRequest{Id: "g"}); err != nil {
		t.Error(err)
	}
	_, err = n.groups().Describe(ctx, &api.DescribeGroupRequest{Id: "g"})
	wants(t, err, codes.NotFound, "sluice group list")
	_, err = n.groups().Delete(ctx, &api.DeleteGroupRequest{Id: "g"})
	wants(t, err, codes.NotFound, "there is none")
}

// testReset moves g, which stands at 2 of partition 0 and 5 of partition 1; each has the records of every second minute since began.
func testReset(t *testing.T, n *node, adm *kadm.Client, began time.Time) {
	t.Helper()
	for _, tt := range []struct {
		name string
		r    *api.ResetOffsetsRequest
		want [2]int64
	}{
		{"shift back", &api.ResetOffsetsRequest{To: &api.ResetOffsetsRequest_Shift{Shift: -1}}, [2]int64{1, 4}},
		{"shift far back", &api.ResetOffsetsRequest{To: &api.ResetOffsetsRequest_Shift{Shift: math.MinInt64}}, [2]int64{0, 0}},
		{"shift on", &api.ResetOffsetsRequest{To: &api.ResetOffsetsRequest_Shift{Shift: 2}}, [2]int64{2, 2}},
		{"shift far on", &api.ResetOffsetsRequest{To: &api.ResetOffsetsRequest_Shift{Shift: math.MaxInt64}}, [2]int64{5, 5}},
		{"time", &api.ResetOffsetsRequest{To: &api.ResetOffsetsRequest_TimeMs{TimeMs: began.Add(150 * time.Second).UnixMilli()}}, [2]int64{2, 1}},
		{"time to come", &api.ResetOffsetsRequest{To: &api.ResetOffsetsRequest_TimeMs{TimeMs: time.Now().Add(time.Hour).UnixMilli()}}, [2]int64{5, 5}},
		{"offset", &api.ResetOffsetsRequest{To: &api.ResetOffsetsRequest_Offset{Offset: 3}, Topics: []*api.TopicPartitions{{Topic: "t", Partitions: []int32{1, 1}}}}, [2]int64{5, 3}},
		{"offset beyond", &api.ResetOffsetsRequest{To: &api.ResetOffsetsRequest_Offset{Offset: 1 << 60}, Topics: []*api.TopicPartitions{{Topic: "t"}}}, [2]int64{5, 5}},
		{"earliest", &api.ResetOffsetsRequest{To: &api.ResetOffsetsRequest_End_{End: api.ResetOffsetsRequest_END_EARLIEST}}, [2]int64{0, 0}},
		{"dry run", &api.ResetOffsetsRequest{To: &api.ResetOffsetsRequest_End_{End: api.ResetOffsetsRequest_END_LATEST}, ValidateOnly: true}, [2]int64{0, 0}},
	} {
		tt.r.Group = "g"
		if _, err := n.groups().ResetOffsets(t.Context(), tt.r); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		have, err := adm.FetchOffsets(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		for p, want := range tt.want {
			if o, _ := have.Lookup("t", int32(p)); o.At != want {
				t.Errorf("%s: partition %d is at %d, want %d", tt.name, p, o.At, want)
			}
		}
	}
	latest := &api.ResetOffsetsRequest_End_{End: api.ResetOffsetsRequest_END_LATEST}
	for _, tt := range []struct {
		r    *api.ResetOffsetsRequest
		code codes.Code
		says string
	}{
		{&api.ResetOffsetsRequest{Group: "g"}, codes.InvalidArgument, "want where to"},
		{&api.ResetOffsetsRequest{Group: "g", To: &api.ResetOffsetsRequest_End_{}}, codes.InvalidArgument, "earliest or latest"},
		{&api.ResetOffsetsRequest{Group: "", To: latest}, codes.InvalidArgument, "1 to 32767"},
		{&api.ResetOffsetsRequest{Group: strings.Repeat("g", 40_000), To: latest}, codes.InvalidArgument, "1 to 32767"},
		{&api.ResetOffsetsRequest{Group: "new", To: latest}, codes.NotFound, "name the topics"},
		{&api.ResetOffsetsRequest{Group: "g", To: latest, Topics: []*api.TopicPartitions{{Topic: "absent"}}}, codes.NotFound, "sluice topic list"},
		{&api.ResetOffsetsRequest{Group: "g", To: latest, Topics: []*api.TopicPartitions{{Topic: "t", Partitions: []int32{2}}}}, codes.InvalidArgument, "0 to 1, found 2"},
		{&api.ResetOffsetsRequest{Group: "g", To: &api.ResetOffsetsRequest_TimeMs{TimeMs: -1}}, codes.InvalidArgument, "1970"},
		{&api.ResetOffsetsRequest{Group: "new", To: &api.ResetOffsetsRequest_Shift{Shift: 1}, Topics: []*api.TopicPartitions{{Topic: "t"}}}, codes.FailedPrecondition, "no offset of t/0"},
	} {
		_, err := n.groups().ResetOffsets(t.Context(), tt.r)
		wants(t, err, tt.code, tt.says)
	}
}

// A group of the consumer protocol, and one whose id is no text.
func TestGroupsOfBothProtocols(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	n.create("t", 4)
	next := n.kafka(kgo.ConsumerGroup("next"), kgo.ConsumeTopics("t"), kgo.WithContext(context.WithValue(ctx, "opt_in_kafka_next_gen_balancer_beta", true))) //nolint:staticcheck // the client's own name
	go next.PollFetches(ctx)
	odd := n.kafka(kgo.ConsumerGroup("odd\xff\n"), kgo.ConsumeTopics("t"), kgo.ClientID("c\xfe"))
	go odd.PollFetches(ctx)
	testx.Eventually(t, 20*time.Second, func() bool {
		d, err := n.groups().Describe(ctx, &api.DescribeGroupRequest{Id: "next"})
		return err == nil && d.Group.Type == "consumer" && d.Group.State == "Stable" && len(d.Members) == 1 && len(d.Members[0].Assigned) == 1 &&
			len(d.Members[0].Assigned[0].Partitions) == 4 && len(d.Offsets) == 4 && d.Offsets[3].Member == d.Members[0].Id
	}, "the consumer group has its partitions")
	testx.Eventually(t, 20*time.Second, func() bool {
		r, err := n.groups().List(ctx, &api.ListGroupsRequest{Contains: "odd"})
		return err == nil && len(r.Groups) == 1 && r.Groups[0].Id == "odd\uFFFD\n" && r.Groups[0].Members == 1
	}, "the odd group is listed")
}

// Each group is listed once, however small the pages.
func TestGroupPages(t *testing.T) {
	n := start(t, "engine.loops=3")
	ctx := t.Context()
	n.create("t", 1)
	adm := kadm.NewClient(n.kafka())
	var offsets kadm.Offsets
	offsets.AddOffset("t", 0, 0, -1)
	for i := range 50 {
		if err := adm.CommitAllOffsets(ctx, fmt.Sprintf("g%02d", i), offsets); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]int{}
	var token []byte
	for pages := 0; ; pages++ {
		r, err := n.groups().List(ctx, &api.ListGroupsRequest{PageSize: 3, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Groups) > 3 {
			t.Errorf("%d groups in a page of 3", len(r.Groups))
		}
		for _, g := range r.Groups {
			seen[g.Id]++
		}
		if pages == 5 { // the places of those that go are free for those that come
			for i := 45; i < 50; i++ {
				if _, err := n.groups().Delete(ctx, &api.DeleteGroupRequest{Id: fmt.Sprintf("g%02d", i)}); err != nil {
					t.Fatal(err)
				}
				if err := adm.CommitAllOffsets(ctx, fmt.Sprintf("n%02d", i), offsets); err != nil {
					t.Fatal(err)
				}
			}
		}
		if token = r.NextPageToken; len(token) == 0 {
			break
		}
	}
	for i := range 45 {
		if id := fmt.Sprintf("g%02d", i); seen[id] != 1 {
			t.Errorf("%s is listed %d times", id, seen[id])
		}
	}
	other := start(t)
	r, err := n.groups().List(ctx, &api.ListGroupsRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.groups().List(ctx, &api.ListGroupsRequest{PageToken: r.NextPageToken})
	wants(t, err, codes.FailedPrecondition, "earlier run")
}
