package wire

import "bytes"

// TopicLimits bounds topics beyond what the specification does. The zero value sets no bound.
type TopicLimits struct {
	Bytes  int // longest topic name or filter; 0: the 65,535 of the encoding
	Levels int // most levels; 0: as many as fit
}

// CheckName says whether a topic name that passed CheckTopicName is within the limits.
func (l TopicLimits) CheckName(topic []byte) error {
	if !l.within(topic) {
		return ErrTopicNameLimit
	}
	return nil
}

// CheckFilter says whether a filter, without its $share part, is within the limits.
func (l TopicLimits) CheckFilter(filter []byte) error {
	if !l.within(filter) {
		return ErrTopicFilterLimit
	}
	return nil
}

func (l TopicLimits) within(topic []byte) bool {
	if l.Bytes > 0 && len(topic) > l.Bytes {
		return false
	}
	return l.Levels <= 0 || len(topic) < l.Levels || Levels(topic) <= l.Levels
}

// Levels counts the levels of a topic name or filter; separators make empty levels too.
func Levels(topic []byte) int { return bytes.Count(topic, slash) + 1 }

var slash = []byte{'/'}

// CheckTopicName says whether topic can be published to: valid text, not empty, no wildcards.
func CheckTopicName(topic []byte) error {
	class := classify(topic)
	if class != 0 {
		if class&textNUL != 0 || (class&textHigh != 0 && !ValidText(topic)) {
			return errText
		}
		if class&textWild != 0 {
			return ErrTopicName
		}
	}
	if len(topic) == 0 {
		return ErrTopicName
	}
	return nil
}

// CheckTopicFilter says whether filter can be subscribed to: valid text, not empty, + alone in its level, # alone in the
// last level. It knows nothing of $share: see ParseFilter.
func CheckTopicFilter(filter []byte) error {
	class := classify(filter)
	if class&textNUL != 0 || (class&textHigh != 0 && !ValidText(filter)) {
		return errText
	}
	if len(filter) == 0 || (class&textWild != 0 && !wildcardsFit(filter)) {
		return ErrTopicFilter
	}
	return nil
}

func wildcardsFit(filter []byte) bool {
	last := len(filter) - 1
	for i, c := range filter {
		if c != '+' && c != '#' {
			continue
		}
		if i > 0 && filter[i-1] != '/' {
			return false
		}
		if i < last && (c == '#' || filter[i+1] != '/') {
			return false
		}
	}
	return true
}

// Filter is a topic filter taken apart. It is a view of the filter that was parsed.
type Filter struct {
	Share    []byte // the share name; nil for a subscription that is not shared
	Topic    []byte // the filter proper
	Wildcard bool   // Topic holds + or #
}

var sharePrefix = []byte("$share/")

// IsShared says whether filter asks for a shared subscription, well-formed or not.
func IsShared(filter []byte) bool { return bytes.HasPrefix(filter, sharePrefix) }

// ParseFilter checks a filter and takes its $share/name/ part off.
func ParseFilter(filter []byte) (Filter, error) {
	f := Filter{Topic: filter}
	if IsShared(filter) {
		rest := filter[len(sharePrefix):]
		end := bytes.IndexByte(rest, '/')
		if end <= 0 || end == len(rest)-1 || classify(rest[:end])&textWild != 0 {
			return Filter{}, ErrSharedFilter
		}
		f.Share, f.Topic = rest[:end:end], rest[end+1:]
		if !ValidText(f.Share) {
			return Filter{}, errText
		}
	}
	if err := CheckTopicFilter(f.Topic); err != nil {
		return Filter{}, err
	}
	f.Wildcard = classify(f.Topic)&textWild != 0
	return f, nil
}
