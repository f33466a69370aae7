package offload

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// Of a compacted topic a newer object takes back what an older one says: it has a key's deletion, or leaves out its values. Who has nothing but the store
// must not find the older one alone. So what nobody needs of such topics goes in the order of offsets: an object stays as long as an older one
// is there that begins at its offsets or before. An older one may stay for long: a backup holds it, another node has written it, or it has records of another
// partition too. It does not count where a live run says that it takes its place (object.Replaces).

// lasting is what a search finds that has to do with that.
type lasting struct {
	parts []object.ID  // objects of which readers see nothing, or not all
	late  []lateObject // those of them that nobody needs and that have runs of compacted topics
}

type lateObject struct {
	id   object.ID
	size int64
	put  time.Time
}

// older is a run of which readers see nothing.
type older struct {
	id    object.ID
	first record.Offset
}

// topicKey names a partition to who has the store alone. A rebuild goes by the id, and takes the newest topic of a name.
type topicKey struct {
	id    [16]byte
	name  string
	index int32
}

func keysOf(r *object.Run) [2]topicKey {
	return [2]topicKey{{id: r.ID, index: r.Index}, {name: r.Name, index: r.Index}}
}

func sparse(r object.Run) bool { return r.Flags.Has(object.Sparse) }

// tail reads the tail of an object of the store. nil: it is gone, or damaged, and nobody finds anything in it.
func (f *Offloader) tail(ctx context.Context, id object.ID) (sum *object.Summary, err error) {
	size := int64(0)
	if o, ok := f.o.Manifest.Object(id); ok {
		size = o.Tail
	}
	err = f.again(ctx, func(ctx context.Context) (err error) {
		sum, err = object.Open(ctx, f.o.Store, id, size)
		return err
	})
	if errors.Is(err, tier.ErrNotFound) || errors.Is(err, object.ErrCorrupt) {
		return nil, nil //nolint:nilnil // as the comment says
	}
	return sum, err
}

// outlived removes what a search has found that outlives nothing any more. It reads the tails of all objects that are there in part, where there is
// something to remove.
func (f *Offloader) outlived(ctx context.Context, s *search) error {
	if len(s.last.late) == 0 {
		return nil
	}
	slices.SortFunc(s.last.late, func(a, b lateObject) int { return byAge(a.id, b.id) })
	slices.SortFunc(s.last.parts, byAge)
	parts := f.partitions()
	there := make(map[topicKey][]older)
	late := s.last.late
	for _, id := range s.last.parts {
		if len(late) == 0 {
			break // what is left is newer
		}
		sum, err := f.tail(ctx, id)
		if err != nil {
			return err
		}
		if sum == nil {
			continue
		}
		if late[0].id == id {
			l := late[0]
			late = late[1:]
			switch {
			case f.o.Manifest.Has(id), f.underWay(id.Name()), s.holds.has(id): // somebody needs it since
			case f.outlives(sum, there, parts):
				s.outlives++
			case !f.may(s):
				s.waits++
			default:
				s.orphans++
				if err := f.deleteOrphan(ctx, id.Name(), l.size, l.put); err != nil {
					return err
				}
				continue
			}
		}
		for i := range sum.Runs {
			r := &sum.Runs[i]
			if p, ok := parts[keysOf(r)[0]]; f.o.Manifest.Live(id, i) || ok && f.o.Manifest.Replaced(p, id, r.First, r.Last) {
				continue
			}
			for _, key := range keysOf(r) {
				there[key] = append(there[key], older{id, r.First})
			}
		}
	}
	return nil
}

// outlives tells whether an object has to stay for the sake of older ones.
func (f *Offloader) outlives(sum *object.Summary, there map[topicKey][]older, parts map[topicKey]record.PartitionID) bool {
	return slices.ContainsFunc(sum.Runs, func(r object.Run) bool {
		keys := keysOf(&r)
		if p, ok := parts[keys[0]]; !sparse(r) || ok && f.o.Manifest.Replaced(p, sum.ID, 0, r.Last) {
			return false
		}
		return slices.ContainsFunc(keys[:], func(key topicKey) bool {
			return slices.ContainsFunc(there[key], func(o older) bool { return sum.ID.After(o.id) && o.first <= r.Last })
		})
	})
}

// partitions are those of the catalog, by the ids of their topics.
func (f *Offloader) partitions() map[topicKey]record.PartitionID {
	parts := make(map[topicKey]record.PartitionID)
	f.o.Catalog.Partitions(func(p Partition) bool {
		parts[topicKey{id: p.ID, index: p.Index}] = p.Partition
		return true
	})
	return parts
}

// byAge is the order in which objects were made.
func byAge(a, b object.ID) int {
	switch {
	case a.After(b):
		return 1
	case b.After(a):
		return -1
	}
	return compare(a, b)
}
