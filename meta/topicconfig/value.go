package topicconfig

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// refusal is an error whose text clients show: Kafka's words where it has any.
type refusal string

// Error is the text.
func (r refusal) Error() string { return string(r) }

func refuse(format string, args ...any) error { return refusal(fmt.Sprintf(format, args...)) }

// value is a text read by its key's type.
type value struct {
	text string // trimmed
	n    int64
	f    float64
	b    bool
	list []string
}

func (v value) equal(w value) bool {
	return v.n == w.n && v.f == w.f && v.b == w.b && slices.Equal(v.list, w.list) && (v.list != nil || v.text == w.text)
}

func parse(t Type, text string) (v value, err error) {
	v.text = strings.TrimSpace(text)
	switch t {
	case Boolean:
		v.b = strings.EqualFold(v.text, "true")
		if !v.b && !strings.EqualFold(v.text, "false") {
			err = refusal("Expected value to be either true or false")
		}
		v.text = ""
	case Int:
		v.n, err = strconv.ParseInt(v.text, 10, 32)
		v.text = ""
	case Long:
		v.n, err = strconv.ParseInt(v.text, 10, 64)
		v.text = ""
	case Double:
		v.f, err = strconv.ParseFloat(v.text, 64)
		if math.IsNaN(v.f) || math.IsInf(v.f, 0) {
			err = strconv.ErrRange
		}
		v.text = ""
	case List:
		v.list = splitList(v.text)
	case String:
	}
	if errors.Is(err, strconv.ErrSyntax) || errors.Is(err, strconv.ErrRange) {
		err = refuse("Not a number of type %s", t)
	}
	return v, err
}

// splitList gives the parts of a list; that of an empty text has none.
func splitList(text string) []string {
	list := []string{}
	if text = strings.TrimSpace(text); text == "" {
		return list
	}
	for part := range strings.SplitSeq(text, ",") {
		list = append(list, strings.TrimSpace(part))
	}
	return list
}

func atLeast(low int64) func(value) error {
	return func(v value) error {
		if v.n < low {
			return refuse("Value must be at least %d", low)
		}
		return nil
	}
}

func between(low, high int64) func(value) error {
	return func(v value) error {
		if v.n < low {
			return refuse("Value must be at least %d", low)
		}
		if v.n > high {
			return refuse("Value must be no more than %d", high)
		}
		return nil
	}
}

func ratio(v value) error {
	if v.f < 0 {
		return refusal("Value must be at least 0")
	}
	if v.f > 1 {
		return refusal("Value must be no more than 1")
	}
	return nil
}

func oneOf(words ...string) func(value) error {
	return func(v value) error {
		if !slices.Contains(words, v.text) {
			return refuse("String must be one of: %s", strings.Join(words, ", "))
		}
		return nil
	}
}

// someOf allows each word once, and none at all.
func someOf(words ...string) func(value) error {
	return func(v value) error {
		for i, w := range v.list {
			if !slices.Contains(words, w) {
				return refuse("String must be one of: %s", strings.Join(words, ", "))
			}
			if slices.Contains(v.list[:i], w) {
				return refusal("Values must not be duplicated")
			}
		}
		return nil
	}
}

// gzipLevel allows 1 to 9, and -1 for the codec's own.
func gzipLevel(v value) error {
	if v.n == -1 {
		return nil
	}
	return between(1, 9)(v)
}

// Node says what of topics' settings a node can do. The zero value flushes before each acknowledgement, and has no store.
type Node struct {
	Lazy   bool          // acknowledged before it is flushed
	Within time.Duration // how long after; 0: never
	Tiered bool          // it has a store for old records
	Tenant bool          // the topic is of a tenant that is not the default one: none of its records go to the store
	// Spreads says why the leaders of the topic's partitions cannot be spread, nil if they can. It is asked if they are to be. nil: the node is alone.
	Spreads func() error

	spread bool // the topic's leaders are: none of its records go to the store
}

// checkSpread says whether leaders can be spread, if they are to be.
func (n Node) checkSpread(v value) error {
	switch {
	case !v.b:
		return nil
	case n.Spreads == nil:
		return refusal("Invalid value true for configuration leader.spread: this node is alone: leaders are spread over the nodes of a cluster that has sets of shards (sluice shard sets)")
	}
	if err := n.Spreads(); err != nil {
		return refuse("Invalid value true for configuration leader.spread: %v", err)
	}
	return nil
}

// checkFlush says whether the journal flushes as often as that.
func (n Node) checkFlush(k *Key, text string, v value) error {
	if !n.Lazy || k.isDefault(v) || k.Name == flushMillis && n.Within > 0 && v.n >= n.Within.Milliseconds() {
		return nil
	}
	return refuse("Invalid value %s for configuration %s: how often the log is flushed is journal.durability and "+
		"journal.flush_interval of the node's configuration, and those flush less often", text, k.Name)
}

// checkTier says whether a key of the tier has an effect.
func (n Node) checkTier(k *Key, text string, v value) error {
	switch {
	case n.Tiered && !n.Tenant && !n.spread || k.isDefault(v) || k.Name == tierPolicy && v.text == "none":
		return nil
	case n.spread:
		return refuse("Invalid value %s for configuration %s: only its default (%s) is accepted: a topic with leader.spread has no old records in a store", text, k.Name, shown(k.Default))
	case n.Tenant:
		return refuse("Invalid value %s for configuration %s: only its default (%s) is accepted: only topics of the default tenant have old records in a store", text, k.Name, shown(k.Default))
	case k.Name == tierPolicy || k.Name == remoteEnable:
		return refusal("Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage. (tier.store of the node's configuration is off.)")
	}
	return refuse("Invalid value %s for configuration %s: only its default (%s) is accepted: %s", text, k.Name, shown(k.Default), noTier)
}

// policy allows the policies of the tier, and none named.
func policy(v value) error {
	if v.text == "" {
		return nil
	}
	return oneOf("none", "archive", "immediate")(v)
}

// classMax bounds the name of a storage class, in bytes.
const classMax = 64

// class allows a name of a storage class, and none.
func class(v value) error {
	for _, c := range v.text {
		if c < '0' && c != '-' && c != '.' || c > '9' && c < 'A' || c > 'Z' && c < 'a' && c != '_' || c > 'z' {
			return refuse("a class has 1 to %d letters, digits, dots, underscores and dashes", classMax)
		}
	}
	if len(v.text) > classMax {
		return refuse("a class has 1 to %d letters, digits, dots, underscores and dashes", classMax)
	}
	return nil
}
