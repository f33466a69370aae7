package kafka

import (
	"errors"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

var errReplica = errors.New("a fetch of a follower")

// fetchSession remembers what a client reads from, so that it names only what changes (KIP-227). A connection has one at most: clients keep
// one for each node.
type fetchSession struct {
	id, epoch int32
	leader    int32  // the sum of the epochs of the leaders of what it reads from, as they were when it began to: it ends when they are others
	sets      uint16 // of shards, a bit for each: those that it reads from
	parts     []sessionPart
	place     map[partKey]int // where each lies, once there are more than placesMin
	first     int             // the part that the next answer begins with, behind the last that has had records: all get their turn
	// Parts that come and go do not change whose turn it is: the parts are turned so that first is 0 before some are taken out, and before some
	// are added, which are last then. Else those that a client leaves out while it has records of them buffered, and names again, would
	// come between the last one and those that have waited longer.
}

// placesMin is up to how many partitions are searched through: most sessions of a waiting fetch have few, and no map.
const placesMin = 16

type partKey struct {
	name  string
	id    wire.UUID
	index int32
}

// sessionPart is one partition of it, and what was last said of it.
type sessionPart struct {
	partKey
	gone                bool // the client reads it no more
	max                 int32
	epoch               int32
	offset              int64
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
		v := c.l.h.view()
		f.take(v, s)
		if f.sets == 0 && (c.l.h.leads(v) || f.follows(v, &v.All)) {
			f.sets = 1 // there is nothing to read yet
		}
		if m.SessionEpoch == wire.InitialEpoch && len(s.parts) > 0 && f.sets != 0 {
			s.readsFrom(v, f.sets)
			s.id, s.epoch = rand.Int32N(math.MaxInt32-1)+1, 1
			c.fetches, f.session, f.sessionID = s, s, s.id
		}
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
	v := c.l.h.view()
	f.take(v, s)
	s.readsFrom(v, f.sets)
	return wire.None
}

// readsFrom has the session end with who leads these sets of shards, too.
func (s *fetchSession) readsFrom(v *View, sets uint16) {
	for more := sets &^ s.sets; more != 0; more &= more - 1 {
		s.leader += v.set(bits.TrailingZeros16(more)).Epoch
	}
	s.sets |= sets
}

// over says whether another one leads, or leads anew, what the session reads from, or this node does not serve it any more. What other sets of shards do is
// nothing to it.
func (s *fetchSession) over(h *Handler, v *View) bool {
	sum := int32(0)
	for left := s.sets; left != 0; left &= left - 1 {
		n := bits.TrailingZeros16(left)
		pl := v.set(n)
		if !h.leadsSet(v, n) && !pl.Follows {
			return true
		}
		sum += pl.Epoch
	}
	return sum != s.leader
}

// update takes over what the request says of partitions.
func (s *fetchSession) update(m *wire.FetchRequest, version int16) {
	var key partKey
	for p := m.Data(); p.Next(); {
		if string(p.Topic) != key.name { // one string for all of a topic
			key.name = string(p.Topic)
		}
		key.id, key.index = p.TopicID, p.Index
		i := s.find(&key)
		if i < 0 {
			if s.turn() {
				s.index()
			}
			i = len(s.parts)
			s.parts = append(s.parts, sessionPart{partKey: key, watermark: -1, logStart: -1})
			s.note(i)
		}
		sp := &s.parts[i]
		sp.offset, sp.max, sp.epoch = p.FetchOffset, p.MaxBytes, p.CurrentLeaderEpoch
	}
}

// find gives the place of a partition, -1 if it is none of the session's.
func (s *fetchSession) find(key *partKey) int {
	if s.place != nil {
		if i, ok := s.place[*key]; ok {
			return i
		}
		return -1
	}
	for i := range s.parts {
		if s.parts[i].partKey == *key {
			return i
		}
	}
	return -1
}

// note remembers where the i-th part lies, which is the last one.
func (s *fetchSession) note(i int) {
	switch {
	case s.place != nil:
		s.place[s.parts[i].partKey] = i
	case i == placesMin:
		s.index()
	}
}

// index makes the map anew, or does without.
func (s *fetchSession) index() {
	if s.place = nil; len(s.parts) <= placesMin {
		return
	}
	s.place = make(map[partKey]int, len(s.parts))
	for i := range s.parts {
		s.place[s.parts[i].partKey] = i
	}
}

// turn has the part whose turn it is lie at the beginning. It says whether parts have moved: index must follow then.
func (s *fetchSession) turn() bool {
	if len(s.parts) == 0 || s.first%len(s.parts) == 0 {
		s.first = 0
		return false
	}
	at := s.first % len(s.parts)
	s.parts = append(slices.Clone(s.parts[at:]), s.parts[:at]...)
	s.first = 0
	return true
}

func (s *fetchSession) forget(m *wire.FetchRequest) {
	if m.Forgets == 0 {
		return
	}
	for p := m.Forgotten(); p.Next(); {
		if i := s.find(&partKey{string(p.Topic), p.TopicID, p.Index}); i >= 0 {
			s.parts[i].gone = true
		}
	}
	s.turn()
	s.parts = slices.DeleteFunc(s.parts, func(p sessionPart) bool { return p.gone })
	s.index()
}

// take makes the fetch's partitions out of the session's, another one first when the last answer had records.
func (f *fetchState) take(v *View, s *fetchSession) {
	f.parts = make([]fetchPart, len(s.parts))
	if len(s.parts) == 0 {
		return
	}
	s.first %= len(s.parts)
	for k := range s.parts {
		i := (s.first + k) % len(s.parts)
		sp := &s.parts[i]
		p := &f.parts[k]
		p.sessionPart, p.place = sp, int32(i)
		byID := f.r.call.Version >= 13
		p.topic = f.r.c.topicOf([]byte(sp.name), sp.id, byID)
		f.find(v, p, byID)
		if !f.r.c.mayFetch(p, byID) {
			p.code, p.sendTo = wire.TopicAuthorizationFailed, 0
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
func (f *fetchState) find(v *View, p *fetchPart, byID bool) {
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
	f.place(v, p)
}

// moved says whether there is news of a partition beside records.
func (p *fetchPart) moved() bool {
	return int64(p.read.HighWatermark) != p.watermark || int64(p.read.LogStart) != p.logStart
}

// answered remembers what the client was told.
func (s *fetchSession) answered(p *fetchPart) {
	sp := p.sessionPart
	if p.read.Bytes > 0 {
		s.first = int(p.place) + 1
	}
	sp.watermark, sp.logStart = int64(p.read.HighWatermark), int64(p.read.LogStart)
	if p.code != wire.None || p.read.Err != nil {
		sp.watermark = -1 // an error is told again until it is gone
	}
}

var _ broker.AppendSink = (*conn)(nil)
