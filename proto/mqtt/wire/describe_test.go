package wire

import (
	"fmt"
	"strings"
)

// side is the end of the connection that a packet came from.
type side bool

const (
	fromClient side = false
	fromServer side = true
)

// describe decodes the packet h and writes down all that it says, then encodes what it decoded. It is how the tests
// compare: two packets that describe alike mean the same.
func describe(h Header, version byte, from side) (text string, again []byte, err error) {
	var b strings.Builder
	b.WriteString(h.Type.String())
	switch h.Type {
	case CONNECT:
		again, err = describeConnect(&b, h)
	case CONNACK:
		again, err = describeConnack(&b, h, version)
	case PUBLISH:
		again, err = describePublish(&b, h, version, from)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		var a Ack
		if a, err = DecodeAck(h.Type, h.Body, version); err == nil {
			again = AppendAck(nil, version, h.Type, &a)
			checkSize(&err, SizeAck(version, &a), again)
			fmt.Fprintf(&b, " id=%d", a.PacketID)
			reasonsText(&b, a.Reason, a.ReasonString, a.User)
		}
	case SUBSCRIBE:
		again, err = describeSubscribe(&b, h, version)
	case UNSUBSCRIBE:
		again, err = describeUnsubscribe(&b, h, version)
	case SUBACK, UNSUBACK:
		again, err = describeSuback(&b, h, version)
	case PINGREQ:
		again = AppendPingreq(nil)
	case PINGRESP:
		again = AppendPingresp(nil)
	case DISCONNECT:
		decode := DecodeDisconnect
		if from == fromServer {
			decode = DecodeServerDisconnect
		}
		var d Disconnect
		if d, err = decode(h.Body, version); err == nil {
			again = AppendDisconnect(nil, version, &d)
			checkSize(&err, SizeDisconnect(version, &d), again)
			if d.HasSessionExpiry {
				fmt.Fprintf(&b, " session-expiry=%d", d.SessionExpiry)
			}
			field(&b, "server", d.ServerReference)
			reasonsText(&b, d.Reason, d.ReasonString, d.User)
		}
	case AUTH:
		decode := DecodeAuth
		if from == fromServer {
			decode = DecodeServerAuth
		}
		var a Auth
		if a, err = decode(h.Body); err == nil {
			again = AppendAuth(nil, &a)
			checkSize(&err, SizeAuth(&a), again)
			field(&b, "method", a.AuthMethod)
			field(&b, "data", a.AuthData)
			reasonsText(&b, a.Reason, a.ReasonString, a.User)
		}
	}
	return b.String(), again, err
}

func checkSize(err *error, want int, packet []byte) {
	if *err == nil && want != len(packet) {
		*err = fmt.Errorf("computed size %d, encoded %d bytes", want, len(packet))
	}
}

func field(b *strings.Builder, name string, v []byte) {
	if v != nil {
		fmt.Fprintf(b, " %s=%q", name, v)
	}
}

func flag(b *strings.Builder, name string, on bool) {
	if on {
		b.WriteString(" " + name)
	}
}

func number(b *strings.Builder, name string, v uint32) {
	if v != 0 {
		fmt.Fprintf(b, " %s=%d", name, v)
	}
}

func userText(b *strings.Builder, u UserProperties) {
	for r := u.Read(); ; {
		name, value, ok := r.Next()
		if !ok {
			return
		}
		fmt.Fprintf(b, " user %q=%q", name, value)
	}
}

func reasonsText(b *strings.Builder, r ReasonCode, reason []byte, u UserProperties) {
	if r != Success {
		fmt.Fprintf(b, " reason=0x%02X", byte(r))
	}
	field(b, "because", reason)
	userText(b, u)
}

// messageProps writes down the properties of a message by every way that they can be read.
func messageProps(b *strings.Builder, p *PublishProps) (forward []byte) {
	if p.HasExpiry {
		fmt.Fprintf(b, " expiry=%d", p.Expiry)
	}
	number(b, "alias", uint32(p.TopicAlias))
	number(b, "format", uint32(p.PayloadFormat))
	field(b, "type", p.ContentType())
	field(b, "response", p.ResponseTopic())
	field(b, "correlation", p.CorrelationData())
	userText(b, p.User())
	for _, id := range p.SubscriptionIDs(nil) {
		fmt.Fprintf(b, " sub=%d", id)
	}
	forward, _ = p.Forward(nil)
	fmt.Fprintf(b, " forward=%x", forward)
	return forward
}

func describeConnect(b *strings.Builder, h Header) ([]byte, error) {
	c, err := DecodeConnect(h.Body)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(b, " version=%d keep-alive=%d", c.Version, c.KeepAlive)
	flag(b, "clean", c.CleanStart)
	field(b, "id", c.ClientID)
	field(b, "user-name", c.UserName)
	field(b, "password", c.Password)
	number(b, "session-expiry", c.SessionExpiry)
	number(b, "receive-max", uint32(c.ReceiveMaximum))
	number(b, "packet-max", c.MaximumPacketSize)
	number(b, "alias-max", uint32(c.TopicAliasMaximum))
	flag(b, "response-info", c.RequestResponseInfo)
	flag(b, "no-problem-info", c.NoProblemInfo)
	field(b, "method", c.AuthMethod)
	field(b, "data", c.AuthData)
	userText(b, c.User)
	if c.HasWill {
		fmt.Fprintf(b, " will qos=%d", c.Will.QoS)
		flag(b, "retain", c.Will.Retain)
		number(b, "delay", c.Will.Delay)
		field(b, "topic", c.Will.Topic)
		field(b, "payload", c.Will.Payload)
		c.Will.Forward = messageProps(b, &c.Will.Props)
	}
	return AppendConnect(nil, &c), nil
}

func describeConnack(b *strings.Builder, h Header, version byte) ([]byte, error) {
	c, err := DecodeConnack(h.Body, version)
	if err != nil {
		return nil, err
	}
	flag(b, "present", c.SessionPresent)
	if c.HasSessionExpiry {
		fmt.Fprintf(b, " session-expiry=%d", c.SessionExpiry)
	}
	if c.HasMaximumQoS {
		fmt.Fprintf(b, " qos-max=%d", c.MaximumQoS)
	}
	if c.HasServerKeepAlive {
		fmt.Fprintf(b, " keep-alive=%d", c.ServerKeepAlive)
	}
	flag(b, "no-retain", c.NoRetain)
	flag(b, "no-wildcards", c.NoWildcards)
	flag(b, "no-subscription-ids", c.NoSubscriptionIDs)
	flag(b, "no-shared", c.NoShared)
	number(b, "receive-max", uint32(c.ReceiveMaximum))
	number(b, "alias-max", uint32(c.TopicAliasMaximum))
	number(b, "packet-max", c.MaximumPacketSize)
	field(b, "assigned", c.AssignedClientID)
	field(b, "response-info", c.ResponseInfo)
	field(b, "server", c.ServerReference)
	field(b, "method", c.AuthMethod)
	field(b, "data", c.AuthData)
	reasonsText(b, c.Reason, c.ReasonString, c.User)
	again := AppendConnack(nil, version, &c)
	checkSize(&err, SizeConnack(version, &c), again)
	return again, err
}

func describePublish(b *strings.Builder, h Header, version byte, from side) ([]byte, error) {
	decode := DecodePublish
	if from == fromServer {
		decode = DecodeServerPublish
	}
	p, err := decode(h.Flags, h.Body, version)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(b, " qos=%d", p.QoS)
	flag(b, "dup", p.Dup)
	flag(b, "retain", p.Retain)
	number(b, "id", uint32(p.PacketID))
	fmt.Fprintf(b, " topic=%q payload=%x", p.Topic, p.Payload)
	out := PublishOut{Dup: p.Dup, Retain: p.Retain, QoS: p.QoS, PacketID: p.PacketID, Topic: p.Topic, Payload: p.Payload,
		HasExpiry: p.Props.HasExpiry, Expiry: p.Props.Expiry, TopicAlias: p.Props.TopicAlias,
		SubIDs: p.Props.SubscriptionIDs(nil)}
	if version == V5 {
		out.Forward = messageProps(b, &p.Props)
	}
	again := AppendPublish(nil, version, &out)
	checkSize(&err, SizePublish(version, &out), again)
	return again, err
}

func describeSubscribe(b *strings.Builder, h Header, version byte) ([]byte, error) {
	s, err := DecodeSubscribe(h.Body, version)
	if err != nil {
		return nil, err
	}
	out := SubscribeOut{PacketID: s.PacketID, SubscriptionID: s.SubscriptionID, User: s.User}
	fmt.Fprintf(b, " id=%d", s.PacketID)
	number(b, "sub", s.SubscriptionID)
	userText(b, s.User)
	for r := s.Filters(); ; {
		f, ok := r.Next()
		if !ok {
			break
		}
		fmt.Fprintf(b, " filter %q qos=%d", f.Filter, f.QoS)
		flag(b, "no-local", f.NoLocal)
		flag(b, "as-published", f.RetainAsPublished)
		number(b, "handling", uint32(f.RetainHandling))
		out.Filters = append(out.Filters, f)
	}
	if len(out.Filters) != s.Count {
		return nil, fmt.Errorf("%d filters, counted %d", len(out.Filters), s.Count)
	}
	return AppendSubscribe(nil, version, &out), nil
}

func describeUnsubscribe(b *strings.Builder, h Header, version byte) ([]byte, error) {
	u, err := DecodeUnsubscribe(h.Body, version)
	if err != nil {
		return nil, err
	}
	out := UnsubscribeOut{PacketID: u.PacketID, User: u.User}
	fmt.Fprintf(b, " id=%d", u.PacketID)
	userText(b, u.User)
	for r := u.Filters(); ; {
		f, ok := r.Next()
		if !ok {
			break
		}
		fmt.Fprintf(b, " filter %q", f.Filter)
		out.Filters = append(out.Filters, f.Filter)
	}
	if len(out.Filters) != u.Count {
		return nil, fmt.Errorf("%d filters, counted %d", len(out.Filters), u.Count)
	}
	return AppendUnsubscribe(nil, version, &out), nil
}

func describeSuback(b *strings.Builder, h Header, version byte) ([]byte, error) {
	decode, encode := DecodeSuback, AppendSuback
	if h.Type == UNSUBACK {
		decode, encode = DecodeUnsuback, AppendUnsuback
	}
	s, err := decode(h.Body, version)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(b, " id=%d", s.PacketID)
	for _, c := range s.Codes {
		fmt.Fprintf(b, " 0x%02X", byte(c))
	}
	reasonsText(b, Success, s.ReasonString, s.User)
	again := encode(nil, version, &s)
	checkSize(&err, SizeSuback(version, &s), again)
	return again, err
}
