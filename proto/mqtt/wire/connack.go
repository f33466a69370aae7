package wire

// Connack is a CONNACK packet, received (a view of the body) or to be sent. Byte fields are nil where absent. Before
// version 5 it carries SessionPresent (not in 3.1) and Reason alone.
type Connack struct {
	SessionPresent bool
	Reason         ReasonCode

	HasSessionExpiry   bool
	HasMaximumQoS      bool
	HasServerKeepAlive bool
	MaximumQoS         byte // written if HasMaximumQoS; 0 or 1
	NoRetain           bool // retain available is 0; the default of this and the next three is 1
	NoWildcards        bool
	NoSubscriptionIDs  bool
	NoShared           bool
	ReceiveMaximum     uint16 // 0: not given, which means 65,535
	TopicAliasMaximum  uint16
	ServerKeepAlive    uint16
	SessionExpiry      uint32
	MaximumPacketSize  uint32 // 0: not given, which means no limit
	AssignedClientID   []byte
	ReasonString       []byte
	User               UserProperties
	ResponseInfo       []byte
	ServerReference    []byte
	AuthMethod         []byte
	AuthData           []byte
}

// DecodeConnack decodes a CONNACK.
func DecodeConnack(body []byte, version byte) (Connack, error) {
	var c Connack
	if len(body) < 2 {
		return c, errTooShort
	}
	if body[0] > 1 && version != V31 {
		return c, errConnackFlags
	}
	c.SessionPresent = body[0] == 1 && version != V31
	code, body := body[1], body[2:]
	if version != V5 {
		if len(body) > 0 {
			return c, errTrailing
		}
		if int(code) >= len(connackReasons) {
			return c, errReturnCode
		}
		c.Reason = connackReasons[code]
	} else if len(body) == 0 && code == 1 {
		c.Reason = UnsupportedProtocolVersion // a server that knows no version 5 says so in the form of its own
	} else {
		if c.Reason = ReasonCode(code); !connackCodes.has(c.Reason) {
			return c, errReason
		}
		block, rest, err := takeBlock(body)
		if err != nil {
			return c, err
		}
		if len(rest) > 0 {
			return c, errTrailing
		}
		if err := c.decodeProps(block); err != nil {
			return c, err
		}
	}
	if c.SessionPresent && c.Reason != Success {
		return c, errSessionPresent
	}
	return c, nil
}

func (c *Connack) decodeProps(block []byte) error {
	c.User = block
	r := propReader{rest: block, at: inConnack}
	var p Property
	for r.more() {
		if err := r.next(&p); err != nil {
			return err
		}
		switch p.ID {
		case PropSessionExpiry:
			c.SessionExpiry, c.HasSessionExpiry = p.Int, true
		case PropReceiveMaximum:
			c.ReceiveMaximum = uint16(p.Int)
		case PropMaximumQoS:
			c.MaximumQoS, c.HasMaximumQoS = byte(p.Int), true
		case PropRetainAvailable:
			c.NoRetain = p.Int == 0
		case PropMaximumPacketSize:
			c.MaximumPacketSize = p.Int
		case PropAssignedClientID:
			c.AssignedClientID = p.Data
		case PropTopicAliasMaximum:
			c.TopicAliasMaximum = uint16(p.Int)
		case PropReasonString:
			c.ReasonString = p.Data
		case PropWildcardAvailable:
			c.NoWildcards = p.Int == 0
		case PropSubIDAvailable:
			c.NoSubscriptionIDs = p.Int == 0
		case PropSharedAvailable:
			c.NoShared = p.Int == 0
		case PropServerKeepAlive:
			c.ServerKeepAlive, c.HasServerKeepAlive = uint16(p.Int), true
		case PropResponseInfo:
			c.ResponseInfo = p.Data
		case PropServerReference:
			c.ServerReference = p.Data
		case PropAuthMethod:
			c.AuthMethod = p.Data
		case PropAuthData:
			c.AuthData = p.Data
		default: // the decoder of properties lets no other through
		}
	}
	if c.AuthData != nil && c.AuthMethod == nil {
		return errAuthMethod
	}
	return nil
}

func (c *Connack) props(w *propWriter) {
	if c.HasSessionExpiry {
		w.long(PropSessionExpiry, c.SessionExpiry)
	}
	if c.ReceiveMaximum != 0 {
		w.short(PropReceiveMaximum, c.ReceiveMaximum)
	}
	if c.HasMaximumQoS {
		w.flag(PropMaximumQoS, c.MaximumQoS)
	}
	if c.NoRetain {
		w.flag(PropRetainAvailable, 0)
	}
	if c.MaximumPacketSize != 0 {
		w.long(PropMaximumPacketSize, c.MaximumPacketSize)
	}
	w.bytes(PropAssignedClientID, c.AssignedClientID)
	if c.TopicAliasMaximum != 0 {
		w.short(PropTopicAliasMaximum, c.TopicAliasMaximum)
	}
	w.bytes(PropReasonString, c.ReasonString)
	w.user(c.User)
	if c.NoWildcards {
		w.flag(PropWildcardAvailable, 0)
	}
	if c.NoSubscriptionIDs {
		w.flag(PropSubIDAvailable, 0)
	}
	if c.NoShared {
		w.flag(PropSharedAvailable, 0)
	}
	if c.HasServerKeepAlive {
		w.short(PropServerKeepAlive, c.ServerKeepAlive)
	}
	w.bytes(PropResponseInfo, c.ResponseInfo)
	w.bytes(PropServerReference, c.ServerReference)
	w.bytes(PropAuthMethod, c.AuthMethod)
	w.bytes(PropAuthData, c.AuthData)
}

// SizeConnack is the size of the whole packet that AppendConnack makes of c.
func SizeConnack(version byte, c *Connack) int {
	if version != V5 {
		return 4
	}
	var w propWriter
	c.props(&w)
	return packetSize(2 + sizeVarint(uint32(w.size)) + w.size)
}

// Fit drops user properties, then the reason string, until the packet has at most max bytes (0: no limit).
func (c *Connack) Fit(version byte, max uint32) {
	fit(max, &c.User, &c.ReasonString, func() int { return SizeConnack(version, c) })
}

// AppendConnack appends a CONNACK. Before version 5 the reason becomes a return code; one that has none there
// (ReasonCode.ConnackCode) appends nothing, and the connection is just closed.
func AppendConnack(dst []byte, version byte, c *Connack) []byte {
	flags := byte(0)
	if c.SessionPresent && !c.Reason.Failed() && version != V31 {
		flags = 1
	}
	if version != V5 {
		code, ok := c.Reason.ConnackCode()
		if !ok {
			return dst
		}
		return append(dst, byte(CONNACK)<<4, 2, flags, code)
	}
	var size propWriter
	c.props(&size)
	dst = appendHeader(dst, CONNACK, 0, 2+sizeVarint(uint32(size.size))+size.size)
	w := propWriter{dst: appendVarint(append(dst, flags, byte(c.Reason)), uint32(size.size)), write: true}
	c.props(&w)
	return w.dst
}

// fit drops what explains a failure, the least useful first, while the packet is larger than its receiver takes.
func fit(max uint32, user *UserProperties, reason *[]byte, size func() int) {
	if max == 0 {
		return
	}
	if *user != nil && size() > int(max) {
		*user = nil
	}
	if *reason != nil && size() > int(max) {
		*reason = nil
	}
}
