package wire

// Connect is a CONNECT packet, received (a view of the body) or to be sent. Byte fields are nil where absent.
type Connect struct {
	Version    byte // protocol level; set even with ErrUnsupportedVersion
	CleanStart bool // clean session, before version 5
	Bridge     bool // the other side is a broker; of version 3.1.1 alone
	HasWill    bool
	KeepAlive  uint16 // seconds; 0: never
	ClientID   []byte
	UserName   []byte
	Password   []byte
	Will       Will

	// From here on MQTT 5 alone.
	ReceiveMaximum      uint16 // 0: not given, which means 65,535
	TopicAliasMaximum   uint16
	SessionExpiry       uint32 // 0 is also the default
	MaximumPacketSize   uint32 // 0: not given, which means no limit
	RequestResponseInfo bool
	NoProblemInfo       bool // request problem information is 0; its default is 1
	User                UserProperties
	AuthMethod          []byte
	AuthData            []byte
}

// Will is the will of a CONNECT. It is a view like the rest.
type Will struct {
	QoS     byte
	Retain  bool
	Delay   uint32 // seconds
	Topic   []byte
	Payload []byte
	Props   PublishProps

	// Forward holds the properties other than delay and expiry of a will to be sent; decoding leaves it nil (see
	// Props.Forward).
	Forward []byte
}

// bridgeBit in the protocol level says that it is a bridge that connects: Mosquitto's addition to version 3.1.1, which others have taken over.
const bridgeBit = 0x80

// Bits of the connect flags.
const (
	connectReserved   = 0x01
	connectClean      = 0x02
	connectWill       = 0x04
	connectWillQoS    = 0x18
	connectWillRetain = 0x20
	connectPassword   = 0x40
	connectUserName   = 0x80
)

// DecodeConnect decodes a CONNECT. With an error, Connect.Version is set if it had been read by then, so that the
// refusal can be sent in a form that the client reads.
func DecodeConnect(body []byte) (Connect, error) {
	var c Connect
	err := c.decode(body)
	return c, err
}

func (c *Connect) decode(b []byte) error {
	name, b, ok := takeBytes(b)
	if !ok || len(b) < 1 {
		return errTooShort
	}
	if string(name) != "MQTT" && string(name) != "MQIsdp" {
		return ErrProtocolName
	}
	if c.Version, b = b[0], b[1:]; c.Version == V311|bridgeBit && len(name) == 4 {
		c.Version, c.Bridge = V311, true
	}
	if old := len(name) == 6; (old && c.Version != V31) || (!old && c.Version != V311 && c.Version != V5) {
		return ErrUnsupportedVersion
	}
	if len(b) < 3 {
		return errTooShort
	}
	flags := b[0]
	c.KeepAlive, b, _ = takeUint16(b[1:])
	if err := c.decodeFlags(flags); err != nil {
		return err
	}
	if c.Version == V5 {
		block, rest, err := takeBlock(b)
		if err != nil {
			return err
		}
		if err := c.decodeProps(block); err != nil {
			return err
		}
		b = rest
	}
	return c.decodePayload(b, flags)
}

func (c *Connect) decodeFlags(flags byte) error {
	if flags&connectReserved != 0 && c.Version != V31 {
		return errConnectFlags
	}
	c.CleanStart = flags&connectClean != 0
	c.HasWill = flags&connectWill != 0
	c.Will.QoS, c.Will.Retain = flags&connectWillQoS>>3, flags&connectWillRetain != 0
	if c.Will.QoS == 3 {
		return errWillQoS
	}
	if !c.HasWill && (c.Will.QoS != 0 || c.Will.Retain) {
		if c.Version != V31 {
			return errWillFlags
		}
		c.Will = Will{} // MQTT 3.1 does not look at them without a will
	}
	if flags&connectPassword != 0 && flags&connectUserName == 0 && c.Version != V5 {
		return errPasswordAlone
	}
	return nil
}

func (c *Connect) decodeProps(block []byte) error {
	c.User = block
	r := propReader{rest: block, at: inConnect}
	var p Property
	for r.more() {
		if err := r.next(&p); err != nil {
			return err
		}
		switch p.ID {
		case PropSessionExpiry:
			c.SessionExpiry = p.Int
		case PropReceiveMaximum:
			c.ReceiveMaximum = uint16(p.Int)
		case PropMaximumPacketSize:
			c.MaximumPacketSize = p.Int
		case PropTopicAliasMaximum:
			c.TopicAliasMaximum = uint16(p.Int)
		case PropRequestResponseInfo:
			c.RequestResponseInfo = p.Int == 1
		case PropRequestProblemInfo:
			c.NoProblemInfo = p.Int == 0
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

func (c *Connect) decodePayload(b []byte, flags byte) (err error) {
	if c.ClientID, b, err = takeText(b); err != nil {
		return err
	}
	if c.HasWill {
		if b, err = c.Will.decode(b, c.Version); err != nil {
			return err
		}
	}
	// MQTT 3.1 lets the remaining length win over these two flags, for the sake of clients older than itself.
	if flags&connectUserName != 0 && (c.Version != V31 || len(b) > 0) {
		if c.UserName, b, err = takeText(b); err != nil {
			return err
		}
	}
	if flags&connectPassword != 0 && (c.Version != V31 || len(b) > 0) {
		var ok bool
		if c.Password, b, ok = takeBytes(b); !ok {
			return errTooShort
		}
	}
	if len(b) > 0 {
		return errTrailing
	}
	return nil
}

func (x *Will) decode(b []byte, version byte) (rest []byte, err error) {
	if version == V5 {
		var block []byte
		if block, b, err = takeBlock(b); err != nil {
			return b, err
		}
		if err = x.Props.decode(block, inWill, &x.Delay); err != nil {
			return b, err
		}
	}
	topic, b, ok := takeBytes(b)
	if !ok {
		return b, errTooShort
	}
	if err = CheckTopicName(topic); err != nil {
		return b, err
	}
	x.Topic = topic
	if x.Payload, b, ok = takeBytes(b); !ok {
		return b, errTooShort
	}
	return b, nil
}

func (c *Connect) props(w *propWriter) {
	if c.SessionExpiry != 0 {
		w.long(PropSessionExpiry, c.SessionExpiry)
	}
	if c.ReceiveMaximum != 0 {
		w.short(PropReceiveMaximum, c.ReceiveMaximum)
	}
	if c.MaximumPacketSize != 0 {
		w.long(PropMaximumPacketSize, c.MaximumPacketSize)
	}
	if c.TopicAliasMaximum != 0 {
		w.short(PropTopicAliasMaximum, c.TopicAliasMaximum)
	}
	if c.RequestResponseInfo {
		w.flag(PropRequestResponseInfo, 1)
	}
	if c.NoProblemInfo {
		w.flag(PropRequestProblemInfo, 0)
	}
	w.user(c.User)
	w.bytes(PropAuthMethod, c.AuthMethod)
	w.bytes(PropAuthData, c.AuthData)
}

// props writes a will's properties.
func (x *Will) props(w *propWriter) {
	if x.Delay != 0 {
		w.long(PropWillDelay, x.Delay)
	}
	if x.Props.HasExpiry {
		w.long(PropMessageExpiry, x.Props.Expiry)
	}
	if w.write {
		w.dst = append(w.dst, x.Forward...)
	}
	w.size += len(x.Forward)
}

func (c *Connect) flags() (f byte) {
	if c.CleanStart {
		f |= connectClean
	}
	if c.HasWill {
		f |= connectWill | c.Will.QoS<<3&connectWillQoS
		if c.Will.Retain {
			f |= connectWillRetain
		}
	}
	if c.Password != nil {
		f |= connectPassword
	}
	if c.UserName != nil {
		f |= connectUserName
	}
	return f
}

// AppendConnect appends a CONNECT of c.Version.
func AppendConnect(dst []byte, c *Connect) []byte {
	name := "MQTT"
	if c.Version == V31 {
		name = "MQIsdp"
	}
	var props, will propWriter
	length := 2 + len(name) + 4 + sizeBytes(c.ClientID)
	if c.Version == V5 {
		c.props(&props)
		length += sizeVarint(uint32(props.size)) + props.size
	}
	if c.HasWill {
		length += sizeBytes(c.Will.Topic) + sizeBytes(c.Will.Payload)
		if c.Version == V5 {
			c.Will.props(&will)
			length += sizeVarint(uint32(will.size)) + will.size
		}
	}
	if c.UserName != nil {
		length += sizeBytes(c.UserName)
	}
	if c.Password != nil {
		length += sizeBytes(c.Password)
	}

	dst = appendHeader(dst, CONNECT, 0, length)
	dst = appendBytes(dst, View(name))
	level := c.Version
	if c.Bridge && level == V311 {
		level |= bridgeBit
	}
	dst = appendUint16(append(dst, level, c.flags()), c.KeepAlive)
	if c.Version == V5 {
		w := propWriter{dst: appendVarint(dst, uint32(props.size)), write: true}
		c.props(&w)
		dst = w.dst
	}
	dst = appendBytes(dst, c.ClientID)
	if c.HasWill {
		if c.Version == V5 {
			w := propWriter{dst: appendVarint(dst, uint32(will.size)), write: true}
			c.Will.props(&w)
			dst = w.dst
		}
		dst = appendBytes(appendBytes(dst, c.Will.Topic), c.Will.Payload)
	}
	if c.UserName != nil {
		dst = appendBytes(dst, c.UserName)
	}
	if c.Password != nil {
		dst = appendBytes(dst, c.Password)
	}
	return dst
}
