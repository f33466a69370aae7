package server

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/kafka"
)

// aclKeeper is the catalog's ACLs for those who ask and change them, and gives all of them to the authorizer after each change.
type aclKeeper struct {
	*follower
	catalog *meta.Catalog
}

func keepACLs(c *meta.Catalog, take func([]broker.ACL)) *aclKeeper {
	return &aclKeeper{follow(c, meta.ACLsChanged, func(s *meta.Snapshot) { take(listACLs(s)) }), c}
}

func listACLs(s *meta.Snapshot) []broker.ACL {
	list := make([]broker.ACL, 0, s.ACLCount())
	for _, a := range s.ACLs() {
		list = append(list, coreACL(a))
	}
	return list
}

func coreACL(a *meta.ACL) broker.ACL {
	return broker.ACL{Tenant: a.Tenant, Resource: broker.ResourceType(a.Resource), Pattern: broker.PatternType(a.Pattern), Name: a.Name, Principal: a.Principal,
		Host: a.Host, Operation: broker.Operation(a.Operation), Permission: broker.Permission(a.Permission)}
}

func storedACL(tenant uint32, a *broker.ACL) meta.ACL {
	return meta.ACL{Tenant: tenant, Resource: uint8(a.Resource), Pattern: uint8(a.Pattern), Name: a.Name, Principal: a.Principal, Host: a.Host,
		Operation: uint8(a.Operation), Permission: uint8(a.Permission)}
}

// ListACLs makes it a kafka.ACLs.
func (k *aclKeeper) ListACLs(tenant uint32, f *broker.ACLFilter) (list []broker.ACL) {
	for _, a := range k.catalog.Load().ACLs() {
		if c := coreACL(a); a.Tenant == tenant && f.Match(&c) {
			list = append(list, c)
		}
	}
	return list
}

// aclsPerChange is how many ACLs are made by one command of the catalog.
const aclsPerChange = 1000

// CreateACLs makes it a kafka.ACLs. So many at a time are made or not made together.
func (k *aclKeeper) CreateACLs(tenant uint32, list []broker.ACL, done func([]error)) {
	errs := make([]error, len(list))
	k.create(tenant, list, errs, 0, func() { k.settled(func() { done(errs) }) })
}

func (k *aclKeeper) create(tenant uint32, list []broker.ACL, errs []error, from int, done func()) {
	if from == len(list) {
		done()
		return
	}
	to := min(len(list), from+aclsPerChange)
	var faults []error
	k.catalog.Update(func(s *meta.Snapshot) (changes []meta.Entry, err error) {
		if err := tenantThere(s, tenant); err != nil {
			return nil, err
		}
		faults = make([]error, to-from)
		count := s.ACLCount()
		seen := make(map[meta.ACL]bool)
		for i := range faults {
			a := storedACL(tenant, &list[from+i])
			if seen[a] || s.HasACL(&a) {
				continue
			}
			if faults[i] = a.Check(); faults[i] != nil {
				faults[i] = fmt.Errorf("%w: %w", broker.ErrInvalidRequest, faults[i])
				continue
			}
			if count++; count > meta.ACLsMax {
				faults[i] = fmt.Errorf("%w: %w", broker.ErrQuota, meta.ErrTooManyACLs)
				continue
			}
			seen[a] = true
			changes = append(changes, a.Entry())
		}
		return changes, nil
	}, func(err error) {
		for i := range to - from {
			if errs[from+i] = catalogFault(err); err == nil {
				errs[from+i] = faults[i]
			}
		}
		k.create(tenant, list, errs, to, done)
	})
}

// tenantThere refuses what would be a tenant's that has been removed.
func tenantThere(s *meta.Snapshot, tenant uint32) error {
	if s.TenantByNumber(tenant) == nil {
		return fmt.Errorf("%w: %w", broker.ErrInvalidRequest, meta.ErrTenant)
	}
	return nil
}

// catalogFault gives an error of the catalog the core's words.
func catalogFault(err error) error {
	switch {
	case errors.Is(err, meta.ErrBusy), errors.Is(err, meta.ErrNoMajority), errors.Is(err, meta.ErrUnknown), errors.Is(err, meta.ErrConflict):
		return fmt.Errorf("%w: %w", broker.ErrBusy, err) // clients come again
	case errors.Is(err, meta.ErrGroupClosed), errors.Is(err, meta.ErrHalted):
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	case errors.Is(err, meta.ErrBounds):
		return fmt.Errorf("%w: %w", broker.ErrQuota, err)
	}
	return err
}

// DeleteACLs makes it a kafka.ACLs.
func (k *aclKeeper) DeleteACLs(tenant uint32, filters []broker.ACLFilter, done func([]kafka.ACLDeletion)) {
	var results []kafka.ACLDeletion
	k.catalog.Update(func(s *meta.Snapshot) (changes []meta.Entry, _ error) {
		results = make([]kafka.ACLDeletion, len(filters))
		for _, a := range s.ACLs() {
			c := coreACL(a)
			picked := false
			for i := range filters {
				if a.Tenant == tenant && filters[i].Match(&c) {
					results[i].Deleted = append(results[i].Deleted, c)
					picked = true
				}
			}
			if picked {
				changes = append(changes, a.Delete())
			}
		}
		return changes, nil
	}, func(err error) {
		if err != nil {
			results = slices.Repeat([]kafka.ACLDeletion{{Err: catalogFault(err)}}, len(filters))
		}
		k.settled(func() { done(results) })
	})
}
