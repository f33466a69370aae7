package broker

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"time"
)

// Bounds of the regular expressions by which members of consumer groups subscribe.
const (
	regexBytesMax   = 64 << 10
	regexCostMax    = 100_000     // instructions, some 40 bytes each
	regexPause      = time.Second // between two looks at all topics for one group
	regexTopicsKept = 1 << 20     // of all a group's expressions, until the topics change
)

// compileRegex makes the pattern of an expression of RE2's syntax, which is Kafka's here. One that would take too much memory is refused.
func compileRegex(text string) (*regexp.Regexp, error) {
	if len(text) > regexBytesMax {
		return nil, ErrInvalidRegex
	}
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil || regexCost(re) > regexCostMax {
		return nil, ErrInvalidRegex
	}
	return regexp.Compile("^(?:" + text + ")$")
}

// regexCost is about how many instructions an expression compiles to: repetitions are written out. It stops counting above regexCostMax.
func regexCost(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		n = min(n+regexCost(sub), regexCostMax+1)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Max, re.Min+1, 1)
	}
	return min(n, regexCostMax+1)
}

// regexMatches are the topics that an expression matches, as of a generation of the topic table.
type regexMatches struct {
	generation uint64
	topics     []*Topic
	ids        []TopicID // sorted; never written to
}

// matching gives what m's expression matches. Members with the same one share the search.
func (g *group) matching(m *consumerMember) *regexMatches {
	b, cg := g.l.b, g.consumer
	generation := b.topicTable.generation.Load() // before the topics: what changes meanwhile is looked for the next time
	found := cg.matches[m.regex]
	if found != nil && found.generation == generation {
		return found
	}
	if found != nil {
		cg.matched -= len(found.ids)
	}
	found = &regexMatches{generation: generation}
	b.Topics(g.key.tenant, func(t *Topic) bool {
		if m.pattern.MatchString(t.Name()) {
			found.topics, found.ids = append(found.topics, t), append(found.ids, t.ID())
		}
		return true
	})
	slices.SortFunc(found.ids, compareTopicIDs)
	if cg.matched+len(found.ids) > regexTopicsKept || len(cg.matches) > len(cg.members) {
		cg.matches, cg.matched = nil, 0
	}
	if cg.matches == nil {
		cg.matches = make(map[string]*regexMatches)
	}
	cg.matches[m.regex] = found
	cg.matched += len(found.ids)
	return found
}

// mayResolve says whether it is time to look at all topics again. They are many, and change often: a group with expressions does so once a
// second at most.
func (g *group) mayResolve() bool {
	cg := g.consumer
	if len(cg.matches) == 0 {
		return true
	}
	now := g.l.b.clock.Mono()
	if now < cg.resolveAt {
		return false
	}
	cg.resolveAt = now + regexPause
	return true
}

// subscribed gives the topics that m's names and expression come to now, sorted. The list is never written to.
func (g *group) subscribed(m *consumerMember) (ids []TopicID) {
	b := g.l.b
	for _, name := range m.names {
		if t := b.Topic(g.key.tenant, name); t != nil {
			ids = append(ids, t.ID())
		}
	}
	switch {
	case m.unheard: // until it says what it may know of, it has what it had
		for _, tp := range m.target {
			ids = append(ids, tp.Topic)
		}
	case m.pattern != nil:
		found := g.matching(m)
		if m.visible == nil && len(ids) == 0 {
			return found.ids
		}
		for _, t := range found.topics {
			if m.visible == nil || m.visible(t) {
				ids = append(ids, t.ID())
			}
		}
	}
	slices.SortFunc(ids, compareTopicIDs)
	return slices.Compact(ids)
}

func compareTopicIDs(a, b TopicID) int { return slices.Compare(a[:], b[:]) }
