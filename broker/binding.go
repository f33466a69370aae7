package broker

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sluicemq/sluice/broker/topics"
)

// Binding ties MQTT topics to a stream: what is published to a topic that Filter matches is a record of Topic, and what else is written to
// Topic reaches MQTT subscribers as Deliver says. It is immutable.
type Binding struct {
	Filter string // MQTT topic filter
	Topic  string // the stream's name
	Key    KeyRule
	Level  int // of KeyLevel: which level of the MQTT topic, 1 the first
	// Deliver says under which MQTT topic subscribers get a record that no MQTT client has published.
	Deliver  DeliverRule
	Template string // of DeliverTemplate: it has ${key} in it

	filter        []byte
	levels, plain int // how specific the filter is: its levels before '#', and those of them without a wildcard
	before, after string
}

// KeyRule says what becomes the key of a record, which picks its partition.
type KeyRule uint8

// The rules for keys.
const (
	KeyTopic  KeyRule = iota // the MQTT topic
	KeyLevel                 // a level of it; a topic without that level has its whole for key
	KeyClient                // the client id of the publisher
)

// DeliverRule says how a stream's records reach MQTT subscribers.
type DeliverRule uint8

// The rules for delivery.
const (
	DeliverKey      DeliverRule = iota // under the key, where that is a topic that the filter matches
	DeliverTemplate                    // under the template, with the key in it
	DeliverOff                         // not at all
)

// Errors of bindings.
var (
	ErrBinding      = errors.New("broker: bad binding")
	ErrBindingTopic = errors.New("broker: a binding's topic is not there")
	ErrBindSpread   = errors.New("broker: a topic with leader.spread cannot be bound to MQTT topics")
	ErrBound        = errors.New("broker: the topic is bound to MQTT topics")
)

// keyPlace is where a template has the key.
const keyPlace = "${key}"

// ParseBinding reads a binding as the configuration spells it: key is `topic`, `level:N` or `client`, deliver is `key`, `off` or a template
// with ${key}; empty is the first of each.
func ParseBinding(filter, topic, key, deliver string) (*Binding, error) {
	bad := func(format string, args ...any) (*Binding, error) {
		return nil, fmt.Errorf("%w: %s", ErrBinding, fmt.Sprintf(format, args...))
	}
	b := &Binding{Filter: filter, Topic: topic, filter: []byte(filter)}
	if topics.CheckFilter(b.filter) != nil {
		return bad("%q is no MQTT topic filter", filter)
	}
	if strings.HasPrefix(filter, "$") {
		return bad("filter %q: topics that begin with $ cannot be bound", filter)
	}
	switch level, isLevel := strings.CutPrefix(key, "level:"); {
	case key == "" || key == "topic":
	case key == "client":
		b.Key = KeyClient
	case isLevel:
		n, err := strconv.Atoi(level)
		if err != nil || n < 1 || n > protocolLevels {
			return bad("key %q: the level is a number from 1 on", key)
		}
		b.Key, b.Level = KeyLevel, n
	default:
		return bad("key is %q: want topic, level:N or client", key)
	}
	switch {
	case deliver == "" || deliver == "key":
	case deliver == "off":
		b.Deliver = DeliverOff
	case strings.Count(deliver, keyPlace) == 1:
		b.Deliver, b.Template = DeliverTemplate, deliver
		b.before, b.after, _ = strings.Cut(deliver, keyPlace)
		if probe := b.before + "k" + b.after; topics.CheckFilter([]byte(probe)) != nil || strings.ContainsAny(probe, "+#") || probe[0] == '$' {
			return bad("deliver %q does not make a topic", deliver)
		}
	default:
		return bad("deliver is %q: want key, off, or a template with one ${key}", deliver)
	}
	b.measure()
	return b, nil
}

func (b *Binding) measure() {
	for level := range strings.SplitSeq(b.Filter, "/") {
		switch level {
		case "#":
			return
		case "+":
		default:
			b.plain++
		}
		b.levels++
	}
}

// KeyText and DeliverText are the rules as ParseBinding reads them.
func (b *Binding) KeyText() string {
	switch b.Key {
	case KeyLevel:
		return "level:" + strconv.Itoa(b.Level)
	case KeyClient:
		return "client"
	case KeyTopic:
	}
	return "topic"
}

// DeliverText is the rule of delivery as ParseBinding reads it.
func (b *Binding) DeliverText() string {
	switch b.Deliver {
	case DeliverOff:
		return "off"
	case DeliverTemplate:
		return b.Template
	case DeliverKey:
	}
	return "key"
}

// key gives the key of a record that a client publishes to topic. It is a view.
func (b *Binding) key(topic []byte, client string) []byte {
	switch b.Key {
	case KeyClient:
		if client != "" {
			return []byte(client)
		}
	case KeyLevel:
		if level := topicLevel(topic, b.Level); len(level) > 0 {
			return level
		}
	case KeyTopic:
	}
	return topic
}

// topicLevel gives level n of a topic, the first being 1; nil if there is none.
func topicLevel(topic []byte, n int) []byte {
	for ; n > 1; n-- {
		i := bytes.IndexByte(topic, '/')
		if i < 0 {
			return nil
		}
		topic = topic[i+1:]
	}
	level, _, _ := bytes.Cut(topic, []byte{'/'})
	return level
}

// compareBindings puts first which binds what both match what both match: the longer filter, and of two of the same length the one with fewer wildcards.
func compareBindings(a, b *Binding) int {
	if a.levels != b.levels {
		return b.levels - a.levels
	}
	if a.plain != b.plain {
		return b.plain - a.plain
	}
	if exactA, exactB := !strings.HasSuffix(a.Filter, "#"), !strings.HasSuffix(b.Filter, "#"); exactA != exactB {
		if exactA {
			return -1
		}
		return 1
	}
	return literalFirst(a.Filter, b.Filter)
}

// literalFirst compares level by level: a literal comes before a wildcard.
func literalFirst(a, b string) int {
	for a != "" && b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, "/")
		y, b, _ = strings.Cut(b, "/")
		if wx, wy := x == "+", y == "+"; wx != wy {
			if wy {
				return -1
			}
			return 1
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// boundTopic is a binding with its stream, which is there as long as it is bound.
type boundTopic struct {
	*Binding
	topic *Topic
}

// bindingSet is all bindings: immutable, behind a pointer. Reads take no lock.
type bindingSet struct {
	wild    []*boundTopic // with wildcards, the longest first
	exact   map[string]*boundTopic
	byTopic map[string][]*Binding // by stream, in the same order
}

// bindingsMax bounds how many bindings there are: a topic that is not in a loop's route cache is compared with each that has a wildcard.
const bindingsMax = 4096

func (b *Broker) newBindingSet(list []*Binding) (*bindingSet, error) {
	if len(list) > bindingsMax {
		return nil, fmt.Errorf("%w: %d of them, at most %d", ErrBinding, len(list), bindingsMax)
	}
	set := &bindingSet{exact: make(map[string]*boundTopic), byTopic: make(map[string][]*Binding)}
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, compareBindings)
	seen := make(map[string]bool)
	for _, bd := range sorted {
		if seen[bd.Filter] {
			return nil, fmt.Errorf("%w: filter %q is bound twice", ErrBinding, bd.Filter)
		}
		seen[bd.Filter] = true
		to := &boundTopic{bd, b.Topic(0, bd.Topic)}
		switch {
		case to.topic == nil:
			return nil, fmt.Errorf("%w: %q", ErrBindingTopic, bd.Topic)
		case to.topic.Spec().Config.Spread:
			return nil, fmt.Errorf("%w: %q", ErrBindSpread, bd.Topic)
		case strings.ContainsAny(bd.Filter, "+#"):
			set.wild = append(set.wild, to)
		default:
			set.exact[bd.Filter] = to
		}
		set.byTopic[bd.Topic] = append(set.byTopic[bd.Topic], bd)
	}
	return set, nil
}

// find gives the binding of an MQTT topic, nil if there is none.
func (s *bindingSet) find(topic []byte) *boundTopic {
	if s == nil || len(topic) > 0 && topic[0] == '$' {
		return nil
	}
	if b := s.exact[string(topic)]; b != nil {
		return b
	}
	for _, b := range s.wild {
		if topics.FilterMatches(b.filter, topic) {
			return b
		}
	}
	return nil
}

// topicOf gives the MQTT topic under which subscribers get a record with this key that no MQTT client has published, appended to dst; nil if
// they do not get it. list are the bindings of the record's stream.
func topicOf(dst []byte, list []*Binding, key []byte) []byte {
	if topics.CheckTopic(key) != nil || !utf8.Valid(key) {
		return nil
	}
	for _, b := range list {
		switch b.Deliver {
		case DeliverKey:
			if topics.FilterMatches(b.filter, key) && key[0] != '$' {
				return append(dst, key...)
			}
		case DeliverTemplate:
			if len(b.before)+len(key)+len(b.after) <= topicBytesMax && (b.before != "" || key[0] != '$') {
				return append(append(append(dst, b.before...), key...), b.after...)
			}
		case DeliverOff:
		}
	}
	return nil
}

// delivers says whether subscribers get any record that no MQTT client has published. If not, none is looked into.
func delivers(list []*Binding) bool {
	return slices.ContainsFunc(list, func(b *Binding) bool { return b.Deliver != DeliverOff })
}

// topicBytesMax is the longest MQTT topic.
const topicBytesMax = 1<<16 - 1

// Bind replaces all bindings. Their topics must be there: what is bound cannot be deleted, and gets no more partitions, as long as it is. What
// lies in a stream that was not bound before does not reach subscribers; what comes from now on does. What was taken by a binding that goes
// still reaches them. One call at a time.
func (b *Broker) Bind(list []*Binding) error {
	if b.opts.Volatile && len(list) > 0 {
		return ErrVolatileOnly
	}
	set, err := b.newBindingSet(list)
	if err != nil {
		return err
	}
	b.topicTable.mu.Lock() // no topic gets partitions meanwhile
	defer b.topicTable.mu.Unlock()
	b.openTopics(set, true) // before anything is published to them
	b.bindings.Store(set)
	b.bound.Add(1)
	b.openTopics(set, false)
	return nil
}

// openTopics is openPartition for those of all topics that are bound, or of all that are not.
func (b *Broker) openTopics(set *bindingSet, bound bool) {
	b.Topics(0, func(t *Topic) bool {
		if of := set.byTopic[t.Name()]; len(of) > 0 == bound {
			for _, p := range t.Partitions() {
				b.openPartition(p, of)
			}
		}
		return true
	})
}

// Bindings lists the bindings in force, the longest filter first.
func (b *Broker) Bindings() []*Binding {
	set := b.bindings.Load()
	if set == nil {
		return nil
	}
	var list []*Binding
	for _, of := range set.byTopic {
		list = append(list, of...)
	}
	slices.SortFunc(list, compareBindings)
	return list
}

// BindingOf gives the binding that takes what is published to topic, nil if none does.
func (b *Broker) BindingOf(topic string) *Binding {
	if to := b.bindings.Load().find([]byte(topic)); to != nil {
		return to.Binding
	}
	return nil
}

// isBound says whether a binding names the topic.
func (b *Broker) isBound(t *TopicSpec) bool {
	set := b.bindings.Load()
	return set != nil && t.Tenant == 0 && len(set.byTopic[t.Name]) > 0
}
