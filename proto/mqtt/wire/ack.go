package wire

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP, received (a view of the body) or to be sent. Before version 5 it carries
// PacketID alone.
type Ack struct {
	PacketID     uint16
	Reason       ReasonCode
	ReasonString []byte // nil: none
	User         UserProperties
}

// DecodeAck decodes a packet of type t, which is PUBACK, PUBREC, PUBREL or PUBCOMP.
func DecodeAck(t PacketType, body []byte, version byte) (a Ack, err error) {
	if a.PacketID, body, err = takePacketID(body); err != nil || len(body) == 0 {
		return a, err
	}
	if version != V5 {
		return a, errTrailing
	}
	a.Reason = ReasonCode(body[0])
	codes := &pubackCodes
	if t == PUBREL || t == PUBCOMP {
		codes = &pubrelCodes
	}
	if !codes.has(a.Reason) {
		return a, errReason
	}
	if body = body[1:]; len(body) == 0 {
		return a, nil
	}
	a.User, a.ReasonString, body, err = takeReasons(body, inAck)
	if err == nil && len(body) > 0 {
		err = errTrailing
	}
	return a, err
}

// takeReasons reads the properties of a packet that has no others than reason string and user properties.
func takeReasons(b []byte, at place) (user UserProperties, reason, rest []byte, err error) {
	block, rest, err := takeBlock(b)
	if err != nil {
		return nil, nil, b, err
	}
	r := propReader{rest: block, at: at}
	var p Property
	for r.more() {
		if err = r.next(&p); err != nil {
			return nil, nil, b, err
		}
		if p.ID == PropReasonString {
			reason = p.Data
		}
	}
	return block, reason, rest, nil
}

// reasonProps writes a reason string and user properties.
func reasonProps(w *propWriter, reason []byte, user UserProperties) {
	w.bytes(PropReasonString, reason)
	w.user(user)
}

// length gives the remaining length, and the property length in it. Packets leave out what has its default.
func (a *Ack) length(version byte) (length, props int) {
	if version != V5 || (a.Reason == Success && a.ReasonString == nil && len(a.User) == 0) {
		return 2, 0
	}
	var w propWriter
	reasonProps(&w, a.ReasonString, a.User)
	if w.size == 0 {
		return 3, 0
	}
	return 3 + sizeVarint(uint32(w.size)) + w.size, w.size
}

// SizeAck is the size of the whole packet that AppendAck makes of a.
func SizeAck(version byte, a *Ack) int {
	length, _ := a.length(version)
	return packetSize(length)
}

// Fit drops user properties, then the reason string, until the packet has at most max bytes (0: no limit).
func (a *Ack) Fit(version byte, max uint32) {
	fit(max, &a.User, &a.ReasonString, func() int { return SizeAck(version, a) })
}

// AppendAck appends a packet of type t, which is PUBACK, PUBREC, PUBREL or PUBCOMP.
func AppendAck(dst []byte, version byte, t PacketType, a *Ack) []byte {
	length, props := a.length(version)
	if length == 2 {
		return AppendShortAck(dst, t, a.PacketID)
	}
	dst = appendUint16(appendHeader(dst, t, ackFlags(t), length), a.PacketID)
	dst = append(dst, byte(a.Reason))
	if props == 0 {
		return dst
	}
	w := propWriter{dst: appendVarint(dst, uint32(props)), write: true}
	reasonProps(&w, a.ReasonString, a.User)
	return w.dst
}

// AppendShortAck appends a packet of type t that says success, in the four bytes that all versions read.
func AppendShortAck(dst []byte, t PacketType, id uint16) []byte {
	return append(dst, byte(t)<<4|ackFlags(t), 2, byte(id>>8), byte(id))
}

func ackFlags(t PacketType) byte {
	if t == PUBREL {
		return 0x02
	}
	return 0
}
