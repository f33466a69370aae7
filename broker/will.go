package broker

import (
	"encoding/binary"
	"time"
)

// publishWill publishes w for a session whose connection is gone. It is taken like any publish of the broker's own.
func (l *Local) publishWill(sess *Session, w *Will) {
	now := l.b.nowMilli()
	m := Message{Topic: w.Topic, Payload: w.Payload, Props: w.Props, QoS: w.QoS, Retain: w.Retain, Timestamp: now}
	if w.Expiry > 0 {
		m.Deadline = now + int64(w.Expiry/time.Millisecond)
	}
	if _, err := l.Publish(nil, &m, false, 0); err != nil {
		l.b.logger.Warn("will not published", "client", sess.key.id, "err", err)
		return
	}
	l.b.stats.WillsPublished.Add(1)
}

func (s *shard) applyWillDone(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess := s.mu.byID[id]; sess != nil {
		sess.will, sess.d.willAt = nil, 0
		s.mu.rows.session(id)
	}
}

func appendWill(dst []byte, w *Will) []byte {
	if w == nil {
		return append(dst, 0)
	}
	dst = append(dst, 1, w.QoS, byte(boolBit(w.Retain)))
	dst = binary.AppendUvarint(dst, uint64(w.Delay))
	dst = binary.AppendUvarint(dst, uint64(w.Expiry))
	dst = appendBytes(dst, w.Topic)
	dst = appendBytes(dst, w.Payload)
	return appendBytes(dst, w.Props)
}

func (d *decoder) will() *Will {
	if d.uvarint() == 0 || d.bad {
		return nil
	}
	w := &Will{QoS: QoS(d.uvarint()), Retain: d.uvarint() == 1}
	w.Delay, w.Expiry = time.Duration(d.uvarint()), time.Duration(d.uvarint())
	w.Topic = append([]byte(nil), d.bytes()...)
	w.Payload = append([]byte(nil), d.bytes()...)
	w.Props = append([]byte(nil), d.bytes()...)
	return w
}
