package control_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
)

func (n *node) tiers() api.TiersClient { return api.NewTiersClient(n.conn) }

// last follows something long to its end.
func last[R any](t *testing.T, start func(context.Context, *R, ...grpc.CallOption) (grpc.ServerStreamingClient[api.TierProgress], error), r *R) (result *api.TierResult, notes []string, err error) {
	t.Helper()
	s, err := start(t.Context(), r)
	if err != nil {
		return nil, nil, err
	}
	for {
		p, err := s.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return result, notes, err
		}
		notes = append(notes, p.Notes...)
		if p.Result != nil {
			result = p.Result
		}
	}
}

// Without a store everything says which setting is missing, and Describe that there is none.
func TestTierOff(t *testing.T) {
	n := start(t)
	n.create("a", 1)
	if s, err := n.tiers().Describe(t.Context(), &api.DescribeTierRequest{}); err != nil || s.Configured {
		t.Errorf("%v, %v", s, err)
	}
	const says = "set tier.store"
	_, err := n.tiers().DescribeTopic(t.Context(), &api.DescribeTierTopicRequest{Name: "a"})
	wants(t, err, codes.FailedPrecondition, says)
	_, _, err = last(t, n.tiers().Verify, &api.VerifyTierRequest{})
	wants(t, err, codes.FailedPrecondition, says)
	_, _, err = last(t, n.tiers().Rebuild, &api.RebuildTierRequest{})
	wants(t, err, codes.FailedPrecondition, says)
	_, _, err = last(t, n.tiers().Prefetch, &api.PrefetchTierRequest{Topic: "a"})
	wants(t, err, codes.FailedPrecondition, says)
	_, _, err = last(t, n.tiers().Offload, &api.OffloadTierRequest{})
	wants(t, err, codes.FailedPrecondition, says)
	_, _, err = last(t, n.tiers().Adopt, &api.AdoptTierRequest{})
	wants(t, err, codes.FailedPrecondition, says)
}

// What is asked for by a name or number that is not there is refused by it; the rest works on an empty store.
func TestTierRequests(t *testing.T) {
	n := start(t, "tier.store=local", "tier.settings.dir="+t.TempDir())
	n.create("a", 2)
	_, err := n.tiers().DescribeTopic(t.Context(), &api.DescribeTierTopicRequest{Name: "b"})
	wants(t, err, codes.NotFound, `"b"`)
	d, err := n.tiers().DescribeTopic(t.Context(), &api.DescribeTierTopicRequest{Name: "a"})
	if err != nil || d.Policy != "none" || len(d.Partitions) != 2 {
		t.Errorf("%v, %v", d, err)
	}
	_, _, err = last(t, n.tiers().Verify, &api.VerifyTierRequest{Topic: "b"})
	wants(t, err, codes.NotFound, `"b"`)
	_, _, err = last(t, n.tiers().Prefetch, &api.PrefetchTierRequest{})
	wants(t, err, codes.InvalidArgument, "want a topic")
	_, _, err = last(t, n.tiers().Prefetch, &api.PrefetchTierRequest{Topic: "a", Partition: 2})
	wants(t, err, codes.NotFound, "has 2 partitions")
	_, _, err = last(t, n.tiers().Adopt, &api.AdoptTierRequest{Epoch: -1})
	wants(t, err, codes.InvalidArgument, "no epoch is -1")
	_, _, err = last(t, n.tiers().Adopt, &api.AdoptTierRequest{Epoch: 1 << 31})
	wants(t, err, codes.InvalidArgument, "no epoch is")
	_, _, err = last(t, n.tiers().Adopt, &api.AdoptTierRequest{Epoch: 5})
	wants(t, err, codes.FailedPrecondition, "no such epoch: 5")
	if r, notes, err := last(t, n.tiers().Adopt, &api.AdoptTierRequest{}); err != nil || r.GetObjects() != 0 || len(notes) != 0 {
		t.Errorf("%v, %v, %v", r, notes, err)
	}
	for what, do := range map[string]func() (*api.TierResult, []string, error){
		"verify": func() (*api.TierResult, []string, error) { return last(t, n.tiers().Verify, &api.VerifyTierRequest{}) },
		"rebuild": func() (*api.TierResult, []string, error) {
			return last(t, n.tiers().Rebuild, &api.RebuildTierRequest{})
		},
		"offload": func() (*api.TierResult, []string, error) {
			return last(t, n.tiers().Offload, &api.OffloadTierRequest{})
		},
		"prefetch": func() (*api.TierResult, []string, error) {
			return last(t, n.tiers().Prefetch, &api.PrefetchTierRequest{Topic: "a", Partition: -1})
		},
	} {
		if r, _, err := do(); err != nil || r == nil || r.Wrong != 0 {
			t.Errorf("%s: %v, %v", what, r, err)
		}
	}
	// What the rebuild has minted is the node's own.
	_, _, err = last(t, n.tiers().Adopt, &api.AdoptTierRequest{Epoch: 1})
	wants(t, err, codes.FailedPrecondition, "this node's own")
}

// A store that does not answer is told of with its error and the time of the next try, while a turn still tries; another long job is refused
// meanwhile.
func TestTierStatusOfDeadStore(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(store, []byte("no folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, "tier.store=local", "tier.settings.dir="+store, "tier.interval=100ms")
	if _, err := n.topics().Create(t.Context(), &api.CreateTopicRequest{Name: "a", Partitions: 1, Settings: map[string]string{"tier.policy": "immediate"}}); err != nil {
		t.Fatal(err)
	}
	n.produce(n.kafka(), "a", 0, "v", time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := n.tiers().Offload(ctx, &api.OffloadTierRequest{All: true})
	if err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, 20*time.Second, func() bool {
		d, err := n.tiers().Describe(t.Context(), &api.DescribeTierRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return d.Error != "" && d.FailingSinceMs > 0 && d.NextTryMs >= d.FailingSinceMs
	}, "the store is not missed")
	_, _, err = last(t, n.tiers().Verify, &api.VerifyTierRequest{})
	wants(t, err, codes.Aborted, "is under way")
	cancel()
	for {
		if _, err := s.Recv(); err != nil {
			break
		}
	}
}
