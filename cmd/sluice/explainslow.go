package main

import (
	"io"
	"time"

	"github.com/sluicemq/sluice/control/api"
)

// slowRow is a client that was late, in every output. Durations are in seconds.
type slowRow struct {
	Client  string  `json:"client" yaml:"client"`
	User    string  `json:"user" yaml:"user"`
	Longest float64 `json:"longest_seconds" yaml:"longest_seconds"`
	Last    float64 `json:"last_seconds" yaml:"last_seconds"`
	Late    int64   `json:"late" yaml:"late"`
	At      string  `json:"at" yaml:"at"`
	Topic   string  `json:"topic" yaml:"topic"`
}

func slowRowOf(s *api.SlowSubscriber) slowRow {
	return slowRow{s.Client, s.User, float64(s.LongestUs) / 1e6, float64(s.LastUs) / 1e6, s.Late, stamp(s.AtMs), s.Topic}
}

// explainSlow prints who was late.
func (f *controlFlags) explainSlow(w io.Writer, r *api.ListSlowResponse) error {
	v := struct {
		Subscribers []slowRow `json:"subscribers" yaml:"subscribers"`
	}{each(r.Subscribers, slowRowOf)}
	if f.output != "table" {
		return f.output.write(w, &v, nil)
	}
	rows := [][]string{{"CLIENT", "USER", "LONGEST", "LAST", "LATE", "AT", "TOPIC"}}
	for i, s := range r.Subscribers {
		x := &v.Subscribers[i]
		rows = append(rows, []string{plain(orDash(x.Client)), plain(orDash(x.User)), (time.Duration(s.LongestUs) * time.Microsecond).String(),
			(time.Duration(s.LastUs) * time.Microsecond).String(), number(x.Late), x.At, plain(x.Topic)})
	}
	return f.output.write(w, nil, rows)
}
