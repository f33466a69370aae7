package broker

import "strings"

// ResourceType is a kind of thing that rights are about. The numbers of this and of the types below are Kafka's.
type ResourceType uint8

// The resource types. ResourceAny stands in filters only.
const (
	ResourceUnknown ResourceType = iota
	ResourceAny
	ResourceTopic // a stream's name, or an MQTT topic or filter
	ResourceGroup
	ResourceCluster
	ResourceTransactionalID
	ResourceDelegationToken
	ResourceUser
)

// ClusterName is the name of the one resource of type ResourceCluster.
const ClusterName = "kafka-cluster"

// AnyName is the name of a literal pattern that stands for all names.
const AnyName = "*"

// PatternType says how an ACL's name is compared with a resource's.
type PatternType uint8

// The pattern types. PatternAny and PatternMatch stand in filters only.
const (
	PatternUnknown PatternType = iota
	PatternAny
	PatternMatch // every pattern that is about the name
	PatternLiteral
	PatternPrefixed
)

// Operation is what a client does with a resource.
type Operation uint8

// The operations. OperationAny stands in filters only.
const (
	OperationUnknown Operation = iota
	OperationAny
	OperationAll
	OperationRead
	OperationWrite
	OperationCreate
	OperationDelete
	OperationAlter
	OperationDescribe
	OperationClusterAction
	OperationDescribeConfigs
	OperationAlterConfigs
	OperationIdempotentWrite
	OperationCreateTokens
	OperationDescribeTokens
	OperationTwoPhaseCommit
)

// Permission is what an ACL does.
type Permission uint8

// The permissions. PermissionAny stands in filters only.
const (
	PermissionUnknown Permission = iota
	PermissionAny
	PermissionDeny
	PermissionAllow
)

// ACL allows or denies a principal an operation on the resources that a pattern names.
type ACL struct {
	Tenant     uint32 // whose clients and resources it is about
	Resource   ResourceType
	Pattern    PatternType
	Name       string
	Principal  string // User:NAME, or User:* for everybody
	Host       string // an address, or * for all
	Operation  Operation
	Permission Permission
}

// ACLFilter picks ACLs; a nil field lets all values through.
type ACLFilter struct {
	Resource   ResourceType
	Pattern    PatternType
	Name       *string
	Principal  *string
	Host       *string
	Operation  Operation
	Permission Permission
}

// Match says whether f picks a.
func (f *ACLFilter) Match(a *ACL) bool {
	if f.Principal != nil && *f.Principal != a.Principal || f.Host != nil && *f.Host != a.Host ||
		f.Operation != OperationAny && f.Operation != a.Operation || f.Permission != PermissionAny && f.Permission != a.Permission {
		return false
	}
	if f.Resource != ResourceAny && f.Resource != a.Resource {
		return false
	}
	if f.Pattern != PatternAny && f.Pattern != PatternMatch && f.Pattern != a.Pattern {
		return false
	}
	switch {
	case f.Name == nil:
		return true
	case f.Pattern != PatternMatch:
		return *f.Name == a.Name
	case a.Pattern == PatternPrefixed:
		return strings.HasPrefix(*f.Name, a.Name)
	}
	return *f.Name == a.Name || a.Name == AnyName
}

// ResourceAuthorizer says what a client may do with resources of Kafka's kinds, by the same rules as an Authorizer does for MQTT. Its
// methods never block, do not allocate, keep no reference to what they are given, and are safe for concurrent use. Callers may keep
// an answer for as long as Generation stays the same.
type ResourceAuthorizer interface {
	Allows(id *Identity, op Operation, t ResourceType, name []byte) bool
	// AllowsAny says whether there can be a resource of the type that the client may do op with.
	AllowsAny(id *Identity, op Operation, t ResourceType) bool
	Generation() uint64
}

// ResourceOperations are those that Kafka knows for a resource type, in the order of their numbers.
func ResourceOperations(t ResourceType) []Operation {
	switch t {
	case ResourceTopic:
		return topicOperations
	case ResourceGroup:
		return groupOperations
	case ResourceCluster:
		return clusterOperations
	case ResourceTransactionalID:
		return transactionOperations
	default:
		return nil
	}
}

var (
	topicOperations = []Operation{OperationRead, OperationWrite, OperationCreate, OperationDelete, OperationAlter, OperationDescribe,
		OperationDescribeConfigs, OperationAlterConfigs}
	groupOperations   = []Operation{OperationRead, OperationDelete, OperationDescribe, OperationDescribeConfigs, OperationAlterConfigs}
	clusterOperations = []Operation{OperationCreate, OperationAlter, OperationDescribe, OperationClusterAction, OperationDescribeConfigs,
		OperationAlterConfigs, OperationIdempotentWrite}
	transactionOperations = []Operation{OperationWrite, OperationDescribe, OperationTwoPhaseCommit}
)
