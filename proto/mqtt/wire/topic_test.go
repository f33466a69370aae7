package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// Conformance: MQTT-4.7.1-1 (3.1.1), MQTT-4.7.1-2 (3.1.1), MQTT-4.7.1-3 (3.1.1), MQTT-4.7.1-1 (5.0), MQTT-4.7.1-2 (5.0)
// Conformance: MQTT-4.7.3-1 (3.1.1), MQTT-4.7.3-1 (5.0), MQTT-4.8.2-1 (5.0), MQTT-4.8.2-2 (5.0)
func TestParseFilter(t *testing.T) {
	for _, c := range []struct {
		filter, share, topic string
		wildcard             bool
		want                 error
	}{
		{filter: "a", topic: "a"},
		{filter: "/", topic: "/"},
		{filter: "a//b/", topic: "a//b/"},
		{filter: "sport/tennis/#", topic: "sport/tennis/#", wildcard: true},
		{filter: "#", topic: "#", wildcard: true},
		{filter: "/#", topic: "/#", wildcard: true},
		{filter: "+", topic: "+", wildcard: true},
		{filter: "+/tennis/#", topic: "+/tennis/#", wildcard: true},
		{filter: "sport/+/player1", topic: "sport/+/player1", wildcard: true},
		{filter: "/+", topic: "/+", wildcard: true},
		{filter: "+/+", topic: "+/+", wildcard: true},
		{filter: "$SYS/#", topic: "$SYS/#", wildcard: true},
		{filter: "Ä/€/😀", topic: "Ä/€/😀"},
		{filter: "$share", topic: "$share"},
		{filter: "$Share/a/b", topic: "$Share/a/b"},
		{filter: "$share/group/a/+/#", share: "group", topic: "a/+/#", wildcard: true},
		{filter: "$share/group//", share: "group", topic: "/"},
		{filter: "$share/group/$SYS/x", share: "group", topic: "$SYS/x"},
		{filter: "", want: ErrTopicFilter},
		{filter: "sport/tennis#", want: ErrTopicFilter},
		{filter: "sport/tennis/#/ranking", want: ErrTopicFilter},
		{filter: "#/", want: ErrTopicFilter},
		{filter: "##", want: ErrTopicFilter},
		{filter: "sport+", want: ErrTopicFilter},
		{filter: "+a", want: ErrTopicFilter},
		{filter: "a/+b/c", want: ErrTopicFilter},
		{filter: "a/b+/c", want: ErrTopicFilter},
		{filter: "++", want: ErrTopicFilter},
		{filter: "+#", want: ErrTopicFilter},
		{filter: "a\x00b", want: errText},
		{filter: "a\xff", want: errText},
		{filter: "$share/", want: ErrSharedFilter},
		{filter: "$share//a", want: ErrSharedFilter},
		{filter: "$share/group", want: ErrSharedFilter},
		{filter: "$share/group/", want: ErrSharedFilter},
		{filter: "$share/+/a", want: ErrSharedFilter},
		{filter: "$share/gr#up/a", want: ErrSharedFilter},
		{filter: "$share/group/a#", want: ErrTopicFilter},
		{filter: "$share/\xff/a", want: errText},
	} {
		f, err := ParseFilter([]byte(c.filter))
		if !errors.Is(err, c.want) || string(f.Share) != c.share || string(f.Topic) != c.topic || f.Wildcard != c.wildcard {
			t.Errorf("%q: %q %q wildcard %v, %v", c.filter, f.Share, f.Topic, f.Wildcard, err)
		}
		if (f.Share != nil) != (c.share != "") {
			t.Errorf("%q: share name nil or not", c.filter)
		}
	}
}

// Conformance: MQTT-4.7.3-3 (3.1.1), MQTT-4.7.3-3 (5.0)
func TestCheckTopicName(t *testing.T) {
	for _, c := range []struct {
		topic string
		want  error
	}{
		{"a", nil}, {"/", nil}, {"//", nil}, {" ", nil}, {"a b", nil}, {"ACCOUNTS", nil}, {"$SYS/x", nil}, {"日本/語", nil},
		{strings.Repeat("a", 65535), nil}, {strings.Repeat("/", 65535), nil}, {"\uFEFFa", nil}, {"a\x01", nil},
		{"", ErrTopicName}, {"+", ErrTopicName}, {"a/#", ErrTopicName}, {"abcdefgh+", ErrTopicName},
		{"abcdefghijklmno\x00", errText}, {"\x00", errText}, {"\xff", errText}, {"abcdefgh\xc0\x80", errText},
	} {
		if err := CheckTopicName([]byte(c.topic)); !errors.Is(err, c.want) {
			t.Errorf("%.20q: %v, want %v", c.topic, err, c.want)
		}
	}
}

func TestTopicLimits(t *testing.T) {
	l := TopicLimits{Bytes: 10, Levels: 3}
	for topic, ok := range map[string]bool{"a": true, "a/b/c": true, "//": true, "a/b/c/d": false, "///": false,
		"0123456789": true, "01234567890": false} {
		if err := l.CheckName([]byte(topic)); (err == nil) != ok || (err != nil && ReasonOf(err) != TopicNameInvalid) {
			t.Errorf("name %q: %v", topic, err)
		}
		if err := l.CheckFilter([]byte(topic)); (err == nil) != ok || (err != nil && ReasonOf(err) != TopicFilterInvalid) {
			t.Errorf("filter %q: %v", topic, err)
		}
	}
	if err := (TopicLimits{}).CheckFilter(bytes.Repeat([]byte("/"), 65535)); err != nil {
		t.Errorf("without limits: %v", err)
	}
}

// slowFilter is the grammar of filters in the words of the specification, one level at a time.
func slowFilter(filter string) bool {
	if filter == "" || !slowText(filter) {
		return false
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if strings.ContainsAny(level, "+#") && level != "+" && (level != "#" || i != len(levels)-1) {
			return false
		}
	}
	return true
}

func slowText(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// TestTextModel compares the eight-bytes-at-a-time checks with ones that look at each character.
func TestTextModel(t *testing.T) {
	piece := rapid.SampledFrom([]string{"/", "+", "#", "a", "bcd", "\x00", "é", "€", "😀", "\xff", "\xed\xa0\x80", "*", "\"", "\x7f",
		"\x80", "\x01", ",", "!", "$share/", "\xab", "\xa3"})
	rapid.Check(t, func(t *rapid.T) {
		s := strings.Join(rapid.SliceOfN(piece, 0, 24).Draw(t, "pieces"), "")
		b := []byte(s)
		if got, want := ValidText(b), slowText(s); got != want {
			t.Fatalf("ValidText(%q) = %v", s, got)
		}
		name := s != "" && slowText(s) && !strings.ContainsAny(s, "+#")
		if got := CheckTopicName(b) == nil; got != name {
			t.Fatalf("CheckTopicName(%q) = %v", s, got)
		}
		if got, want := CheckTopicFilter(b) == nil, slowFilter(s); got != want {
			t.Fatalf("CheckTopicFilter(%q) = %v", s, got)
		}
		want := slowFilter(s)
		if rest, shared := strings.CutPrefix(s, "$share/"); shared {
			share, filter, ok := strings.Cut(rest, "/")
			want = ok && share != "" && !strings.ContainsAny(share, "+#") && slowText(share) && slowFilter(filter)
		}
		if _, err := ParseFilter(b); (err == nil) != want {
			t.Fatalf("ParseFilter(%q): %v", s, err)
		}
		if Levels(b) != len(strings.Split(s, "/")) {
			t.Fatalf("Levels(%q) = %d", s, Levels(b))
		}
	})
}
