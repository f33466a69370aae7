package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
)

// The kinds of a Ban. The numbers are on disk.
const (
	BanClient  uint8 = 1
	BanUser    uint8 = 2
	BanAddress uint8 = 3
)

// Ban keeps a client id, a user or addresses out.
type Ban struct {
	Kind         uint8
	Name         string // of addresses: one, or a prefix such as 10.0.0.0/8; who adds it writes the same addresses in one way
	Since, Until int64  // Unix milliseconds; Until 0: for ever
	Reason       string
}

// Bounds of bans, texts in bytes. All bans are read anew when one changes.
const (
	BanNameMax   = 16 << 10
	BanReasonMax = 1024
	BansMax      = 20_000
)

// ErrTooManyBans says that there are BansMax of them.
var ErrTooManyBans = fmt.Errorf("there are %d bans, as many as are kept", BansMax)

// bansLeftOut is how many bans that are over are deleted together to make room.
const bansLeftOut = 1000

func (b *Ban) entryName() string { return digest(appendString([]byte{b.Kind}, b.Name)) }

// Check says what is wrong with a ban.
func (b *Ban) Check() error {
	switch {
	case b.Kind < BanClient || b.Kind > BanAddress:
		return fmt.Errorf("want a ban of a client id, a user or addresses, found kind %d", b.Kind)
	case b.Name == "" || len(b.Name) > BanNameMax:
		return fmt.Errorf("want a name of 1 to %d bytes, found %d", BanNameMax, len(b.Name))
	case len(b.Reason) > BanReasonMax:
		return fmt.Errorf("want a reason of at most %d bytes, found %d", BanReasonMax, len(b.Reason))
	case b.Since < 0 || b.Until < 0:
		return errors.New("want times since 1970")
	}
	return nil
}

// Over says whether the ban has ended at now, in Unix milliseconds.
func (b *Ban) Over(now int64) bool { return b.Until != 0 && b.Until <= now }

// Entry is what is stored of the ban. Another one of the same has the same key.
func (b *Ban) Entry() Entry {
	v := appendString(append(kindBan.begin(nil), b.Kind), b.Name)
	v = binary.AppendUvarint(binary.AppendUvarint(v, uint64(b.Since)), uint64(b.Until))
	return Entry{Key: kindBan.key(b.entryName()), Value: appendString(v, b.Reason)}
}

func decodeBan(name string, d *decoder) (any, error) {
	b := &Ban{Kind: d.byte(), Name: d.string(), Since: int64(d.uvarint()), Until: int64(d.uvarint()), Reason: d.string()}
	if d.bad {
		return b, nil // told by who reads the rest
	}
	if b.entryName() != name {
		return nil, errors.New("it is not what its name says")
	}
	return b, b.Check()
}

// AddBan is the rule for adding a ban at now, or changing the one that is there. What is over goes when there is no room.
func AddBan(s *Snapshot, b Ban, now int64) ([]Entry, error) {
	if err := bansKnown(s); err != nil {
		return nil, err
	}
	if err := b.Check(); err != nil {
		return nil, err
	}
	list := []Entry{b.Entry()}
	if s.Ban(b.Kind, b.Name) != nil || s.BanCount() < BansMax {
		return list, nil
	}
	for name, old := range s.Bans() {
		if old.Over(now) && len(list) <= bansLeftOut {
			list = append(list, Entry{Key: kindBan.key(name)})
		}
	}
	if len(list) == 1 {
		return nil, ErrTooManyBans
	}
	return list, nil
}

// RemoveBan is the rule for taking a ban away; nothing if there is none.
func RemoveBan(s *Snapshot, kind uint8, name string) []Entry {
	b := s.Ban(kind, name)
	if b == nil {
		return nil
	}
	return []Entry{{Key: kindBan.key(b.entryName())}}
}

// bansKnown refuses bans in a cluster some of whose nodes do not know what they are.
func bansKnown(s *Snapshot) error {
	if c := s.Cluster(); c != nil && c.Level < LevelBans {
		return fmt.Errorf("%w: bans are known from level %d on, the cluster is at %d until all of its nodes run this program", ErrLevel, LevelBans, c.Level)
	}
	return nil
}

// Ban finds a ban, nil if there is none. It may be over.
func (s *Snapshot) Ban(kind uint8, name string) *Ban {
	b, _ := get[*Ban](s, kindBan, (&Ban{Kind: kind, Name: name}).entryName())
	return b
}

// Bans walks the bans, those that are over among them, always in the same order. It sorts: not for hot paths.
func (s *Snapshot) Bans() iter.Seq2[string, *Ban] { return all[*Ban](s, kindBan) }

// BanCount is how many bans there are, those that are over among them.
func (s *Snapshot) BanCount() int { return s.tables[kindBan].count }

// BansChanged says whether the bans may differ between two snapshots.
func BansChanged(old, now *Snapshot) bool { return now.changed(kindBan, old) }
