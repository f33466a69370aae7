package meta

import (
	"encoding/binary"
	"errors"
)

var errCut = errors.New("it is cut, or longer than it says")

func appendString[T string | []byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// decoder reads a value. After a fault it answers zeros, and err says so.
type decoder struct {
	b       []byte
	bad     bool
	version byte // of the value
}

// err is nil if everything was read, and nothing is left.
func (d *decoder) err() error {
	if d.bad || len(d.b) > 0 {
		return errCut
	}
	return nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint64() uint64 {
	if len(d.b) < 8 {
		d.bad, d.b = true, nil
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.bad = true
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

// appendTenant ends what a tenant's has beside what the default one's has.
func appendTenant(dst []byte, number uint32) []byte {
	if number == 0 {
		return dst
	}
	return binary.AppendUvarint(dst, uint64(number))
}

// tenant reads whose a value is, from the version on that says so: then it is not the default tenant's.
func (d *decoder) tenant(since byte) uint32 {
	if d.version < since {
		return 0
	}
	n := d.uint32()
	if n == 0 {
		d.bad = true
	}
	return n
}

// count reads a number of items that take at least one byte each.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return 0
	}
	return int(n)
}
