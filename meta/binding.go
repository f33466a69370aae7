package meta

import "iter"

// Binding ties the MQTT topics that a filter matches to a stream. Its words are those of the configuration key `bindings`; the core says
// what they mean and which of them are good.
type Binding struct {
	Filter  string // MQTT topic filter; one binding for each
	Topic   string // the stream
	Key     string // topic, level:N or client; empty: topic
	Deliver string // key, a template or off; empty: key
}

// Entry is what is stored of the binding.
func (b *Binding) Entry() Entry {
	v := appendString(appendString(appendString(kindBinding.begin(nil), b.Topic), b.Key), b.Deliver)
	return Entry{Key: kindBinding.key(b.Filter), Value: v}
}

// DeleteBinding is the entry that deletes the binding of a filter.
func DeleteBinding(filter string) Entry { return Entry{Key: kindBinding.key(filter)} }

func decodeBinding(name string, d *decoder) (any, error) {
	return &Binding{Filter: name, Topic: d.string(), Key: d.string(), Deliver: d.string()}, nil
}

// Binding finds the binding of a filter, nil if there is none.
func (s *Snapshot) Binding(filter string) *Binding {
	b, _ := get[*Binding](s, kindBinding, filter)
	return b
}

// Bindings walks the bindings in the order of their filters. It sorts: not for hot paths.
func (s *Snapshot) Bindings() iter.Seq2[string, *Binding] { return all[*Binding](s, kindBinding) }

// BindingsChanged says whether the bindings may differ between two snapshots.
func BindingsChanged(old, now *Snapshot) bool { return now.changed(kindBinding, old) }
