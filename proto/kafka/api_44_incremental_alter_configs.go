package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// incrementalAlterConfigs changes single keys of configurations (KIP-339).
func incrementalAlterConfigs(r *request, m *kmsg.IncrementalAlterConfigsRequest) {
	resp := m.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	a := &alteration{resp: resp, validateOnly: m.ValidateOnly}
	a.take = func(r *request, i int) {
		ask := &m.Resources[i]
		out := kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = ask.ResourceType, ask.ResourceName
		if ask.ResourceType == kmsg.ConfigResourceTypeBroker && onlyDeletes(ask.Configs) && r.c.mayNode(broker.OperationAlterConfigs) {
			// Tools take back what was set while the node ran, such as limits of replication. Nothing is.
			resp.Resources = append(resp.Resources, out)
			return
		}
		change, code, why := a.add(r.c, ask.ResourceType, ask.ResourceName, i)
		if code != wire.None {
			out.ErrorCode, out.ErrorMessage = int16(code), &why
		} else {
			for _, c := range ask.Configs {
				change.Changes = append(change.Changes, ConfigChange{Key: c.Name, Op: int8(c.Op), Value: c.Value})
			}
		}
		resp.Resources = append(resp.Resources, out)
	}
	a.tell = func(i int, code wire.ErrorCode, why string) {
		if resp.Resources[i].ErrorCode = int16(code); why != "" {
			resp.Resources[i].ErrorMessage = &why
		}
	}
	r.inParts(len(m.Resources), a)
}

func onlyDeletes(list []kmsg.IncrementalAlterConfigsRequestResourceConfig) bool {
	for _, c := range list {
		if c.Op != kmsg.IncrementalAlterConfigOpDelete {
			return false
		}
	}
	return true
}
