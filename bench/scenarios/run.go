package scenarios

import (
	"context"
	"errors"

	"github.com/sluicemq/sluice/bench"
)

// Run makes the load of the file and judges the broker; see bench.Run.
func (f *File) Run(ctx context.Context, t *Target) (*bench.Result, error) {
	res, err := f.run(ctx, t)
	if res != nil {
		res.Name = f.Name
	}
	return res, err
}

func (f *File) run(ctx context.Context, t *Target) (*bench.Result, error) {
	if len(f.Parts) > 1 {
		return nil, errors.New("mixed scenarios are not run yet")
	}
	p := f.Parts[0]
	if p.Protocol == Kafka {
		k, err := p.KafkaConfig(t, p.Name)
		if err != nil {
			return nil, err
		}
		return bench.RunKafka(ctx, k)
	}
	cfg, err := p.Config(t, p.Name)
	if err != nil {
		return nil, err
	}
	return bench.Run(ctx, cfg)
}
