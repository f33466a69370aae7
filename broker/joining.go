package broker

import "github.com/sluicemq/sluice/broker/topics"

// What a client publishes behind its own SUBSCRIBE is its own to get, whether it has waited for the SUBACK or not. A kept session's
// subscription holds once it is committed, so until then the filters of the SUBSCRIBE count for its own publishes: such a message refers to
// them as if they held, and is in their queues when they do.
//
//	The record and the subscription are of different shards. If the record's is applied first, nobody is there to be given it. A later record
//	of that shard, by another filter, would then move the feed's cursor past it. So from such a publish on the feed stands still, and when
//	the subscription holds it looks into the queues.

// joining is a filter that the session's own SUBSCRIBE has asked for.
type joining struct {
	filter, group string
	number        uint64 // 0: at QoS 0, which no queue keeps
}

// joins notes what a SUBSCRIBE asks for, until it is committed or has failed.
func (f *feed) joins(jobs []subscribeJob) {
	for i := range jobs {
		f.joining = append(f.joining, joining{string(jobs[i].r.Filter), string(jobs[i].r.Group), jobs[i].number})
	}
}

// hasJoined ends what joins began with. SUBSCRIBEs end in the order in which they came: their commands are of one shard.
func (l *Local) hasJoined(c *Client, jobs []subscribeJob) {
	f := c.feed
	if f == nil {
		return
	}
	if f.joining = f.joining[min(len(jobs), len(f.joining)):]; len(f.joining) == 0 {
		f.joining = nil
	}
	if !f.lookAgain || len(f.joining) > 0 {
		return
	}
	f.lookAgain = false
	for _, s := range l.b.homes {
		if l.behind(f, s) {
			f.at(uint16(s.id)).behind = true
		}
	}
	l.later(c)
}

// joinedBy sets l.joined to the numbers of the filters that c is joining and that m matches.
func (l *Local) joinedBy(c *Client, m *Message) {
	l.joined = l.joined[:0]
	if c == nil || c.feed == nil || len(c.feed.joining) == 0 || m.QoS == 0 {
		return
	}
	for i := range c.feed.joining {
		if j := &c.feed.joining[i]; j.number != 0 && topics.FilterMatches([]byte(j.filter), m.Topic) {
			l.joined = append(l.joined, j.number)
			c.feed.lookAgain = true
		}
	}
}
