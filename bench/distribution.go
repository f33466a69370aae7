package bench

import (
	"fmt"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Distribution is a histogram in microseconds.
type Distribution struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99_9"`
	P9999 float64 `json:"p99_99"`
	Max   float64 `json:"max"`
	// HDR is the whole histogram, in tenths of a microsecond: base64 of a compressed histogram of HdrHistogram, version 2.
	HDR string `json:"hdr,omitempty"`
}

// Percentile is one point of a distribution's curve: a part Quantile of all, 0 to 1, is at most Value µs.
type Percentile struct{ Quantile, Value float64 }

func distribution(h *hdrhistogram.Histogram) *Distribution {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	d := &Distribution{
		Count: h.TotalCount(), Mean: h.Mean() * histUnit / 1000, P50: micros(h.ValueAtQuantile(50)), P90: micros(h.ValueAtQuantile(90)),
		P99: micros(h.ValueAtQuantile(99)), P999: micros(h.ValueAtQuantile(99.9)),
		P9999: micros(h.ValueAtQuantile(99.99)), Max: micros(h.Max()),
	}
	if b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase); err == nil {
		d.HDR = string(b)
	}
	return d
}

// micros turns the unit of the histograms into microseconds.
func micros(v int64) float64 { return float64(v) * histUnit / 1000 }

// histogramBytesMax bounds what is opened of a histogram in a file.
const histogramBytesMax = 1 << 20

func (d *Distribution) histogram() (*hdrhistogram.Histogram, error) {
	if d.HDR == "" || len(d.HDR) > histogramBytesMax {
		return nil, fmt.Errorf("a histogram of %d bytes", len(d.HDR))
	}
	h, err := hdrhistogram.Decode([]byte(d.HDR))
	if err != nil {
		return nil, fmt.Errorf("a histogram: %w", err)
	}
	if h.TotalCount() != d.Count {
		return nil, fmt.Errorf("a histogram of %d values says that it has %d", h.TotalCount(), d.Count)
	}
	return h, nil
}

// Merge gives the distribution of all that ds hold together, which all need their histogram. Of none it is nil. nil elements are
// left out.
func Merge(ds ...*Distribution) (*Distribution, error) {
	all := newHist()
	for _, d := range ds {
		if d == nil {
			continue
		}
		h, err := d.histogram()
		if err != nil {
			return nil, err
		}
		all.Merge(h)
	}
	return distribution(all), nil
}

// Curve gives the distribution's percentiles, denser towards the end: ten for each halving of what is left above. Without the
// histogram it has the few that the distribution names.
func (d *Distribution) Curve() []Percentile {
	h, err := d.histogram()
	if err != nil {
		return []Percentile{{0.5, d.P50}, {0.9, d.P90}, {0.99, d.P99}, {0.999, d.P999}, {0.9999, d.P9999}, {1, d.Max}}
	}
	var out []Percentile
	for _, b := range h.CumulativeDistributionWithTicks(10) {
		out = append(out, Percentile{b.Quantile / 100, micros(b.ValueAt)})
	}
	return out
}
