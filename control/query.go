package control

import (
	"encoding/base64"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// fromQuery fills m from the query of a URL: a field by its name, one of a message within by a path with dots (filter.name), a list by saying it
// more than once. Maps have no form here: they need a body.
func fromQuery(raw string, m proto.Message) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return wrong("the query is none: want NAME=VALUE&…, each of them escaped")
	}
	for _, name := range sortedKeys(values) {
		if err := setPath(m.ProtoReflect(), name, values[name]); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys(values url.Values) []string {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// setPath sets the field at a path.
func setPath(m protoreflect.Message, path string, texts []string) error {
	at := m
	name := path
	for {
		head, rest, more := strings.Cut(name, ".")
		f := at.Descriptor().Fields().ByName(protoreflect.Name(head))
		if f == nil {
			f = at.Descriptor().Fields().ByJSONName(head)
		}
		switch {
		case f == nil:
			return wrong("%s: %s has no such field", quoted(path), m.Descriptor().Name())
		case more && f.Message() != nil && !f.IsList() && !f.IsMap():
			at, name = at.Mutable(f).Message(), rest
			continue
		case more || f.Message() != nil:
			return wrong("%s: this field has no form in a query: POST it as JSON", quoted(path))
		case !f.IsList() && len(texts) != 1:
			return wrong("%s: want one value, found %d", quoted(path), len(texts))
		}
		for _, text := range texts {
			v, ok := scalar(f, text)
			if !ok {
				return wrong("%s: want %s, found %s", quoted(path), kindName(f), quoted(text))
			}
			if f.IsList() {
				at.Mutable(f).List().Append(v)
			} else {
				at.Set(f, v)
			}
		}
		return nil
	}
}

// scalar reads one value.
func scalar(f protoreflect.FieldDescriptor, text string) (protoreflect.Value, bool) {
	switch f.Kind() { //nolint:exhaustive // the services have no others; a test looks
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), utf8.ValidString(text)
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(text == "true"), text == "true" || text == "false"
	case protoreflect.Int32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)), err == nil
	case protoreflect.Int64Kind:
		n, err := strconv.ParseInt(text, 10, 64)
		return protoreflect.ValueOfInt64(n), err == nil
	case protoreflect.Uint32Kind:
		n, err := strconv.ParseUint(text, 10, 32)
		return protoreflect.ValueOfUint32(uint32(n)), err == nil
	case protoreflect.Uint64Kind:
		n, err := strconv.ParseUint(text, 10, 64)
		return protoreflect.ValueOfUint64(n), err == nil
	case protoreflect.DoubleKind:
		n, err := strconv.ParseFloat(text, 64)
		return protoreflect.ValueOfFloat64(n), err == nil && !math.IsNaN(n) && !math.IsInf(n, 0)
	case protoreflect.BytesKind:
		b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "="))
		return protoreflect.ValueOfBytes(b), err == nil
	case protoreflect.EnumKind:
		if v := f.Enum().Values().ByName(protoreflect.Name(text)); v != nil {
			return protoreflect.ValueOfEnum(v.Number()), true
		}
	}
	return protoreflect.Value{}, false
}

// kindName is what a value of f looks like.
func kindName(f protoreflect.FieldDescriptor) string {
	switch f.Kind() { //nolint:exhaustive // all others are numbers
	case protoreflect.StringKind:
		return "text in UTF-8"
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.BytesKind:
		return "bytes in base64"
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		names := make([]string, values.Len())
		for i := range values.Len() {
			names[i] = string(values.Get(i).Name())
		}
		return strings.Join(names, " or ")
	}
	return "a number that fits " + f.Kind().String()
}
