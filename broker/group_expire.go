package broker

// sweepGroups looks at the groups of one of this loop's shards, the next one at each tick: offsets of topics that are gone, and those that
// nobody has used for GroupLimits.OffsetRetention, are forgotten, and so is a group that has none left and no members.
func (l *Local) sweepGroups(now int64) {
	shards := l.b.homes
	for range shards {
		s := shards[l.groupTable.sweep%len(shards)]
		l.groupTable.sweep++
		if s.home == l {
			l.sweepShard(s, now)
			return
		}
	}
}

func (l *Local) sweepShard(s *shard, now int64) {
	old := now - l.b.groupLimits().OffsetRetention.Milliseconds()
	type expired struct {
		key  groupKey
		gone []TopicPartition
		all  bool
	}
	var list []expired
	s.mu.Lock()
	for key, row := range s.mu.groupRows {
		x := expired{key: key}
		g := l.group(key)
		empty := g == nil || g.empty()
		for tp, o := range row.offsets {
			stale := empty && max(o.At, row.emptySince) < old
			if stale || l.b.TopicByID(key.tenant, tp.Topic) == nil {
				x.gone = append(x.gone, tp)
			}
		}
		x.all = empty && len(x.gone) == len(row.offsets) && row.emptySince < old
		if len(x.gone) > 0 || x.all {
			list = append(list, x)
		}
	}
	s.mu.Unlock()
	for i := range list {
		x := &list[i]
		switch g := l.group(x.key); {
		case x.all && g != nil:
			l.removeGroup(s, g, func(error) {}) // a log that takes nothing: the next sweep tries again
		case x.all:
			_ = l.b.command(s, encodeGroupGone(nil, x.key), entry{})
		default:
			_ = l.b.command(s, encodeOffsetsGone(nil, x.key, x.gone), entry{})
		}
	}
}
