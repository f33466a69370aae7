package control_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Shared subscriptions show their lag as Kafka's groups do.
func TestSharedGroups(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	worker := n.mqtt("worker", 3600, 5)
	for i := range 10 {
		n.subscribe(worker, fmt.Sprintf("$share/workers/jobs/%d/#", i))
	}
	n.subscribe(n.mqtt("live", 0, 5), "$share/passing/jobs/#") // nothing of it is kept
	if err := worker.Disconnect(); err != nil {
		t.Fatal(err)
	}
	pub := n.mqtt("pub", 0, 5)
	for range 3 {
		if _, err := pub.Publish(&wire.PublishOut{Topic: []byte("jobs/1/x"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	const id = "$share/workers/jobs/1/#"
	testx.Eventually(t, 10*time.Second, func() bool {
		d, err := n.groups().Describe(ctx, &api.DescribeGroupRequest{Id: id})
		return err == nil && d.Group.Type == "shared" && d.Group.Lag == 3 && d.Group.LagMs > 0 && d.Group.LagMs < 60_000 && d.Group.Members == 1
	}, "three messages wait")
	seen := map[string]int{}
	eachPage(t, func(token []byte) []byte {
		r, err := n.groups().List(ctx, &api.ListGroupsRequest{PageSize: 3, PageToken: token})
		if err != nil || len(r.Groups) > 3 {
			t.Fatalf("%v, %v", r, err)
		}
		for _, g := range r.Groups {
			seen[g.Id]++
		}
		return r.NextPageToken
	})
	if len(seen) != 10 || seen[id] != 1 {
		t.Errorf("%v", seen)
	}
	_, err := n.groups().Delete(ctx, &api.DeleteGroupRequest{Id: id})
	wants(t, err, codes.FailedPrecondition, "sluice subscription list")
	for _, id := range []string{"$share/", "$share/workers", "$share/none/jobs", "$share/passing/jobs/#"} {
		_, err := n.groups().Describe(ctx, &api.DescribeGroupRequest{Id: id})
		wants(t, err, codes.NotFound, "there is none")
	}
}
