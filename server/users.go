package server

import (
	"crypto/rand"
	"errors"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// scramUsers are the SCRAM credentials of the catalog's users as Kafka's clients know them.
type scramUsers struct {
	catalog *meta.Catalog
	inFile  func(name string) bool
}

var _ kafka.Users = (*scramUsers)(nil)

// DescribeSCRAM says what credentials users of a tenant have. One of another tenant is told like one who is not there.
func (u *scramUsers) DescribeSCRAM(tenant uint32, names []string) (list []kafka.SCRAMUser) {
	s := u.catalog.Load()
	describe := func(name string, user *meta.User) kafka.SCRAMUser {
		out := kafka.SCRAMUser{User: name}
		if user == nil || user.Tenant != tenant || u.inFile(name) {
			return out
		}
		for i := range user.SCRAM {
			out.Credentials = append(out.Credentials, kafka.SCRAMCredential{Mechanism: int8(user.SCRAM[i].Mechanism), Iterations: int32(user.SCRAM[i].Iterations)})
		}
		return out
	}
	for _, name := range names {
		list = append(list, describe(name, s.User(name)))
	}
	if len(names) > 0 {
		return list
	}
	for name, user := range s.Users() {
		if d := describe(name, user); len(d.Credentials) > 0 {
			list = append(list, d)
		}
	}
	return list
}

// changesMax bounds the changes of one request: what would go into a command of the catalog.
const changesMax = 5000

// userChanges are the changes of one user, with the credentials that come of them, nil for a deletion or for what is wrong.
type userChanges struct {
	name    string
	changes []kafka.SCRAMChange
	creds   []*meta.Credential
}

// AlterSCRAM changes credentials. Changes of users that are good go into one command. It takes as long as the keys take to be made.
func (u *scramUsers) AlterSCRAM(tenant uint32, changes []kafka.SCRAMChange, done func([]kafka.SCRAMResult)) {
	byName := make(map[string]int)
	var users []userChanges
	for i := range changes {
		c := &changes[i]
		at, known := byName[c.User]
		if !known {
			at = len(users)
			byName[c.User] = at
			users = append(users, userChanges{name: c.User})
		}
		users[at].changes = append(users[at].changes, *c)
	}
	results := make([]kafka.SCRAMResult, len(users))
	if len(changes) > changesMax {
		for i := range users {
			results[i] = kafka.SCRAMResult{User: users[i].name, Code: wire.PolicyViolation, Message: "one request changes at most 5000 credentials"}
		}
		done(results)
		return
	}
	for i := range users {
		for k := range users[i].changes {
			users[i].creds = append(users[i].creds, credentialOf(&users[i].changes[k]))
		}
	}
	u.catalog.Update(func(s *meta.Snapshot) (entries []meta.Entry, _ error) {
		if err := tenantThere(s, tenant); err != nil {
			return nil, err
		}
		for i := range users {
			var e meta.Entry
			if e, results[i] = u.alter(s, tenant, &users[i]); results[i].Code == wire.None {
				entries = append(entries, e)
			}
		}
		return entries, nil
	}, func(err error) {
		for i := range results {
			if r := &results[i]; err != nil && r.Code == wire.None {
				r.User, r.Code, r.Message = users[i].name, catalogCode(err), err.Error()
			}
		}
		done(results)
	})
}

// credentialOf makes the credential that a change sets, nil if it sets none, or none that can be.
func credentialOf(c *kafka.SCRAMChange) *meta.Credential {
	m := meta.Mechanism(c.Mechanism)
	if c.Delete || c.Mechanism <= 0 || m.Size() == 0 || len(c.SaltedPassword) == 0 {
		return nil
	}
	v := auth.SaltedVerifier(m.String(), c.SaltedPassword, c.Salt, int(c.Iterations))
	return &meta.Credential{Mechanism: m, Iterations: v.Iterations, Salt: v.Salt, StoredKey: v.StoredKey, ServerKey: v.ServerKey}
}

// catalogCode is Kafka's code of what refuses a change of the catalog.
func catalogCode(err error) wire.ErrorCode {
	switch {
	case errors.Is(err, meta.ErrBusy), errors.Is(err, meta.ErrNoMajority), errors.Is(err, meta.ErrUnknown), errors.Is(err, meta.ErrConflict):
		return wire.RequestTimedOut // clients come again
	case errors.Is(err, broker.ErrUnavailable), errors.Is(err, broker.ErrClosed), errors.Is(err, meta.ErrGroupClosed), errors.Is(err, meta.ErrHalted):
		return wire.KafkaStorageError
	case errors.Is(err, broker.ErrQuota), errors.Is(err, meta.ErrBounds):
		return wire.PolicyViolation
	}
	return wire.UnknownServerError
}

// alter makes a user's entry of all changes of it. Names are unique over all tenants: those that are not the tenant's to have it is told in the same words, whoever has them.
func (u *scramUsers) alter(s *meta.Snapshot, tenant uint32, uc *userChanges) (meta.Entry, kafka.SCRAMResult) {
	name := uc.name
	refuse := func(code wire.ErrorCode, why string) (meta.Entry, kafka.SCRAMResult) {
		return meta.Entry{}, kafka.SCRAMResult{User: name, Code: code, Message: why}
	}
	switch {
	case name == "":
		return refuse(wire.UnacceptableCredential, "Username must not be empty")
	case meta.CheckUserName(name) != nil:
		return refuse(wire.UnacceptableCredential, meta.CheckUserName(name).Error())
	case tenant == 0 && u.inFile(name):
		return refuse(wire.UnacceptableCredential, "the user is one of auth.password_file, which wins over what is set here")
	}
	user, others := s.User(name), tenant != 0 && u.inFile(name)
	if user != nil && user.Tenant != tenant {
		user, others = nil, true
	}
	if user == nil {
		user = &meta.User{Name: name, Tenant: tenant}
	}
	touched := make(map[int8]bool)
	for i := range uc.changes {
		c := &uc.changes[i]
		if touched[c.Mechanism] {
			return refuse(wire.DuplicateResource, "A user credential cannot be altered twice in the same request")
		}
		touched[c.Mechanism] = true
		next, code, why := alterCredential(user, c, uc.creds[i])
		if code != wire.None {
			return refuse(code, why)
		}
		user = next
	}
	if others {
		return refuse(wire.UnacceptableCredential, "the name is not to be had: choose another one")
	}
	if user.Password == "" && len(user.SCRAM) == 0 {
		return meta.DeleteUser(name), kafka.SCRAMResult{User: name}
	}
	return user.Entry(), kafka.SCRAMResult{User: name}
}

// alterCredential makes one change, with Kafka's codes and words for what refuses it.
func alterCredential(user *meta.User, c *kafka.SCRAMChange, cred *meta.Credential) (next *meta.User, code wire.ErrorCode, why string) {
	m := meta.Mechanism(c.Mechanism)
	switch {
	case c.Mechanism <= 0 || m.Size() == 0:
		return nil, wire.UnsupportedSASLMechanism, "Unknown SCRAM mechanism"
	case c.Delete && user.Credential(m) == nil:
		return nil, wire.ResourceNotFound, "Attempt to delete a user credential that does not exist"
	case c.Delete:
		return user.WithoutCredential(m), wire.None, ""
	case c.Iterations < meta.IterationsMin:
		return nil, wire.UnacceptableCredential, "Too few iterations"
	case c.Iterations > meta.IterationsMax:
		return nil, wire.UnacceptableCredential, "Too many iterations"
	case len(c.SaltedPassword) == 0:
		return nil, wire.UnacceptableCredential, "Salted password must not be empty"
	}
	if err := cred.Check(); err != nil {
		return nil, wire.UnacceptableCredential, err.Error()
	}
	return user.WithCredential(*cred), wire.None, ""
}

// saltKey is the secret behind the salts of users who are not there; nil until the catalog has one.
func (c *catalogStore) saltKey() []byte {
	if s := c.Load().Secret(meta.SaltSecret); s != "" {
		return []byte(s)
	}
	return nil
}

// makeSalt gives the catalog that secret at the first start.
func (c *catalogStore) makeSalt(done func(error)) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails: the runtime ends the process first
	c.Update(func(s *meta.Snapshot) ([]meta.Entry, error) {
		if s.Secret(meta.SaltSecret) != "" {
			return nil, nil
		}
		return []meta.Entry{(&meta.Secret{Name: meta.SaltSecret, Value: string(secret[:])}).Entry()}, nil
	}, done)
}
