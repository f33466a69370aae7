package tier

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrChecked is what Err answers with instead of nil, after CheckOnly: nothing is wrong, and nothing is to be opened.
var ErrChecked = errors.New("tier: the settings are right")

// SettingError is what is wrong with one setting.
type SettingError struct {
	Key  string
	Text string
}

// Error names the setting.
func (e *SettingError) Error() string { return e.Text }

// Settings are a store's settings by their names, as the configuration has them. A store reads all it knows, then asks Err: an
// unknown key, or a value that does not fit, is an error that names it.
type Settings struct {
	values map[string]string
	known  []string
	errs   []error
	check  bool
}

// NewSettings takes values, which it does not change.
func NewSettings(values map[string]string) *Settings { return &Settings{values: values} }

// CheckOnly has Err answer with ErrChecked where it would with nil, so that who reads the settings opens nothing.
func (s *Settings) CheckOnly() { s.check = true }

func (s *Settings) wrong(key, format string, args ...any) {
	s.errs = append(s.errs, &SettingError{Key: key, Text: fmt.Sprintf(format, args...)})
}

// String gives a setting, or what it is without one.
func (s *Settings) String(key, without string) string {
	s.known = append(s.known, key)
	if v, ok := s.values[key]; ok {
		return v
	}
	return without
}

// Required gives a setting that must be there.
func (s *Settings) Required(key string) string {
	v := s.String(key, "")
	if v == "" {
		s.wrong(key, "%s is missing", key)
	}
	return v
}

// OneOf gives a setting that is one of some words, the first without one.
func (s *Settings) OneOf(key string, words ...string) string {
	v := s.String(key, words[0])
	if !slices.Contains(words, v) {
		s.wrong(key, "%s is %q, which is none of %s", key, v, strings.Join(words, ", "))
		return words[0]
	}
	return v
}

// Bool gives a setting that is true or false.
func (s *Settings) Bool(key string, without bool) bool {
	return s.OneOf(key, strconv.FormatBool(without), strconv.FormatBool(!without)) == "true"
}

// Int gives a setting between least and most.
func (s *Settings) Int(key string, without, least, most int64) int64 {
	v := s.String(key, "")
	if v == "" {
		return without
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < least || n > most {
		s.wrong(key, "%s is %q, which is no number from %d to %d", key, v, least, most)
		return without
	}
	return n
}

// Duration gives a setting that is a time, above 0.
func (s *Settings) Duration(key string, without time.Duration) time.Duration {
	v := s.String(key, "")
	if v == "" {
		return without
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		s.wrong(key, "%s is %q, which is no time above 0, such as 30s", key, v)
		return without
	}
	return d
}

// Err tells what was wrong with the settings, unknown ones included.
func (s *Settings) Err() error {
	errs := s.errs
	for key := range s.values {
		if !slices.Contains(s.known, key) {
			errs = append(errs, &SettingError{Key: key, Text: "no setting is named " + key})
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if len(errs) == 0 && s.check {
		return ErrChecked
	}
	return errors.Join(errs...)
}
