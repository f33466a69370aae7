// Package template puts what is known of a message into texts that a configuration gives: %c is the client identifier, %u the user, %t the topic,
// %% a percent sign. It knows no protocol; proto/mqtt uses it for user properties.
package template

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// MaxBytes bounds a template, and what comes of one: as long as MQTT's strings are.
const MaxBytes = 1<<16 - 1

// Template is a text in parts. It never changes, and may be shared.
type Template []part

type part struct {
	text []byte
	what byte // c, u or t; 0: the text
}

// Check looks for what MQTT has no string for, and for the empty one.
func Check(text string) error {
	if text == "" || len(text) > MaxBytes || !utf8.ValidString(text) {
		return fmt.Errorf("want 1 to %d bytes of UTF-8", MaxBytes)
	}
	for _, r := range text {
		if r == 0 {
			return errors.New("want text without U+0000")
		}
	}
	return nil
}

// Parse reads a template.
func Parse(text string) (t Template, err error) {
	if err := Check(text); err != nil {
		return nil, err
	}
	var plain []byte
	end := func() {
		if len(plain) > 0 {
			t = append(t, part{text: plain})
		}
		plain = nil
	}
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			plain = append(plain, text[i])
			continue
		}
		if i++; i == len(text) {
			return nil, errors.New("a percent sign is %%")
		}
		switch what := text[i]; what {
		case '%':
			plain = append(plain, '%')
		case 'c', 'u', 't':
			end()
			t = append(t, part{what: what})
		default:
			return nil, fmt.Errorf("%q stands for nothing: want %%c, %%u, %%t or %%%%", text[i-1:i+1])
		}
	}
	end()
	return t, nil
}

// Append appends the text for a message to dst. whole is false if something that it stands for is empty, or the text is longer than MaxBytes.
func (t Template) Append(dst []byte, client, user string, topic []byte) (out []byte, whole bool) {
	begin := len(dst)
	whole = true
	for i := range t {
		before := len(dst)
		switch t[i].what {
		case 'c':
			dst = append(dst, client...)
		case 'u':
			dst = append(dst, user...)
		case 't':
			dst = append(dst, topic...)
		default:
			dst = append(dst, t[i].text...)
		}
		whole = whole && len(dst) > before
	}
	return dst, whole && len(dst)-begin <= MaxBytes
}
