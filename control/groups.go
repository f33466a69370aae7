package control

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/journal/record"
)

// Bounds of one answer about groups.
const (
	pageOffsets   = 20_000 // that are summed up for one page
	timesInFlight = 64     // reads of the log that wait for one call
	groupIDMax    = 32767  // Kafka's bound of a string
)

// groupService is the service Groups.
type groupService struct {
	api.UnsafeGroupsServer // a method that is missing does not compile
	s                      *Server
}

// List goes through the groups.
func (g *groupService) List(ctx context.Context, r *api.ListGroupsRequest) (*api.ListGroupsResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	at, err := g.s.place(r.PageToken)
	if err != nil {
		return nil, err
	}
	type slice struct {
		list []broker.GroupDescription
		next broker.RowPlace
		end  bool
	}
	out, tenant := &api.ListGroupsResponse{}, tenantOf(ctx)
	for seen, work := 0, 0; at.Part != sharedPart; {
		n := min(sliceRows, size-len(out.Groups))
		some, err := await(ctx, func(done func(slice)) {
			g.s.o.Broker.Groups(tenant, at, n, func(list []broker.GroupDescription, next broker.RowPlace, end bool) {
				done(slice{list, next, end})
			})
		})
		if err != nil {
			return nil, err
		}
		for i := range some.list {
			d := &some.list[i]
			if !strings.Contains(d.ID, r.Contains) || !among(r.States, d.State) {
				continue
			}
			row := g.summary(d)
			for _, o := range g.s.o.Broker.FetchOffsets(tenant, d.ID, nil) {
				work++
				if p := g.partition(tenant, o.TopicPartition); p != nil && o.Offset >= 0 {
					row.Lag += lagOf(p, o.Offset)
				}
			}
			out.Groups = append(out.Groups, row)
		}
		seen, at = seen+n, some.next
		if some.end {
			at = broker.RowPlace{Part: sharedPart}
		}
		if len(out.Groups) >= size || seen >= pageRows || work >= pageOffsets {
			out.NextPageToken = g.s.rowToken(at)
			return out, nil
		}
	}
	return out, g.listShared(ctx, r, at.Row, size, out)
}

func among(list []string, s string) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(e string) bool { return strings.EqualFold(e, s) })
}

func (g *groupService) summary(d *broker.GroupDescription) *api.Group {
	return &api.Group{Id: text(d.ID), State: d.State, Type: d.Type(), ProtocolType: text(d.ProtocolType), Members: int32(d.Size)}
}

func (g *groupService) partition(tenant uint32, tp broker.TopicPartition) *broker.Partition {
	t := g.s.o.Broker.TopicByID(tenant, tp.Topic)
	if t == nil {
		return nil
	}
	return t.Partition(tp.Partition)
}

// lagOf is how many records lie behind an offset.
func lagOf(p *broker.Partition, o record.Offset) int64 {
	return int64(max(p.HighWatermark()-max(o, p.LogStart()), 0))
}

// described is a group of either protocol.
type described struct {
	group    *api.Group
	assignor string
	members  []*api.Member
	owners   map[broker.TopicPartition]string
}

// find asks for a group, whichever protocol it follows.
func (g *groupService) find(ctx context.Context, what, id string) (*described, error) {
	tenant := tenantOf(ctx)
	c, err := await(ctx, func(done func(broker.ConsumerDescription)) { g.s.o.Broker.DescribeConsumerGroup(tenant, id, done) })
	if err != nil {
		return nil, err
	}
	if c.Err == nil {
		return g.ofConsumer(tenant, &c), nil
	}
	d, err := await(ctx, func(done func(broker.GroupDescription)) { g.s.o.Broker.DescribeGroup(tenant, id, done) })
	if err != nil {
		return nil, err
	}
	if d.State == broker.GroupDead.String() {
		if s, ok := g.shared(tenant, id); ok {
			return &described{group: s}, nil
		}
		return nil, missing("%s: there is none; sluice group list shows what is there", what)
	}
	return g.ofClassic(tenant, &d), nil
}

func (g *groupService) ofConsumer(tenant uint32, c *broker.ConsumerDescription) *described {
	d := &described{group: &api.Group{Id: text(c.ID), State: c.State, Type: "consumer", ProtocolType: "consumer", Members: int32(len(c.Members))},
		assignor: c.Assignor, owners: make(map[broker.TopicPartition]string)}
	for i := range c.Members {
		m := &c.Members[i]
		d.members = append(d.members, &api.Member{Id: text(m.ID), InstanceId: text(m.InstanceID), ClientId: text(m.ClientID), Host: text(m.ClientHost),
			Epoch: m.Epoch, Assigned: g.byTopic(tenant, m.Assigned)})
		for _, tp := range m.Assigned {
			d.owners[tp] = text(m.ID)
		}
	}
	return d
}

// byTopic names what a member has.
func (g *groupService) byTopic(tenant uint32, list []broker.TopicPartition) (out []*api.TopicPartitions) {
	at := make(map[string]*api.TopicPartitions)
	for _, tp := range list {
		t := g.s.o.Broker.TopicByID(tenant, tp.Topic)
		if t == nil {
			continue
		}
		e := at[t.Name()]
		if e == nil {
			e = &api.TopicPartitions{Topic: t.Name()}
			at[t.Name()] = e
			out = append(out, e)
		}
		e.Partitions = append(e.Partitions, tp.Partition)
	}
	return ordered(out)
}

func ordered(list []*api.TopicPartitions) []*api.TopicPartitions {
	for _, e := range list {
		slices.Sort(e.Partitions)
	}
	slices.SortFunc(list, func(a, b *api.TopicPartitions) int { return strings.Compare(a.Topic, b.Topic) })
	return list
}

func (g *groupService) ofClassic(tenant uint32, c *broker.GroupDescription) *described {
	c.Size = len(c.Members)
	d := &described{group: g.summary(c), assignor: text(c.Protocol), owners: make(map[broker.TopicPartition]string)}
	for i := range c.Members {
		m := &c.Members[i]
		row := &api.Member{Id: text(m.ID), InstanceId: text(m.InstanceID), ClientId: text(m.ClientID), Host: text(m.ClientHost)}
		if c.ProtocolType == "consumer" {
			row.Assigned = assignment(m.Assignment)
		}
		for _, e := range row.Assigned {
			if t := g.s.o.Broker.Topic(tenant, e.Topic); t != nil {
				for _, p := range e.Partitions {
					d.owners[broker.TopicPartition{Topic: t.ID(), Partition: p}] = row.Id
				}
			}
		}
		d.members = append(d.members, row)
	}
	return d
}

// Describe shows a group.
func (g *groupService) Describe(ctx context.Context, r *api.DescribeGroupRequest) (*api.GroupDescription, error) {
	tenant := tenantOf(ctx)
	d, err := g.find(ctx, "describe group "+quoted(r.Id), r.Id)
	if err != nil {
		return nil, err
	}
	out := &api.GroupDescription{Group: d.group, Assignor: d.assignor, Members: d.members}
	offsets := g.s.o.Broker.FetchOffsets(tenant, r.Id, nil)
	known := make(map[broker.TopicPartition]bool, len(offsets))
	for i := range offsets {
		known[offsets[i].TopicPartition] = true
	}
	for tp := range d.owners { // what is assigned and has no offset yet
		if !known[tp] {
			offsets = append(offsets, broker.FetchedOffset{TopicPartition: tp, CommittedOffset: broker.CommittedOffset{Offset: -1}})
		}
	}
	var behind []*broker.Partition
	var rows []*api.GroupOffset
	for i := range offsets {
		o := &offsets[i]
		p := g.partition(tenant, o.TopicPartition)
		if p == nil {
			continue
		}
		row := &api.GroupOffset{Topic: p.Topic().Name(), Partition: p.Index(), Offset: int64(o.Offset), LogStart: int64(p.LogStart()),
			LogEnd: int64(p.HighWatermark()), Lag: lagOf(p, o.Offset), Metadata: text(o.Metadata), CommittedMs: o.At,
			Member: d.owners[o.TopicPartition]}
		if o.Offset >= 0 {
			d.group.Lag += row.Lag
		}
		out.Offsets = append(out.Offsets, row)
		if row.Lag > 0 {
			behind, rows = append(behind, p), append(rows, row)
		}
	}
	slices.SortFunc(out.Offsets, func(a, b *api.GroupOffset) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return out, g.age(ctx, behind, rows)
}

// age says how old the first record is that a row's reader has not read. A few are looked up at once.
func (g *groupService) age(ctx context.Context, parts []*broker.Partition, rows []*api.GroupOffset) error {
	type answer struct {
		row   *api.GroupOffset
		ms    int64
		found bool
	}
	answers := make(chan answer, timesInFlight)
	now := time.Now().UnixMilli()
	sent, got := 0, 0
	for got < len(parts) {
		for ; sent < len(parts) && sent-got < timesInFlight; sent++ {
			row := rows[sent]
			g.s.o.Broker.TimeAt(parts[sent], record.Offset(max(row.Offset, 0)), func(ms int64, found bool, _ error) {
				answers <- answer{row, ms, found} // as much room as reads are in flight
			})
		}
		select {
		case a := <-answers:
			if got++; a.found {
				a.row.LagMs = max(now-a.ms, 1)
			}
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	return nil
}

// Delete forgets a group.
func (g *groupService) Delete(ctx context.Context, r *api.DeleteGroupRequest) (*api.DeleteGroupResponse, error) {
	tenant := tenantOf(ctx)
	what := "delete group " + quoted(r.Id)
	err := awaitError(ctx, func(done func(error)) { g.s.o.Broker.DeleteGroup(tenant, r.Id, done) })
	switch {
	case errors.Is(err, broker.ErrGroupNotFound):
		if _, ok := g.shared(tenant, r.Id); ok {
			return nil, status.Errorf(codes.FailedPrecondition, "%s: it is a shared subscription, which ends with the last kept session that is in it; "+
				"sluice subscription list shows who is", what)
		}
		return nil, missing("%s: there is none; sluice group list shows what is there", what)
	case err != nil:
		return nil, refuse(err, what, nonEmptyHint(err))
	}
	return &api.DeleteGroupResponse{}, nil
}

func nonEmptyHint(err error) string {
	if errors.Is(err, broker.ErrNonEmptyGroup) {
		return "stop its members first; sluice group describe shows them"
	}
	return ""
}

// ResetOffsets moves a group.
func (g *groupService) ResetOffsets(ctx context.Context, r *api.ResetOffsetsRequest) (*api.ResetOffsetsResponse, error) {
	tenant := tenantOf(ctx)
	what := "reset offsets of group " + quoted(r.Group)
	if r.Group == "" || len(r.Group) > groupIDMax {
		return nil, wrong("%s: a group's id has 1 to %d bytes", what, groupIDMax)
	}
	parts, err := g.chosen(what, tenant, r)
	if err != nil {
		return nil, err
	}
	committed := g.s.o.Broker.FetchOffsets(tenant, r.Group, parts)
	req := &broker.CommitRequest{Group: r.Group, Generation: -1}
	out := &api.ResetOffsetsResponse{}
	for i, tp := range parts {
		p := g.partition(tenant, tp)
		if p == nil {
			continue // its topic has just gone
		}
		to, err := g.target(ctx, what, r, p, committed[i].Offset)
		if err != nil {
			return nil, err
		}
		req.Offsets = append(req.Offsets, broker.OffsetCommit{TopicPartition: tp, CommittedOffset: broker.CommittedOffset{Offset: to, LeaderEpoch: -1}})
		out.Changes = append(out.Changes, &api.OffsetChange{Topic: p.Topic().Name(), Partition: p.Index(), Before: int64(committed[i].Offset), After: int64(to)})
	}
	slices.SortFunc(out.Changes, func(a, b *api.OffsetChange) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	if r.ValidateOnly {
		return out, nil
	}
	err = awaitError(ctx, func(done func(error)) { g.s.o.Broker.CommitOffsets(tenant, req, done) })
	if errors.Is(err, broker.ErrUnknownMember) {
		return nil, status.Errorf(codes.FailedPrecondition, "%s: it has members, which would go on where they are; stop them first; "+
			"sluice group describe shows them", what)
	}
	if err != nil {
		return nil, refuse(err, what, "")
	}
	for i := range req.Offsets {
		if err := req.Offsets[i].Err; err != nil {
			return nil, refuse(err, what, "")
		}
	}
	return out, nil
}

// chosen are the partitions that a reset is for.
func (g *groupService) chosen(what string, tenant uint32, r *api.ResetOffsetsRequest) (parts []broker.TopicPartition, err error) {
	if r.To == nil {
		return nil, wrong("%s: want where to: earliest, latest, an offset, a time or a shift", what)
	}
	if len(r.Topics) == 0 {
		for _, o := range g.s.o.Broker.FetchOffsets(tenant, r.Group, nil) {
			parts = append(parts, o.TopicPartition)
		}
		if len(parts) == 0 {
			return nil, missing("%s: it has no offsets; name the topics, or see sluice group list", what)
		}
		return parts, nil
	}
	seen := make(map[broker.TopicPartition]bool)
	add := func(t *broker.Topic, i int32) {
		if tp := (broker.TopicPartition{Topic: t.ID(), Partition: i}); !seen[tp] {
			seen[tp] = true
			parts = append(parts, tp)
		}
	}
	for _, e := range r.Topics {
		t := g.s.o.Broker.Topic(tenant, e.Topic)
		if t == nil {
			return nil, missing("%s: there is no topic %s; sluice topic list shows what is there", what, quoted(e.Topic))
		}
		for _, i := range e.Partitions {
			if t.Partition(i) == nil {
				return nil, wrong("%s: topic %s has partitions 0 to %d, found %d", what, quoted(e.Topic), len(t.Partitions())-1, i)
			}
			add(t, i)
		}
		if len(e.Partitions) == 0 {
			for _, p := range t.Partitions() {
				add(t, p.Index())
			}
		}
	}
	return parts, nil
}

// target is where a partition goes to.
func (g *groupService) target(ctx context.Context, what string, r *api.ResetOffsetsRequest, p *broker.Partition, from record.Offset) (record.Offset, error) {
	start, end := p.LogStart(), p.HighWatermark()
	within := func(o int64) record.Offset { return min(max(record.Offset(o), start), end) }
	switch to := r.To.(type) {
	case *api.ResetOffsetsRequest_End_:
		switch to.End {
		case api.ResetOffsetsRequest_END_EARLIEST:
			return start, nil
		case api.ResetOffsetsRequest_END_LATEST:
			return end, nil
		case api.ResetOffsetsRequest_END_UNSPECIFIED:
		}
		return 0, wrong("%s: want end earliest or latest", what)
	case *api.ResetOffsetsRequest_Offset:
		return within(to.Offset), nil
	case *api.ResetOffsetsRequest_Shift:
		if from < 0 {
			return 0, status.Errorf(codes.FailedPrecondition, "%s: it has no offset of %s/%d to move from", what, p.Topic().Name(), p.Index())
		}
		if to.Shift > 0 && int64(from) > int64(end)-min(to.Shift, int64(end)) {
			return end, nil
		}
		return within(int64(from) + max(to.Shift, -int64(from))), nil
	case *api.ResetOffsetsRequest_TimeMs:
		if to.TimeMs < 0 {
			return 0, wrong("%s: want a time from 1970 on, found %d", what, to.TimeMs)
		}
		type found struct {
			o   broker.FoundOffset
			err error
		}
		f, err := await(ctx, func(done func(found)) {
			g.s.o.Broker.Local(0).OffsetAt(p, to.TimeMs, false, func(o broker.FoundOffset, err error) { done(found{o, err}) })
		})
		if err == nil {
			err = f.err
		}
		if err != nil {
			return 0, refuse(err, what, "")
		}
		if f.o.Offset < 0 {
			return end, nil
		}
		return f.o.Offset, nil
	}
	return 0, wrong("%s: want where to: earliest, latest, an offset, a time or a shift", what)
}
