package control

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
)

// Errors of Bindings.
var (
	ErrConfigured = errors.New("it is bound in the configuration: change it there, and reload")
	ErrNoBinding  = errors.New("no binding has this filter; sluice binding list shows what is bound")
)

// Bindings are the configuration's and the catalog's together.
type Bindings interface {
	// Add and Delete change the catalog's, and return when the change counts: with ErrConfigured for a filter of the configuration's.
	Add(ctx context.Context, b meta.Binding, partitions int) error
	Delete(ctx context.Context, filter string) error
	// Configured says whether the configuration binds a filter.
	Configured(filter string) bool
}

// bindingService is the service Bindings.
type bindingService struct {
	api.UnsafeBindingsServer // a method that is missing does not compile
	s                        *Server
}

func (c *bindingService) shown(b *broker.Binding) *api.Binding {
	out := &api.Binding{Filter: text(b.Filter), Topic: b.Topic, Key: b.KeyText(), Deliver: text(b.DeliverText()), Source: sourceCatalog}
	if c.s.o.Bindings.Configured(b.Filter) {
		out.Source = sourceConfiguration
	}
	return out
}

// find gives the binding of a filter, nil if there is none.
func (c *bindingService) find(filter string) *broker.Binding {
	for _, b := range c.s.o.Broker.Bindings() {
		if b.Filter == filter {
			return b
		}
	}
	return nil
}

// was notes how a filter is bound before a change.
func (c *bindingService) was(ctx context.Context, filter string) {
	if b := c.find(filter); b != nil {
		was(ctx, c.shown(b))
	}
}

// Add binds a filter.
func (c *bindingService) Add(ctx context.Context, r *api.AddBindingRequest) (*api.Binding, error) {
	what := "bind " + quoted(r.Filter)
	switch {
	case !c.s.o.ValidTopic(r.Topic):
		return nil, wrong("%s: stream %s: a topic's name has 1 to 249 letters, digits, dots, underscores and dashes", what, quoted(r.Topic))
	case r.Partitions < 0 || r.Partitions > c.s.o.PartitionsMax:
		return nil, wrong("%s: want 1 to %d partitions, found %d", what, c.s.o.PartitionsMax, r.Partitions)
	}
	if t := c.s.o.Broker.Topic(defaultTenant, r.Topic); t != nil && r.Partitions != 0 && len(t.Partitions()) != int(r.Partitions) {
		return nil, wrong("%s: stream %s is there, with %d partitions; leave the number out", what, quoted(r.Topic), len(t.Partitions()))
	}
	c.was(ctx, r.Filter)
	err := c.s.o.Bindings.Add(ctx, meta.Binding{Filter: r.Filter, Topic: r.Topic, Key: cmp.Or(r.Key, "topic"), Deliver: cmp.Or(r.Deliver, "key")}, int(r.Partitions))
	if err != nil {
		return nil, refuse(err, what, "")
	}
	if b := c.find(r.Filter); b != nil {
		return c.shown(b), nil
	}
	return &api.Binding{Filter: r.Filter, Topic: r.Topic}, nil // somebody has deleted it since
}

// List lists the bindings.
func (c *bindingService) List(_ context.Context, r *api.ListBindingsRequest) (*api.ListBindingsResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	list := c.s.o.Broker.Bindings()
	at := 0
	if len(r.PageToken) > 0 {
		last, err := broker.ParseBinding(string(r.PageToken), "t", "", "")
		if err != nil {
			return nil, wrong("page_token is none that this node has given")
		}
		for at < len(list) && !last.Before(list[at]) {
			at++
		}
	}
	out := &api.ListBindingsResponse{}
	for _, b := range list[at:min(at+size, len(list))] {
		out.Bindings = append(out.Bindings, c.shown(b))
	}
	if at+size < len(list) {
		out.NextPageToken = []byte(list[at+size-1].Filter)
	}
	return out, nil
}

// Delete takes a binding away.
func (c *bindingService) Delete(ctx context.Context, r *api.DeleteBindingRequest) (*api.DeleteBindingResponse, error) {
	c.was(ctx, r.Filter)
	if err := c.s.o.Bindings.Delete(ctx, r.Filter); err != nil {
		return nil, refuse(err, "delete binding "+quoted(r.Filter), "")
	}
	return &api.DeleteBindingResponse{}, nil
}

// Explain says what becomes of a message.
func (c *bindingService) Explain(_ context.Context, r *api.ExplainBindingRequest) (*api.ExplainBindingResponse, error) {
	if r.Topic == "" || len(r.Topic) > topicBytesMax || strings.ContainsAny(r.Topic, "+#\x00") {
		return nil, wrong("explain the binding of %s: a topic has 1 to %d bytes and none of +, # and NUL", quoted(r.Topic), topicBytesMax)
	}
	out := &api.ExplainBindingResponse{}
	if p, ok := c.s.o.Broker.ExplainBinding(r.Topic, r.Client); ok {
		out.Binding, out.Key, out.Partition = c.shown(p.Binding), text(string(p.Key)), p.Partition
		for _, b := range slices.Clip(p.Others[:min(len(p.Others), detailRows)]) {
			out.Others = append(out.Others, c.shown(b))
		}
	}
	return out, nil
}
