package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"
)

// UserNameMax bounds a user's name, in bytes.
const UserNameMax = 1024

// Mechanism is one of SCRAM's hashes, by Kafka's number. The numbers are on disk.
type Mechanism uint8

// The mechanisms.
const (
	SCRAMSHA256 Mechanism = 1
	SCRAMSHA512 Mechanism = 2
)

// Size is how many bytes the mechanism's keys have; 0: there is no such mechanism.
func (m Mechanism) Size() int {
	switch m {
	case SCRAMSHA256:
		return 32
	case SCRAMSHA512:
		return 64
	}
	return 0
}

// String is the mechanism's name in SASL.
func (m Mechanism) String() string {
	switch m {
	case SCRAMSHA256:
		return "SCRAM-SHA-256"
	case SCRAMSHA512:
		return "SCRAM-SHA-512"
	}
	return "UNKNOWN"
}

// Bounds of what a SCRAM credential may have: Kafka's.
const (
	IterationsMin = 4096
	IterationsMax = 16384
	saltMax       = 1024
)

// Credential is what a server keeps of a password to answer SCRAM (RFC 5802): a password cannot be had from it.
type Credential struct {
	Mechanism            Mechanism
	Iterations           int
	Salt                 string
	StoredKey, ServerKey string
}

// Check says what is wrong with a credential.
func (c *Credential) Check() error {
	switch n := c.Mechanism.Size(); {
	case n == 0:
		return fmt.Errorf("there is no SCRAM mechanism %d", c.Mechanism)
	case c.Iterations < IterationsMin || c.Iterations > IterationsMax:
		return fmt.Errorf("want %d to %d iterations, found %d", IterationsMin, IterationsMax, c.Iterations)
	case c.Salt == "" || len(c.Salt) > saltMax:
		return fmt.Errorf("want a salt of 1 to %d bytes, found %d", saltMax, len(c.Salt))
	case len(c.StoredKey) != n || len(c.ServerKey) != n:
		return fmt.Errorf("want keys of %d bytes, found %d and %d", n, len(c.StoredKey), len(c.ServerKey))
	}
	return nil
}

// userTenant is the version of users from which on they say whose they are.
const userTenant = 2

// User is one user of the catalog. Names are unique over all tenants.
type User struct {
	Name     string
	Tenant   uint32 // number
	Disabled bool
	Password string       // argon2id in PHC form; empty: none, as for one who has only SCRAM credentials
	SCRAM    []Credential // at most one of each mechanism, by its number
}

// Credential finds the user's credential of a mechanism, nil if there is none.
func (u *User) Credential(m Mechanism) *Credential {
	for i := range u.SCRAM {
		if u.SCRAM[i].Mechanism == m {
			return &u.SCRAM[i]
		}
	}
	return nil
}

// WithCredential is a copy of u with c in place of the credential that it had of the mechanism.
func (u *User) WithCredential(c Credential) *User {
	next := u.WithoutCredential(c.Mechanism)
	i := 0
	for i < len(next.SCRAM) && next.SCRAM[i].Mechanism < c.Mechanism {
		i++
	}
	next.SCRAM = append(next.SCRAM, Credential{})
	copy(next.SCRAM[i+1:], next.SCRAM[i:])
	next.SCRAM[i] = c
	return next
}

// WithoutCredential is a copy of u without the credential of a mechanism.
func (u *User) WithoutCredential(m Mechanism) *User {
	next := *u
	next.SCRAM = make([]Credential, 0, len(u.SCRAM)+1)
	for i := range u.SCRAM {
		if u.SCRAM[i].Mechanism != m {
			next.SCRAM = append(next.SCRAM, u.SCRAM[i])
		}
	}
	return &next
}

// CheckUserName says what is wrong with a name.
func CheckUserName(name string) error {
	switch {
	case name == "":
		return errors.New("a user's name is empty")
	case len(name) > UserNameMax:
		return fmt.Errorf("a user's name has at most %d bytes", UserNameMax)
	case !utf8.ValidString(name):
		return errors.New("a user's name is UTF-8")
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("user name %q holds a control character", name)
	}
	return nil
}

// Entry is what is stored of the user.
func (u *User) Entry() Entry {
	b := append(kindUser.beginFor(nil, u.Tenant), boolByte(u.Disabled))
	b = binary.AppendUvarint(appendString(b, u.Password), uint64(len(u.SCRAM)))
	for i := range u.SCRAM {
		c := &u.SCRAM[i]
		b = binary.AppendUvarint(append(b, byte(c.Mechanism)), uint64(c.Iterations))
		b = appendString(appendString(appendString(b, c.Salt), c.StoredKey), c.ServerKey)
	}
	b = appendTenant(b, u.Tenant)
	return Entry{Key: kindUser.key(u.Name), Value: b}
}

// DeleteUser is the entry that deletes a user.
func DeleteUser(name string) Entry { return Entry{Key: kindUser.key(name)} }

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func decodeUser(name string, d *decoder) (any, error) {
	u := &User{Name: name, Disabled: d.byte()&1 != 0, Password: d.string()}
	last := Mechanism(0)
	for n := d.count(); n > 0 && !d.bad; n-- {
		c := Credential{Mechanism: Mechanism(d.byte()), Iterations: int(d.uvarint() & (1<<31 - 1)), Salt: d.string(), StoredKey: d.string(), ServerKey: d.string()}
		if d.bad {
			break
		}
		if err := c.Check(); err != nil {
			return nil, err
		}
		if c.Mechanism <= last {
			return nil, errors.New("its credentials are not in order")
		}
		last = c.Mechanism
		u.SCRAM = append(u.SCRAM, c)
	}
	u.Tenant = d.tenant(userTenant)
	return u, CheckUserName(name)
}

// User finds a user, nil if there is none.
func (s *Snapshot) User(name string) *User {
	u, _ := get[*User](s, kindUser, name)
	return u
}

// Users walks the users in the order of their names. It sorts: not for hot paths.
func (s *Snapshot) Users() iter.Seq2[string, *User] { return all[*User](s, kindUser) }

// UserCount is how many users there are.
func (s *Snapshot) UserCount() int { return s.tables[kindUser].count }

// ChangedUsers calls fn with the name of every user who is not the same in old and now.
func ChangedUsers(old, now *Snapshot, fn func(name string)) { differing(kindUser, old, now, fn) }
