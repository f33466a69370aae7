package server

import (
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/proto/kafka"
)

// startControl opens the control plane.
func (s *Server) startControl(addrs config.Addrs) error {
	o := control.Options{
		Broker: s.node.broker, Connections: connections{s.node.engine.Loops()}, Logger: s.log,
		Token:      func() string { return s.cfg.Load().Auth.ControlToken.Reveal() },
		ValidTopic: kafka.ValidTopicName, Partitions: func() int32 { return int32(s.cfg.Load().Kafka.Partitions) }, PartitionsMax: partitionsMax,
	}
	secure := s.cfg.Load().TLSSet()
	if secure {
		o.TLS = s.certs.config()
	}
	s.control = control.New(o)
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
