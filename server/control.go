package server

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/kafka"
)

// startControl opens the control plane.
func (s *Server) startControl(addrs config.Addrs) error {
	s.principals.Store(controlPrincipals(s.cfg.Load()))
	o := control.Options{
		Broker: s.node.broker, Connections: connections{s.node.engine.Loops()}, Slow: s.node.mqtt, Logger: s.log,
		Catalog: s.node.catalog.Catalog, Gate: s.gate, Tenants: s.node.tenantsSettled, ACLs: controlACLs{s.node.acls}, Quotas: controlQuotas{s.node.limits}, Bans: s.node.bans, Bindings: controlBindings{s.node.binder}, Backups: &backups{s: s}, Tier: controlTier(s.node.tier),
		Node:       meta.NodeID(s.cfg.Load().Node.ID),
		Principals: s.principals.Load,
		ValidTopic: kafka.ValidTopicName, Spreads: s.node.topics.spreads, Replicated: s.node.topics.replicated, Partitions: func() int32 { return int32(s.cfg.Load().Kafka.Partitions) }, PartitionsMax: partitionsMax,
	}
	if s.node.cluster != nil {
		o.Nodes, o.Shards, o.Peers = s.node.cluster, s.node.member, s.node.member.calls
	}
	o.Called = s.countCalls()
	secure := s.cfg.Load().TLSSet()
	if secure {
		o.TLS, o.VerifyCaller = s.certs.controlConfig(), s.certs.verifyCaller
	}
	s.control = control.New(o)
	if err := s.checkAudit(s.cfg.Load()); err != nil {
		return err
	}
	s.control.SetAudit(s.cfg.Load().Control.Audit, s.cfg.Load().Control.AuditRequired)
	s.countAudit()
	if s.node.cluster != nil {
		s.node.member.calls.server.Store(s.control)
	}
	for _, a := range addrs {
		loopback := config.Loopback(a)
		addr, err := s.control.Listen(a, loopback)
		if err != nil {
			return err
		}
		if !loopback && !secure {
			s.log.Warn("the control plane is open to a network without TLS: its token can be read on the way; set tls.cert and tls.key", "address", addr.String())
		}
	}
	return nil
}

// controlPrincipals are who may call the control plane.
func controlPrincipals(cfg *config.Config) *control.Principals {
	list := make([]control.Principal, len(cfg.Control.Principals))
	for i, p := range cfg.Control.Principals {
		list[i] = control.Principal{Name: p.Name, Role: control.ParseRole(p.Role), Tenant: p.Tenant, Token: p.Token.Reveal(), Certificate: p.Certificate}
	}
	return control.NewPrincipals(cfg.Auth.ControlToken.Reveal(), list)
}

// checkAudit looks at the file of the audit trail before anything counts: an error if there must be one, else a warning.
func (s *Server) checkAudit(cfg *config.Config) error {
	if cfg.Control.Audit == "" {
		return nil
	}
	err := control.CheckAudit(cfg.Control.Audit)
	if err != nil && !cfg.Control.AuditRequired {
		s.log.Error("the audit trail of the control plane cannot be written: its records are lost", "err", err)
		return nil
	}
	return err
}

// countAudit counts the records of the audit trail.
func (s *Server) countAudit() {
	s.metrics.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "sluice_control_audit_records_total", Help: "Records written to control.audit."},
			func() float64 { written, _ := s.control.AuditRecords(); return float64(written) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "sluice_control_audit_lost_total", Help: "Records of changes that could not be written to control.audit."},
			func() float64 { _, lost := s.control.AuditRecords(); return float64(lost) }))
}

// countCalls counts what the control plane is asked. Methods are those that it has, codes those of gRPC.
func (s *Server) countCalls() func(method, code string, took time.Duration) {
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_control_requests_total",
		Help: "Calls of the control plane answered, refused ones included."}, []string{"code", "method"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sluice_control_request_seconds",
		Help: "Time from a call of the control plane to its answer; streams are not in it.", Buckets: prometheus.ExponentialBuckets(100e-6, 4, 10)})
	s.metrics.MustRegister(calls, seconds)
	return func(method, code string, took time.Duration) {
		calls.WithLabelValues(code, method).Inc()
		if took >= 0 {
			seconds.Observe(took.Seconds())
		}
	}
}

// controlACLs, controlQuotas and controlBindings are the catalog's as the control plane knows them.
type controlACLs struct{ k *aclKeeper }

// List makes it a control.ACLs.
func (c controlACLs) List(tenant uint32, f *broker.ACLFilter) []broker.ACL {
	return c.k.ListACLs(tenant, f)
}

// Add makes it a control.ACLs. How many were there is seen before the change: somebody else may make the same meanwhile.
func (c controlACLs) Add(tenant uint32, list []broker.ACL, done func(added int, err error)) {
	s := c.k.catalog.Load()
	fresh := make(map[broker.ACL]bool)
	for i := range list {
		if a := storedACL(tenant, &list[i]); !s.HasACL(&a) {
			fresh[list[i]] = true
		}
	}
	c.k.CreateACLs(tenant, list, func(errs []error) { done(len(fresh), errors.Join(errs...)) })
}

// Delete makes it a control.ACLs.
func (c controlACLs) Delete(tenant uint32, f *broker.ACLFilter, done func([]broker.ACL, error)) {
	c.k.DeleteACLs(tenant, []broker.ACLFilter{*f}, func(r []kafka.ACLDeletion) { done(r[0].Deleted, r[0].Err) })
}

type controlQuotas struct{ k *quotaKeeper }

// List makes it a control.Quotas.
func (c controlQuotas) List(tenant uint32) []broker.Quota { return c.k.ListQuotas(tenant) }

// Alter makes it a control.Quotas.
func (c controlQuotas) Alter(tenant uint32, set broker.Quota, remove [broker.QuotaKinds]bool, done func(error)) {
	change := kafka.QuotaChange{Entity: set.Entity, Set: set.Set, Rate: set.Rate, Remove: remove}
	c.k.AlterQuotas(tenant, []kafka.QuotaChange{change}, false, func(errs []error) { done(errs[0]) })
}

type controlBindings struct{ b *binder }

// Add makes it a control.Bindings.
func (c controlBindings) Add(ctx context.Context, m meta.Binding, partitions int) error {
	return bindingFault(c.b.Add(ctx, m, partitions))
}

// Delete makes it a control.Bindings.
func (c controlBindings) Delete(ctx context.Context, filter string) error {
	return bindingFault(c.b.Delete(ctx, filter))
}

// Configured makes it a control.Bindings.
func (c controlBindings) Configured(filter string) bool { return c.b.isConfigured(filter) }

func bindingFault(err error) error {
	switch {
	case errors.Is(err, ErrBindingConfigured):
		return control.ErrConfigured
	case errors.Is(err, ErrNoBinding):
		return control.ErrNoBinding
	}
	return err
}
