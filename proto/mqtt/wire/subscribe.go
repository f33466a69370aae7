package wire

import "unsafe"

// FilterRequest is one line of a SUBSCRIBE. Filter is a view when decoded.
type FilterRequest struct {
	Filter            []byte
	QoS               byte
	NoLocal           bool // from here on MQTT 5 alone
	RetainAsPublished bool
	RetainHandling    byte // 0: send retained messages, 1: if the subscription is new, 2: do not
}

// Bits of the subscription options.
const (
	optionQoS               = 0x03
	optionNoLocal           = 0x04
	optionRetainAsPublished = 0x08
	optionReserved          = 0xC0
)

func (f *FilterRequest) options(version byte) byte {
	o := f.QoS & optionQoS
	if version != V5 {
		return o
	}
	if f.NoLocal {
		o |= optionNoLocal
	}
	if f.RetainAsPublished {
		o |= optionRetainAsPublished
	}
	return o | f.RetainHandling&3<<4
}

// Subscribe is a received SUBSCRIBE. It is a view of the body. Its filters are text, but not checked for more: ParseFilter
// is called on each, so that one bad filter can be answered by its own reason code.
type Subscribe struct {
	PacketID       uint16
	Count          int    // how many filters there are, at least 1
	SubscriptionID uint32 // 0: none
	User           UserProperties

	filters []byte
}

// FilterReader walks through the filters of a SUBSCRIBE or UNSUBSCRIBE.
type FilterReader struct {
	rest    []byte
	options bool
}

// Filters starts a walk over the filters.
func (s *Subscribe) Filters() FilterReader { return FilterReader{s.filters, true} }

// Next gives the next filter; ok is false behind the last one.
func (r *FilterReader) Next() (f FilterRequest, ok bool) {
	if f.Filter, r.rest, ok = takeBytes(r.rest); !ok || !r.options {
		return f, ok
	}
	o := r.rest[0]
	r.rest = r.rest[1:]
	f.QoS, f.NoLocal, f.RetainAsPublished = o&optionQoS, o&optionNoLocal != 0, o&optionRetainAsPublished != 0
	f.RetainHandling = o >> 4 & 3
	return f, true
}

// DecodeSubscribe decodes a SUBSCRIBE.
func DecodeSubscribe(body []byte, version byte) (s Subscribe, err error) {
	if s.PacketID, body, err = takePacketID(body); err != nil {
		return s, err
	}
	if version == V5 {
		block, rest, err := takeBlock(body)
		if err != nil {
			return s, err
		}
		r := propReader{rest: block, at: inSubscribe}
		var p Property
		for r.more() {
			if err := r.next(&p); err != nil {
				return s, err
			}
			if p.ID == PropSubscriptionID {
				s.SubscriptionID = p.Int
			}
		}
		s.User, body = block, rest
	}
	s.filters = body
	for len(body) > 0 {
		var filter []byte
		if filter, body, err = takeText(body); err != nil {
			return s, err
		}
		if len(body) == 0 {
			return s, errTooShort
		}
		if err = checkOptions(filter, body[0], version); err != nil {
			return s, err
		}
		body = body[1:]
		s.Count++
	}
	if s.Count == 0 {
		return s, errNoFilter
	}
	return s, nil
}

// checkOptions judges the options byte behind a filter.
func checkOptions(filter []byte, o, version byte) error {
	if version != V5 {
		if o&^optionQoS != 0 {
			return errSubOptions
		}
		if o == 3 {
			return errSubQoS
		}
		return nil
	}
	switch {
	case o&optionReserved != 0:
		return errSubOptions
	case o&optionQoS == 3:
		return errSubQoS
	case o>>4&3 == 3:
		return errRetainHandling
	case o&optionNoLocal != 0 && IsShared(filter):
		return errSharedNoLocal
	}
	return nil
}

// SubscribeOut is a SUBSCRIBE to be sent.
type SubscribeOut struct {
	PacketID       uint16
	SubscriptionID uint32 // 0: none
	User           UserProperties
	Filters        []FilterRequest
}

func (s *SubscribeOut) props(w *propWriter) {
	if s.SubscriptionID != 0 {
		w.varint(PropSubscriptionID, s.SubscriptionID)
	}
	w.user(s.User)
}

// AppendSubscribe appends a SUBSCRIBE.
func AppendSubscribe(dst []byte, version byte, s *SubscribeOut) []byte {
	length := 2
	for i := range s.Filters {
		length += sizeBytes(s.Filters[i].Filter) + 1
	}
	var size propWriter
	if version == V5 {
		s.props(&size)
		length += sizeVarint(uint32(size.size)) + size.size
	}
	dst = appendUint16(appendHeader(dst, SUBSCRIBE, 0x02, length), s.PacketID)
	if version == V5 {
		w := propWriter{dst: appendVarint(dst, uint32(size.size)), write: true}
		s.props(&w)
		dst = w.dst
	}
	for i := range s.Filters {
		dst = append(appendBytes(dst, s.Filters[i].Filter), s.Filters[i].options(version))
	}
	return dst
}

// Unsubscribe is a received UNSUBSCRIBE. It is a view of the body; its filters are checked like those of Subscribe.
type Unsubscribe struct {
	PacketID uint16
	Count    int // how many filters there are, at least 1
	User     UserProperties

	filters []byte
}

// Filters starts a walk over the filters; only FilterRequest.Filter is set.
func (u *Unsubscribe) Filters() FilterReader { return FilterReader{u.filters, false} }

// DecodeUnsubscribe decodes an UNSUBSCRIBE.
func DecodeUnsubscribe(body []byte, version byte) (u Unsubscribe, err error) {
	if u.PacketID, body, err = takePacketID(body); err != nil {
		return u, err
	}
	if version == V5 {
		if u.User, _, body, err = takeReasons(body, inUnsubscribe); err != nil {
			return u, err
		}
	}
	u.filters = body
	for len(body) > 0 {
		if _, body, err = takeText(body); err != nil {
			return u, err
		}
		u.Count++
	}
	if u.Count == 0 {
		return u, errNoFilter
	}
	return u, nil
}

// UnsubscribeOut is an UNSUBSCRIBE to be sent.
type UnsubscribeOut struct {
	PacketID uint16
	User     UserProperties
	Filters  [][]byte
}

// AppendUnsubscribe appends an UNSUBSCRIBE.
func AppendUnsubscribe(dst []byte, version byte, u *UnsubscribeOut) []byte {
	length := 2
	for _, f := range u.Filters {
		length += sizeBytes(f)
	}
	var size propWriter
	if version == V5 {
		size.user(u.User)
		length += sizeVarint(uint32(size.size)) + size.size
	}
	dst = appendUint16(appendHeader(dst, UNSUBSCRIBE, 0x02, length), u.PacketID)
	if version == V5 {
		w := propWriter{dst: appendVarint(dst, uint32(size.size)), write: true}
		w.user(u.User)
		dst = w.dst
	}
	for _, f := range u.Filters {
		dst = appendBytes(dst, f)
	}
	return dst
}

// Suback is a SUBACK or UNSUBACK, received (a view of the body) or to be sent. An UNSUBACK has no codes before version 5.
type Suback struct {
	PacketID     uint16
	ReasonString []byte // nil: none
	User         UserProperties
	Codes        []ReasonCode // one for each filter, in their order
}

// DecodeSuback decodes a SUBACK.
func DecodeSuback(body []byte, version byte) (Suback, error) {
	codes := &subackCodes
	if version != V5 {
		codes = &subackCodes3
	}
	return decodeSuback(body, version, codes)
}

// DecodeUnsuback decodes an UNSUBACK.
func DecodeUnsuback(body []byte, version byte) (Suback, error) {
	if version == V5 {
		return decodeSuback(body, version, &unsubackCodes)
	}
	id, rest, err := takePacketID(body)
	if err == nil && len(rest) > 0 {
		err = errTrailing
	}
	return Suback{PacketID: id}, err
}

func decodeSuback(body []byte, version byte, codes *reasonSet) (s Suback, err error) {
	if s.PacketID, body, err = takePacketID(body); err != nil {
		return s, err
	}
	if version == V5 {
		if s.User, s.ReasonString, body, err = takeReasons(body, inSuback); err != nil {
			return s, err
		}
	}
	if len(body) == 0 {
		return s, errNoCode
	}
	for _, c := range body {
		if !codes.has(ReasonCode(c)) {
			return s, errReason
		}
	}
	s.Codes = unsafe.Slice((*ReasonCode)(unsafe.SliceData(body)), len(body))
	return s, nil
}

// length gives the remaining length, and the property length in it.
func (s *Suback) length(version byte) (length, props int) {
	if version != V5 {
		return 2 + len(s.Codes), 0
	}
	var w propWriter
	reasonProps(&w, s.ReasonString, s.User)
	return 2 + sizeVarint(uint32(w.size)) + w.size + len(s.Codes), w.size
}

// SizeSuback is the size of the whole SUBACK that AppendSuback makes of s, and of the UNSUBACK in version 5.
func SizeSuback(version byte, s *Suback) int {
	length, _ := s.length(version)
	return packetSize(length)
}

// Fit drops user properties, then the reason string, until the packet has at most max bytes (0: no limit).
func (s *Suback) Fit(version byte, max uint32) {
	fit(max, &s.User, &s.ReasonString, func() int { return SizeSuback(version, s) })
}

// AppendSuback appends a SUBACK. Before version 5 every failure is 0x80.
func AppendSuback(dst []byte, version byte, s *Suback) []byte {
	return appendSuback(dst, version, SUBACK, s)
}

// AppendUnsuback appends an UNSUBACK. Before version 5 it says nothing but the packet identifier.
func AppendUnsuback(dst []byte, version byte, s *Suback) []byte {
	if version != V5 {
		return AppendShortAck(dst, UNSUBACK, s.PacketID)
	}
	return appendSuback(dst, version, UNSUBACK, s)
}

func appendSuback(dst []byte, version byte, t PacketType, s *Suback) []byte {
	length, props := s.length(version)
	dst = appendUint16(appendHeader(dst, t, 0, length), s.PacketID)
	if version == V5 {
		w := propWriter{dst: appendVarint(dst, uint32(props)), write: true}
		reasonProps(&w, s.ReasonString, s.User)
		dst = w.dst
	}
	for _, c := range s.Codes {
		if version != V5 && c.Failed() {
			c = UnspecifiedError
		}
		dst = append(dst, byte(c))
	}
	return dst
}
