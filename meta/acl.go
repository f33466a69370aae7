package meta

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
)

// ACL is one rule of the catalog. Its numbers are Kafka's, and on disk; who asks for it says what they mean.
type ACL struct {
	Tenant                uint32 // whose clients and resources it is about
	Resource, Pattern     uint8
	Operation, Permission uint8
	Name, Principal, Host string
}

// aclTenant is the version of ACLs from which on they say whose they are.
const aclTenant = 2

// Bounds of an ACL's texts, in bytes, and of the number of ACLs: all of them are read anew when one changes.
const (
	ACLNameMax      = 8192
	ACLPrincipalMax = 2048
	ACLHostMax      = 255
	ACLsMax         = 20_000
)

// ErrTooManyACLs says that there are ACLsMax of them.
var ErrTooManyACLs = fmt.Errorf("there are %d ACLs, as many as are kept", ACLsMax)

// Check says what is too much of an ACL.
func (a *ACL) Check() error {
	switch {
	case a.Name == "" || len(a.Name) > ACLNameMax:
		return fmt.Errorf("want a resource's name of 1 to %d bytes, found %d", ACLNameMax, len(a.Name))
	case a.Principal == "" || len(a.Principal) > ACLPrincipalMax:
		return fmt.Errorf("want a principal of 1 to %d bytes, found %d", ACLPrincipalMax, len(a.Principal))
	case a.Host == "" || len(a.Host) > ACLHostMax:
		return fmt.Errorf("want a host of 1 to %d bytes, found %d", ACLHostMax, len(a.Host))
	}
	return nil
}

func (a *ACL) append(b []byte) []byte {
	b = appendString(appendString(appendString(append(b, a.Resource, a.Pattern, a.Operation, a.Permission), a.Name), a.Principal), a.Host)
	return appendTenant(b, a.Tenant)
}

// digestBytes is how much of a hash names an entry that has no name of its own.
const digestBytes = 16

// digest names an entry by what it says.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:digestBytes])
}

func (a *ACL) entryName() string { return digest(a.append(nil)) }

// Entry is what is stored of the ACL. One that is there already has the same.
func (a *ACL) Entry() Entry {
	return Entry{Key: kindACL.key(a.entryName()), Value: a.append(kindACL.beginFor(nil, a.Tenant))}
}

// Delete is the entry that deletes the ACL.
func (a *ACL) Delete() Entry { return Entry{Key: kindACL.key(a.entryName())} }

func decodeACL(name string, d *decoder) (any, error) {
	a := &ACL{Resource: d.byte(), Pattern: d.byte(), Operation: d.byte(), Permission: d.byte(), Name: d.string(), Principal: d.string(), Host: d.string()}
	a.Tenant = d.tenant(aclTenant)
	if d.bad {
		return a, nil // told by who reads the rest
	}
	if a.entryName() != name {
		return nil, errors.New("it is not what its name says")
	}
	return a, a.Check()
}

// HasACL says whether the catalog has an ACL.
func (s *Snapshot) HasACL(a *ACL) bool {
	_, found := get[*ACL](s, kindACL, a.entryName())
	return found
}

// ACLs walks the ACLs, always in the same order. It sorts: not for hot paths.
func (s *Snapshot) ACLs() iter.Seq2[string, *ACL] { return all[*ACL](s, kindACL) }

// ACLCount is how many ACLs there are.
func (s *Snapshot) ACLCount() int { return s.tables[kindACL].count }

// ACLsChanged says whether the ACLs may differ between two snapshots.
func ACLsChanged(old, now *Snapshot) bool { return now.changed(kindACL, old) }
