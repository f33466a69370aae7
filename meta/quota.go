package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
)

// QuotaName is one part of what a quota is for. Its zero value: quotas with any or none.
type QuotaName struct {
	Kind uint8 // 0: not said; 1: Name; 2: those that have no quota of their own
	Name string
}

// The kinds of a QuotaName. The numbers are on disk.
const (
	QuotaUnsaid  uint8 = 0
	QuotaNamed   uint8 = 1
	QuotaDefault uint8 = 2
)

// QuotaValue is one bound: Key is Kafka's name of it.
type QuotaValue struct {
	Key   string
	Value float64
}

// Quota is what the catalog keeps for one entity.
type Quota struct {
	Tenant             uint32 // whose clients it is about
	User, ClientID, IP QuotaName
	Values             []QuotaValue // by key; at least one
}

// quotaTenant is the version of quotas from which on they say whose they are.
const quotaTenant = 2

// Bounds of quotas.
const (
	QuotaNameMax = 2048
	QuotasMax    = 20_000 // all of them are read anew when one changes
)

// ErrTooManyQuotas says that there are QuotasMax of them.
var ErrTooManyQuotas = fmt.Errorf("there are quotas for %d entities, as many as are kept", QuotasMax)

func (q *Quota) parts() [3]*QuotaName { return [3]*QuotaName{&q.User, &q.ClientID, &q.IP} }

func (q *Quota) entity(b []byte) []byte {
	for _, p := range q.parts() {
		b = appendString(append(b, p.Kind), p.Name)
	}
	return appendTenant(b, q.Tenant)
}

func (q *Quota) entryName() string { return digest(q.entity(nil)) }

// SetValues takes values, in the order in which they are kept.
func (q *Quota) SetValues(values map[string]float64) {
	q.Values = q.Values[:0:0]
	for _, key := range slices.Sorted(maps.Keys(values)) {
		q.Values = append(q.Values, QuotaValue{key, values[key]})
	}
}

// Entry is what is stored of the quota; without values, the entry that deletes it.
func (q *Quota) Entry() Entry {
	e := Entry{Key: kindQuota.key(q.entryName())}
	if len(q.Values) == 0 {
		return e
	}
	e.Value = binary.AppendUvarint(q.entity(kindQuota.beginFor(nil, q.Tenant)), uint64(len(q.Values)))
	for _, v := range q.Values {
		e.Value = binary.LittleEndian.AppendUint64(appendString(e.Value, v.Key), math.Float64bits(v.Value))
	}
	return e
}

func decodeQuota(name string, d *decoder) (any, error) {
	q := &Quota{}
	for _, p := range q.parts() {
		p.Kind, p.Name = d.byte(), d.string()
		if p.Kind > QuotaDefault || (p.Kind == QuotaNamed) != (p.Name != "") || len(p.Name) > QuotaNameMax {
			d.bad = true
		}
	}
	q.Tenant = d.tenant(quotaTenant)
	for n := d.count(); n > 0 && !d.bad; n-- {
		v := QuotaValue{Key: d.string(), Value: math.Float64frombits(d.uint64())}
		if !(v.Value >= 0) || math.IsInf(v.Value, 1) {
			d.bad = true
		}
		q.Values = append(q.Values, v)
	}
	if d.bad {
		return q, nil // told by who reads the rest
	}
	if q.entryName() != name || len(q.Values) == 0 {
		return nil, errors.New("it is not what its name says")
	}
	return q, nil
}

// Quota finds what is kept for an entity, nil if there is nothing.
func (s *Snapshot) Quota(of *Quota) *Quota {
	q, _ := get[*Quota](s, kindQuota, of.entryName())
	return q
}

// Quotas walks the quotas, always in the same order. It sorts: not for hot paths.
func (s *Snapshot) Quotas() iter.Seq2[string, *Quota] { return all[*Quota](s, kindQuota) }

// QuotaCount is how many entities have quotas.
func (s *Snapshot) QuotaCount() int { return s.tables[kindQuota].count }

// QuotasChanged says whether the quotas may differ between two snapshots.
func QuotasChanged(old, now *Snapshot) bool { return now.changed(kindQuota, old) }
