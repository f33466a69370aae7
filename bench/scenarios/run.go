package scenarios

import (
	"context"
	"time"

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
	if f.Protocol == Mixed {
		return f.mixed(ctx, t)
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

// mixed runs all parts at once.
func (f *File) mixed(ctx context.Context, t *Target) (*bench.Result, error) {
	var parts []bench.MixPart
	var common bench.Config
	t.fill(&common)
	for i, p := range f.Parts {
		x := bench.MixPart{Name: p.Name}
		cfg, err := &bench.Config{}, error(nil)
		if p.Protocol == Kafka {
			k, kerr := p.KafkaConfig(t, p.Name)
			x.Kafka, cfg, err = &k, &k.Config, kerr
		} else {
			*cfg, err = p.Config(t, p.Name)
			x.MQTT = cfg
		}
		if err != nil {
			return nil, err
		}
		if i == 0 {
			common.Warmup, common.Duration, common.Seed = cfg.Warmup, cfg.Duration, cfg.Seed
		}
		parts = append(parts, x)
	}
	return bench.RunMixed(ctx, common, parts)
}

// SetRate sets how many messages a second the loads of the file send by a timetable in all; each part keeps its share. Climbable says
// whether they can.
func (f *File) SetRate(total float64) {
	var sum float64
	for _, p := range f.Parts {
		sum += p.Rate()
	}
	for _, p := range f.Parts {
		rate := total
		if f.Protocol == Mixed {
			if p.Rate() == 0 || !p.HasTimetable() {
				continue
			}
			rate = total * p.Rate() / sum
		}
		p.setRate(rate)
	}
}

func (l *Load) setRate(rate float64) {
	l.mqtt.Rate, l.kafka.Rate = rate, rate
}

// Duration is how long one run of the file takes at least.
func (f *File) Duration() time.Duration {
	p := f.Parts[0]
	if p.Protocol == Kafka {
		return p.kafka.Warmup + p.kafka.Duration
	}
	return p.mqtt.Warmup + p.mqtt.Duration
}
