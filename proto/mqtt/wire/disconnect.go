package wire

// Disconnect is a DISCONNECT, received (a view of the body) or to be sent. Before version 5 it carries nothing, and only
// a client sends it.
type Disconnect struct {
	Reason           ReasonCode
	HasSessionExpiry bool // of a client
	SessionExpiry    uint32
	ReasonString     []byte // nil: none
	ServerReference  []byte // of a server; nil: none
	User             UserProperties
}

// DecodeDisconnect decodes a DISCONNECT that a client sent.
func DecodeDisconnect(body []byte, version byte) (Disconnect, error) {
	return decodeDisconnect(body, version, inDisconnect, &clientDisconnectCodes)
}

// DecodeServerDisconnect decodes a DISCONNECT that a server sent.
func DecodeServerDisconnect(body []byte, version byte) (Disconnect, error) {
	return decodeDisconnect(body, version, inServerDisconnect, &serverDisconnectCodes)
}

func decodeDisconnect(body []byte, version byte, at place, codes *reasonSet) (d Disconnect, err error) {
	if len(body) == 0 {
		return d, nil
	}
	if version != V5 {
		return d, errTrailing
	}
	if d.Reason = ReasonCode(body[0]); !codes.has(d.Reason) {
		return d, errReason
	}
	if body = body[1:]; len(body) == 0 {
		return d, nil
	}
	block, rest, err := takeBlock(body)
	if err != nil {
		return d, err
	}
	if len(rest) > 0 {
		return d, errTrailing
	}
	d.User = block
	r := propReader{rest: block, at: at}
	var p Property
	for r.more() {
		if err := r.next(&p); err != nil {
			return d, err
		}
		switch p.ID {
		case PropSessionExpiry:
			d.SessionExpiry, d.HasSessionExpiry = p.Int, true
		case PropReasonString:
			d.ReasonString = p.Data
		case PropServerReference:
			d.ServerReference = p.Data
		default: // the decoder of properties lets no other through
		}
	}
	return d, nil
}

func (d *Disconnect) props(w *propWriter) {
	if d.HasSessionExpiry {
		w.long(PropSessionExpiry, d.SessionExpiry)
	}
	w.bytes(PropReasonString, d.ReasonString)
	w.bytes(PropServerReference, d.ServerReference)
	w.user(d.User)
}

// length gives the remaining length, and the property length in it. Packets leave out what has its default.
func (d *Disconnect) length(version byte) (length, props int) {
	if version != V5 {
		return 0, 0
	}
	var w propWriter
	d.props(&w)
	switch {
	case w.size > 0:
		return 1 + sizeVarint(uint32(w.size)) + w.size, w.size
	case d.Reason != Success:
		return 1, 0
	}
	return 0, 0
}

// SizeDisconnect is the size of the whole packet that AppendDisconnect makes of d.
func SizeDisconnect(version byte, d *Disconnect) int {
	length, _ := d.length(version)
	return packetSize(length)
}

// Fit drops user properties, then the reason string, until the packet has at most max bytes (0: no limit).
func (d *Disconnect) Fit(version byte, max uint32) {
	fit(max, &d.User, &d.ReasonString, func() int { return SizeDisconnect(version, d) })
}

// AppendDisconnect appends a DISCONNECT. A server sends it in version 5 only.
func AppendDisconnect(dst []byte, version byte, d *Disconnect) []byte {
	length, props := d.length(version)
	dst = appendHeader(dst, DISCONNECT, 0, length)
	if length == 0 {
		return dst
	}
	dst = append(dst, byte(d.Reason))
	if props == 0 {
		return dst
	}
	w := propWriter{dst: appendVarint(dst, uint32(props)), write: true}
	d.props(&w)
	return w.dst
}

// Auth is an AUTH packet, received (a view of the body) or to be sent.
type Auth struct {
	Reason       ReasonCode
	AuthMethod   []byte // nil: none
	AuthData     []byte // nil: none
	ReasonString []byte // nil: none
	User         UserProperties
}

// DecodeAuth decodes an AUTH that a client sent.
func DecodeAuth(body []byte) (Auth, error) { return decodeAuth(body, &clientAuthCodes) }

// DecodeServerAuth decodes an AUTH that a server sent.
func DecodeServerAuth(body []byte) (Auth, error) { return decodeAuth(body, &serverAuthCodes) }

func decodeAuth(body []byte, codes *reasonSet) (a Auth, err error) {
	if len(body) > 0 {
		a.Reason = ReasonCode(body[0])
	}
	if !codes.has(a.Reason) {
		return a, errReason
	}
	if len(body) == 0 {
		return a, nil // the short form, which stands for success without properties
	}
	block, rest, err := takeBlock(body[1:])
	if err != nil {
		return a, err
	}
	if len(rest) > 0 {
		return a, errTrailing
	}
	a.User = block
	r := propReader{rest: block, at: inAuth}
	var p Property
	for r.more() {
		if err := r.next(&p); err != nil {
			return a, err
		}
		switch p.ID {
		case PropAuthMethod:
			a.AuthMethod = p.Data
		case PropAuthData:
			a.AuthData = p.Data
		case PropReasonString:
			a.ReasonString = p.Data
		default: // the decoder of properties lets no other through
		}
	}
	if a.AuthMethod == nil {
		return a, errAuthMethod
	}
	return a, nil
}

func (a *Auth) props(w *propWriter) {
	w.bytes(PropAuthMethod, a.AuthMethod)
	w.bytes(PropAuthData, a.AuthData)
	w.bytes(PropReasonString, a.ReasonString)
	w.user(a.User)
}

// length gives the remaining length, and the property length in it.
func (a *Auth) length() (length, props int) {
	var w propWriter
	a.props(&w)
	if w.size == 0 && a.Reason == Success {
		return 0, 0
	}
	return 1 + sizeVarint(uint32(w.size)) + w.size, w.size
}

// SizeAuth is the size of the whole packet that AppendAuth makes of a.
func SizeAuth(a *Auth) int {
	length, _ := a.length()
	return packetSize(length)
}

// Fit drops user properties, then the reason string, until the packet has at most max bytes (0: no limit).
func (a *Auth) Fit(max uint32) {
	fit(max, &a.User, &a.ReasonString, func() int { return SizeAuth(a) })
}

// AppendAuth appends an AUTH, which version 5 alone has.
func AppendAuth(dst []byte, a *Auth) []byte {
	length, props := a.length()
	dst = appendHeader(dst, AUTH, 0, length)
	if length == 0 {
		return dst
	}
	w := propWriter{dst: appendVarint(append(dst, byte(a.Reason)), uint32(props)), write: true}
	a.props(&w)
	return w.dst
}
