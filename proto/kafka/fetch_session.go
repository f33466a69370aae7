package kafka

import (
	"errors"
	"math"
	"math/rand/v2"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

var errReplica = errors.New("a fetch of a follower")

// fetchSession remembers what a client reads from, so that it names only what changes (KIP-227). A connection has one at most: clients keep
// one for each node.
type fetchSession struct {
	id, epoch int32
	parts     []sessionPart
	place     map[partKey]int
	first     int // the part that the next answer begins with, behind the last that has had records: all get their turn
}

type partKey struct {
	name  string
	id    wire.UUID
	index int32
}

// sessionPart is one partition of it, and what was last said of it.
type sessionPart struct {
	partKey
	offset              int64
	max                 int
	epoch               int32
	watermark, logStart int64
}

// open finds the partitions that are to be read: from the request, or from the session that it changes.
func (f *fetchState) open(m *wire.FetchRequest, version int16) wire.ErrorCode {
	c := f.r.c
	if m.SessionEpoch == wire.FinalEpoch || m.SessionEpoch == wire.InitialEpoch {
		if m.SessionID != wire.NoSession && c.fetches != nil && c.fetches.id == m.SessionID {
			c.fetches = nil
		}
		s := &fetchSession{}
		s.update(m, version)
		if m.SessionEpoch == wire.InitialEpoch && len(s.parts) > 0 {
			s.id, s.epoch = rand.Int32N(math.MaxInt32-1)+1, 1
			c.fetches, f.session, f.sessionID = s, s, s.id
		}
		f.take(s)
		return wire.None
	}
	s := c.fetches
	if s == nil || s.id != m.SessionID {
		return wire.FetchSessionIDNotFound
	}
	if s.epoch != m.SessionEpoch {
		return wire.InvalidFetchSessionEpoch
	}
	if s.epoch++; s.epoch <= 0 {
		s.epoch = 1
	}
	s.forget(m)
	s.update(m, version)
	f.session, f.sessionID, f.full = s, s.id, false
	f.take(s)
	return wire.None
}

// update takes over what the request says of partitions.
func (s *fetchSession) update(m *wire.FetchRequest, version int16) {
	for p := m.Data(); p.Next(); {
		key := partKey{string(p.Topic), p.TopicID, p.Index}
		i, ok := s.place[key]
		if !ok {
			if s.place == nil {
				s.place = make(map[partKey]int, m.Partitions)
			}
			i = len(s.parts)
			s.place[key] = i
			s.parts = append(s.parts, sessionPart{partKey: key, watermark: -1, logStart: -1})
		}
		sp := &s.parts[i]
		sp.offset, sp.max, sp.epoch = p.FetchOffset, int(p.MaxBytes), p.CurrentLeaderEpoch
	}
}

func (s *fetchSession) forget(m *wire.FetchRequest) {
	if m.Forgets == 0 {
		return
	}
	for p := m.Forgotten(); p.Next(); {
		key := partKey{string(p.Topic), p.TopicID, p.Index}
		if i, ok := s.place[key]; ok {
			s.parts[i].max = -1
			delete(s.place, key)
		}
	}
	kept := s.parts[:0]
	for _, sp := range s.parts {
		if sp.max >= 0 {
			s.place[sp.partKey] = len(kept)
			kept = append(kept, sp)
		}
	}
	clear(s.parts[len(kept):])
	s.parts = kept
}

// take makes the fetch's partitions out of the session's, another one first when the last answer had records.
func (f *fetchState) take(s *fetchSession) {
	l := f.r.c.l
	f.parts = make([]fetchPart, len(s.parts))
	if len(s.parts) == 0 {
		return
	}
	s.first %= len(s.parts)
	for k := range s.parts {
		i := (s.first + k) % len(s.parts)
		sp := &s.parts[i]
		p := &f.parts[k]
		p.name, p.id, p.index, p.offset, p.max, p.epoch, p.place = sp.name, sp.id, sp.index, sp.offset, sp.max, sp.epoch, i
		byID := f.r.call.Version >= 13
		p.topic = l.topicOf([]byte(sp.name), sp.id, byID)
		p.find(byID)
		if !f.r.c.mayFetch(p, byID) {
			p.code = wire.TopicAuthorizationFailed
		}
	}
}

// mayFetch says whether the client may read the partition's topic, or may know that there is none of its name.
func (c *conn) mayFetch(p *fetchPart, byID bool) bool {
	if p.topic != nil {
		return c.mayUse(broker.OperationRead, p.topic)
	}
	return byID || c.mayTopic(broker.OperationRead, p.name)
}

// find looks up the partition, and says what is wrong with it.
func (p *fetchPart) find(byID bool) {
	p.code = wire.UnknownTopicOrPartition
	if p.topic == nil {
		if byID {
			p.code = wire.UnknownTopicID
		}
		return
	}
	if p.part = p.topic.Partition(p.index); p.part == nil {
		return
	}
	p.code = epochCode(p.epoch)
}

// epochCode compares the epoch that a client believes in with ours.
func epochCode(epoch int32) wire.ErrorCode {
	switch {
	case epoch < 0 || epoch == leaderEpoch:
		return wire.None
	case epoch > leaderEpoch:
		return wire.UnknownLeaderEpoch
	}
	return wire.FencedLeaderEpoch
}

// moved says whether there is news of a partition beside records.
func (s *fetchSession) moved(p *fetchPart) bool {
	sp := &s.parts[p.place]
	return int64(p.read.HighWatermark) != sp.watermark || int64(p.read.LogStart) != sp.logStart
}

// answered remembers what the client was told.
func (s *fetchSession) answered(p *fetchPart) {
	sp := &s.parts[p.place]
	if p.read.Bytes > 0 {
		s.first = p.place + 1
	}
	sp.watermark, sp.logStart = int64(p.read.HighWatermark), int64(p.read.LogStart)
	if p.code != wire.None || p.read.Err != nil {
		sp.watermark = -1 // an error is told again until it is gone
	}
}

var _ broker.AppendSink = (*conn)(nil)
