package wire

// Publish is a received PUBLISH. It is a view: Topic, Payload and Props alias the body and die with it.
type Publish struct {
	Dup      bool
	Retain   bool
	QoS      byte
	PacketID uint16 // 0 at QoS 0
	Topic    []byte // empty where a topic alias stands for it
	Payload  []byte
	Props    PublishProps
}

// PublishProps are the properties of a message. They are views of the packet.
type PublishProps struct {
	Expiry        uint32
	TopicAlias    uint16 // 0: none
	PayloadFormat byte
	HasExpiry     bool

	split    bool   // the properties to forward do not lie in one piece
	from, to uint32 // the piece that holds them all
	block    []byte // all properties, without the length
}

// forwarded are the properties that a server hands on unchanged from publisher to subscriber.
const forwarded = 1<<PropPayloadFormat | 1<<PropContentType | 1<<PropResponseTopic | 1<<PropCorrelationData | 1<<PropUser

// Forward gives the properties that a server forwards (payload format, content type, response topic, correlation data,
// user properties) in their order and in MQTT 5's encoding, without a length in front. They are a view of the packet when
// they lie there in one piece, which they do unless the publisher mixed others in between; else they are put together in
// scratch. The second result is scratch as it has grown, to be kept for the next call.
func (p *PublishProps) Forward(scratch []byte) (block, grown []byte) {
	piece := p.block[p.from:p.to:p.to]
	if !p.split {
		return piece, scratch
	}
	out := scratch[:0]
	for rest := piece; len(rest) > 0; {
		prop, next, err := takeProperty(rest)
		if err != nil {
			break // cannot be: the block was checked when it was decoded
		}
		if forwarded&(1<<prop.ID) != 0 {
			out = append(out, rest[:len(rest)-len(next)]...)
		}
		rest = next
	}
	return out, out
}

// HasForward says whether Forward gives anything.
func (p *PublishProps) HasForward() bool { return p.from != p.to }

// SetForward has Forward give block, which it is to be in the form of, and forgets what else the packet's properties are; what the fields have stays.
func (p *PublishProps) SetForward(block []byte) {
	p.block, p.split, p.from, p.to = block, false, 0, uint32(len(block))
}

// ContentType gives the content type, or nil.
func (p *PublishProps) ContentType() []byte { return p.find(PropContentType) }

// ResponseTopic gives the response topic, or nil.
func (p *PublishProps) ResponseTopic() []byte { return p.find(PropResponseTopic) }

// CorrelationData gives the correlation data, or nil.
func (p *PublishProps) CorrelationData() []byte { return p.find(PropCorrelationData) }

func (p *PublishProps) find(id PropertyID) []byte {
	if p.from == p.to {
		return nil
	}
	prop, _ := FindProperty(p.block, id)
	return prop.Data
}

// User gives the user properties.
func (p *PublishProps) User() UserProperties { return UserProperties(p.block[p.from:p.to]) }

// SubscriptionIDs appends the subscription identifiers of a PUBLISH that a server sent.
func (p *PublishProps) SubscriptionIDs(dst []uint32) []uint32 {
	for r := ReadProperties(p.block); ; {
		prop, ok := r.Next()
		if !ok {
			return dst
		}
		if prop.ID == PropSubscriptionID {
			dst = append(dst, prop.Int)
		}
	}
}

// decode checks a block and notes what is in it. delay is where a will's delay goes.
func (p *PublishProps) decode(block []byte, at place, delay *uint32) error {
	p.block = block
	r := propReader{rest: block, at: at}
	var prop Property
	end := 0
	for r.more() {
		start := len(block) - len(r.rest)
		if err := r.next(&prop); err != nil {
			return err
		}
		switch prop.ID {
		case PropPayloadFormat:
			p.PayloadFormat = byte(prop.Int)
		case PropMessageExpiry:
			p.Expiry, p.HasExpiry = prop.Int, true
		case PropTopicAlias:
			p.TopicAlias = uint16(prop.Int)
		case PropWillDelay:
			*delay = prop.Int
		default: // stays as it is
		}
		if forwarded&(1<<prop.ID) == 0 {
			continue
		}
		if p.to == 0 {
			p.from = uint32(start)
		} else if start != end {
			p.split = true
		}
		end = len(block) - len(r.rest)
		p.to = uint32(end)
	}
	return nil
}

// DecodePublish decodes a PUBLISH that a client sent. flags are Header.Flags.
func DecodePublish(flags byte, body []byte, version byte) (Publish, error) {
	return decodePublish(flags, body, version, inPublish)
}

// DecodeServerPublish decodes a PUBLISH that a server sent: it alone may carry subscription identifiers.
func DecodeServerPublish(flags byte, body []byte, version byte) (Publish, error) {
	return decodePublish(flags, body, version, inServerPublish)
}

func decodePublish(flags byte, body []byte, version byte, at place) (p Publish, err error) {
	if e := checkPublishFlags(flags, version); e != nil {
		return p, e
	}
	p.Dup, p.Retain, p.QoS = flags&flagDup != 0, flags&flagRetain != 0, flags&flagQoS>>1
	topic, rest, ok := takeBytes(body)
	if !ok {
		return p, errTooShort
	}
	p.Topic = topic
	if len(topic) > 0 || version != V5 {
		if err := CheckTopicName(topic); err != nil {
			return p, err
		}
	}
	if p.QoS > 0 {
		if p.PacketID, rest, err = takePacketID(rest); err != nil {
			return p, err
		}
	}
	if version == V5 {
		if len(rest) > 0 && rest[0] == 0 { // no properties, which is the most common
			rest = rest[1:]
		} else {
			var block []byte
			if block, rest, err = takeBlock(rest); err != nil {
				return p, err
			}
			if err = p.Props.decode(block, at, nil); err != nil {
				return p, err
			}
		}
		if len(topic) == 0 && p.Props.TopicAlias == 0 {
			return p, errNoTopic
		}
	}
	p.Payload = rest
	return p, nil
}

// PublishOut is a PUBLISH to be sent, by a server or a client. Properties are left out below version 5.
type PublishOut struct {
	Dup        bool
	Retain     bool
	HasExpiry  bool
	QoS        byte
	PacketID   uint16   // not written at QoS 0
	TopicAlias uint16   // 0: none
	Expiry     uint32   // seconds left; written if HasExpiry
	Topic      []byte   // may be empty if TopicAlias stands for it
	SubIDs     []uint32 // subscription identifiers
	Forward    []byte   // properties as PublishProps.Forward gives them
	Payload    []byte
}

func (p *PublishOut) propsSize() int {
	n := len(p.Forward)
	if p.HasExpiry {
		n += 5
	}
	if p.TopicAlias != 0 {
		n += 3
	}
	for _, id := range p.SubIDs {
		n += 1 + sizeVarint(id)
	}
	return n
}

// length is the remaining length, props the property length in it.
func (p *PublishOut) length(version byte, payload int) (length, props int) {
	length = sizeBytes(p.Topic) + payload
	if p.QoS > 0 {
		length += 2
	}
	if version == V5 {
		props = p.propsSize()
		length += sizeVarint(uint32(props)) + props
	}
	return length, props
}

// SizePublish is the size of the whole packet that AppendPublish makes of p. It can be more than a packet may have
// (MaxRemainingLength); the caller compares it with the receiver's limit before it encodes.
func SizePublish(version byte, p *PublishOut) int {
	length, _ := p.length(version, len(p.Payload))
	return packetSize(length)
}

// AppendPublish appends a whole PUBLISH.
func AppendPublish(dst []byte, version byte, p *PublishOut) []byte {
	return append(AppendPublishHeader(dst, version, p, len(p.Payload)), p.Payload...)
}

// AppendPublishHeader appends all of a PUBLISH but its payload, of which payload bytes follow by another way. p.Payload
// is not looked at.
func AppendPublishHeader(dst []byte, version byte, p *PublishOut, payload int) []byte {
	flags := p.QoS << 1 & flagQoS
	if p.Dup {
		flags |= flagDup
	}
	if p.Retain {
		flags |= flagRetain
	}
	length, props := p.length(version, payload)
	dst = appendHeader(dst, PUBLISH, flags, length)
	dst = appendBytes(dst, p.Topic)
	if p.QoS > 0 {
		dst = appendUint16(dst, p.PacketID)
	}
	if version != V5 {
		return dst
	}
	dst = appendVarint(dst, uint32(props))
	if props == 0 {
		return dst
	}
	if p.HasExpiry {
		dst = appendUint32(append(dst, byte(PropMessageExpiry)), p.Expiry)
	}
	if p.TopicAlias != 0 {
		dst = appendUint16(append(dst, byte(PropTopicAlias)), p.TopicAlias)
	}
	for _, id := range p.SubIDs {
		dst = appendVarint(append(dst, byte(PropSubscriptionID)), id)
	}
	return append(dst, p.Forward...)
}
