package wire

import (
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/internal/invariant"
)

// kind is the first byte of a field's shape.
type kind byte

const (
	kindFixed  kind = iota // a number of bytes
	kindString             // s
	kindBytes              // b
	kindArray              // [ element ]
	kindStruct             // { fields }
)

// field is the shape of one field of a request: how to find its end, and no more.
type field struct {
	kind     kind
	size     int     // of kindFixed
	min, max int16   // versions that have it
	null     int16   // first version in which it may be null
	of       []field // the element of an array, the fields of a structure
}

// shapeParser turns the text of a shape into fields. A shape is a list of fields, each with a space behind it:
//
//	4          a number of 4 bytes; likewise 1, 2, 8 and 16
//	s b        a string, bytes
//	[ s ]      an array of strings
//	[ { … } ]  an array of structures
//	?  ?3      it may be null, in all versions or from 3 on
//	@2  @2-5   only versions from 2 on have it, or 2 to 5
type shapeParser struct{ words []string }

func parseShape(text string) []field {
	p := shapeParser{strings.Fields(text)}
	fields := p.fields("")
	invariant.Check(len(p.words) == 0, "a shape has a bracket too many")
	return fields
}

// fields takes all fields up to the word that begins with end.
func (p *shapeParser) fields(end string) (list []field) {
	for len(p.words) > 0 && (end == "" || !strings.HasPrefix(p.words[0], end)) {
		list = append(list, p.field())
	}
	return list
}

func (p *shapeParser) field() field {
	word := p.words[0]
	p.words = p.words[1:]
	f := field{max: never, null: never}
	switch word[0] {
	case '[':
		f.kind, f.of = kindArray, p.fields("]")
	case '{':
		f.kind, f.of = kindStruct, p.fields("}")
	}
	if f.of != nil { // what stands behind the closing bracket is said of the whole
		word = p.words[0]
		p.words = p.words[1:]
	}
	word, versions, found := strings.Cut(word, "@")
	if found {
		low, high, bounded := strings.Cut(versions, "-")
		f.min = number(low)
		if bounded {
			f.max = number(high)
		}
	}
	word, null, found := strings.Cut(word, "?")
	if found {
		f.null = number(null)
	}
	switch word {
	case "s":
		f.kind = kindString
	case "b":
		f.kind = kindBytes
	case "]", "}":
	default:
		f.size = int(number(word))
		invariant.Check(f.size > 0, "a field of a shape has no size")
	}
	return f
}

func number(s string) int16 {
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	invariant.Check(err == nil, "a shape has no number where one must be")
	return int16(n)
}

// shapeCheck walks through a body along a shape. It allocates nothing.
type shapeCheck struct {
	r       reader
	version int16
	left    int // elements of arrays, and tagged fields, that may yet come
}

// fields walks through the fields of a structure, and its tagged fields if the version is flexible.
func (c *shapeCheck) fields(list []field) {
	for i := range list {
		if f := &list[i]; c.version >= f.min && c.version <= f.max {
			c.field(f)
		}
	}
	if c.r.flex {
		n := c.r.tagged()
		c.count(n)
		for range n {
			c.r.tag()
		}
	}
}

func (c *shapeCheck) field(f *field) {
	nullable := c.version >= f.null
	switch f.kind {
	case kindFixed:
		c.r.span(f.size)
	case kindString:
		if v := c.r.stringOrNull(); v == nil && !nullable {
			c.r.fail()
		}
	case kindBytes:
		if v := c.r.bytesOrNull(); v == nil && !nullable {
			c.r.fail()
		}
	case kindArray:
		c.array(f, nullable)
	case kindStruct:
		if nullable {
			switch there := c.r.int8(); {
			case there == -1:
				return
			case there < 0:
				c.r.fail() // null to Kafka, and not to kmsg
				return
			}
		}
		c.fields(f.of)
	}
}

func (c *shapeCheck) array(f *field, nullable bool) {
	n := c.r.countOrNull(max(1, c.least(f.of)))
	if n < 0 {
		if !nullable {
			c.r.fail()
		}
		return
	}
	c.count(n)
	if e := &f.of[0]; e.kind == kindFixed {
		c.r.span(n * e.size)
		return
	}
	for range n {
		if c.r.bad {
			return
		}
		c.field(&f.of[0])
	}
}

// count takes n off what may yet come.
func (c *shapeCheck) count(n int) {
	if c.left -= n; c.left < 0 {
		c.r.fail()
	}
}

// least is the least number of bytes that fields take.
func (c *shapeCheck) least(list []field) (n int) {
	for i := range list {
		f := &list[i]
		if c.version < f.min || c.version > f.max {
			continue
		}
		switch {
		case f.kind == kindFixed:
			n += f.size
		case f.kind == kindStruct && c.version >= f.null:
			n++
		case f.kind == kindStruct:
			n += c.least(f.of)
			if c.r.flex {
				n++
			}
		case c.r.flex:
			n++
		case f.kind == kindString:
			n += 2
		default:
			n += 4
		}
	}
	return n
}
