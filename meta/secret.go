package meta

import "errors"

// Secret is something that the nodes of a cluster know and nobody else does.
type Secret struct {
	Name  string
	Value string
}

// SaltSecret names the secret that salts are made of which users who are not there are shown in SCRAM.
const SaltSecret = "scram-salt"

// Entry is what is stored of the secret.
func (s *Secret) Entry() Entry {
	return Entry{Key: kindSecret.key(s.Name), Value: appendString(kindSecret.begin(nil), s.Value)}
}

func decodeSecret(name string, d *decoder) (any, error) {
	s := &Secret{Name: name, Value: d.string()}
	if s.Value == "" {
		return nil, errors.New("it is empty")
	}
	return s, nil
}

// Secret finds a secret, empty if there is none.
func (s *Snapshot) Secret(name string) string {
	if v, _ := get[*Secret](s, kindSecret, name); v != nil {
		return v.Value
	}
	return ""
}
