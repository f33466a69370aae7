package control

import (
	"context"
	"errors"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
)

// Errors of Tier.
var (
	ErrNoStore  = errors.New("this node has no store for its history: set tier.store and tier.settings (docs/tiers.md)")
	ErrTierBusy = errors.New("another verify, rebuild, prefetch, offload or adopt is under way")
	// ErrTierRefused is wrapped around what an operator has to decide first.
	ErrTierRefused = errors.New("refused")
)

// Tier is the node's store of history, and what can be done about it.
type Tier interface {
	// Status fills in what there is.
	Status(s *api.TierStatus)
	// Partition gives where records of one lie.
	Partition(p *broker.Partition) *api.TierPartition
	// Do does something long, and tells how far it is, from one goroutine at a time. It answers ErrTierBusy at once if another is under way.
	Do(ctx context.Context, job TierJob, tell func(*api.TierProgress)) (*api.TierResult, error)
}

// TierJob is one of the pointers *api.VerifyTierRequest, *api.RebuildTierRequest, *api.PrefetchTierRequest, *api.OffloadTierRequest and
// *api.AdoptTierRequest.
type TierJob any

// tierService is the service Tiers.
type tierService struct {
	api.UnsafeTiersServer // a method that is missing does not compile
	s                     *Server
}

// Describe shows the store.
func (t *tierService) Describe(context.Context, *api.DescribeTierRequest) (*api.TierStatus, error) {
	out := &api.TierStatus{}
	if t.s.o.Tier != nil {
		out.Configured = true
		t.s.o.Tier.Status(out)
	}
	return out, nil
}

// DescribeTopic shows where a topic's records lie.
func (t *tierService) DescribeTopic(_ context.Context, r *api.DescribeTierTopicRequest) (*api.TierTopic, error) {
	if t.s.o.Tier == nil {
		return nil, status.Error(codes.FailedPrecondition, ErrNoStore.Error())
	}
	topic := t.s.o.Broker.Topic(defaultTenant, r.Name)
	if topic == nil {
		return nil, missing("topic %s: there is none of this name", quoted(r.Name))
	}
	c := &topic.Spec().Config
	out := &api.TierTopic{Name: topic.Name(), Policy: policyNames[c.Tier], LocalRetentionMs: c.LocalRetentionMillis, LocalRetentionBytes: c.LocalRetentionBytes}
	for _, p := range topic.Partitions() {
		out.Partitions = append(out.Partitions, t.s.o.Tier.Partition(p))
	}
	return out, nil
}

var policyNames = map[broker.TierPolicy]string{broker.TierNone: "none", broker.TierArchive: "archive", broker.TierImmediate: "immediate"}

// Verify reads objects whole.
func (t *tierService) Verify(r *api.VerifyTierRequest, out grpc.ServerStreamingServer[api.TierProgress]) error {
	if err := t.knows(r.Topic); err != nil {
		return err
	}
	return t.do(r, "verify", out)
}

// Rebuild brings back what the store has.
func (t *tierService) Rebuild(r *api.RebuildTierRequest, out grpc.ServerStreamingServer[api.TierProgress]) error {
	return t.do(r, "rebuild", out)
}

// Prefetch reads into the cache.
func (t *tierService) Prefetch(r *api.PrefetchTierRequest, out grpc.ServerStreamingServer[api.TierProgress]) error {
	if r.Topic == "" {
		return wrong("prefetch: want a topic")
	}
	if err := t.knows(r.Topic); err != nil {
		return err
	}
	if n := len(t.s.o.Broker.Topic(defaultTenant, r.Topic).Partitions()); int(r.Partition) >= n {
		return missing("prefetch: topic %s has %d partitions, and no %d", quoted(r.Topic), n, r.Partition)
	}
	return t.do(r, "prefetch", out)
}

// Offload brings what is due to the store.
func (t *tierService) Offload(r *api.OffloadTierRequest, out grpc.ServerStreamingServer[api.TierProgress]) error {
	return t.do(r, "offload", out)
}

// Adopt takes over what a node that is gone has left in the store.
func (t *tierService) Adopt(r *api.AdoptTierRequest, out grpc.ServerStreamingServer[api.TierProgress]) error {
	if r.Epoch < 0 || r.Epoch > math.MaxInt32 {
		return wrong("adopt: no epoch is %d", r.Epoch)
	}
	return t.do(r, "adopt", out)
}

// knows tells whether there is a topic; the empty name is all of them.
func (t *tierService) knows(name string) error {
	if name != "" && t.s.o.Broker.Topic(defaultTenant, name) == nil {
		return missing("topic %s: there is none of this name", quoted(name))
	}
	return nil
}

// do does something long for a caller.
func (t *tierService) do(job TierJob, what string, out grpc.ServerStreamingServer[api.TierProgress]) error {
	s := t.s
	if s.o.Tier == nil {
		return status.Error(codes.FailedPrecondition, what+": "+ErrNoStore.Error())
	}
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	defer context.AfterFunc(s.jobs, cancel)() // the node goes
	began := time.Now()
	result, err := s.o.Tier.Do(ctx, job, func(p *api.TierProgress) {
		for i := range p.Notes {
			p.Notes[i] = text(p.Notes[i])
		}
		if out.Send(p) != nil {
			cancel() // nobody listens
		}
	})
	switch {
	case s.jobs.Err() != nil:
		err = status.Error(codes.Unavailable, what+": the node stops")
	case out.Context().Err() != nil:
		err = status.FromContextError(out.Context().Err()).Err()
	case err != nil:
		err = refuse(err, what, "")
	default:
		result.TookMs = time.Since(began).Milliseconds()
		err = out.Send(&api.TierProgress{Phase: "done", Result: result})
	}
	return err
}
