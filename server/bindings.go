package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// CheckBinding says what is wrong with a binding of the configuration.
func CheckBinding(b *config.Binding) error {
	_, err := parseBinding(b)
	return err
}

func parseBinding(b *config.Binding) (*broker.Binding, error) {
	if !kafka.ValidTopicName(b.Topic) {
		return nil, fmt.Errorf("topic %q: a name has 1 to 249 letters, digits, dots, underscores and dashes", b.Topic)
	}
	return broker.ParseBinding(b.Filter, b.Topic, b.Key, b.Deliver)
}

// ErrBindingConfigured says that a filter is bound by the configuration, which only its file can change.
var ErrBindingConfigured = errors.New("the filter is bound in the configuration: change it there, and reload")

// binder keeps the core's bindings what the configuration and the catalog say: both together, where both bind a filter the configuration.
type binder struct {
	topics     *topicCatalog
	catalog    *meta.Catalog
	leads      func() bool
	lacks      atomic.Bool // a topic is not there yet that another node makes
	partitions func() int  // of a topic that is made
	logger     *slog.Logger

	mu         sync.Mutex // one change of the core's at a time
	configured config.Bindings
	passed     string // why the last binding that was passed over is not in force

	named atomic.Pointer[config.Bindings] // configured, for who asks without the lock

	changed chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
	cancel  func() // the catalog's subscription
}

// newBinder has the bindings count that there are, and from then on those that the catalog gets.
func newBinder(ctx context.Context, n *node, configured config.Bindings, partitions func() int) (*binder, error) {
	b := &binder{topics: n.topics, catalog: n.catalog.Catalog, leads: n.member.leads, partitions: partitions, logger: n.o.logger,
		changed: make(chan struct{}, 1), done: make(chan struct{})}
	b.cancel = n.catalog.Subscribe(func(old, now *meta.Snapshot) {
		if meta.BindingsChanged(old, now) {
			b.changedSoon()
		}
	})
	n.topics.binder.Store(b)
	if err := b.configure(ctx, configured); err != nil {
		b.cancel()
		return nil, err
	}
	n.member.onLead(b.changedSoon)
	run, stop := context.WithCancel(context.Background())
	b.stop = stop
	go b.follow(run)
	return b, nil
}

// follow takes over what the catalog gets.
func (b *binder) follow(ctx context.Context) {
	defer close(b.done)
	tick := time.NewTicker(bindAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.changed:
		case <-tick.C:
			if !b.lacks.Load() {
				continue
			}
		}
		if err := b.bind(ctx, false); err != nil && ctx.Err() == nil {
			b.logger.Error("bindings of the catalog are not in force", "err", err)
		}
	}
}

func (b *binder) close() {
	b.cancel()
	b.stop()
	<-b.done
}

// configure replaces the bindings of the configuration. With an error, those before are in force.
func (b *binder) configure(ctx context.Context, configured config.Bindings) error {
	b.mu.Lock()
	was := b.configured
	b.configured = configured
	b.named.Store(&configured)
	b.mu.Unlock()
	err := b.bind(ctx, true)
	if err != nil {
		b.mu.Lock()
		b.configured = was
		b.named.Store(&was)
		b.mu.Unlock()
	}
	return err
}

// changedSoon has follow bind anew.
func (b *binder) changedSoon() {
	select {
	case b.changed <- struct{}{}:
	default: // it is about to
	}
}

// bindAgain is how long a node that follows waits for the topic of a binding.
const bindAgain = 200 * time.Millisecond

// bind makes the topics of bindings that are not there, and has the bindings count. A node that does not lead makes none: bindings without count later. strict: a binding of the
// configuration's that names a topic with leader.spread is an error; else such a one is passed over, and the others count.
func (b *binder) bind(ctx context.Context, strict bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	leads, lacks := b.leads(), false
	defer func() { b.lacks.Store(lacks) }()
	var list []*broker.Binding
	add := func(c *config.Binding, strict bool) error {
		bd, err := parseBinding(c)
		if err != nil {
			return fmt.Errorf("bindings: %w", err)
		}
		if !leads && b.topics.b.Topic(0, c.Topic) == nil {
			lacks = true
			return nil
		}
		switch err := b.makeTopic(ctx, c.Topic, c.Partitions); {
		case errors.Is(err, broker.ErrBindSpread) && !strict:
			b.passLocked(c, err)
			return nil
		case err != nil:
			return fmt.Errorf("bindings: make topic %q: %w", c.Topic, err)
		}
		list = append(list, bd)
		return nil
	}
	seen := make(map[string]bool)
	for i := range b.configured {
		seen[b.configured[i].Filter] = true
		if err := add(&b.configured[i], strict); err != nil {
			return err
		}
	}
	for filter, m := range b.catalog.Load().Bindings() {
		if seen[filter] {
			continue
		}
		if err := add(&config.Binding{Filter: m.Filter, Topic: m.Topic, Key: m.Key, Deliver: m.Deliver}, false); err != nil {
			return err
		}
	}
	return b.topics.b.Bind(list)
}

// passLocked says, once, that a binding is not in force.
func (b *binder) passLocked(c *config.Binding, err error) {
	if why := c.Filter + ": " + err.Error(); b.passed != why {
		b.passed = why
		b.logger.Error("a binding is not in force", "filter", c.Filter, "err", err)
	}
}

// makeTopic makes a topic of a binding if it is not there. partitions 0: as many as the configuration says.
func (b *binder) makeTopic(ctx context.Context, name string, partitions int) error {
	if partitions == 0 {
		partitions = b.partitions()
	}
	if err := b.topics.make(ctx, name, partitions); err != nil {
		return err
	}
	if t := b.topics.b.Topic(0, name); t != nil && t.Spec().Config.Spread {
		return fmt.Errorf("%w: %q", broker.ErrBindSpread, name)
	}
	return nil
}

// make makes a topic if it is not there.
func (c *topicCatalog) make(ctx context.Context, name string, partitions int) error {
	if c.b.Topic(0, name) != nil {
		return nil
	}
	made := make(chan kafka.TopicResult, 1)
	c.CreateTopics(0, []kafka.TopicCreation{{Name: name, Partitions: int32(partitions), ReplicationFactor: -1}}, false,
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

// isConfigured says whether the configuration binds a filter.
func (b *binder) isConfigured(filter string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.configured {
		if b.configured[i].Filter == filter {
			return true
		}
	}
	return false
}

// Add binds a filter, or changes how it is bound, for good. Its topic is made if it is not there, with so many partitions (0: as the
// configuration says). It returns when the binding counts.
func (b *binder) Add(ctx context.Context, m meta.Binding, partitions int) error {
	c := &config.Binding{Filter: m.Filter, Topic: m.Topic, Key: m.Key, Deliver: m.Deliver}
	if err := CheckBinding(c); err != nil {
		return err
	}
	if b.isConfigured(m.Filter) {
		return ErrBindingConfigured
	}
	if err := b.makeTopic(ctx, m.Topic, partitions); err != nil {
		return fmt.Errorf("make topic %q: %w", m.Topic, err)
	}
	return b.update(ctx, m.Entry())
}

// ErrNoBinding says that a filter is not bound.
var ErrNoBinding = errors.New("no binding has this filter")

// Delete takes a binding away. Its stream and what is in it stay.
func (b *binder) Delete(ctx context.Context, filter string) error {
	switch {
	case b.isConfigured(filter):
		return ErrBindingConfigured
	case b.catalog.Load().Binding(filter) == nil:
		return ErrNoBinding
	}
	return b.update(ctx, meta.DeleteBinding(filter))
}

func (b *binder) update(ctx context.Context, e meta.Entry) error {
	done := make(chan error, 1)
	b.catalog.Update(func(*meta.Snapshot) ([]meta.Entry, error) { return []meta.Entry{e}, nil }, func(err error) { done <- err })
	select {
	case err := <-done:
		if err != nil {
			return err
		}
		return b.bind(ctx, false)
	case <-ctx.Done():
		return ctx.Err()
	}
}
