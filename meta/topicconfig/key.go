package topicconfig

// Type is how a value is read. The numbers are those of Kafka's DescribeConfigs.
type Type int8

// The types that topic keys have.
const (
	Boolean Type = 1
	String  Type = 2
	Int     Type = 3
	Long    Type = 5
	Double  Type = 6
	List    Type = 7
)

// String is the type as Kafka's messages say it.
func (t Type) String() string {
	switch t {
	case Boolean:
		return "BOOLEAN"
	case String:
		return "STRING"
	case Int:
		return "INT"
	case Long:
		return "LONG"
	case Double:
		return "DOUBLE"
	case List:
		return "LIST"
	default:
		return "UNKNOWN"
	}
}

// Use says what Sluice does about a key.
type Use uint8

const (
	// Honoured keys do what their text says.
	Honoured Use = iota
	// Kept keys are stored and shown, and take effect when there is more than one node.
	Kept
	// DefaultOnly keys can be set to their default; any other value is refused, because nothing would come of it.
	DefaultOnly
	// Flush keys ask for flushes: how often is the journal's setting, and what it does not reach is refused.
	Flush
	// Tier keys are about what goes to a store: where the node has none, only what asks for nothing is taken.
	Tier
	// Spread keys ask for leaders on several nodes: where the node knows of a reason against it, that is refused.
	Spread
)

// Synonym is a broker-wide key whose value is a topic key's default.
type Synonym struct {
	Name   string
	Millis int64 // a value counts so many milliseconds; 0: it is taken as it is
}

// Key is one key of a topic's configuration.
type Key struct {
	Name     string
	Type     Type
	Default  string
	Use      Use
	Why      string    // DefaultOnly: why no other value is taken
	Synonyms []Synonym // in order of precedence
	Doc      string

	check func(v value) error
	set   func(c *Values, v value)
}

var (
	byName    = index()
	bySynonym = indexSynonyms()
)

// Keys lists all keys in order of their names. The caller must not change it.
func Keys() []Key { return table }

// Find gives the key of that name, nil if there is none.
func Find(name string) *Key { return byName[name] }

// FindSynonym gives the topic key behind a broker-wide one, nil if there is none.
func FindSynonym(name string) (*Key, Synonym) {
	s, ok := bySynonym[name]
	if !ok {
		return nil, Synonym{}
	}
	return s.key, s.synonym
}

func index() map[string]*Key {
	m := make(map[string]*Key, len(table))
	for i := range table {
		m[table[i].Name] = &table[i]
	}
	return m
}

type synonymOf struct {
	key     *Key
	synonym Synonym
}

func indexSynonyms() map[string]synonymOf {
	m := make(map[string]synonymOf)
	for i := range table {
		for _, s := range table[i].Synonyms {
			m[s.Name] = synonymOf{&table[i], s}
		}
	}
	return m
}

// Check says what is wrong with a value of k, in Kafka's words where it has any: that it is no value of the type, out of bounds, or
// that nothing would come of it.
func (k *Key) Check(text string, n Node) error {
	v, err := k.parse(text)
	if err != nil {
		return err
	}
	switch k.Use {
	case DefaultOnly:
		if !k.isDefault(v) {
			return refuse("Invalid value %s for configuration %s: only its default (%s) is accepted: %s", text, k.Name, shown(k.Default), k.Why)
		}
	case Flush:
		return n.checkFlush(k, text, v)
	case Tier:
		return n.checkTier(k, text, v)
	case Spread:
		return n.checkSpread(v)
	case Honoured, Kept:
	}
	return nil
}

// parse reads a value and checks its bounds.
func (k *Key) parse(text string) (value, error) {
	v, err := parse(k.Type, text)
	if err == nil && k.check != nil {
		err = k.check(v)
	}
	if err != nil {
		return v, refuse("Invalid value %s for configuration %s: %s", text, k.Name, err)
	}
	return v, nil
}

func (k *Key) isDefault(v value) bool {
	d, err := parse(k.Type, k.Default)
	return err == nil && d.equal(v)
}

func shown(v string) string {
	if v == "" {
		return "empty"
	}
	return v
}
