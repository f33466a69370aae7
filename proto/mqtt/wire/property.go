package wire

// PropertyID names an MQTT 5 property.
type PropertyID byte

// The properties of MQTT 5.
const (
	PropPayloadFormat       PropertyID = 0x01
	PropMessageExpiry       PropertyID = 0x02
	PropContentType         PropertyID = 0x03
	PropResponseTopic       PropertyID = 0x08
	PropCorrelationData     PropertyID = 0x09
	PropSubscriptionID      PropertyID = 0x0B
	PropSessionExpiry       PropertyID = 0x11
	PropAssignedClientID    PropertyID = 0x12
	PropServerKeepAlive     PropertyID = 0x13
	PropAuthMethod          PropertyID = 0x15
	PropAuthData            PropertyID = 0x16
	PropRequestProblemInfo  PropertyID = 0x17
	PropWillDelay           PropertyID = 0x18
	PropRequestResponseInfo PropertyID = 0x19
	PropResponseInfo        PropertyID = 0x1A
	PropServerReference     PropertyID = 0x1C
	PropReasonString        PropertyID = 0x1F
	PropReceiveMaximum      PropertyID = 0x21
	PropTopicAliasMaximum   PropertyID = 0x22
	PropTopicAlias          PropertyID = 0x23
	PropMaximumQoS          PropertyID = 0x24
	PropRetainAvailable     PropertyID = 0x25
	PropUser                PropertyID = 0x26
	PropMaximumPacketSize   PropertyID = 0x27
	PropWildcardAvailable   PropertyID = 0x28
	PropSubIDAvailable      PropertyID = 0x29
	PropSharedAvailable     PropertyID = 0x2A
)

// Property is one property of a block. Data and Value are views.
type Property struct {
	ID    PropertyID
	Int   uint32 // the value of a numeric property
	Data  []byte // the value of a string or binary property; a user property's name
	Value []byte // a user property's value
}

// propKind is how a property's value is encoded.
type propKind byte

const (
	kindNone propKind = iota
	kindBool
	kindUint16
	kindUint32
	kindVarint
	kindText
	kindBinary
	kindPair
)

// place is a packet, seen from its sender, that properties can stand in.
type place uint32

const (
	inConnect place = 1 << iota
	inWill
	inConnack
	inPublish       // of a client
	inServerPublish // of a server
	inAck           // PUBACK, PUBREC, PUBREL, PUBCOMP
	inSubscribe
	inSuback // also UNSUBACK
	inUnsubscribe
	inDisconnect       // of a client
	inServerDisconnect // of a server
	inAuth
	inAny = 1<<iota - 1

	inMessage = inWill | inPublish | inServerPublish
	inReasons = inConnack | inAck | inSuback | inDisconnect | inServerDisconnect | inAuth
)

// properties says of each property how it is encoded, where it may stand, and that it must not be 0.
var properties = [0x2B]struct {
	kind    propKind
	places  place
	nonzero bool
}{
	PropPayloadFormat:       {kindBool, inMessage, false},
	PropMessageExpiry:       {kindUint32, inMessage, false},
	PropContentType:         {kindText, inMessage, false},
	PropResponseTopic:       {kindText, inMessage, false},
	PropCorrelationData:     {kindBinary, inMessage, false},
	PropSubscriptionID:      {kindVarint, inServerPublish | inSubscribe, true},
	PropSessionExpiry:       {kindUint32, inConnect | inConnack | inDisconnect, false},
	PropAssignedClientID:    {kindText, inConnack, false},
	PropServerKeepAlive:     {kindUint16, inConnack, false},
	PropAuthMethod:          {kindText, inConnect | inConnack | inAuth, false},
	PropAuthData:            {kindBinary, inConnect | inConnack | inAuth, false},
	PropRequestProblemInfo:  {kindBool, inConnect, false},
	PropWillDelay:           {kindUint32, inWill, false},
	PropRequestResponseInfo: {kindBool, inConnect, false},
	PropResponseInfo:        {kindText, inConnack, false},
	PropServerReference:     {kindText, inConnack | inServerDisconnect, false},
	PropReasonString:        {kindText, inReasons, false},
	PropReceiveMaximum:      {kindUint16, inConnect | inConnack, true},
	PropTopicAliasMaximum:   {kindUint16, inConnect | inConnack, false},
	PropTopicAlias:          {kindUint16, inPublish | inServerPublish, false},
	PropMaximumQoS:          {kindBool, inConnack, false},
	PropRetainAvailable:     {kindBool, inConnack, false},
	PropUser:                {kindPair, inAny, false},
	PropMaximumPacketSize:   {kindUint32, inConnect | inConnack, true},
	PropWildcardAvailable:   {kindBool, inConnack, false},
	PropSubIDAvailable:      {kindBool, inConnack, false},
	PropSharedAvailable:     {kindBool, inConnack, false},
}

// takeProperty reads one property and checks what can be told from it alone.
func takeProperty(b []byte) (p Property, rest []byte, err error) {
	if len(b) == 0 {
		return p, b, errTooShort
	}
	p.ID = PropertyID(b[0])
	if int(p.ID) >= len(properties) {
		return p, b, errPropUnknown // identifiers are variable byte integers, but none needs a second byte
	}
	info := &properties[p.ID]
	ok := true
	switch rest = b[1:]; info.kind {
	case kindBool:
		if len(rest) == 0 {
			return p, b, errTooShort
		}
		p.Int, rest = uint32(rest[0]), rest[1:]
		if p.Int > 1 {
			return p, b, errPropBool
		}
	case kindUint16:
		var v uint16
		v, rest, ok = takeUint16(rest)
		p.Int = uint32(v)
	case kindUint32:
		p.Int, rest, ok = takeUint32(rest)
	case kindVarint:
		var n int
		if p.Int, n, err = takeVarint(rest); err != nil {
			return p, b, err
		}
		ok, rest = n > 0, rest[n:]
	case kindText:
		p.Data, rest, err = takeText(rest)
	case kindBinary:
		p.Data, rest, ok = takeBytes(rest)
	case kindPair:
		if p.Data, rest, err = takeText(rest); err == nil {
			p.Value, rest, err = takeText(rest)
		}
	default:
		return p, b, errPropUnknown
	}
	if err == nil && !ok {
		err = errTooShort
	}
	if err == nil && info.nonzero && p.Int == 0 {
		err = errPropZero
	}
	return p, rest, err
}

// propReader walks through a received block and checks it as it goes.
type propReader struct {
	rest []byte
	at   place
	seen uint64
}

func (r *propReader) more() bool { return len(r.rest) > 0 }

// next reads the next property into p.
func (r *propReader) next(p *Property) (err error) {
	*p, r.rest, err = takeProperty(r.rest)
	if err != nil {
		return err
	}
	if properties[p.ID].places&r.at == 0 {
		return errPropPlace
	}
	bit := uint64(1) << p.ID
	many := p.ID == PropUser || (p.ID == PropSubscriptionID && r.at == inServerPublish)
	if r.seen&bit != 0 && !many {
		return errPropTwice
	}
	r.seen |= bit
	switch p.ID {
	case PropResponseTopic:
		if len(p.Data) == 0 || classify(p.Data)&textWild != 0 {
			return errResponseTopic
		}
	case PropTopicAlias:
		if p.Int == 0 {
			return ErrTopicAliasZero
		}
	default: // any value will do
	}
	return nil
}

// PropertyReader walks through a property block that has been decoded before, such as PublishProps.Forward gives.
type PropertyReader struct{ rest []byte }

// ReadProperties starts at the first property of block, which has no length in front.
func ReadProperties(block []byte) PropertyReader { return PropertyReader{block} }

// Next gives the next property; ok is false behind the last one, and at bytes that are no property.
func (r *PropertyReader) Next() (p Property, ok bool) {
	if len(r.rest) == 0 {
		return p, false
	}
	p, rest, err := takeProperty(r.rest)
	if err != nil {
		r.rest = nil
		return Property{}, false
	}
	r.rest = rest
	return p, true
}

// FindProperty gives the first property of a block with this identifier.
func FindProperty(block []byte, id PropertyID) (p Property, ok bool) {
	for r := ReadProperties(block); ; {
		if p, ok = r.Next(); !ok || p.ID == id {
			return p, ok
		}
	}
}

// AppendProperty appends p to a block, in the encoding that its identifier has. Unknown identifiers append nothing.
func AppendProperty(dst []byte, p Property) []byte {
	if int(p.ID) >= len(properties) || properties[p.ID].kind == kindNone {
		return dst
	}
	dst = append(dst, byte(p.ID))
	switch properties[p.ID].kind {
	case kindBool:
		return append(dst, byte(p.Int))
	case kindUint16:
		return appendUint16(dst, uint16(p.Int))
	case kindUint32:
		return appendUint32(dst, p.Int)
	case kindVarint:
		return appendVarint(dst, p.Int)
	case kindPair:
		return appendBytes(appendBytes(dst, p.Data), p.Value)
	default:
		return appendBytes(dst, p.Data)
	}
}

// UserProperties is a property block of which only the user properties count: decoders give the received block, and
// encoders leave the other properties in it out. Build one with AppendUserProperty.
type UserProperties []byte

// AppendUserProperty appends one user property to a block.
func AppendUserProperty(dst, name, value []byte) []byte {
	return appendBytes(appendBytes(append(dst, byte(PropUser)), name), value)
}

// Read starts a walk over the user properties.
func (u UserProperties) Read() UserPropertyReader { return UserPropertyReader{PropertyReader{u}} }

// UserPropertyReader walks through user properties.
type UserPropertyReader struct{ all PropertyReader }

// Next gives the next user property; ok is false behind the last one.
func (r *UserPropertyReader) Next() (name, value []byte, ok bool) {
	for {
		p, ok := r.all.Next()
		if !ok {
			return nil, nil, false
		}
		if p.ID == PropUser {
			return p.Data, p.Value, true
		}
	}
}

// propWriter counts or appends properties, so that one list in each packet's file serves both.
type propWriter struct {
	dst   []byte
	size  int
	write bool
}

func (w *propWriter) add(p Property, size int) {
	if w.write {
		w.dst = AppendProperty(w.dst, p)
		return
	}
	w.size += size
}

// flag adds a property of one byte.
func (w *propWriter) flag(id PropertyID, v byte) { w.add(Property{ID: id, Int: uint32(v)}, 2) }

// short adds a property of two bytes.
func (w *propWriter) short(id PropertyID, v uint16) { w.add(Property{ID: id, Int: uint32(v)}, 3) }

// long adds a property of four bytes.
func (w *propWriter) long(id PropertyID, v uint32) { w.add(Property{ID: id, Int: v}, 5) }

// varint adds a property that is a variable byte integer.
func (w *propWriter) varint(id PropertyID, v uint32) {
	w.add(Property{ID: id, Int: v}, 1+sizeVarint(v))
}

// bytes adds a string or binary property unless it is nil.
func (w *propWriter) bytes(id PropertyID, v []byte) {
	if v != nil {
		w.add(Property{ID: id, Data: v}, 1+sizeBytes(v))
	}
}

// user adds the user properties of a block.
func (w *propWriter) user(u UserProperties) {
	for r := u.Read(); ; {
		name, value, ok := r.Next()
		if !ok {
			return
		}
		w.add(Property{ID: PropUser, Data: name, Value: value}, 1+sizeBytes(name)+sizeBytes(value))
	}
}
