package control

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
)

// ACLs are the catalog's, of one tenant at a time. Changes count when done is called.
type ACLs interface {
	List(tenant uint32, f *broker.ACLFilter) []broker.ACL
	// Add makes those of the list that are not there; done gets how many, or an error with which none of them are made.
	Add(tenant uint32, list []broker.ACL, done func(added int, err error))
	// Delete deletes those that f picks.
	Delete(tenant uint32, f *broker.ACLFilter, done func(deleted []broker.ACL, err error))
}

// aclsMax bounds the rules of one request.
const aclsMax = 1000

// aclService is the service Acls.
type aclService struct {
	api.UnsafeAclsServer // a method that is missing does not compile
	s                    *Server
}

// Words for Kafka's numbers.
var (
	resourceWords = map[string]broker.ResourceType{"topic": broker.ResourceTopic, "group": broker.ResourceGroup, "cluster": broker.ResourceCluster,
		"transactional-id": broker.ResourceTransactionalID}
	patternWords   = map[string]broker.PatternType{"literal": broker.PatternLiteral, "prefixed": broker.PatternPrefixed, "match": broker.PatternMatch}
	operationWords = map[string]broker.Operation{"all": broker.OperationAll, "read": broker.OperationRead, "write": broker.OperationWrite,
		"create": broker.OperationCreate, "delete": broker.OperationDelete, "alter": broker.OperationAlter, "describe": broker.OperationDescribe,
		"cluster-action": broker.OperationClusterAction, "describe-configs": broker.OperationDescribeConfigs, "alter-configs": broker.OperationAlterConfigs,
		"idempotent-write": broker.OperationIdempotentWrite, "two-phase-commit": broker.OperationTwoPhaseCommit,
		"subscribe": broker.OperationRead, "publish": broker.OperationWrite}
	permissionWords = map[string]broker.Permission{"allow": broker.PermissionAllow, "deny": broker.PermissionDeny}
)

// wordOf finds the word of a number, the first in order of the alphabet.
func wordOf[N comparable](words map[string]N, n N) string {
	best := ""
	for w, m := range words {
		if m == n && (best == "" || w < best) && w != "publish" && w != "subscribe" {
			best = w
		}
	}
	if best == "" {
		return fmt.Sprint(n)
	}
	return best
}

// number finds the number of a word.
func number[N any](what, kind string, words map[string]N, word string) (n N, err error) {
	n, ok := words[strings.ToLower(word)]
	if !ok {
		list := make([]string, 0, len(words))
		for w := range words {
			list = append(list, w)
		}
		slices.Sort(list)
		return n, wrong("%s: %s is no %s; want one of %s", what, quoted(word), kind, strings.Join(list, ", "))
	}
	return n, nil
}

func shownACL(a *broker.ACL) *api.Acl {
	return &api.Acl{Resource: wordOf(resourceWords, a.Resource), Pattern: wordOf(patternWords, a.Pattern), Name: text(a.Name), Principal: text(a.Principal),
		Host: text(a.Host), Operation: wordOf(operationWords, a.Operation), Permission: wordOf(permissionWords, a.Permission), Source: sourceCatalog}
}

// readACL reads a rule that is to be made.
func readACL(what string, r *api.Acl) (a broker.ACL, err error) {
	a = broker.ACL{Name: r.Name, Principal: r.Principal, Host: r.Host}
	if a.Resource, err = number(what, "kind of resource", resourceWords, r.Resource); err != nil {
		return a, err
	}
	if a.Pattern, err = number(what, "pattern", patternWords, r.Pattern); err != nil {
		return a, err
	}
	if a.Operation, err = number(what, "operation", operationWords, r.Operation); err != nil {
		return a, err
	}
	if a.Permission, err = number(what, "permission", permissionWords, r.Permission); err != nil {
		return a, err
	}
	user, isUser := strings.CutPrefix(a.Principal, "User:")
	switch {
	case a.Pattern == broker.PatternMatch:
		return a, wrong("%s: a rule's pattern is literal or prefixed", what)
	case a.Name == "":
		return a, wrong("%s: want the name of a resource, or * for all", what)
	case a.Resource == broker.ResourceCluster && (a.Name != broker.ClusterName || a.Pattern != broker.PatternLiteral):
		return a, wrong("%s: the cluster is called %s", what, broker.ClusterName)
	case !isUser || user == "":
		return a, wrong("%s: want a principal User:NAME, or User:* for everybody, found %s", what, quoted(a.Principal))
	case a.Operation != broker.OperationAll && !slices.Contains(broker.ResourceOperations(a.Resource), a.Operation):
		return a, wrong("%s: %s is nothing that is done with a %s", what, r.Operation, r.Resource)
	}
	stored := meta.ACL{Name: a.Name, Principal: a.Principal, Host: a.Host}
	if err := stored.Check(); err != nil {
		return a, wrong("%s: %v", what, err)
	}
	if a.Host != "*" {
		ip, err := netip.ParseAddr(a.Host)
		if err != nil {
			return a, wrong("%s: want a host that is an IP address, or *, found %s", what, quoted(a.Host))
		}
		a.Host = ip.Unmap().String()
	}
	return a, nil
}

// readFilter reads what picks rules; whole: it picks all.
func readFilter(what string, r *api.AclFilter) (f *broker.ACLFilter, whole bool, err error) {
	f = &broker.ACLFilter{Resource: broker.ResourceAny, Pattern: broker.PatternAny, Operation: broker.OperationAny, Permission: broker.PermissionAny}
	if r == nil {
		return f, true, nil
	}
	whole = r.Resource+r.Pattern+r.Name+r.Principal+r.Host+r.Operation+r.Permission == ""
	if r.Resource != "" {
		if f.Resource, err = number(what, "kind of resource", resourceWords, r.Resource); err != nil {
			return f, whole, err
		}
	}
	if r.Pattern != "" {
		if f.Pattern, err = number(what, "pattern", patternWords, r.Pattern); err != nil {
			return f, whole, err
		}
	}
	if r.Operation != "" {
		if f.Operation, err = number(what, "operation", operationWords, r.Operation); err != nil {
			return f, whole, err
		}
	}
	if r.Permission != "" {
		if f.Permission, err = number(what, "permission", permissionWords, r.Permission); err != nil {
			return f, whole, err
		}
	}
	for _, t := range []struct {
		to   **string
		from string
	}{{&f.Name, r.Name}, {&f.Principal, r.Principal}, {&f.Host, r.Host}} {
		if t.from != "" {
			*t.to = &t.from
		}
	}
	return f, whole, nil
}

// Add makes rules.
func (c *aclService) Add(ctx context.Context, r *api.AddAclsRequest) (*api.AddAclsResponse, error) {
	const what = "add rules"
	if len(r.Acls) == 0 || len(r.Acls) > aclsMax {
		return nil, wrong("%s: want 1 to %d of them, found %d", what, aclsMax, len(r.Acls))
	}
	list := make([]broker.ACL, len(r.Acls))
	for i, a := range r.Acls {
		var err error
		if list[i], err = readACL(what, a); err != nil {
			return nil, err
		}
	}
	type result struct {
		added int
		err   error
	}
	res, err := await(ctx, func(done func(result)) {
		c.s.o.ACLs.Add(tenantOf(ctx), list, func(added int, err error) { done(result{added, err}) })
	})
	if err == nil {
		err = res.err
	}
	if err != nil {
		return nil, refuse(err, what, "")
	}
	return &api.AddAclsResponse{Added: int64(res.added)}, nil
}

// listedACL is a line of the rule file, or a rule of the catalog.
type listedACL struct {
	line int
	text string
	acl  broker.ACL
}

// key puts the file first, which is asked first, then the catalog's rules by resource.
func (l *listedACL) key() string {
	if l.line > 0 {
		return fmt.Sprintf("0%09d", l.line)
	}
	a := &l.acl
	return fmt.Sprintf("1%d\x00%s\x00%d\x00%s\x00%d\x00%s\x00%d", a.Resource, a.Name, a.Pattern, a.Principal, a.Operation, a.Host, a.Permission)
}

// List goes through the rules.
func (c *aclService) List(ctx context.Context, r *api.ListAclsRequest) (*api.ListAclsResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	f, whole, err := readFilter("list rules", r.Filter)
	if err != nil {
		return nil, err
	}
	var list []listedACL
	if whole { // a filter is in Kafka's words
		for line, words := range c.s.o.Gate.FileRules(tenantOf(ctx)) {
			list = append(list, listedACL{line: line, text: words})
		}
	}
	for _, a := range c.s.o.ACLs.List(tenantOf(ctx), f) {
		list = append(list, listedACL{acl: a})
	}
	page, next := pageOf(list, (*listedACL).key, r.PageToken, size)
	out := &api.ListAclsResponse{NextPageToken: next}
	for i := range page {
		if l := &page[i]; l.line > 0 {
			out.Acls = append(out.Acls, &api.Acl{Source: sourceFile, Line: strconv.Itoa(l.line) + ": " + text(l.text)})
		} else {
			out.Acls = append(out.Acls, shownACL(&l.acl))
		}
	}
	return out, nil
}

// Delete deletes rules.
func (c *aclService) Delete(ctx context.Context, r *api.DeleteAclsRequest) (*api.DeleteAclsResponse, error) {
	const what = "delete rules"
	f, whole, err := readFilter(what, r.Filter)
	switch {
	case err != nil:
		return nil, err
	case whole && !r.All:
		return nil, wrong("%s: nothing says which; all of them are deleted by --all", what)
	}
	var gone []broker.ACL
	if r.ValidateOnly {
		gone = c.s.o.ACLs.List(tenantOf(ctx), f)
	} else {
		type result struct {
			deleted []broker.ACL
			err     error
		}
		res, err := await(ctx, func(done func(result)) {
			c.s.o.ACLs.Delete(tenantOf(ctx), f, func(deleted []broker.ACL, err error) { done(result{deleted, err}) })
		})
		if err == nil {
			err = res.err
		}
		if err != nil {
			return nil, refuse(err, what, "")
		}
		gone = res.deleted
	}
	if len(gone) == 0 {
		return nil, status.Errorf(codes.NotFound, "%s: there is none like this in the catalog; sluice acl list shows what is there", what)
	}
	slices.SortFunc(gone, func(a, b broker.ACL) int {
		return strings.Compare((&listedACL{acl: a}).key(), (&listedACL{acl: b}).key())
	})
	out := &api.DeleteAclsResponse{Deleted: int64(len(gone))}
	for i := range gone[:min(len(gone), detailRows)] {
		out.Acls = append(out.Acls, shownACL(&gone[i]))
	}
	return out, nil
}

// Check says whether a user may do something.
func (c *aclService) Check(ctx context.Context, r *api.CheckAclRequest) (*api.CheckAclResponse, error) {
	const what = "check"
	resource := r.Resource
	if resource == "" {
		resource = "topic"
	}
	rt, err := number(what, "kind of resource", resourceWords, resource)
	if err != nil {
		return nil, err
	}
	op, err := number(what, "operation", operationWords, r.Operation)
	if err != nil {
		return nil, err
	}
	host := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if r.Host != "" {
		if host, err = netip.ParseAddr(r.Host); err != nil {
			return nil, wrong("%s: want an IP address, found %s", what, quoted(r.Host))
		}
	}
	switch {
	case op == broker.OperationAll:
		return nil, wrong("%s: want one operation, found all", what)
	case !slices.Contains(broker.ResourceOperations(rt), op):
		return nil, wrong("%s: %s is nothing that is done with a %s", what, r.Operation, resource)
	case strings.EqualFold(r.Operation, "publish") && strings.ContainsAny(r.Name, "+#"):
		return nil, wrong("%s: a topic that is published to has none of + and #, found %s", what, quoted(r.Name))
	case r.Name == "" && rt != broker.ResourceCluster:
		return nil, wrong("%s: want the name of a %s", what, resource)
	}
	name := r.Name
	if rt == broker.ResourceCluster {
		name = broker.ClusterName
	}
	id := &broker.Identity{User: r.User, Tenant: tenantOf(ctx), ClientID: r.Client, Remote: host.Unmap()}
	out := &api.CheckAclResponse{}
	var by auth.Decider
	switch strings.ToLower(r.Operation) {
	case "publish":
		out.Allowed, by = c.s.o.Gate.ExplainMQTT(id, broker.ActionPublish, []byte(name))
	case "subscribe":
		out.Allowed, by = c.s.o.Gate.ExplainMQTT(id, broker.ActionSubscribe, []byte(name))
	default:
		out.Allowed, by = c.s.o.Gate.ExplainKafka(id, op, rt, []byte(name))
	}
	c.explain(out, id, op, rt, name, by)
	return out, nil
}

// explain says what has decided, and adds the rules that are about it.
func (c *aclService) explain(out *api.CheckAclResponse, id *broker.Identity, op broker.Operation, rt broker.ResourceType, name string, by auth.Decider) {
	f := &broker.ACLFilter{Resource: rt, Pattern: broker.PatternAny, Operation: broker.OperationAny, Permission: broker.PermissionAny}
	denied := false
	for _, a := range c.s.o.ACLs.List(id.Tenant, f) {
		if !auth.About(&a, []byte(name)) {
			continue
		}
		mine := a.Principal == "User:*" || a.Principal == "User:"+id.Principal()
		if mine && (a.Host == "*" || a.Host == id.Remote.String()) && about(&a, op) {
			denied = denied || a.Permission == broker.PermissionDeny
			if len(out.Acls) < detailRows {
				out.Acls = append(out.Acls, shownACL(&a))
			}
		}
	}
	out.Why = whyOf(out.Allowed, denied, by)
}

// whyOf says what has decided.
func whyOf(allowed, denied bool, by auth.Decider) string {
	switch {
	case by == auth.ByTenant:
		return "there is no such tenant, or it is disabled"
	case by == auth.BySuperUsers:
		return "the user is one of auth.super_users"
	case by == auth.ByClient:
		return "the client's own credentials decide"
	case by == auth.ByFile && allowed:
		return "a line of auth.acl_file allows it"
	case by == auth.ByFile:
		return "a line of auth.acl_file denies it"
	case by == auth.ByCatalog && allowed:
		return "a rule of the catalog allows it"
	case by == auth.ByCatalog && denied:
		return "a rule of the catalog denies it"
	case by == auth.ByCatalog:
		return "the catalog has rules for it, and none of them allows it"
	case allowed:
		return "no rule is about it, and what no rule is about is open (auth.allow_everyone_if_no_acl_found)"
	}
	return "no rule allows it"
}

// about says whether a rule is about an operation. Who may read, write, delete or alter may describe.
func about(a *broker.ACL, op broker.Operation) bool {
	switch {
	case a.Operation == op || a.Operation == broker.OperationAll:
		return true
	case a.Permission != broker.PermissionAllow:
		return false
	case op == broker.OperationDescribe:
		return slices.Contains([]broker.Operation{broker.OperationRead, broker.OperationWrite, broker.OperationDelete, broker.OperationAlter}, a.Operation)
	case op == broker.OperationDescribeConfigs:
		return a.Operation == broker.OperationAlterConfigs
	}
	return false
}
