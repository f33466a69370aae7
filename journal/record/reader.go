package record

// minRecordSize is the size of a record without key, value and headers.
const minRecordSize = 7

// Record is one message of a batch: a view of the batch's bytes that dies with them.
type Record struct {
	Offset    Offset
	Timestamp int64  // milliseconds of Unix time
	Key       []byte // nil: null
	Value     []byte // nil: null
	Headers   Headers
}

// BatchReader walks over the records of a batch. It is a value: keep it on the stack. A batch that lies ends the walk with Err;
// what came before is as it was stored.
//
//	for r := b.Records(); r.Next(); {
//		rec := r.Record()
//	}
type BatchReader struct {
	rest  []byte
	left  int32
	base  Offset
	time  int64
	fixed bool // all records have time as their timestamp
	err   error
	rec   Record
}

// Records begins a walk. A compressed batch has none to show: Err is ErrCompressed at once.
func (b Batch) Records() BatchReader {
	r := BatchReader{rest: b[BatchHeaderSize:], left: b.Count(), base: b.BaseOffset(), time: b.BaseTimestamp()}
	attrs := b.Attributes()
	if attrs.Compressed() {
		r.err = ErrCompressed
	}
	if attrs&LogAppendTime != 0 {
		r.fixed, r.time = true, b.MaxTimestamp()
	}
	return r
}

// Next moves to the next record and tells whether there is one.
func (r *BatchReader) Next() bool {
	if r.left <= 0 || r.err != nil {
		if r.left == 0 && r.err == nil && len(r.rest) > 0 {
			r.err = ErrBatch
		}
		return false
	}
	r.left--
	size, n := Varint32(r.rest)
	if n == 0 || size < minRecordSize-1 || int(size) > len(r.rest)-n {
		return r.fail()
	}
	body := r.rest[n : n+int(size) : n+int(size)]
	r.rest = r.rest[n+int(size):]
	return r.parse(body)
}

// parse reads a record behind its length: attributes (unused), two deltas, key, value, headers.
func (r *BatchReader) parse(body []byte) bool {
	body = body[1:]
	ts, n := Varint(body)
	if n == 0 {
		return r.fail()
	}
	body = body[n:]
	delta, n := Varint32(body)
	if n == 0 || delta < 0 {
		return r.fail()
	}
	body = body[n:]
	key, body, ok := takeBytes(body)
	if !ok {
		return r.fail()
	}
	value, body, ok := takeBytes(body)
	if !ok {
		return r.fail()
	}
	count, n := Varint32(body)
	if n == 0 || count < 0 || int64(count)*2 > int64(len(body)-n) {
		return r.fail()
	}
	rec := &r.rec // in place: a copy of the whole costs more than the reading
	rec.Offset, rec.Timestamp, rec.Key, rec.Value = r.base+Offset(delta), r.time, key, value
	if !r.fixed {
		rec.Timestamp += ts
	}
	rec.Headers.rest, rec.Headers.left = body[n:], count
	rec.Headers.key, rec.Headers.value = nil, nil
	if count == 0 && len(body) == n {
		return true
	}
	if !rec.Headers.whole() {
		return r.fail()
	}
	return true
}

func (r *BatchReader) fail() bool {
	r.err = ErrBatch
	return false
}

// Record is the record that Next moved to.
func (r *BatchReader) Record() *Record { return &r.rec }

// Err tells why the walk ended: nil at the end of the batch.
func (r *BatchReader) Err() error { return r.err }

// Headers walks over the headers of a record. A copy of it begins where it stands, and its zero value has none. What a BatchReader
// gives out has been checked, so that a walk always reaches the last header.
type Headers struct {
	rest       []byte
	left       int32
	key, value []byte
}

// Next moves to the next header and tells whether there is one.
func (h *Headers) Next() bool {
	if h.left <= 0 {
		return false
	}
	h.left--
	var ok bool
	if h.key, h.rest, ok = takeBytes(h.rest); ok {
		h.value, h.rest, ok = takeBytes(h.rest)
	}
	if !ok {
		h.left = 0
	}
	return ok
}

// Key is the name of the header that Next moved to. It may be empty; it is nil only in a batch that Verify refuses.
func (h *Headers) Key() []byte { return h.key }

// Value is the value of the header that Next moved to; nil is null.
func (h *Headers) Value() []byte { return h.value }

// Len is the number of headers that are left.
func (h *Headers) Len() int { return int(h.left) }

// Raw is the encoded form of the headers that are left, without their number: what Input.RawHeaders takes.
func (h *Headers) Raw() []byte { return h.rest }

// Get is the value of the first header left whose name is key.
func (h Headers) Get(key string) (value []byte, ok bool) {
	for h.Next() {
		if string(h.key) == key {
			return h.value, true
		}
	}
	return nil, false
}

// whole tells whether the headers fill exactly what is left of their record.
func (h Headers) whole() bool {
	for h.left > 0 {
		if !h.Next() {
			return false
		}
	}
	return len(h.rest) == 0
}

// takeBytes reads a length and as many bytes from the head of src; length -1 is null, any other below 0 a lie.
func takeBytes(src []byte) (b, rest []byte, ok bool) {
	size, n := Varint32(src)
	if n == 0 || size < -1 {
		return nil, nil, false
	}
	src = src[n:]
	if size < 0 {
		return nil, src, true
	}
	if int(size) > len(src) {
		return nil, nil, false
	}
	return src[:size:size], src[size:], true
}
