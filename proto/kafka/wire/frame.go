package wire

import (
	"encoding/binary"
	"errors"

	"github.com/sluicemq/sluice/internal/invariant"
)

// Errors of framing and decoding. All but ErrShort end the connection: what follows in the stream cannot be trusted, and Kafka has
// no answer for it.
var (
	// ErrShort says that the request is not whole yet: read more and scan again.
	ErrShort = errors.New("kafka: more bytes needed")
	// ErrTooLarge says that the request announces more bytes than allowed.
	ErrTooLarge = errors.New("kafka: request is larger than the limit")
	// ErrSize says that the size before a request is negative, or too small for a header.
	ErrSize = errors.New("kafka: request has an impossible size")
	// ErrHeader says that the request ends inside its header.
	ErrHeader = errors.New("kafka: request header is cut or has a bad length")
	// ErrUnknownAPI says that there is no API of this key.
	ErrUnknownAPI = errors.New("kafka: unknown API key")
	// ErrVersion says that the API is known, and not spoken at this version.
	ErrVersion = errors.New("kafka: unsupported API version")
	// ErrMalformed says that the body cannot be read as the request that it claims to be.
	ErrMalformed = errors.New("kafka: malformed request")
	// ErrTooMany says that the request has more elements in its arrays than allowed.
	ErrTooMany = errors.New("kafka: request has too many elements")
)

const (
	sizeField     = 4  // the size, which does not count itself
	fixedHeader   = 8  // key, version, correlation id
	minimalHeader = 10 // and the length of a client id
)

// Call is what a response must know of its request. It has no pointers, and outlives the request's bytes.
type Call struct {
	Key           APIKey
	Version       int16
	CorrelationID int32
}

// Request is one whole request. ClientID and Body are views of the scanned bytes.
type Request struct {
	Call
	ClientID []byte // nil: null, which Kafka takes for empty
	Body     []byte // what follows the header
	Size     int    // the whole request; with ErrShort, how many bytes Scan must see to come further
}

// Unreadable tells that this is an ApiVersions request of a version that is not spoken: its body means nothing here, and
// AppendUnreadable is its answer. Scan lets no other request of such a version pass.
func (r *Request) Unreadable() bool { return r.Key == APIVersions && !supported(r.Key, r.Version) }

func supported(k APIKey, v int16) bool { return v >= apis[k].min && v <= apis[k].max }

// Scan names the first request in b. A request of more than maxSize bytes, its size field not counted, is refused (0: no limit).
//
// While the request is not whole, the error is ErrShort and Size tells how many bytes, counted from the start of b, are needed to
// come further. A size, an API key or a version that is refused is so as soon as it is known, before the rest has come. After any
// error but ErrShort the stream cannot be read on; Call is set then as far as it was known.
func Scan(b []byte, maxSize int) (Request, error) {
	size, err := frameSize(b, maxSize)
	if err != nil {
		return Request{Size: size}, err
	}
	if size < sizeField+minimalHeader {
		return Request{Size: size}, ErrSize
	}
	if len(b) < sizeField+fixedHeader {
		return Request{Size: size}, ErrShort
	}
	r := Request{Size: size}
	r.Key = APIKey(binary.BigEndian.Uint16(b[4:]))
	r.Version = int16(binary.BigEndian.Uint16(b[6:]))
	r.CorrelationID = int32(binary.BigEndian.Uint32(b[8:]))
	if !r.Key.Known() {
		return r, ErrUnknownAPI
	}
	if r.Key != APIVersions && !supported(r.Key, r.Version) {
		return r, ErrVersion
	}
	if len(b) < size {
		return r, ErrShort
	}
	return r, r.takeHeader(b[sizeField+fixedHeader : size : size])
}

// takeHeader reads what the header has behind its fixed part. The client id has a length of two bytes in every version.
func (r *Request) takeHeader(b []byte) error {
	c := reader{rest: b}
	r.ClientID = c.nullableString()
	if r.Key.Flexible(r.Version) {
		c.skipTags()
	}
	if c.bad {
		if r.Unreadable() {
			r.ClientID = nil // a header of the future may look otherwise, and the answer needs none of it
			return nil
		}
		return ErrHeader
	}
	r.Body = c.rest
	return nil
}

// ScanFrame delimits the first frame in b without looking into it: for the SASL tokens that follow version 0 of SaslHandshake,
// which have no header. size is that of the whole frame, as Request.Size is.
func ScanFrame(b []byte, maxSize int) (frame []byte, size int, err error) {
	size, err = frameSize(b, maxSize)
	if err != nil {
		return nil, size, err
	}
	if len(b) < size {
		return nil, size, ErrShort
	}
	return b[sizeField:size:size], size, nil
}

// frameSize is the size of the first frame in b, its size field counted.
func frameSize(b []byte, maxSize int) (int, error) {
	if len(b) < sizeField {
		return sizeField, ErrShort
	}
	n := int32(binary.BigEndian.Uint32(b))
	if n < 0 {
		return 0, ErrSize
	}
	if maxSize > 0 && int64(n) > int64(maxSize) {
		return sizeField + int(n), ErrTooLarge
	}
	return sizeField + int(n), nil
}

// BeginResponse appends the head of the response to c: room for the size, and the header. start is where the response begins, for
// FinishResponse.
func BeginResponse(dst []byte, c Call) (out []byte, start int) {
	start = len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(c.CorrelationID))
	if c.Key != APIVersions && c.Key.Flexible(c.Version) {
		dst = append(dst, 0) // no tagged fields
	}
	return dst, start
}

// FinishResponse sets the size of the response that began at start and ends where dst ends. outside is the number of its bytes
// that lie elsewhere.
func FinishResponse(dst []byte, start, outside int) []byte {
	n := len(dst) - start - sizeField + outside
	invariant.Check(n > 0 && int64(n) < 1<<31, "a response's size")
	binary.BigEndian.PutUint32(dst[start:], uint32(n))
	return dst
}

// AppendFrame appends b behind its size: the answer to a SASL token that has no header.
func AppendFrame(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}

// AppendUnreadable appends the whole response to a request that is Unreadable: UNSUPPORTED_VERSION in a body of version 0, which
// every client can read, with the versions of ApiVersions as the one entry, so that the client tries again with one of them.
func AppendUnreadable(dst []byte, correlationID int32) []byte {
	dst, start := BeginResponse(dst, Call{Key: APIVersions, CorrelationID: correlationID})
	dst = binary.BigEndian.AppendUint16(dst, uint16(UnsupportedVersion))
	dst = binary.BigEndian.AppendUint32(dst, 1)
	dst = binary.BigEndian.AppendUint16(dst, uint16(APIVersions))
	dst = binary.BigEndian.AppendUint16(dst, uint16(apis[APIVersions].min))
	dst = binary.BigEndian.AppendUint16(dst, uint16(apis[APIVersions].max))
	return FinishResponse(dst, start, 0)
}
