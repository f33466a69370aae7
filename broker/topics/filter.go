package topics

import (
	"bytes"
	"errors"
)

// Errors of names and filters. Each is a constant value: hostile input costs no allocation.
var (
	ErrEmpty         = errors.New("topics: empty topic or filter")
	ErrNull          = errors.New("topics: U+0000 in a topic or filter")
	ErrWildcard      = errors.New("topics: wildcard in a topic name")
	ErrWildcardPlace = errors.New("topics: '+' must be a whole level, '#' the whole last level")
	ErrTooLong       = errors.New("topics: topic or filter too long")
	ErrTooManyLevels = errors.New("topics: topic or filter has too many levels")
	ErrShare         = errors.New("topics: $share needs a name without wildcards and a filter")
	ErrFull          = errors.New("topics: index is full")

	sharePrefix = []byte("$share/")
	separator   = []byte("/")
)

const (
	defaultMaxLevels = 128
	defaultMaxLength = 65535 // what a length field of MQTT can say

	levelSeparator    = '/'
	singleLevelMarker = '+'
	multiLevelMarker  = '#'
)

// CheckTopic says whether name may be published to: not empty, no U+0000, no wildcard, at most 65,535 bytes. That it is UTF-8 is
// the codec's to check.
func CheckTopic(name []byte) error {
	switch {
	case len(name) == 0:
		return ErrEmpty
	case len(name) > defaultMaxLength:
		return ErrTooLong
	case bytes.IndexByte(name, 0) >= 0:
		return ErrNull
	case bytes.IndexByte(name, singleLevelMarker) >= 0 || bytes.IndexByte(name, multiLevelMarker) >= 0:
		return ErrWildcard
	}
	return nil
}

// CheckFilter says whether filter, without a $share prefix, may be subscribed to.
func CheckFilter(filter []byte) error {
	switch {
	case len(filter) == 0:
		return ErrEmpty
	case len(filter) > defaultMaxLength:
		return ErrTooLong
	case bytes.IndexByte(filter, 0) >= 0:
		return ErrNull
	}
	for i, c := range filter {
		if c != singleLevelMarker && c != multiLevelMarker {
			continue
		}
		begins := i == 0 || filter[i-1] == levelSeparator
		last := i == len(filter)-1
		if !begins || !last && (c == multiLevelMarker || filter[i+1] != levelSeparator) {
			return ErrWildcardPlace
		}
	}
	return nil
}

// HasWildcard says whether a valid filter has a wildcard.
func HasWildcard(filter []byte) bool {
	return bytes.IndexByte(filter, singleLevelMarker) >= 0 ||
		len(filter) > 0 && filter[len(filter)-1] == multiLevelMarker
}

// SplitShared cuts $share/{group}/{filter}. A filter without that prefix comes back whole, with a nil group. Both results are
// views of full.
func SplitShared(full []byte) (group, filter []byte, err error) {
	if !bytes.HasPrefix(full, sharePrefix) {
		return nil, full, nil
	}
	rest := full[len(sharePrefix):]
	cut := bytes.IndexByte(rest, levelSeparator)
	if cut <= 0 || cut == len(rest)-1 || bytes.ContainsAny(rest[:cut], "+#") {
		return nil, nil, ErrShare
	}
	return rest[:cut:cut], rest[cut+1:], nil
}

// FilterMatches says whether a valid filter, without a $share prefix, matches topic: the rules of MQTT 4.7, for one filter that
// stands in no index (an ACL rule, a binding).
func FilterMatches(filter, topic []byte) bool {
	if len(filter) == 0 || len(topic) == 0 {
		return false
	}
	if topic[0] == '$' && (filter[0] == singleLevelMarker || filter[0] == multiLevelMarker) {
		return false
	}
	for {
		f, filterRest, filterMore := bytes.Cut(filter, separator)
		if len(f) == 1 && f[0] == multiLevelMarker {
			return true
		}
		t, topicRest, topicMore := bytes.Cut(topic, separator)
		if (len(f) != 1 || f[0] != singleLevelMarker) && !bytes.Equal(f, t) {
			return false
		}
		if !filterMore || !topicMore {
			// "a/#" matches its parent "a" too.
			return filterMore == topicMore || filterMore && len(filterRest) == 1 && filterRest[0] == multiLevelMarker
		}
		filter, topic = filterRest, topicRest
	}
}

// levels counts the levels of a topic or filter.
func levels(name []byte) int { return bytes.Count(name, separator) + 1 }
