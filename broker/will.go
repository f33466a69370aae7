package broker

import (
	"encoding/binary"
	"errors"
	"time"
)

// lateWill is a will whose session is gone, and for which a pending list had no room.
type lateWill struct {
	sess *Session
	will *Will
}

// publishLate tries again.
func (l *Local) publishLate() {
	late := l.wills
	l.wills = nil
	for i := range late {
		if !l.publishWill(late[i].sess, late[i].will) {
			l.wills = append(l.wills, late[i])
		}
	}
}

// endedWill publishes the will that a session still waits with when it ends before its time.
func (l *Local) endedWill(sess *Session) {
	sess.shard.mu.Lock()
	will := sess.will
	if sess.d.willAt == 0 {
		will = nil
	}
	sess.d.willAt = 0
	sess.shard.mu.Unlock()
	if will != nil && !l.publishWill(sess, will) {
		l.wills = append(l.wills, lateWill{sess, will})
	}
}

// publishWill publishes w for a session whose connection is gone. It is taken like any publish of the broker's own. False means that
// it has to be tried again.
func (l *Local) publishWill(sess *Session, w *Will) bool {
	now := l.b.nowMilli()
	m := Message{Topic: w.Topic, Payload: w.Payload, Props: w.Props, QoS: w.QoS, Retain: w.Retain, Timestamp: now}
	if w.Expiry > 0 {
		m.Deadline = now + int64(w.Expiry/time.Millisecond)
	}
	_, err := l.Publish(nil, &m, false, 0)
	switch {
	case errors.Is(err, ErrBusy):
		return false
	case err != nil:
		l.b.logger.Warn("will not published", "client", sess.id, "err", err)
	default:
		l.b.stats.WillsPublished.Add(1)
	}
	return true
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
