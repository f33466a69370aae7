package wire

import (
	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/invariant"
)

// DecodeMessage reads a request of any API but Produce and Fetch. Strings of the message are copies; its []byte fields and unknown
// tagged fields are views of r.Body.
//
// maxElements bounds the elements of all arrays, and the unknown tagged fields, taken together (0: no bound); above it the error is
// ErrTooMany. kmsg takes a count for granted, sets aside as many elements before it looks for the first, and spins through as many
// tagged fields as are announced. So a request is looked through first, without an allocation, and kmsg gets to see none whose
// counts and lengths are not borne out by its bytes: what it allocates is some hundred bytes for an element, and the bytes of the
// strings.
func DecodeMessage(r *Request, maxElements int) (kmsg.Request, error) {
	invariant.Check(r.Key != Produce && r.Key != Fetch, "Produce and Fetch have decoders of their own")
	if !supported(r.Key, r.Version) || shapes[r.Key] == nil {
		return nil, ErrVersion
	}
	if err := checkShape(shapes[r.Key], r.Body, r.Version, r.Key.Flexible(r.Version), maxElements); err != nil {
		return nil, err
	}
	m := kmsg.RequestForKey(int16(r.Key))
	m.SetVersion(r.Version)
	if err := m.ReadFrom(r.Body); err != nil {
		return nil, ErrMalformed
	}
	return m, nil
}

// checkShape looks through a body. What lies behind the last field is nobody's business, as in Kafka.
func checkShape(shape []field, body []byte, version int16, flexible bool, maxElements int) error {
	if maxElements <= 0 {
		maxElements = 1 << 31
	}
	c := shapeCheck{r: reader{rest: body, flex: flexible}, version: version, left: maxElements}
	c.fields(shape)
	switch {
	case c.left < 0:
		return ErrTooMany
	case c.r.bad:
		return ErrMalformed
	}
	return nil
}

// AppendMessage appends the whole response to c.
func AppendMessage(dst []byte, c Call, m kmsg.Response) []byte {
	invariant.Check(m.Key() == int16(c.Key), "a response is one to another request")
	m.SetVersion(c.Version)
	dst, start := BeginResponse(dst, c)
	return FinishResponse(m.AppendTo(dst), start, 0)
}

// DecodeSubscription reads what a member of a classic group of consumers wants: the metadata of its protocol in JoinGroup.
// maxElements is as in DecodeMessage; UserData is a view of b.
func DecodeSubscription(b []byte, maxElements int) (m kmsg.ConsumerMemberMetadata, err error) {
	if err := checkMember(subscriptionShape, b, maxElements); err != nil {
		return m, err
	}
	m.Default()
	if m.ReadFrom(b) != nil {
		return m, ErrMalformed
	}
	return m, nil
}

// DecodeAssignment reads what a member of a classic group of consumers was given, in SyncGroup. maxElements is as in
// DecodeMessage; UserData is a view of b.
func DecodeAssignment(b []byte, maxElements int) (m kmsg.ConsumerMemberAssignment, err error) {
	if err := checkMember(assignmentShape, b, maxElements); err != nil {
		return m, err
	}
	m.Default()
	if m.ReadFrom(b) != nil {
		return m, ErrMalformed
	}
	return m, nil
}

// memberVersion is the last version of the protocol "consumer"; one from the future is read as this.
const memberVersion = 3

func checkMember(shape []field, b []byte, maxElements int) error {
	if len(b) < 2 {
		return ErrMalformed
	}
	version := int16(binary.BigEndian.Uint16(b))
	if version < 0 {
		return ErrMalformed
	}
	return checkShape(shape, b[2:], min(version, memberVersion), false, maxElements)
}
