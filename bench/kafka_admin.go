package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

// The versions at which the load is spoken: the least that have topic ids in Fetch, and transactions of version 2.
const (
	produceVersion = 12
	fetchVersion   = 16
	endTxnVersion  = 5
)

// adminFrameMax bounds a response to a request of the control connection.
const adminFrameMax = 256 << 20

// kafkaAdmin is a simple blocking client for everything that need not be fast.
type kafkaAdmin struct {
	r        *kafkaRun
	conn     net.Conn
	patience time.Duration // how long an answer may take
	format   *kmsg.RequestFormatter
	corr     int32
	versions map[int16]int16 // highest of each API that the broker speaks
}

// codeError is an error code that a broker answered with.
type codeError struct {
	what string
	code int16
	text string
}

func (e *codeError) Error() string {
	s := fmt.Sprintf("%s: %v", e.what, wire.ErrorCode(e.code))
	if e.text != "" {
		s += ": " + e.text
	}
	return s
}

// failed makes an error of a code that is not 0.
func failed(what string, code int16, text *string) error {
	if code == 0 {
		return nil
	}
	e := &codeError{what: what, code: code}
	if text != nil {
		e.text = *text
	}
	return e
}

// dialAdmin connects, learns the broker's versions and logs in.
func dialAdmin(r *kafkaRun, at mqttclient.Target, patience time.Duration) (*kafkaAdmin, error) {
	a := &kafkaAdmin{r: r, patience: patience, format: kmsg.NewRequestFormatter(kmsg.FormatterClientID(r.clientID))}
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	var err error
	if a.conn, err = at.Dial(ctx, r.cfg.TLS); err != nil {
		return nil, err
	}
	if err = a.greet(); err == nil {
		err = a.login()
	}
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *kafkaAdmin) close() { _ = a.conn.Close() }

func (a *kafkaAdmin) greet() error {
	q := kmsg.NewPtrApiVersionsRequest()
	q.ClientSoftwareName, q.ClientSoftwareVersion = "sluice-bench", "1"
	q.Version = 3
	p, err := ask[*kmsg.ApiVersionsResponse](a, q)
	if err != nil {
		return err
	}
	if err := failed("ApiVersions", p.ErrorCode, nil); err != nil {
		return err
	}
	a.versions = map[int16]int16{}
	for _, k := range p.ApiKeys {
		a.versions[k.ApiKey] = k.MaxVersion
	}
	for key, want := range map[wire.APIKey]int16{wire.Produce: produceVersion, wire.Fetch: fetchVersion} {
		if have := a.versions[int16(key)]; have < want {
			return fmt.Errorf("the broker speaks %v up to version %d, and %d is needed", key, have, want)
		}
	}
	return nil
}

func (a *kafkaAdmin) login() error {
	cfg := &a.r.cfg
	if cfg.Username == "" {
		return nil
	}
	h := kmsg.NewPtrSASLHandshakeRequest()
	h.Mechanism = "PLAIN"
	hp, err := ask[*kmsg.SASLHandshakeResponse](a, h)
	if err == nil {
		err = failed("SaslHandshake", hp.ErrorCode, nil)
	}
	if err != nil {
		return err
	}
	q := kmsg.NewPtrSASLAuthenticateRequest()
	q.SASLAuthBytes = plainToken(cfg)
	p, err := ask[*kmsg.SASLAuthenticateResponse](a, q)
	if err != nil {
		return err
	}
	return failed("SaslAuthenticate", p.ErrorCode, p.ErrorMessage)
}

func plainToken(cfg *Config) []byte {
	return fmt.Appendf(nil, "\x00%s\x00%s", cfg.Username, cfg.Password)
}

// ask sends q at the highest version that both sides have, unless it has one, and waits for the answer.
func ask[P kmsg.Response](a *kafkaAdmin, q kmsg.Request) (p P, err error) {
	name := kmsg.NameForKey(q.Key())
	if a.versions != nil {
		have, ok := a.versions[q.Key()]
		if !ok {
			return p, fmt.Errorf("the broker does not speak %s", name)
		}
		q.SetVersion(min(have, q.MaxVersion()))
	}
	answer, err := a.exchange(q)
	if err != nil {
		return p, fmt.Errorf("%s: %w", name, err)
	}
	p, ok := answer.(P)
	if !ok {
		return p, fmt.Errorf("%s: the answer is a %T", name, answer)
	}
	return p, nil
}

func (a *kafkaAdmin) exchange(q kmsg.Request) (kmsg.Response, error) {
	stop := context.AfterFunc(a.r.ctx, func() { _ = a.conn.SetDeadline(time.Now()) })
	defer stop()
	if err := a.conn.SetDeadline(time.Now().Add(a.patience)); err != nil {
		return nil, err
	}
	a.corr++
	if _, err := a.conn.Write(a.format.AppendRequest(nil, q, a.corr)); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(a.conn, head[:]); err != nil {
		return nil, err
	}
	size := int(int32(binary.BigEndian.Uint32(head[:])))
	if size < 4 || size > adminFrameMax {
		return nil, fmt.Errorf("an answer of %d bytes", size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(a.conn, b); err != nil {
		return nil, err
	}
	p := q.ResponseKind()
	in := kreader{b: b}
	if corr := in.i32(); corr != a.corr {
		return nil, fmt.Errorf("the answer to request %d came for %d", corr, a.corr)
	}
	if p.IsFlexible() && p.Key() != int16(wire.APIVersions) {
		in.tags()
	}
	if in.bad {
		return nil, errMalformed
	}
	return p, p.ReadFrom(in.b)
}

var errMalformed = errors.New("the broker's answer cannot be read")

// createTopics makes the topics of the run and waits until each partition has a leader.
func (r *kafkaRun) createTopics() error {
	if err := r.nodes.refresh(); err != nil {
		return err
	}
	a, err := r.controller()
	if err != nil {
		return err
	}
	q := kmsg.NewPtrCreateTopicsRequest()
	q.TimeoutMillis = int32(r.cfg.ConnectTimeout / time.Millisecond)
	for _, t := range r.topics {
		x := kmsg.NewCreateTopicsRequestTopic()
		x.Topic, x.NumPartitions, x.ReplicationFactor = t.name, int32(len(t.parts)), 1
		for _, s := range r.k.TopicSettings {
			c := kmsg.NewCreateTopicsRequestTopicConfig()
			c.Name, c.Value = s[0], &s[1]
			x.Configs = append(x.Configs, c)
		}
		q.Topics = append(q.Topics, x)
	}
	p, err := ask[*kmsg.CreateTopicsResponse](a, q)
	if err != nil {
		return err
	}
	for _, t := range p.Topics {
		if err := failed("create topic "+t.Topic, t.ErrorCode, t.ErrorMessage); err != nil {
			return err
		}
	}
	for _, t := range r.topics {
		r.byName[t.name] = t
	}
	return r.retry(r.allLed)
}

// allLed asks who leads, and is content when all partitions have a leader.
func (r *kafkaRun) allLed() error {
	if err := r.nodes.refresh(); err != nil {
		return err
	}
	led := 0
	for _, l := range r.nodes.table.Load().leaders {
		if l.known {
			led++
		}
	}
	if want := len(r.parts); led < want {
		return &codeError{what: fmt.Sprintf("%d of %d partitions have a leader", led, want), code: int16(wire.LeaderNotAvailable)}
	}
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// deleteTopics removes what createTopics made.
func (r *kafkaRun) deleteTopics() error {
	return r.retry(func() error {
		a, err := r.controller()
		if err != nil {
			return err
		}
		return a.deleteTopics(r.topics)
	})
}

func (a *kafkaAdmin) deleteTopics(topics []*ktopic) error {
	q := kmsg.NewPtrDeleteTopicsRequest()
	q.TimeoutMillis = int32(a.r.cfg.ConnectTimeout / time.Millisecond)
	for _, t := range topics {
		x := kmsg.NewDeleteTopicsRequestTopic()
		x.Topic = kmsg.StringPtr(t.name)
		q.Topics = append(q.Topics, x)
		q.TopicNames = append(q.TopicNames, t.name)
	}
	p, err := ask[*kmsg.DeleteTopicsResponse](a, q)
	if err != nil {
		return err
	}
	for _, t := range p.Topics {
		if err := failed("delete topic "+deref(t.Topic), t.ErrorCode, t.ErrorMessage); err != nil {
			return err
		}
	}
	return nil
}

// The types of coordinators.
const (
	coordinatorGroup = 0
	coordinatorTxn   = 1
)

// findCoordinator waits until a group or a transactional id has its coordinator, and gives the control connection to it.
func (r *kafkaRun) findCoordinator(key string, kind int8) (a *kafkaAdmin, err error) {
	err = r.retry(func() error {
		any, err := r.controller()
		if err != nil {
			return err
		}
		q := kmsg.NewPtrFindCoordinatorRequest()
		q.CoordinatorKey, q.CoordinatorType, q.CoordinatorKeys = key, kind, []string{key}
		p, err := ask[*kmsg.FindCoordinatorResponse](any, q)
		if err != nil {
			return err
		}
		id := p.NodeID
		for _, c := range p.Coordinators {
			if c.ErrorCode != 0 {
				return failed("FindCoordinator", c.ErrorCode, c.ErrorMessage)
			}
			id = c.NodeID
		}
		if err := failed("FindCoordinator", p.ErrorCode, p.ErrorMessage); err != nil {
			return err
		}
		a, err = r.adminAt(id)
		return err
	})
	return a, err
}

// initProducer gets a producer's id and epoch.
func (r *kafkaRun) initProducer(transactionalID string) (s producerState, err error) {
	err = r.retry(func() error {
		a, err := r.controller()
		q := kmsg.NewPtrInitProducerIDRequest()
		if transactionalID != "" {
			a, err = r.findCoordinator(transactionalID, coordinatorTxn)
			q.TransactionalID = &transactionalID
		}
		if err != nil {
			return err
		}
		q.TransactionTimeoutMillis = 60_000
		p, err := ask[*kmsg.InitProducerIDResponse](a, q)
		if err != nil {
			return err
		}
		s = producerState{id: p.ProducerID, epoch: p.ProducerEpoch, transactional: transactionalID != ""}
		return failed("InitProducerId", p.ErrorCode, nil)
	})
	return s, err
}

// endOffsets learns where each partition ends, from its leader.
func (r *kafkaRun) endOffsets() error {
	return r.retry(func() error {
		byNode := map[int32]map[*ktopic][]*kpart{}
		t := r.nodes.table.Load()
		for _, p := range r.parts {
			id := t.leaders[p.number].node
			if byNode[id] == nil {
				byNode[id] = map[*ktopic][]*kpart{}
			}
			byNode[id][p.topic] = append(byNode[id][p.topic], p)
		}
		for id, topics := range byNode {
			a, err := r.adminAt(id)
			if err == nil {
				err = a.endOffsets(topics)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *kafkaAdmin) endOffsets(topics map[*ktopic][]*kpart) error {
	q := kmsg.NewPtrListOffsetsRequest()
	q.ReplicaID = -1
	for t, parts := range topics {
		x := kmsg.NewListOffsetsRequestTopic()
		x.Topic = t.name
		for _, part := range parts {
			y := kmsg.NewListOffsetsRequestTopicPartition()
			y.Partition, y.Timestamp, y.CurrentLeaderEpoch = part.index, -1, -1
			x.Partitions = append(x.Partitions, y)
		}
		q.Topics = append(q.Topics, x)
	}
	p, err := ask[*kmsg.ListOffsetsResponse](a, q)
	if err != nil {
		return err
	}
	for _, x := range p.Topics {
		t := a.r.byName[x.Topic]
		for _, y := range x.Partitions {
			if err := failed("ListOffsets of "+x.Topic, y.ErrorCode, nil); err != nil {
				return err
			}
			if t == nil || int(y.Partition) >= len(t.parts) || y.Partition < 0 {
				return errMalformed
			}
			t.parts[y.Partition].end = y.Offset
		}
	}
	return nil
}
