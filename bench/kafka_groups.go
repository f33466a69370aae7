package bench

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

// kgroup is a group of consumers whose members only take part: they read nothing.
type kgroup struct {
	r       *kafkaRun
	name    string
	topics  []string
	members []*kmember
	parts   int

	mu struct {
		sync.Mutex
		full time.Duration // when every partition had its member; 0: not yet
		err  error
	}
}

// kmember is a member, on a connection and a goroutine of its own. What it owns is guarded by its group's lock.
type kmember struct {
	g     *kgroup
	admin *kafkaAdmin
	id    string
	epoch int32
	owned map[[16]byte][]int32
	known bool // the broker knows what it owns
}

// runGroups: time from the first heartbeat of any member until in every group each partition belongs to one member, and no member
// has more than one partition more than another.
func runGroups(r *kafkaRun) error {
	if _, ok := r.admin.versions[int16(wire.ConsumerGroupHeartbeat)]; !ok {
		return errors.New("the broker does not speak ConsumerGroupHeartbeat")
	}
	if err := r.makeTopics(); err != nil {
		return err
	}
	return r.removeTopics(r.assignGroups())
}

func (r *kafkaRun) assignGroups() error {
	var groups []*kgroup
	defer func() {
		for _, g := range groups {
			for _, m := range g.members {
				m.admin.close()
			}
		}
	}()
	for i := range r.k.Groups {
		g := &kgroup{r: r, name: fmt.Sprintf("%s-g%d", r.clientID, i), parts: len(r.parts)}
		for _, t := range r.topics {
			g.topics = append(g.topics, t.name)
		}
		groups = append(groups, g)
		at, err := r.coordinatorOf(g.name)
		if err != nil {
			return err
		}
		for range r.k.Members {
			a, err := dialAdmin(r, at, r.cfg.ConnectTimeout)
			if err != nil {
				return err
			}
			r.dialCount.Add(1)
			g.members = append(g.members, &kmember{g: g, admin: a, id: newUUID(), owned: map[[16]byte][]int32{}})
		}
	}
	before, err := r.sample()
	if err != nil {
		return err
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.ConnectTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, g := range groups {
		for _, m := range g.members {
			all.Go(func() { m.takePart(ctx, start) })
		}
	}
	all.Wait()
	took := time.Since(start)
	after, serr := r.sample()
	r.result.setUsage(before, after, took)
	r.result.step("members", uint64(len(groups)*r.k.Members), before, after, took)
	for _, g := range groups {
		err = errors.Join(err, g.leave())
		observe(r.commits[0], int64(g.mu.full))
	}
	return errors.Join(err, serr)
}

// newUUID makes an id as members of a group give themselves.
func newUUID() string {
	var b [16]byte
	_, _ = crand.Read(b[:])
	return wire.UUID(b).String()
}

// takePart heartbeats until the group is fully assigned, or ctx ends.
func (m *kmember) takePart(ctx context.Context, start time.Time) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			m.g.fail(fmt.Errorf("group %s: not every partition has its member: %w", m.g.name, ctx.Err()))
			return
		case <-wait.C:
		}
		interval, err := m.heartbeat()
		if err != nil {
			m.g.fail(err)
			return
		}
		if m.g.settled(start) {
			return
		}
		wait.Reset(interval)
	}
}

func (g *kgroup) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.err == nil {
		g.mu.err = err
	}
}

// settled tells whether the group is fully assigned, or has failed.
func (g *kgroup) settled(start time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.err != nil || g.mu.full > 0 {
		return true
	}
	total := 0
	for _, m := range g.members {
		n := 0
		for _, parts := range m.owned {
			n += len(parts)
		}
		if !m.known || n < g.parts/len(g.members) {
			return false
		}
		total += n
	}
	if total < g.parts {
		return false
	}
	g.mu.full = time.Since(start)
	return true
}

// heartbeat does one exchange and takes over what it brings. It says after what the next is due.
func (m *kmember) heartbeat() (time.Duration, error) {
	q := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	q.Group, q.MemberID, q.MemberEpoch = m.g.name, m.id, m.epoch
	q.RebalanceTimeoutMillis = -1
	if m.epoch == 0 {
		q.RebalanceTimeoutMillis = 30_000
		q.SubscribedTopicNames = m.g.topics
	}
	if m.epoch == 0 || !m.known {
		q.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for id, parts := range m.owned {
			t := kmsg.NewConsumerGroupHeartbeatRequestTopic()
			t.TopicID, t.Partitions = id, parts
			q.Topics = append(q.Topics, t)
		}
	}
	p, err := ask[*kmsg.ConsumerGroupHeartbeatResponse](m.admin, q)
	if err != nil {
		return 0, err
	}
	if code := wire.ErrorCode(p.ErrorCode); code.Retriable() {
		return m.g.r.k.Heartbeat, nil
	}
	if err := failed("heartbeat in group "+m.g.name, p.ErrorCode, p.ErrorMessage); err != nil {
		return 0, err
	}
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	if p.MemberID != nil {
		m.id = *p.MemberID
	}
	m.epoch = p.MemberEpoch
	m.known = true
	if p.Assignment != nil && m.assign(p.Assignment) {
		m.known = false
		return 0, nil // what changed is told at once
	}
	return min(m.g.r.k.Heartbeat, time.Duration(max(p.HeartbeatIntervalMillis, 1))*time.Millisecond), nil
}

// assign takes over an assignment and tells whether it differs from the one before.
func (m *kmember) assign(a *kmsg.ConsumerGroupHeartbeatResponseAssignment) (changed bool) {
	owned := map[[16]byte][]int32{}
	for _, t := range a.Topics {
		slices.Sort(t.Partitions)
		owned[t.TopicID] = t.Partitions
		changed = changed || !slices.Equal(m.owned[t.TopicID], t.Partitions)
	}
	changed = changed || len(owned) != len(m.owned)
	m.owned = owned
	return changed
}

// leave checks that no partition has two members, and has all leave.
func (g *kgroup) leave() error {
	seen := map[string]bool{}
	for _, m := range g.members {
		for id, parts := range m.owned {
			topic := g.r.byID[id]
			for _, p := range parts {
				if topic == nil || p < 0 || int(p) >= len(topic.parts) {
					g.r.strange.add(g.r.clock(), 1)
				}
				at := fmt.Sprint(id, p)
				if seen[at] {
					g.r.doubled.add(g.r.clock(), 1)
				}
				seen[at] = true
			}
		}
		m.epoch = -1
		q := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		q.Group, q.MemberID, q.MemberEpoch = g.name, m.id, -1
		if _, err := ask[*kmsg.ConsumerGroupHeartbeatResponse](m.admin, q); err != nil && g.mu.err == nil {
			g.mu.err = err
		}
	}
	return g.mu.err
}

// coordinatorOf gives the address of a group's coordinator.
func (r *kafkaRun) coordinatorOf(group string) (mqttclient.Target, error) {
	a, err := r.findCoordinator(group, coordinatorGroup)
	if err != nil || a == r.admin {
		return r.target, err
	}
	for id, x := range r.admins {
		if x == a {
			return r.nodes.table.Load().nodes[id].target, nil
		}
	}
	return r.target, nil
}
