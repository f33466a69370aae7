package plan

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/strictyaml"
)

// Rate is something in a second, written 0.5/s, 6/min, 4/h or 2/d.
type Rate float64

// Share is a part of a whole, written 30% or 0.3.
type Share float64

// Bits are per second, written 10Gbit or 1000Mbit.
type Bits float64

// Price is in any currency.
type Price float64

// parseValue reads text into a field. The kinds are few, and each says what it wants.
func parseValue(v reflect.Value, text string) error {
	switch x := v.Addr().Interface().(type) {
	case *Rate:
		return parseRate(x, text)
	case *Share:
		return parseShare(x, text)
	case *Bits:
		return parseBits(x, text)
	case *config.Size:
		s, err := config.ParseSize(text)
		*x = s
		return err
	case *time.Duration:
		d, err := config.ParseDuration(text)
		*x = d
		return err
	case *Transport:
		for t, name := range transportNames {
			if name == text {
				*x = Transport(t)
				return nil
			}
		}
		return fmt.Errorf("want %s, found %q", strings.Join(transportNames[:], ", "), text)
	case *string:
		*x = text
		return nil
	case *bool:
		switch text {
		case "true", "false":
			*x = text == "true"
			return nil
		}
		return fmt.Errorf("want true or false, found %q", text)
	case *int:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 0 {
			return fmt.Errorf("want a number, found %q", text)
		}
		*x = int(n)
		return nil
	}
	f, err := number(text)
	if err != nil {
		return err
	}
	v.SetFloat(f) // Price, float64
	return nil
}

// number reads what is not negative, digits grouped by underscores if one likes.
func number(text string) (float64, error) {
	f, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64)
	if err != nil || f < 0 || math.IsInf(f, 0) || math.IsNaN(f) || f > 1e15 {
		return 0, fmt.Errorf("want a number, found %q", text)
	}
	return f, nil
}

func parseRate(r *Rate, text string) error {
	num, unit, ok := strings.Cut(text, "/")
	per, known := map[string]float64{"s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
	f, err := number(num)
	if text == "0" {
		*r = 0
		return nil
	}
	if !ok || !known || err != nil {
		return fmt.Errorf("want a rate such as 0.5/s, 6/min, 4/h or 2/d, found %q", text)
	}
	*r = Rate(f / per)
	return nil
}

func parseShare(s *Share, text string) error {
	num, percent := strings.CutSuffix(text, "%")
	f, err := number(num)
	if percent {
		f /= 100
	}
	if err != nil || f > 1 {
		return fmt.Errorf("want a share from 0%% to 100%%, found %q", text)
	}
	*s = Share(f)
	return nil
}

func parseBits(b *Bits, text string) error {
	for _, u := range []struct {
		name string
		mult float64
	}{{"Gbit", 1e9}, {"Mbit", 1e6}, {"kbit", 1e3}} {
		if num, ok := strings.CutSuffix(text, u.name); ok {
			f, err := number(num)
			if err == nil {
				*b = Bits(f * u.mult)
				return nil
			}
		}
	}
	return fmt.Errorf("want bits per second such as 10Gbit, found %q", text)
}

// fleetDecoder fills structs from YAML by the key tags of their fields, and says where something is wrong.
type fleetDecoder struct {
	file   string
	faults []error
	places map[string]strictyaml.Place // of values, by path
}

func (d *fleetDecoder) fault(at strictyaml.Place, key string, err error) {
	where := fmt.Sprintf("%s:%d:%d: ", d.file, at.Line, at.Col)
	if key != "" {
		where += key + ": "
	}
	d.faults = append(d.faults, fmt.Errorf("%s%w", where, err))
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *fleetDecoder) into(v reflect.Value, n *yaml.Node, path string) {
	var keys []string
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("key"); key != "" {
			keys = append(keys, key)
			fields[key] = v.Field(i)
		}
	}
	strictyaml.Entries(n, func(k, value *yaml.Node) {
		f, ok := fields[k.Value]
		if !ok {
			d.fault(strictyaml.At(k), join(path, k.Value), unknownKey(k.Value, keys))
			return
		}
		d.places[join(path, k.Value)] = strictyaml.At(value)
		d.value(f, value, join(path, k.Value))
	}, func(k *yaml.Node, err error) { d.fault(strictyaml.At(k), join(path, k.Value), err) })
}

func unknownKey(name string, keys []string) error {
	if near := strictyaml.Nearest(name, keys); near != "" {
		return fmt.Errorf("unknown key; the nearest known one is %s", near)
	}
	return fmt.Errorf("unknown key; there are %s", strings.Join(keys, ", "))
}

func (d *fleetDecoder) value(f reflect.Value, n *yaml.Node, path string) {
	at := strictyaml.At(n)
	switch {
	case f.Kind() == reflect.Struct:
		if n.Kind != yaml.MappingNode {
			d.fault(at, path, fmt.Errorf("want keys below it, found %s", strictyaml.Kind(n)))
			return
		}
		d.into(f, n, path)
	case f.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.fault(at, path, fmt.Errorf("want a list, found %s", strictyaml.Kind(n)))
			return
		}
		for i, e := range n.Content {
			e = strictyaml.Resolve(e)
			item := reflect.New(f.Type().Elem()).Elem()
			p := fmt.Sprintf("%s[%d]", path, i)
			d.places[p] = strictyaml.At(e)
			if def, ok := item.Addr().Interface().(interface{ defaults() }); ok {
				def.defaults()
			}
			d.value(item, e, p)
			f.Set(reflect.Append(f, item))
		}
	default:
		text, err := strictyaml.Text(n)
		if err == nil {
			err = parseValue(f, text)
		}
		if err != nil {
			d.fault(at, path, err)
		}
	}
}

// fleetBytesMax bounds a description.
const fleetBytesMax = 1 << 20

// ParseFleet reads the description of a fleet. name is what errors call the file. All that is wrong is said at once.
func ParseFleet(name string, data []byte) (*Fleet, error) {
	if len(data) > fleetBytesMax {
		return nil, fmt.Errorf("%s: %d bytes are more than the %d that a fleet may have", name, len(data), fleetBytesMax)
	}
	f := &Fleet{}
	f.defaults()
	d := &fleetDecoder{file: name, places: map[string]strictyaml.Place{}}
	root, fault := strictyaml.Document(data, "a fleet")
	if fault != nil {
		return nil, fmt.Errorf("%s:%w", name, fault)
	}
	if root == nil {
		return nil, fmt.Errorf("%s:1:1: there is nothing in it; want node and devices or streams", name)
	}
	d.into(reflect.ValueOf(f).Elem(), root, "")
	if len(d.faults) == 0 {
		d.check(f)
	}
	return f, errors.Join(d.faults...)
}

// must says what is wrong with a value, at its place, or where it is missing at that of what it belongs to.
func (d *fleetDecoder) must(ok bool, path, format string, args ...any) {
	if ok {
		return
	}
	p := path
	for {
		if at, found := d.places[p]; found || p == "" {
			if !found {
				at = strictyaml.Place{Line: 1, Col: 1}
			}
			d.fault(at, path, fmt.Errorf(format, args...))
			return
		}
		p = p[:max(strings.LastIndexByte(p, '.'), 0)]
	}
}

// check looks at what concerns more than one key.
func (d *fleetDecoder) check(f *Fleet) {
	d.must(f.Node.Cores > 0, "node.cores", "want the cores of a node")
	d.must(f.Node.Memory > 0, "node.memory", "want the memory of a node")
	d.must(f.Headroom < 0.95, "headroom", "want at most 95%%: something has to be used")
	d.must(f.Burst >= 1, "burst", "want 1 or more: how many times the usual rate the peak is")
	d.must(len(f.Devices)+len(f.Streams) > 0, "devices", "want devices or streams: there is nobody to serve")
	names := map[string]bool{}
	for i := range f.Devices {
		c := &f.Devices[i]
		at := fmt.Sprintf("devices[%d]", i)
		d.must(c.Name != "", at+".name", "want a name")
		d.must(!names[c.Name], at+".name", "there is another class %q", c.Name)
		names[c.Name] = true
		d.must(c.Count > 0, at+".count", "want how many there are")
		d.must(c.Connected > 0, at+".connected", "want more than 0%%")
		d.must(c.Connected == 1 || c.Reconnects > 0, at+".connected", "devices that are away come back: want reconnects, how often each does")
		d.must(c.Connected == 1 || c.Kept, at+".connected", "nothing waits for absent devices without kept: true; count only those that are connected")
		d.must(c.KeepAlive == 0 || c.KeepAlive >= time.Second, at+".keep_alive", "want at least 1s")
	}
	for i := range f.Devices {
		for j := range f.Devices[i].Publish {
			d.checkPublish(f, &f.Devices[i].Publish[j], fmt.Sprintf("devices[%d].publish[%d]", i, j))
		}
	}
	for i := range f.Streams {
		s := &f.Streams[i]
		at := fmt.Sprintf("streams[%d]", i)
		d.must(s.Name != "", at+".name", "want a name")
		d.must(s.Rate > 0, at+".rate", "want records in a second, of all producers")
		d.must(s.Producers > 0, at+".producers", "want how many there are")
		d.must(s.Partitions > 0, at+".partitions", "want how many there are")
		d.must(s.Size > 0, at+".size", "want the size of a record")
		d.must(s.Batch >= s.Size, at+".batch", "want at least the size of a record")
	}
}

func (d *fleetDecoder) checkPublish(f *Fleet, p *Publish, at string) {
	d.must(p.Rate > 0, at+".rate", "want how often each device publishes")
	d.must(p.QoS <= 2, at+".qos", "want 0, 1 or 2")
	d.must(!p.Retain || p.Topics > 0, at+".topics", "want at least 1: how many topics of its own a device has")
	for k := range p.To {
		t := &p.To[k]
		path := fmt.Sprintf("%s.to[%d]", at, k)
		d.must(t.QoS <= 2, path+".qos", "want 0, 1 or 2")
		if f.class(t.Class) == nil {
			var names []string
			for i := range f.Devices {
				names = append(names, f.Devices[i].Name)
			}
			near := strictyaml.Nearest(t.Class, names)
			if near == "" {
				near = strings.Join(names, ", ")
			}
			d.must(false, path+".class", "there is no class %q; want %s", t.Class, near)
		}
	}
}

// class finds one by its name.
func (f *Fleet) class(name string) *Class {
	i := slices.IndexFunc(f.Devices, func(c Class) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &f.Devices[i]
}
