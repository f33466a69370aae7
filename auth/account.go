package auth

import (
	"encoding/binary"
	"hash/maphash"
)

// Account is what a Directory knows of a user.
type Account struct {
	Tenant   uint32 // number
	Disabled bool
	Password string    // argon2id in PHC form; empty: none
	SHA256   *Verifier // of SCRAM; nil: none. Never written to
	SHA512   *Verifier
}

// Directory knows users beside those of the password file, which wins for a name that both have. It never blocks, and is safe for
// concurrent use.
type Directory interface {
	Account(name string) (Account, bool)
	Accounts() int // how many there are
}

// NewAccount makes what is stored of a password, for every way in which a client may prove that it knows it.
func NewAccount(password []byte) (a Account, err error) {
	if a.Password, err = Hash(password, DefaultParams); err != nil {
		return Account{}, err
	}
	for _, m := range []struct {
		to   **Verifier
		name string
	}{{&a.SHA256, SCRAMSHA256}, {&a.SHA512, SCRAMSHA512}} {
		v, err := NewVerifier(m.name, password, iterationsMin)
		if err != nil {
			return Account{}, err
		}
		*m.to = &v
	}
	return a, nil
}

// account is a user as a question is answered by.
type account struct {
	Account
	file   bool // the password file has it
	hashed hashed
}

// account finds a user: in the password file, else in the directory.
func (rs *ruleSet) account(name string) (a account, known bool) {
	if rs.users != nil {
		if h, found := rs.users.byName[name]; found {
			return account{file: true, hashed: h}, true
		}
	}
	if rs.o.Directory == nil {
		return a, false
	}
	a.Account, known = rs.o.Directory.Account(name)
	return a, known
}

// hasUsers says whether there are users at all: else a name that a client gives means nothing.
func (rs *ruleSet) hasUsers() bool {
	return rs.users != nil || rs.o.Directory != nil && rs.o.Directory.Accounts() > 0
}

var secretSeed = maphash.MakeSeed()

// secret names what a client has to know to come in by a source, so that a change of it shows. 0: nobody comes in that way.
func (a *account) secret(source string) uint64 {
	var v *Verifier
	switch {
	case a.Disabled:
		return 0
	case source == sourcePassword:
		if a.file {
			return maphash.Comparable(secretSeed, a.hashed) | 1
		}
		if a.Password != "" {
			return maphash.String(secretSeed, a.Password) | 1
		}
		v = a.verifier()
	case source == SCRAMSHA256:
		v = a.SHA256
	case source == SCRAMSHA512:
		v = a.SHA512
	}
	if v == nil {
		return 0
	}
	return maphash.Comparable(secretSeed, *v) | 1
}

// verifier is the one that a plain password is compared with if there is no hash of it.
func (a *account) verifier() *Verifier {
	if a.SHA512 != nil {
		return a.SHA512
	}
	return a.SHA256
}

// rightPassword compares, and takes as long for a user that is not there, or may not come in, as for one that is.
func (p *Provider) rightPassword(rs *ruleSet, name string, password []byte) bool {
	a, known := rs.account(name)
	if known && !a.file && a.Password == "" {
		if v := a.verifier(); v != nil && !a.Disabled && v.verify(password) {
			return true
		}
		known = false
	}
	h := a.hashed
	if known && !a.file {
		var err error
		if h, err = parsePHC(a.Password); err != nil {
			known = false
		}
	}
	if !known {
		h = rs.nobody(name)
	}
	return p.hashes(h, password) && known && !a.Disabled
}

// nobody is a hash that no password fits, at the costs of some user's, the same one each time that a name is tried: how long an answer takes
// tells nothing about who is there.
func (rs *ruleSet) nobody(name string) hashed {
	h := hashed{params: DefaultParams, salt: rs.dummySalt, hash: rs.dummySalt + rs.dummySalt}
	if rs.users == nil || len(rs.users.list) == 0 {
		return h
	}
	all := len(rs.users.list)
	if rs.o.Directory != nil {
		all += rs.o.Directory.Accounts()
	}
	sum := rs.verdicts.digest(name, 0, nil) // by the name alone: two guesses for one name cost the same
	if i := int(binary.LittleEndian.Uint64(sum[:]) % uint64(all)); i < len(rs.users.list) {
		h.params = rs.users.byName[rs.users.list[i]].params
	}
	return h
}

// InFile says whether the password file has a user: what the directory says of it does not count then.
func (p *Provider) InFile(name string) bool {
	users := p.rules.Load().users
	if users == nil {
		return false
	}
	_, found := users.byName[name]
	return found
}

// FileUsers are the users of the password file, in its order. The slice is not written to.
func (p *Provider) FileUsers() []string {
	if users := p.rules.Load().users; users != nil {
		return users.list
	}
	return nil
}
