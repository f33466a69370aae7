package main

import (
	"fmt"
	"io"

	"github.com/sluicemq/sluice/control/api"
)

// explainedTopic is what explain --topic prints.
type explainedTopic struct {
	Topic       string           `json:"topic" yaml:"topic"`
	Allowed     bool             `json:"allowed" yaml:"allowed"`
	Why         string           `json:"why" yaml:"why"`
	Filters     int64            `json:"filters" yaml:"filters"`
	Subscribers int64            `json:"subscribers" yaml:"subscribers"`
	Receivers   []receiverRow    `json:"receivers" yaml:"receivers"` // 1,000 at most
	Retained    *retainedRow     `json:"retained" yaml:"retained"`
	Shard       uint32           `json:"shard" yaml:"shard"`
	Binding     *boundRow        `json:"binding" yaml:"binding"`
	Storage     string           `json:"storage" yaml:"storage"`
	Messages    int64            `json:"traced_messages" yaml:"traced_messages"`
	Events      map[string]int64 `json:"traced_events" yaml:"traced_events"`
}

// receiverRow is who is subscribed, with what becomes of a message for it.
type receiverRow struct {
	subscriptionRow `yaml:",inline"`
	Fate            string `json:"fate" yaml:"fate"`
}

// retainedRow is a topic's retained message.
type retainedRow struct {
	Bytes   int64  `json:"bytes" yaml:"bytes"`
	QoS     uint32 `json:"qos" yaml:"qos"`
	At      string `json:"at" yaml:"at"`
	Expires string `json:"expires" yaml:"expires"`
}

// boundRow is where a binding has a message go.
type boundRow struct {
	bindingRow `yaml:",inline"`
	RecordKey  string `json:"record_key" yaml:"record_key"`
	Partition  int32  `json:"partition" yaml:"partition"`
}

func receiverRowOf(s *api.Subscription) receiverRow {
	r := receiverRow{subscriptionRow: subscriptionRowOf(s)}
	switch {
	case s.Group != "":
		r.Fate = "one of its group gets it"
	case s.Connected:
		r.Fate = "gets it"
	case s.Kept && s.Qos > 0:
		r.Fate = "away: kept for it at QoS 1 and 2"
	default:
		r.Fate = "away: not kept, as it asks for QoS 0"
	}
	return r
}

func explainedTopicOf(topic string, r *api.ExplainTopicResponse) *explainedTopic {
	v := &explainedTopic{Topic: topic, Allowed: r.Publish.GetAllowed(), Why: r.Publish.GetWhy(), Filters: r.Filters, Subscribers: r.Subscribers,
		Receivers: each(r.Subscriptions, receiverRowOf), Shard: r.Shard, Storage: r.Storage, Messages: r.Messages, Events: counts(r.Events)}
	if m := r.Retained; m != nil {
		v.Retained = &retainedRow{m.Bytes, m.Qos, stamp(m.AtMs), stamp(m.ExpiresMs)}
	}
	if b := r.Binding; b != nil {
		v.Binding = &boundRow{bindingRowOf(b.Binding), b.Key, b.Partition}
	}
	return v
}

func (f *explainFlags) explainTopic(w io.Writer, topic string, r *api.ExplainTopicResponse) error {
	v := explainedTopicOf(topic, r)
	if f.output != "table" {
		return f.output.write(w, v, nil)
	}
	may := "allowed"
	if !v.Allowed {
		may = "denied"
	}
	lines := [][]string{{"topic", plain(v.Topic)}, {"publish", may + ": " + plain(v.Why)}, {"shard", number(int64(v.Shard))}}
	if v.Storage != "" {
		lines = append(lines, []string{"storage", plain(v.Storage)})
	}
	if b := v.Binding; b != nil {
		lines = append(lines, []string{"bound by", fmt.Sprintf("%s to stream %s, partition %d, key %s", plain(b.Filter), plain(b.Topic), b.Partition, plain(b.RecordKey))})
	}
	retained := "nothing"
	if m := v.Retained; m != nil {
		retained = fmt.Sprintf("%s, QoS %d, since %s", sizeText(m.Bytes), m.QoS, m.At)
		if m.Expires != "" {
			retained += ", until " + m.Expires
		}
	}
	lines = append(lines, []string{"retained", retained}, []string{"subscribers", fmt.Sprintf("%d by %d %s", v.Subscribers, v.Filters, plural(v.Filters, "filter"))})
	if v.Messages > 0 {
		lines = append(lines, []string{"traced", fmt.Sprintf("%d %s: %s", v.Messages, plural(v.Messages, "message"), dropText(v.Events))})
	}
	if err := f.output.write(w, nil, lines); err != nil || len(v.Receivers) == 0 {
		return err
	}
	fmt.Fprintln(w)
	table := [][]string{{"CLIENT", "FILTER", "GROUP", "QOS", "A MESSAGE NOW"}}
	for i := range v.Receivers {
		s := &v.Receivers[i]
		table = append(table, []string{plain(s.Client), plain(s.Filter), plain(orDash(s.Group)), number(s.QoS), s.Fate})
	}
	return f.output.write(w, nil, table)
}
